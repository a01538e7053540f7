// Loads and runs the model beside the page, which stays smooth.

import { load } from "../index.js";

/** @type {Promise<any>} */
let loading;

const calls = {
  async load() {
    const start = performance.now();
    loading = load({ onProgress: (progress) => postMessage({ progress }) });
    const model = await loading;
    return { ms: performance.now() - start, build: model.build, threads: model.threads ?? 1, memory: model.memoryBytes };
  },
  /** @param {Record<string, any>} inputs */
  async run(inputs) {
    const model = await loading, start = performance.now(), outputs = await model.run(inputs);
    return { ms: performance.now() - start, outputs };
  },
};

onmessage = async ({ data: { id, call, given } }) => {
  try {
    const result = await calls[call](given);
    postMessage({ id, result }, { transfer: Object.values(result.outputs ?? {}).map((array) => array.buffer) });
  } catch (error) {
    postMessage({ id, error: { code: error.code, message: error.message ?? String(error) } });
  }
};
