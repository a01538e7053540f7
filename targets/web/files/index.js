// Made by burnish: loads and runs one compiled model. No dependency; works in a page, in a Web Worker and in Node (from 20.16).

/**
 * @typedef {"relaxed-simd" | "simd"} Build
 * @typedef {{name: string, shape: readonly number[], dtype: string}} Tensor
 * @typedef {{base?: string | URL, threads?: number, build?: Build, choices?: readonly number[], signal?: AbortSignal,
 *            onProgress?: (progress: {loaded: number, total: number}) => void}} LoadOptions
 */

const MODEL = @MODEL@;

// Where the package ships several kernels for a task; else null.
/** @type {null | (() => Promise<typeof import("./ways.js")>)} */
const WAYS = @WAYS@;

// Spelt out, so that bundlers find the files and bring them along.
/** @type {Record<string, () => URL>} */
const FILES = {
@FILES@};

/** @type {Record<string, any>} */
const ARRAYS = {
  float64: Float64Array, float32: Float32Array, float16: Uint16Array, bool: Uint8Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
};

// Each a module that uses what its build needs, with the function p: () => i32.
const HEAD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 112, 0, 0, 10];
const ZEROS = [65, 0, 253, 17], FIRST_LANE = [253, 27, 0];
/** @type {Record<Build, Uint8Array<ArrayBuffer>>} */
const PROBES = {
  // The relaxed dot product of the bytes -128, 127, -1, 1 and 127, 127, 1, 0. Engines may differ where the second ones have their
  // highest bit set, and nowhere else.
  "relaxed-simd": new Uint8Array([...HEAD, 27, 1, 25, 0, 65, 128, 255, 253, 15, 253, 17, 65, 255, 254, 5, 253, 17, ...ZEROS,
    253, 147, 2, ...FIRST_LANE, 11]),
  "simd": new Uint8Array([...HEAD, 11, 1, 9, 0, ...ZEROS, ...FIRST_LANE, 11]),
};
const ANSWERS = { "relaxed-simd": -128 * 127 + 127 * 127 - 1, "simd": 0 };

/** What went wrong, in `code` for programs and in `message` for people. */
export class BurnishError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {unknown} [cause]
   */
  constructor(code, message, cause) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "BurnishError";
    this.code = code;
  }
}

/**
 * Can the browser run it? Where the model has dot products, it must also compute them right: in Node 20 (V8 11.3, by a flag) the
 * relaxed one is twice what it should be until it is optimised.
 * @param {Build} build
 */
function runs(build) {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(PROBES[build])) return false;
  if (!MODEL.dots) return true;
  let module;
  try {
    module = new WebAssembly.Module(PROBES[build]);
  } catch {
    return true;        // a Content-Security-Policy forbids it, as `compile` will say
  }
  return /** @type {any} */ (new WebAssembly.Instance(module).exports).p() === ANSWERS[build];
}

/**
 * @param {Build | undefined} wanted
 * @returns {Build}
 */
function choose(wanted) {
  if (wanted !== undefined && !Object.hasOwn(PROBES, wanted)) {
    throw new BurnishError("OPTION",
      `there is no build "${wanted}": leave \`build\` out, or give one of ${Object.keys(PROBES).join(", ")}`);
  }
  const builds = wanted === undefined ? /** @type {Build[]} */ (Object.keys(PROBES)) : [wanted];
  const build = builds.find(runs);
  if (build === undefined) {
    throw new BurnishError("NO_SIMD", `this browser's WebAssembly cannot run the build ${builds.at(-1)}: ` +
      (wanted === undefined ? "it has no SIMD; update the browser" : "leave `build` out to take the best that it can"));
  }
  return build;
}

/**
 * A module of Node's; undefined in browsers. Not `import`: bundlers for the browser would look for the module.
 * @param {string} name
 * @returns {any}
 */
const builtin = (name) => /** @type {any} */ (globalThis).process?.getBuiltinModule?.(name);

/**
 * @param {string} name
 * @param {string | URL | undefined} base
 */
function locate(name, base) {
  if (base === undefined) return FILES[name]();
  const folder = String(base);
  return new URL(name, new URL(folder.endsWith("/") ? folder : `${folder}/`, globalThis.location?.href ?? import.meta.url));
}

/**
 * The content of a file, piece by piece.
 * @param {URL} url
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Uint8Array>}
 */
