// One runtime in one page: loads a model and runs it once, then takes turns as tools/bench_web.py asks through `window.bench`.

/**
 * What a runtime's module gets as its `open` is called.
 * @typedef {{model: string, threads: number, inputs: {name: string, dtype: string, shape: number[], file: string}[]}} Request
 * @typedef {Record<string, {data: any, shape: number[]}>} Inputs in the model's order
 * @typedef {(inputs: Inputs) => Promise<any[]>} Run gives the outputs in the model's order, as typed arrays of their own
 */

const began = performance.now();
const ARRAYS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };

/** @type {Request & {runtime: string}} */
const request = JSON.parse(/** @type {string} */ (new URLSearchParams(location.search).get("request")));

/** @returns {Promise<Inputs>} */
async function given() {
  return Object.fromEntries(await Promise.all(request.inputs.map(async ({ name, dtype, shape, file }) =>
    [name, { data: new ARRAYS[dtype](await (await fetch(file)).arrayBuffer()), shape }])));
}

async function start() {
  const runtime = import(`./${request.runtime}.js`);
  const [run, inputs] = await Promise.all([runtime.then(({ open }) => open(request)), given()]);
  const outputs = await run(inputs);
  return { ms: performance.now(), outputs, call: () => run(inputs) };
}

const started = start();

window.bench = {
  /** The outputs of the first call; when this script began and when they were there, in ms since the navigation began. */
  async first() {
    const { ms, outputs } = await started;
    return { began, ms, outputs: outputs.map((output) => Array.from(output, Number)) };
  },

  /** Milliseconds of each of `n` calls, after one that does not count. @param {number} n */
  async turn(n) {
    const { call } = await started;
    await call();
    const marks = [performance.now()];
    for (let i = 0; i < n; i++) {
      await call();
      marks.push(performance.now());
    }
    return marks.slice(1).map((mark, i) => mark - marks[i]);
  },
};
