/**
 * The page that measures: it relays commands between the socket of the computer that tunes and a Worker that runs kernels, which
 * it replaces when one hangs, and says in plain words what goes on. ../tuning.py has the other end, and says what goes over it.
 */
const HEAD = 16;                    // bytes of a frame before its body: u32 what, u32 limit in seconds, u64 size
const BEGIN = 0, TIME = 6;          // commands that concern the page itself; the others are the engine's
const ANSWERED = 0, DIED = 2, HUNG = 3;
const AGAIN_MS = 1000;
const SPLAT = [0x41, 0, 0xfd, 0x0f, 0x1a];                              // i32.const 0, i8x16.splat, drop
const MADD = [...Array(3).fill([0x41, 0, 0xfd, 0x0f]).flat(), 0xfd, 0x85, 0x02, 0x1a];      // three, f32x4.relaxed_madd, drop

const token = new URLSearchParams(location.search).get("token") ?? "";
const $ = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {WebSocket} */ let socket;
/** @type {Worker | undefined} */ let worker;
/**
 * The command at work. busy: the worker has it; spoilt: the tab was hidden meanwhile.
 * @type {{what: number, body: Uint8Array, limit: number, timer: number, busy: boolean, spoilt: boolean} | undefined}
 */
let asked;
let over = false;                   // nothing more will come
let shown = { phase: "", elapsed: 0, budget: 0, at: 0, running: false };

// ---- The socket

