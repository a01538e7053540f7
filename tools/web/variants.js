// What tools/web_variants.py asks of a page: a package with variants lies at /model/. The page keeps the models that it opens.
import { load } from "/model/index.js";

const ARRAYS = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };
const ROUNDS = 40, WARM_MS = 2000;
const models = [];

const { inputs } = await (await fetch("/model/sample/sample.json")).json();
const sample = {};
for (const { name, dtype, file } of inputs) {
  sample[name] = new ARRAYS[dtype](await (await fetch(`/model/sample/${file}`)).arrayBuffer());
}

/** Opens the model with these choices, or the compiler's; gives its number. */
export async function open(choices) {
  return models.push(await load({ threads: 1, choices })) - 1;
}

export async function tune(model, budgetMs) {
  const start = performance.now(), made = await models[model].tune({ budgetMs });
  return { ...made, seconds: (performance.now() - start) / 1000 };
}

/** Seconds of `calls` runs, after one that does not count. */
export async function turn(model, calls) {
  const times = [];
  for (let n = 0; n <= calls; n++) {
    const start = performance.now();
    await models[model].run(sample);
    times.push((performance.now() - start) / 1000);
  }
  return times.slice(1);
}

/**
 * Milliseconds of every way of every kernel, [kernel][way], inside whole runs of the model: of all the launches that use it. Without
 * the package's own JavaScript, so that what `tune` finds can be held against it.
 */
export async function exhaustive() {
  const MODEL = JSON.parse(/^const MODEL = (.*);$/m.exec(await (await fetch("/model/index.js")).text())[1]);
  const code = MODEL.builds["relaxed-simd"], pages = Math.ceil((code.heap + MODEL.bytes) / 65536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const put = (at, bytes) => new Uint8Array(memory.buffer, code.heap + at).set(bytes);
  put(MODEL.weights.at, new Uint8Array(await (await fetch(`/model/${MODEL.weights.file}`)).arrayBuffer()));
  const { instance } = await WebAssembly.instantiateStreaming(fetch(`/model/${code.file}`), { env: { memory } });
  const { setup, run, choose } = instance.exports;
  setup(0, MODEL.setup.length);
  for (const { name, at } of MODEL.inputs) put(at, new Uint8Array(sample[name].buffer));

  const most = Math.max(...MODEL.kernels.map(({ ways }) => ways));
  const times = MODEL.kernels.map(({ ways }) => Array.from({ length: ways }, () => []));
  const round = (way) => {
    MODEL.kernels.forEach(({ launches, ways }) => launches.forEach((launch) => choose(launch, Math.min(way, ways - 1))));
    run(0, MODEL.launches);     // into the caches
    const taken = [];
    for (let n = 0; n < MODEL.launches; n++) {
      const start = performance.now();
      run(n, n + 1);
      taken.push(performance.now() - start);
    }
    return taken;
  };
  for (let way = 0, start = performance.now(); performance.now() - start < WARM_MS * most; way = (way + 1) % most) {
    round(way);
    await new Promise((done) => setTimeout(done));
  }
  for (let n = 0; n < ROUNDS * most; n++) {
    const taken = round(n % most);
    MODEL.kernels.forEach(({ launches, ways }, kernel) => {
      if (n % most < ways) times[kernel][n % most].push(launches.reduce((sum, launch) => sum + taken[launch], 0));
    });
  }
  return times.map((ways) => ways.map((t) => t.sort((a, b) => a - b)[t.length >> 2]));
}