async function* pieces(url, signal) {
  /** @returns {never} */
  const fail = (/** @type {string} */ code, /** @type {string} */ what, /** @type {any} */ error) => {
    signal.throwIfAborted();
    throw new BurnishError(code, `${what} ${url.href}: ${error.message}`, error);
  };
  const fs = url.protocol === "file:" ? builtin("node:fs") : undefined;
  if (fs) {
    try {
      yield* fs.createReadStream(url, { signal });
    } catch (error) {
      fail("FILE_MISSING", "cannot read", error);
    }
    return;
  }
  const response = await fetch(url, { signal }).catch((error) => fail("NETWORK", "cannot fetch", error));
  if (!response.ok || !response.body) {
    throw new BurnishError("FILE_MISSING", `cannot fetch ${url.href}: the server answered ${response.status}; ` +
      "serve the package's files beside index.js, or say where they are: load({base})");
  }
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => fail("NETWORK", "the connection broke while loading", error));
    if (done) return;
    yield value;
  }
}

/**
 * Fills `target` with a file and checks that it is the file that it should be.
 * @param {URL} url
 * @param {Uint8Array} target
 * @param {string} sha256 of the SHA-256 of each piece
 * @param {AbortSignal} signal
 * @param {(bytes: number) => void} progress
 */
async function fill(url, target, sha256, signal, progress) {
  const subtle = globalThis.crypto?.subtle;     // only on https and localhost
  const copy = new Uint8Array(MODEL.piece);     // shared memory is not hashed
  /** @type {Promise<ArrayBuffer>[]} */
  const hashes = [];
  let at = 0, hashed = 0;
  const hash = (/** @type {number} */ end) => {         // in the browser's own threads, while more arrives
    copy.set(target.subarray(hashed, end));
    if (subtle) hashes.push(subtle.digest("SHA-256", copy.subarray(0, end - hashed)));
    hashed = end;
  };
  for await (const piece of pieces(url, signal)) {
    if (at + piece.length > target.length) {
      throw new BurnishError("FILE_DAMAGED", `${url.href} is larger than the ${target.length} bytes of this package's file`);
    }
    target.set(piece, at);
    at += piece.length;
    progress(piece.length);
    while (at - hashed >= MODEL.piece) hash(hashed + MODEL.piece);
  }
  if (at !== target.length) {
    throw new BurnishError("FILE_DAMAGED", `${url.href} has ${at} bytes of ${target.length}: it was cut off, or is another file`);
  }
  if (hashed < at) hash(at);
  const digest = await subtle?.digest("SHA-256", await new Blob(await Promise.all(hashes)).arrayBuffer());
  signal.throwIfAborted();
  if (digest && Array.from(new Uint8Array(digest), (b) => b.toString(16).padStart(2, "0")).join("") !== sha256) {
    throw new BurnishError("FILE_DAMAGED", `${url.href} is damaged: its SHA-256 is not the one of this package's file`);
  }
}

/**
 * @param {URL} url
 * @param {{bytes: number, sha256: string}} file
 * @param {AbortSignal} signal
 * @param {(bytes: number) => void} progress
 */
async function compile(url, file, signal, progress) {
  const code = new Uint8Array(file.bytes);
  await fill(url, code, file.sha256, signal, progress);
  try {
    return await WebAssembly.compile(code);
  } catch (/** @type {any} */ error) {
    throw new BurnishError(error instanceof RangeError ? "OUT_OF_MEMORY" : "FILE_DAMAGED",
      `${url.href} cannot be compiled: ${error.message} (a Content-Security-Policy must allow 'wasm-unsafe-eval')`, error);
  }
}

/**
 * Of fixed size: it never grows.
 * @param {number} bytes
 * @param {boolean} shared
 */
function allocate(bytes, shared) {
  const pages = Math.ceil(bytes / 65536);
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
  } catch (error) {
    throw new BurnishError("OUT_OF_MEMORY", `the model needs ${Math.ceil(pages / 16)} MiB of memory, which cannot be had`, error);
  }
}

/**
 * How many threads work on a run. Says why where there can be only one.
 * @param {number | undefined} wanted
 */
function count(wanted) {
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted > 0)) {
    throw new BurnishError("OPTION", `threads is a whole number from 1 on, not ${wanted}`);
  }
  const cpus = builtin("node:os")?.availableParallelism() ?? globalThis.navigator?.hardwareConcurrency ?? 1;
  const threads = Math.min(wanted ?? Math.min(cpus, 4), MODEL.threads);
  if (threads === 1 || (globalThis.crossOriginIsolated !== false && typeof SharedArrayBuffer === "function")) return threads;
  console.warn("burnish: the model runs on one thread, since this page is not cross-origin isolated. For more, serve it " +
    "with the headers Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp; " +
    "load({ threads: 1 }) is content with one.");
  return 1;
}

