// onnxruntime-web on its WebAssembly provider, in the page itself, with all of its graph optimisations.
import * as ort from "onnxruntime-web/wasm";

/** @param {import("./bench.js").Request} request */
export async function open({ model, threads }) {
  Object.assign(ort.env.wasm, { wasmPaths: "/npm/onnxruntime-web/dist/", numThreads: threads, simd: true, proxy: false });
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  return async (inputs) => {
    const given = Object.fromEntries(Object.entries(inputs).map(([name, { data, shape }]) =>
      [name, new ort.Tensor(data, shape)]));
    const outputs = await session.run(given);
    return session.outputNames.map((name) => outputs[name].data);
  };
}
