// The page: loads the model in a worker, gives it inputs, shows what comes out, how fast, and how large it all is.

import { $, element } from "./dom.js";
import { Engine, Failure } from "./engine.js";
import { median, megabytes, milliseconds, seconds, short } from "./format.js";
import { layout } from "./picture.js";
import { pictureInput } from "./picture_input.js";
import { Output } from "./result.js";
import { tensorInput } from "./tensor_input.js";
import { TOLERANCE, relativeError, view } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */

const ROUNDS = 30;          // runs to time,
const ENOUGH_MS = 1500;     // or fewer, when they take so long,
const FEWEST = 5;           // but not fewer than these
const LIVE_MS = 2000;       // at most between a camera's runs,
const RECENT = 20;          // of which the last ones count
const PATIENCE_MS = 300;

const TITLES = {
  FILE_MISSING: "A file of the model is missing", FILE_DAMAGED: "A file of the model is damaged",
  NETWORK: "The model could not be fetched", NO_SIMD: "This browser cannot run the model",
  OUT_OF_MEMORY: "There is not enough memory", INPUT_NAME: "The input does not fit", INPUT_DTYPE: "The input does not fit",
  INPUT_SHAPE: "The input does not fit", CAMERA: "No camera",
};

// ---- What goes wrong ---------------------------------------------------------------------------------------------------

/** @param {any} error @param {boolean} [fatal] the page can do nothing until it is loaded again */
function complain(error, fatal = false) {
  const [title, text, again] = $("#failure").children;
  title.textContent = TITLES[error.code] ?? (fatal ? "The model cannot be loaded" : "That did not work");
  text.textContent = error.message;
  again.hidden = !fatal;
  $("main").hidden = fatal;
  again.onclick = () => location.reload();
  $("#failure").hidden = false;
  $("#failure").scrollIntoView({ block: "nearest" });
  if (!(error instanceof Failure)) console.error(error);
}

/**
 * Does something that may fail, and shows why it did; was it done?
 * @param {() => Promise<void>} what
 */
async function attempt(what) {
  try {
    await what();
    $("#failure").hidden = true;
    return true;
  } catch (error) {
    complain(error);
    return false;
  }
}

/** @param {string} path */
async function fetched(path) {
  const response = await fetch(path).catch((error) => {
    throw new Failure(`cannot fetch ${path}: ${error.message}`, "NETWORK");
  });
  if (!response.ok) {
    throw new Failure(`cannot fetch ${path}: the server answered ${response.status}; it needs the whole package, not demo/ alone`,
      "FILE_MISSING");
  }
  return response;
}

// ---- Results -----------------------------------------------------------------------------------------------------------

/**
 * Runs the model and shows what it makes.
 * @param {Engine} engine
 * @param {Tensor[]} tensors
 * @param {string[] | undefined} labels
 */
function results(engine, tensors, labels) {
  const shown = tensors.map((tensor) => new Output(tensor, labels));
  /** @type {{ms: number, at: number}[]} */
  let recent = [];
  $("#outputs").append(...shown.map((output) => output.node));
  if (labels && !shown.some((output) => output.labels)) {
    $("#outputs").append(element("p", { className: "values" }, `The ${labels.length} labels are as many as no output's scores.`));
  }
  return async (/** @type {Record<string, any>} */ inputs) => {
    const waiting = setTimeout(() => ($("#took").textContent = "computing …"), PATIENCE_MS);
    const { ms, outputs } = await engine.run(inputs).finally(() => clearTimeout(waiting));
    shown.forEach((output) => output.show(outputs[output.tensor.name]));
    const now = performance.now();
    const live = recent.length > 0 && now - recent[recent.length - 1].at < LIVE_MS;
    recent = [...(live ? recent : []), { ms, at: now }].slice(-RECENT);
    const rate = recent.length > 3 ? ` · ${Math.round((1000 * (recent.length - 1)) / (now - recent[0].at))} a second` : "";
    $("#took").textContent = milliseconds(median(recent.map((run) => run.ms))) + rate;
    $("#result").hidden = false;
    return outputs;
  };
}

/**
 * Says whether the outputs are the sample's expected ones.
 * @param {Tensor[]} tensors
 * @param {Record<string, any>} outputs
 * @param {any[]} expected
 */