/**
 * A part of the loader that not everybody needs.
 * @template T
 * @param {string} name
 * @param {Promise<T>} coming
 */
const part = (name, coming) => coming.catch(async () => {
  const url = new URL(`./${name}`, import.meta.url);
  await pieces(url, new AbortController().signal).next();       // says what is wrong with the file or the network
  // Browsers do not ask again for a module that they could not have once: it needs another name.
  return import(/* webpackIgnore: true */ /* @vite-ignore */ `${url.href}?${Date.now()}`);
}).catch((error) => {
  throw error instanceof BurnishError ? error : new BurnishError("FILE_MISSING", `cannot load ${name}: ${error.message}`, error);
});

/**
 * Loads the model: takes the best build that this browser can run, and streams the weights into its memory.
 * @param {LoadOptions} [options]
 * @returns {Promise<Model>}
 */
export async function load({ base, threads: asked, build: wanted, choices, onProgress, signal } = {}) {
  signal?.throwIfAborted();
  const build = choose(wanted);
  let threads = count(asked);
  /** @type {Record<string, {file: string, bytes: number, sha256: string, heap: number}>} */
  const builds = MODEL.builds;
  const { weights } = MODEL, code = builds[threads > 1 ? `${build}-threads` : build];
  const memory = allocate(code.heap + MODEL.bytes + (threads - 1) * MODEL.stride, threads > 1);
  const total = weights.bytes + code.bytes;
  let loaded = 0;
  const progress = (/** @type {number} */ bytes) => {
    loaded += bytes;
    onProgress?.({ loaded, total });
  };
  const stop = new AbortController();
  const abort = () => stop.abort(signal?.reason);
  signal?.addEventListener("abort", abort);
  /** @type {any[]} */
  const workers = [];
  const end = () => workers.splice(0).forEach((worker) => worker.terminate());
  let arrived = 0, prepared = 0, prepare = () => {};
  const begin = async () => {
    const [module, team] = await Promise.all([
      compile(locate(code.file, base), code, stop.signal, progress),
      threads > 1 ? part("threads.js", import("./threads.js")) : null,
    ]);
    const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
    stop.signal.throwIfAborted();
    const { setup, run, start, choose } = /** @type {Record<string, (...numbers: number[]) => void>} */ (exports);
    if (team) {
      start(threads, team.patient());
      try {
        const there = base === undefined ? undefined : locate("worker.js", base), { scratch, stride } = MODEL;
        await team.recruit(workers, threads, there, { module, memory, heap: code.heap, scratch, stride });
      } catch (/** @type {any} */ error) {
        end();
        start(threads = 1, 0);
        console.warn(`burnish: the model runs on one thread, since workers cannot be started: ${error.message}`);
      }
    }
    prepare = () => {       // what is made of weights is made as soon as they are there, while more arrives
      stop.signal.throwIfAborted();     // by then the workers are gone, and this thread would wait for them for ever
      const first = prepared;
      while (prepared < MODEL.setup.length && MODEL.setup[prepared] <= arrived) prepared += 1;
      if (prepared > first) setup(first, prepared);
    };
    prepare();
    return { run, choose };
  };
  try {
    const target = new Uint8Array(memory.buffer, code.heap + weights.at, weights.bytes);
    const [{ run, choose }, ways] = await Promise.all([
      begin(),
      waysOf(`${code.file} ${weights.file} ${threads}`, choices),
      fill(locate(weights.file, base), target, weights.sha256, stop.signal, (bytes) => {
        arrived += bytes;
        prepare();
        progress(bytes);
      }),
    ]);
    stop.signal.throwIfAborted();
    ways?.apply(choose);
    return new Model(build, threads, code.heap, memory, run, end, ways);
  } catch (error) {
    stop.abort(error);
    end();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/**
 * Which way each kernel is made, where there are several.
 * @param {string} key by which it is remembered
 * @param {readonly number[] | undefined} choices
 */
async function waysOf(key, choices) {
  if (!WAYS) {
    if (choices?.length) throw new BurnishError("OPTION", "there are no choices: the package ships one kernel for each task");
    return null;
  }
  const { Ways } = await part("ways.js", WAYS());
  const ways = new Ways(MODEL.kernels, key);
  await ways.begin(choices);
  return ways;
}

/** A loaded model. `load` makes it. */
class Model {
  /** @type {((first: number, last: number) => void) | null} */ #run;
  /** @type {WebAssembly.Memory | null} */ #memory;
  /** @type {any[]} */ #given;
  /** @type {any[]} */ #made;
  /** @type {() => void} */ #end;
  /** @type {import("./ways.js").Ways | null} */ #ways;
  #runs = 0;

  /**
   * @param {Build} build
   * @param {number} threads
   * @param {number} heap
   * @param {WebAssembly.Memory} memory
   * @param {(first: number, last: number) => void} run
   * @param {() => void} end of the workers
   * @param {import("./ways.js").Ways | null} ways
   */
  constructor(build, threads, heap, memory, run, end, ways) {
    const view = (/** @type {any} */ t) => new ARRAYS[t.dtype](memory.buffer, heap + t.at, t.length);
    const shown = (/** @type {any} */ t) => Object.freeze({ name: t.name, shape: Object.freeze([...t.shape]), dtype: t.dtype });
    /** @type {Build} */
    this.build = build;
    /** How many compute, the calling one among them. */
    this.threads = threads;
    /** @type {readonly Tensor[]} */
    this.inputs = Object.freeze(MODEL.inputs.map(shown));
    /** @type {readonly Tensor[]} */
    this.outputs = Object.freeze(MODEL.outputs.map(shown));
    this.#memory = memory;
    this.#run = run;
    this.#end = end;
    this.#ways = ways;
    this.#given = MODEL.inputs.map(view);
    this.#made = MODEL.outputs.map(view);
  }

  /** Bytes of memory that the model holds: as many after a thousand runs as after the first; 0 when it is disposed of. */
  get memoryBytes() {
    return this.#memory?.buffer.byteLength ?? 0;
  }

  /**
   * Computes the outputs, in new arrays. The calling thread computes: a page that must stay smooth calls from a Web Worker.
   * @param {Record<string, any>} [given] a typed array for each input, row-major
   * @returns {Promise<Record<string, any>>}
   */
  async run(given = {}) {
    const run = this.#alive();
    check(given);
    MODEL.inputs.forEach((t, n) => this.#given[n].set(given[t.name]));
    this.#runs += 1;
    run(0, MODEL.launches);
    return Object.fromEntries(MODEL.outputs.map((t, n) => [t.name, this.#made[n].slice()]));
  }

  #alive() {
    if (!this.#run) throw new BurnishError("DISPOSED", "the model was disposed of: load it again");
    return this.#run;
  }

  /** For each kernel that the package has variants of, which of them runs. */
  get choices() {
    return [...this.#ways?.choices ?? []];
  }

  /**
   * Tries the variants of each kernel, while the page has nothing else to do, and keeps those that are the fastest here.
   * @param {import("./tune.js").TuneOptions} [options]
   */
  async tune(options = {}) {
    this.#alive();
    if (!this.#ways) {
      throw new BurnishError("NOT_TUNABLE", "there is nothing to tune: the package ships one kernel for each task; " +
        "compile it with --variants");
    }
    const run = (/** @type {number} */ first, /** @type {number} */ last) => this.#alive()(first, last);
    return this.#ways.tune({ launches: MODEL.launches, runs: () => this.#runs, run }, options);
  }

  /** Ends the threads and lets go of the memory. Any number of times. */
  dispose() {
    this.#end();
    this.#run = this.#memory = null;
    this.#given = this.#made = [];
  }
}

/** @param {any} given */
function check(given) {
  const names = MODEL.inputs.map((t) => `"${t.name}"`).join(", ") || "none";
  if (given === null || typeof given !== "object" || ArrayBuffer.isView(given)) {
    throw new BurnishError("INPUT_NAME", `run takes an object with an array for each input: ${names}`);
  }
  const known = new Set(MODEL.inputs.map((t) => t.name));
  for (const name of Object.keys(given)) {
    if (!known.has(name)) throw new BurnishError("INPUT_NAME", `there is no input "${name}"; there are ${names}`);
  }
  for (const t of MODEL.inputs) {
    if (!Object.hasOwn(given, t.name)) throw new BurnishError("INPUT_NAME", `input "${t.name}" is missing`);
    const value = given[t.name], wanted = ARRAYS[t.dtype].name;
    const kind = value === null ? "null" : typeof value;
    const found = ArrayBuffer.isView(value) ? /** @type {any} */ (value)[Symbol.toStringTag] : kind;
    if (found !== wanted) {      // by name: an array may come from another frame
      throw new BurnishError("INPUT_DTYPE", `input "${t.name}" is ${t.dtype}: it takes a ${wanted}, not ${found}`);
    }
    if (value.length !== t.length) {
      throw new BurnishError("INPUT_SHAPE", `input "${t.name}" has the shape [${t.shape.join(", ")}], ${t.length} elements, ` +
        `not ${value.length}`);
    }
  }
}
