// Made by burnish: a thread of a model. index.js starts it, hands it code and memory, and ends it.

// Not `import`: bundlers for the browser would look for the module.
const port = /** @type {any} */ (globalThis).process?.getBuiltinModule?.("node:worker_threads").parentPort ?? globalThis;

port.onmessage = async (/** @type {MessageEvent} */ { data: { module, memory, member, stack } }) => {
  try {
    const { exports } = /** @type {any} */ (await WebAssembly.instantiate(module, { env: { memory } }));
    exports.__stack_pointer.value = stack;
    port.postMessage("ready");
    exports.live(member);       // does not return
  } catch (error) {
    port.postMessage(String(error));
  }
};
