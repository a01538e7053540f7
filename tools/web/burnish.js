// The package that burnish compiled, used as its README says.

/** @param {import("./bench.js").Request} request */
export async function open({ model, threads }) {
  const { load } = await import(`${model}index.js`);
  const loaded = await load({ threads });
  if (loaded.threads !== threads) throw new Error(`the package runs on ${loaded.threads} threads, not on ${threads}`);
  const names = loaded.outputs.map((t) => t.name);
  return async (inputs) => {
    const given = Object.fromEntries(Object.entries(inputs).map(([name, { data }]) => [name, data]));
    const outputs = await loaded.run(given);
    return names.map((name) => outputs[name]);
  };
}
