// Runs a package on inputs from files: node run.mjs REQUEST, a JSON file {index, build, threads, choices, inputs: [{name, array, file}],
// outputs: [{name, file}]}. The compiler verifies packages with it.
import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const request = JSON.parse(await readFile(process.argv[2], "utf8"));
const { load } = await import(pathToFileURL(request.index).href);
const model = await load({ build: request.build ?? undefined, threads: request.threads, choices: request.choices });
const inputs = [];
for (const { name, array, file } of request.inputs) {
  const bytes = await readFile(file);
  inputs.push([name, new globalThis[array](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))]);
}
const outputs = await model.run(Object.fromEntries(inputs));
for (const { name, file } of request.outputs) {
  const { buffer, byteOffset, byteLength } = outputs[name];
  await writeFile(file, new Uint8Array(buffer, byteOffset, byteLength));
}
model.dispose();