function judge(tensors, outputs, expected) {
  const errors = tensors.map(({ name, dtype }, n) => relativeError(outputs[name], expected[n], dtype));
  const equal = tensors.every(({ dtype }, n) => errors[n] <= (TOLERANCE[dtype] ?? 0)), worst = Math.max(0, ...errors);
  $("#verdict").className = equal ? "good" : "bad";
  $("#verdict").textContent = `The sample's output ${equal ? "is" : "is not"} the expected one (largest relative error ` +
    `${worst ? worst.toExponential(1).replace("-", "−") : "0"}).`;
}

// ---- Facts -------------------------------------------------------------------------------------------------------------

/** @param {number} threads */
function whyOneThread(threads) {
  if (threads > 1) return "";
  if (!isSecureContext) return "One thread: browsers let threads share memory only on https and on localhost.";
  if (!crossOriginIsolated) {
    return "One thread: the server does not send Cross-Origin-Opener-Policy: same-origin and " +
      "Cross-Origin-Embedder-Policy: require-corp.";
  }
  return navigator.hardwareConcurrency === 1 ? "One thread: this device has one core." : "";
}

/** @param {{ms: number, build: string, threads: number, memory: number}} model @param {number} bytes that were loaded */
function tell({ ms, build, threads, memory }, bytes) {
  const { dataset } = document.body, weights = Number(dataset.weights);
  const loader = Number(dataset.loader) + (threads > 1 ? Number(dataset.team) : 0);
  const facts = {
    "Loaded in": seconds(ms), "SIMD": { "relaxed-simd": "relaxed", "simd": "baseline" }[build] ?? build, "Threads": threads,
    "Memory": megabytes(memory), "Code": megabytes(bytes - weights + loader), "Weights": megabytes(weights),
  };
  $("#known dl").append(...Object.entries(facts).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))));
  $("#why").textContent = whyOneThread(threads);
  $("#why").hidden = !$("#why").textContent;
  $("#loading").hidden = true;
  $("#known").hidden = false;
}

/**
 * Times runs, between which others may come.
 * @param {Engine} engine
 * @param {Record<string, any>} inputs
 * @param {number} first ms
 */
async function time(engine, inputs, first) {
  const times = [];
  for (let spent = 0; times.length < ROUNDS && (spent < ENOUGH_MS || times.length < FEWEST);) {
    const { ms } = await engine.run(inputs);
    times.push(ms);
    spent += ms;
    $("#latency strong").textContent = milliseconds(median(times));
    $("#latency span").textContent = `median of ${times.length} runs · the first took ${milliseconds(first)}`;
  }
}

// ---- The page ----------------------------------------------------------------------------------------------------------

async function start() {
  let bytes = 0;
  const engine = new Engine(({ loaded, total }) => {
    bytes = total;
    $("#progress").value = loaded / total;
    $("#loaded").textContent = `${megabytes(loaded)} of ${megabytes(total)}`;
  });
  const loaded = engine.load();
  loaded.catch(() => {});       // it is awaited below, when the page is there
  const about = await (await fetched("../sample/sample.json")).json(), settings = await (await fetched("settings.json")).json();
  /** @type {Record<string, Promise<any[]>>} */
  const arrays = {};
  const sample = (/** @type {"inputs" | "outputs"} */ kind) => (arrays[kind] ??= Promise.all(about[kind].map(
    async (/** @type {any} */ t) => view(t.dtype, await (await fetched(`../sample/${t.file}`)).arrayBuffer()))));
  const named = (/** @type {any[]} */ values) => Object.fromEntries(values.map((x, n) => [about.inputs[n].name, x]));

  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => event.preventDefault());      // or the browser would leave the page
  const run = results(engine, about.outputs, settings.labels);
  const first = about.inputs.length === 1 ? layout(about.inputs[0]) : undefined;
  const scale = first?.channels === 3 && !about.outputs.some(layout) ? "imagenet" : "unit";
  const input = first
    ? pictureInput(about.inputs[0], first, { scale, ...settings }, run, attempt)
    : tensorInput(about.inputs, () => sample("inputs"), run, attempt);
  $("#input").hidden = false;

  tell(await loaded, bytes);
  const inputs = await sample("inputs"), once = await engine.run(named(inputs));
  judge(about.outputs, once.outputs, await sample("outputs"));
  $("#sample").onclick = () => attempt(async () => {
    input.show(inputs);
    judge(about.outputs, await run(named(inputs)), await sample("outputs"));
  });
  $("#sample").disabled = false;
  await time(engine, named(inputs), once.ms);
}

start().catch((error) => complain(error, true));
