/**
 * Runs and times kernels in WebAssembly as it is told: commands and answers have the bodies that cpu/runner_c/main.c says, but
 * `load` carries a module that imports its memory and exports kernels. Nothing of Node or of a page is used here.
 *
 * The module's stack and constants lie in the first BASE bytes of the memory, where the linker puts them; the runner's own memory,
 * whose offsets the commands speak of, begins behind them.
 */

const PAGE = 1 << 16;
const BASE = 1 << 24; // as web/toolchain.py has it
const MAX_NAME = 255;
const MAX_ARGUMENTS = 32;
const CALL_HEADER = 12; // bytes: no call is shorter
const SHORTEST = 50e-6; // seconds of a sample of one kernel by itself, and how many steps of a coarse clock it lasts at least
const STEPS = 20;
const FEW_STEPS = 4; // of a sample among others: called again, its data is warm, but one step is no time
const MAX_REPEATS = 1 << 20;
const TURN = 2e-3; // seconds for which a new kernel is called in its turn, until it is warm: V8 wants about 1 ms of looping
const TURNS = 3; // at least: V8 replaces a function's code between two calls, never within one

/** A command that is not obeyed. The engine goes on as it was. */
export class Refused extends Error {}

/** A kernel has trapped: the message names it. The engine is of no more use. */
export class Died extends Error {}

/** A command's body, read from its start. */
class Reader {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.at = 0;
  }

  get left() {
    return this.bytes.length - this.at;
  }

  /** @param {number} size */
  skip(size) {
    if (size > this.left) throw new Refused("the command is shorter than what it announces");
    this.at += size;
    return this.at - size;
  }

  u32 = () => this.view.getUint32(this.skip(4), true);
  i32 = () => this.view.getInt32(this.skip(4), true);
  f64 = () => this.view.getFloat64(this.skip(8), true);
  u64 = () => this.view.getBigUint64(this.skip(8), true);

  /** @param {number} size */
  take(size) {
    const at = this.skip(size);
    return this.bytes.subarray(at, at + size);
  }

  /** A count of things of at least so many bytes each: never more than there is room for. @param {number} each */
  count(each) {
    const count = this.u32();
    if (count > this.left / each) throw new Refused("the command is shorter than what it announces");
    return count;
  }
}

/**
 * @typedef {{name: string, kernel: Function, args: number[]}} Call
 * @typedef {{call: Call, samples: number[], best: number, repeats: number}} Alternative repeats: calls in one sample
 * @typedef {{all: Alternative[], at: number, best: number}} Step at: whose turn it is
 */

/** @param {number} giveUp */
const isSlow = (/** @type {Step} */ step, /** @type {Alternative} */ a, giveUp) =>
  giveUp > 0 && a.samples.length >= 3 && a.best > giveUp * step.best;

export class Engine {
  #memory = new WebAssembly.Memory({ initial: BASE / PAGE });
  #size = 0;
  /** @type {Map<string, Function>} */
  #kernels = new Map();
  /** @type {Set<Function>} */
  #warm = new Set();
  #running = "";
  #step = 0; // of the clock, in seconds; found when it is first needed

  /**
   * @param {{warm?: number, now?: () => number}} [options] warm: seconds without progress after which new kernels are taken to be
   *   compiled as well as they will be, where the host cannot make V8 do it at once; now: the clock, in seconds
   */
  constructor({ warm = 0, now = () => performance.now() / 1000 } = {}) {
    this.warm = warm;
    this.now = now;
  }

