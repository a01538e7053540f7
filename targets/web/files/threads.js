// Made by burnish: the threads of a model beside the one that calls it. index.js brings it where there are to be any.

/**
 * What threads work with. heap: where the model's part of the memory begins; scratch: bytes from there to the first thread's scratch;
 * stride: from one thread's scratch to the next one's. A thread's stack grows down from its scratch.
 * @typedef {{module: WebAssembly.Module, memory: WebAssembly.Memory, heap: number, scratch: number, stride: number}} Shared
 */

/**
 * Starts worker.js, which a browser takes only from the page's own origin: from `there` where that is on it, else from beside us.
 * @param {URL | undefined} there
 * @returns {any} a worker of the browser's or of Node's
 */
function spawn(there) {
  // Not `import`: bundlers for the browser would look for the module.
  const node = /** @type {any} */ (globalThis).process?.getBuiltinModule?.("node:worker_threads");
  // Not the program's own arguments, among which may be --eval.
  if (node) return new node.Worker(new URL("./worker.js", import.meta.url), { execArgv: [] });
  if (there && there.origin === globalThis.location?.origin) return new Worker(there, { type: "module" });
  return new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
}

/**
 * Starts the members of a team but the first, which is the caller. All wait for work when it resolves.
 * @param {any[]} workers where to put them
 * @param {number} threads
 * @param {URL | undefined} there worker.js, where the caller says where the files are
 * @param {Shared} shared
 */
export async function recruit(workers, threads, there, { module, memory, heap, scratch, stride }) {
  for (let member = 1; member < threads; member++) {
    const worker = spawn(there);
    workers.push(worker);
    worker.postMessage({ module, memory, member, stack: heap + scratch + member * stride });
  }
  await Promise.all(workers.map((worker) => new Promise((resolve, reject) => {
    const on = (worker.on ?? worker.addEventListener).bind(worker);
    on("message", (/** @type {any} */ said) => {
      const text = said.data ?? said;
      if (text === "ready") resolve(text);
      else reject(new Error(text));
    });
    on("error", (/** @type {any} */ error) => reject(new Error(error.message ?? "worker.js cannot be loaded")));
  })));
  for (const worker of workers) worker.unref?.();       // Node may end while they wait
}

/** May this thread sleep? A page's main thread may not. */
export function patient() {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 0);
    return 1;
  } catch {
    return 0;
  }
}