async function connect() {
  const hello = await about();
  socket = new WebSocket(`ws://${location.host}/socket?token=${encodeURIComponent(token)}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send(JSON.stringify(hello));
  socket.onmessage = ({ data }) => typeof data === "string" ? hear(JSON.parse(data)) : obey(data);
  socket.onclose = () => {
    stopWorker();
    if (over) return;
    say("waiting", "The connection is gone", "Trying to reach the computer that tunes. If it has ended, you can close this tab.");
    shown.running = false;
    setTimeout(connect, AGAIN_MS);
  };
}

/** What this browser is. High-entropy values are asked for, and left out where they are not told. */
async function about() {
  const wanted = ["architecture", "model", "fullVersionList"];
  const told = await navigator.userAgentData?.getHighEntropyValues(wanted).catch(() => null);
  const engine = told?.fullVersionList?.find(({ brand }) => brand === "Chromium");
  return {
    kind: "hello", secret: sessionStorage.getItem(token) ?? "", agent: navigator.userAgent.slice(0, 512),
    version: engine?.version ?? "", architecture: told?.architecture ?? "", model: (told?.model ?? "").slice(0, 64),
    cores: navigator.hardwareConcurrency || 1, simd: runs(SPLAT), relaxed: runs(MADD), resolution: resolution(),
  };
}

/** Does this browser know such instructions? @param {number[]} code of a function without parameters and results */
function runs(code) {
  const body = [0, ...code, 0x0b];      // no locals; end
  return WebAssembly.validate(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0,
    10, body.length + 2, 1, body.length, ...body]));
}

/** The clock's step in seconds. */
function resolution() {
  let least = 1;
  for (let n = 0; n < 20; n++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    least = Math.min(least, (now - start) / 1e3);
  }
  return least;
}

/** @param {any} message of the computer */
function hear(message) {
  if (message.kind === "welcome") {
    sessionStorage.setItem(token, message.secret);      // by which a reload of this tab is known
    $("title").textContent = `Tuning ${message.title} in this browser`;
    tellVisibility();
  } else if (message.kind === "refused") {
    draw(0, "–", "not needed");
    end("stopped", "This page cannot help", `The computer says: ${message.why}.`);
  } else if (message.kind === "ended") {
    if (!over) end("stopped", "The tune was ended", "What was measured until then is kept. You can close this tab.");
  } else {
    show(message);
  }
}

/** @param {number} kind @param {Uint8Array} body */
function answer(kind, body) {
  const head = new DataView(new ArrayBuffer(HEAD));
  head.setUint32(0, kind, true);
  head.setBigUint64(8, BigInt(body.length), true);
  if (socket.readyState === WebSocket.OPEN) socket.send(new Blob([head.buffer, body]));
}

const words = (/** @type {string} */ text) => new TextEncoder().encode(text);

// ---- The worker

/** @param {ArrayBuffer} frame a command */
function obey(frame) {
  const head = new DataView(frame, 0, HEAD);
  asked = {
    what: head.getUint32(0, true), limit: head.getUint32(4, true), body: new Uint8Array(frame, HEAD), timer: 0, busy: false,
    spoilt: false,
  };
  if (asked.what === BEGIN) startWorker();
  else start();
}

/** Gives the command to the worker. A time is measured again if it is spoilt, so its words are copied; others may be large. */
function start() {
  if (!asked) return;
  if (!worker) return finish(DIED, words("had ended"));
  asked.busy = true;
  asked.spoilt = document.hidden;
  expect();
  const body = asked.what === TIME ? asked.body.slice() : asked.body;
  worker.postMessage({ what: asked.what, body }, [body.buffer]);
}

/** The worker has the command's limit for its answer. */
function expect() {
  if (!asked) return;
  clearTimeout(asked.timer);
  asked.timer = setTimeout(late, 1e3 * asked.limit);
}

function startWorker() {
  stopWorker();
  expect();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => heed(data.kind, data.body);
  worker.onerror = (event) => heed(DIED, words(`died: ${event.message || "it cannot be started"}`));
}

function stopWorker() {
  clearTimeout(asked?.timer);
  worker?.terminate();
  worker = undefined;
}

/** @param {number} kind @param {Uint8Array} body */
function heed(kind, body) {
  if (asked?.what === TIME && asked.spoilt && kind === ANSWERED) {
    asked.busy = false;
    clearTimeout(asked.timer);
    if (!document.hidden) start();
    return;         // else when the tab is seen again
  }
  if (kind === DIED) stopWorker();
  finish(kind, body);
}

function finish(kind, body) {
  clearTimeout(asked?.timer);
  asked = undefined;
  answer(kind, body);
}

/** The worker has not answered in time. In a hidden tab that may be the browser's doing: then it is waited for. */
function late() {
  if (!asked) return;
  if (document.hidden) return expect();
  const limit = asked.limit;
  stopWorker();
  finish(HUNG, words(`did not answer within ${limit} s`));
}

// ---- Visibility

function tellVisibility() {
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(document.hidden ? "hidden" : "visible");
}

document.addEventListener("visibilitychange", () => {
  tellVisibility();
  if (over) return;
  if (document.hidden) {
    if (asked) asked.spoilt = true;
    shown.running = false;
    say("waiting", "Paused while this tab is hidden", "Browsers slow down what nobody sees. Come back to this tab to go on.");
  } else {
    stayAwake();
    if (asked?.what === TIME && asked.spoilt && !asked.busy) start();
  }
});

/** A phone that turns its screen off stops measuring. Browsers allow this only on secure pages. */
function stayAwake() {
  navigator.wakeLock?.request("screen").catch(() => undefined);
}

// ---- What is seen

const PHASES = {
  start: ["Getting to know the model", "The model runs as it is, to see where its time goes."],
  trials: ["Trying faster variants", "Keep this tab in front, and other apps quiet: this device is a stopwatch now."],
  finals: ["Comparing the best inside the model", "Nearly there. Keep this tab in front."],
};

/** @param {string} mood @param {string} phase @param {string} advice */
function say(mood, phase, advice) {
  document.body.dataset.mood = mood;
  $("phase").textContent = phase;
  $("advice").textContent = advice;
}

/** @param {string} mood @param {string} phase @param {string} advice */
function end(mood, phase, advice) {
  over = true;
  shown.running = false;
  stopWorker();
  say(mood, phase, advice);
}

const time = (/** @type {number} */ s) =>
  !s ? "–" : s < 1e-3 ? `${(s * 1e6).toFixed(0)} µs` : `${(s * 1e3).toPrecision(3)} ms`;

/** @param {any} state as ui_tune.shown has it */
function show(state) {
  if (!state.phase) {
    draw(0, "…", "getting ready");
    return say("waiting", "Connected", "The computer prepares the first kernels.");
  }
  $("first").textContent = time(state.first);
  $("latency").textContent = time(state.latency);
  $("trials").textContent = state.trials;
  $("tasks").replaceChildren(...state.tasks.map(row));
  shown = { ...state, at: performance.now(), running: state.phase !== "done" };
  if (state.phase === "done") {
    const factor = state.latency ? state.first / state.latency : 1;
    end("done", factor > 1.005 ? "Done: a faster model on devices like yours" : "Done: it was as fast as can be already",
      "What was measured here is kept on the computer that asked for it. You can close this tab.");
    draw(100, `${factor.toFixed(2)}×`, "the speed");
  } else if (!document.hidden) {
    say("working", ...PHASES[state.phase]);
  }
}

/** @param {{title: string, share: number, gain: number}} task share: of the model's time; gain: 1 is none */
function row({ title, share, gain }) {
  const li = document.createElement("li"), name = document.createElement("span"), b = document.createElement("b");
  const bar = document.createElement("i");
  name.textContent = title;
  b.textContent = gain > 1.005 ? `${gain.toFixed(2)}×` : "–";
  b.className = gain > 1.005 ? "faster" : "";
  bar.style.setProperty("--share", String(100 * share));
  li.append(name, b, bar);
  return li;
}

/** @param {number} percent @param {string} big @param {string} small */
function draw(percent, big, small) {
  $("arc").style.strokeDashoffset = String(100 - percent);
  $("arc").style.opacity = percent > 0 ? "1" : "0";     // round ends make a dot of nothing
  $("arc").closest(".dial")?.setAttribute("aria-valuenow", percent.toFixed(0));
  $("big").textContent = big;
  $("small").textContent = small;
}

/** Four times a second and no oftener: drawing takes time from what is measured. */
function tick() {
  if (!shown.running || !shown.budget) return;
  const elapsed = shown.elapsed + (performance.now() - shown.at) / 1e3;
  draw(Math.min(100, 100 * elapsed / shown.budget), String(Math.max(0, Math.ceil(shown.budget - elapsed))), "seconds left");
}

setInterval(tick, 250);
$("about").textContent = [
  navigator.userAgent.match(/(?:Firefox|Edg|Chrome|Version)\/\d+/)?.[0].replace("/", " ") ?? "This browser",
  navigator.hardwareConcurrency > 1 ? `${navigator.hardwareConcurrency} cores` : "one core", ...crossOriginIsolated ? [] : ["a coarse clock, so it takes longer to be sure"],
].join(", ");
stayAwake();
connect();
