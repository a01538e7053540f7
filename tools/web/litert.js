// LiteRT.js on its CPU backend. Of its builds it takes the one with relaxed SIMD wherever the browser has that.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

/** @param {import("./bench.js").Request} request */
export async function open({ model, threads }) {
  await loadLiteRt("/npm/@litertjs/core/wasm/", { threads: threads > 1 });
  const compiled = await loadAndCompile(model, { accelerator: "wasm", cpuOptions: { numThreads: threads } });
  return async (inputs) => {
    const given = Object.values(inputs).map(({ data, shape }) => new Tensor(data, shape));
    const made = await compiled.run(given);
    const outputs = made.map((tensor) => tensor.toTypedArray());
    [...given, ...made].forEach((tensor) => tensor.delete());    // its memory is freed by hand
    return outputs;
  };
}