  /**
   * The answer to one command. Throws Refused, or Died.
   * @param {number} what
   * @param {Uint8Array} body
   * @returns {Uint8Array}
   */
  obey(what, body) {
    const commands = [this.#load, this.#allocate, this.#write, this.#read, this.#run, this.#time];
    const command = commands[what - 1];
    if (!command) throw new Refused(`there is no command ${what}`);
    this.#running = "";
    try {
      return command.call(this, new Reader(body)) ?? new Uint8Array();
    } catch (error) {
      if (!this.#running) throw error;
      throw new Died(`${error instanceof Error ? error.message : error} in ${this.#running}`);
    }
  }

  // ---- Modules and memory

  /** @param {Reader} body */
  #load(body) {
    let exported;
    try {
      const module = new WebAssembly.Module(body.take(body.left));
      exported = new WebAssembly.Instance(module, { env: { memory: this.#memory } }).exports;
    } catch (error) {
      throw new Refused(`the module cannot be loaded: ${error instanceof Error ? error.message : error}`);
    }
    for (const [name, value] of Object.entries(exported)) if (typeof value === "function") this.#kernels.set(name, value);
  }

  /** The memory grows and is never replaced: what was loaded keeps its code. @param {Reader} body */
  #allocate(body) {
    const size = Number(body.u64());
    this.#size = 0;
    const more = Math.ceil((BASE + size - this.#memory.buffer.byteLength) / PAGE);
    try {
      if (more > 0) this.#memory.grow(more);
    } catch {
      throw new Refused(`no memory of ${size} bytes`);
    }
    this.#size = size;
    // Pages that were never written may all be one page of zeros, which would stay in the cache.
    new Uint8Array(this.#memory.buffer, BASE, size).fill(0);
  }

  /** The bytes there. @param {bigint} offset @param {bigint} size */
  #bytes(offset, size) {
    if (offset + size > this.#size)
      throw new Refused(`${size} bytes at ${offset} do not lie in the memory, which has ${this.#size}`);
    return new Uint8Array(this.#memory.buffer, BASE + Number(offset), Number(size));
  }

  /** @param {Reader} body */
  #write(body) {
    const offset = body.u64();
    this.#bytes(offset, BigInt(body.left)).set(body.take(body.left));
  }

  /** @param {Reader} body */
  #read(body) {
    const offset = body.u64();
    return this.#bytes(offset, body.u64()).slice();
  }

  // ---- Calls

  /** @param {Reader} body @returns {Call} */
  #call(body) {
    const length = body.u32();
    const count = body.u32();
    const tiles = body.i32();
    if (length > MAX_NAME)
      throw new Refused(`the name of a kernel has ${length} characters, ${MAX_NAME} are the most`);
    const name = String.fromCharCode(...body.take(length));
    if (count < 1 || count > MAX_ARGUMENTS)
      throw new Refused(`${name} has ${count} arguments; 1 to ${MAX_ARGUMENTS} can be passed`);
    if (tiles < 0) throw new Refused(`${name} over ${tiles} tiles`);
    const args = [];
    for (let n = 0; n < count; n++) {
      const offset = body.u64();
      if (offset > this.#size)
        throw new Refused(`argument ${n} of ${name} lies at ${offset}, the memory has ${this.#size} bytes`);
      args.push(BASE + Number(offset));
    }
    const kernel = this.#kernels.get(name);
    if (!kernel) throw new Refused(`no loaded module has a kernel ${name}`);
    return { name, kernel, args: [...args, 0, tiles] };
  }

  /** @param {Call} call */
  #invoke(call) {
    this.#running = call.name;
    call.kernel(...call.args);
  }

  /** @param {Reader} body */
  #run(body) {
    const calls = Array.from({ length: body.count(CALL_HEADER) }, () => this.#call(body));
    for (const call of calls) this.#invoke(call); // all were looked at before the first is run
    this.#running = "";
  }

  // ---- Timing: rounds of two passes, alternatives in turn, as schedules/measure.py says

  /** @param {Reader} body */
  #time(body) {
    const count = body.u32();
    const rounds = body.u32();
    const seconds = body.f64();
    const giveUp = body.f64();
    if (!(seconds >= 0) || !(giveUp === 0 || giveUp >= 1))
      throw new Refused(`seconds must be 0 or more, give_up 0 or at least 1; they are ${seconds} and ${giveUp}`);
    if (count === 0) throw new Refused("no step to time");
    if (count > body.left / 4) throw new Refused("the command is shorter than what it announces");
    const steps = Array.from({ length: count }, () => this.#alternatives(body));
    this.#step ||= this.#resolution();
    this.#warmUp(steps);
    this.#measure(steps, rounds, seconds, giveUp);
    this.#running = "";
    return answered(steps);
  }

  /** @param {Reader} body @returns {Step} */
  #alternatives(body) {
    const count = body.count(CALL_HEADER);
    if (count === 0) throw new Refused("a step without a call");
    const all = Array.from({ length: count }, () => ({ call: this.#call(body), samples: [], best: Infinity, repeats: 1 }));
    return { all, at: 0, best: Infinity };
  }

  /** The smallest step of the clock that is ever seen: 0.2 us in Node, 5 us in an isolated page, else up to 1 ms. */
  #resolution() {
    let smallest = Infinity;
    for (let n = 0; n < 50; n++) {
      const start = this.now();
      let next = start;
      while (next === start) next = this.now();
      smallest = Math.min(smallest, next - start);
    }
    return smallest;
  }

  /**
   * Calls new kernels in turn until none has become a tenth faster for a while: then V8's optimizing compiler, which is at work
   * meanwhile, is done with them.
   * @param {Step[]} steps
   */
  #warmUp(steps) {
    if (this.warm === 0) return;
    const calls = steps.flatMap((step) => step.all.map((a) => a.call)).filter(({ kernel }) => !this.#warm.has(kernel));
    const fresh = [...new Map(calls.map((call) => [call.kernel, { call, best: Infinity }])).values()];
    let changed = this.now();
    for (let turn = 0; fresh.length > 0 && (turn < TURNS || this.now() - changed < this.warm); turn++) {
      for (const one of fresh) {
        const start = this.now();
        let calls = 0;
        let taken = 0;
        for (; taken < TURN; calls++, taken = this.now() - start) this.#invoke(one.call);
        if (taken / calls > 0.9 * one.best) continue;
        one.best = taken / calls;
        changed = start + taken;
      }
    }
    for (const { call } of fresh) this.#warm.add(call.kernel);
  }

  /** @param {Step[]} steps @param {number} rounds @param {number} seconds @param {number} giveUp */
  #measure(steps, rounds, seconds, giveUp) {
    const shortest = steps.length === 1 ? Math.max(SHORTEST, STEPS * this.#step) : FEW_STEPS * this.#step;
    const end = this.now() + seconds;
    for (let more = true; more && this.now() < end; ) {
      for (const step of steps) this.#invoke(step.all[step.at].call);
      for (const step of steps) this.#sample(step, shortest);
      more = false;
      for (const step of steps) {
        more ||= step.all.some((a) => a.samples.length < rounds && !isSlow(step, a, giveUp));
        do step.at = (step.at + 1) % step.all.length; // ends: the best is never slow
        while (isSlow(step, step.all[step.at], giveUp));
      }
    }
  }

  /** One sample, taken again with more calls in it where it is shorter than so many seconds. @param {Step} step */
  #sample(step, /** @type {number} */ shortest) {
    const a = step.all[step.at];
    let seconds;
    for (;;) {
      const start = this.now();
      for (let n = 0; n < a.repeats; n++) this.#invoke(a.call);
      seconds = this.now() - start;
      if (seconds >= shortest || a.repeats >= MAX_REPEATS) break;
      a.repeats *= 2;
    }
    seconds = Math.max(seconds, 1e-9) / a.repeats;
    a.samples.push(seconds);
    a.best = Math.min(a.best, seconds);
    step.best = Math.min(step.best, seconds);
  }
}

/** What was measured, as the answer has it. @param {Step[]} steps */
function answered(steps) {
  const found = steps.flatMap((step) => step.all.map((a) => a.samples));
  const answer = new DataView(new ArrayBuffer(8 * found.reduce((sum, samples) => sum + 1 + samples.length, 0)));
  let at = 0;
  for (const samples of found) {
    answer.setBigUint64(at, BigInt(samples.length), true);
    samples.forEach((seconds, n) => answer.setFloat64(at + 8 + 8 * n, seconds, true));
    at += 8 + 8 * samples.length;
  }
  return new Uint8Array(answer.buffer);
}
