// No runtime: the bytes of a model's weights, fetched. What it gives as its output is how long that took, in ms.

/** @param {import("./bench.js").Request} request */
export async function open({ model }) {
  const start = performance.now();
  await (await fetch(model)).arrayBuffer();
  const ms = performance.now() - start;
  return async () => [Float64Array.of(ms)];
}
