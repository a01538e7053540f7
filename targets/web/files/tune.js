// Made by burnish: finds out which of the kernels that the package ships are the fastest on this device. index.js brings it when
// `tune` is called.

/**
 * The model that is tuned. run: computes the launches [first, last), in this thread; runs: how often somebody else ran the model.
 * @typedef {{launches: number, runs: () => number, run: (first: number, last: number) => void}} Subject
 * @typedef {{budgetMs?: number, again?: boolean, signal?: AbortSignal,
 *            onProgress?: (progress: {done: number, total: number}) => void}} TuneOptions
 */

const SLICE_MS = 8;             // of work, after which the page gets its turn
const STEPS = 30;               // of the clock that a sample takes at least
const SAMPLE_MS = 0.5;
const WARM_MS = 150;            // in which V8 compiles what the model itself uses for good
const SETTLE_MS = 100;          // the same for the other ways of one kernel
const PATIENCE_MS = 400;        // the most that one kernel's ways are waited for
const SAMPLES = 5;              // that each way gets at least
const FALL = 0.8;               // a time that is so much shorter than those before: the code has changed tiers
const SUSPECT = 2.5;            // a way that takes so many times the best may still be in the baseline tier
const GAIN = 0.99;              // of the present time: what is not faster than this is no gain
const ROUNDS = 15;              // of comparing the whole model, at most

/** @param {readonly number[]} times */
const typical = (times) => [...times].sort((a, b) => a - b)[(times.length - 1) >> 2];

/** The step of the clock in ms: 5 us in isolated pages, 100 us in others, 1 ms and more where a browser hides from trackers. */
function clockStep() {
  const start = performance.now();
  let least = Infinity;
  for (let seen = 0, last = start; seen < 5 && last - start < 10;) {
    const now = performance.now();
    if (now > last) {
      least = Math.min(least, now - last);
      seen += 1;
      last = now;
    }
  }
  return least;
}

/** Resolves when the page has nothing more urgent to do, or soon anyway. */
const idle = () => new Promise((done) => {
  const { scheduler } = /** @type {any} */ (globalThis);
  setTimeout(done, scheduler ? 50 : 0);
  scheduler?.postTask(done, { priority: "background" });
});

/** Work in slices, with an end. */
class Slices {
  /**
   * @param {number} budget ms
   * @param {AbortSignal | undefined} signal
   */
  constructor(budget, signal) {
    this.begun = performance.now();
    this.end = this.begun + budget;
    this.signal = signal;
    /** Why the last `next` said no. */
    this.stop = /** @type {"finished" | "budget" | "aborted"} */ ("finished");
  }

  /**
   * May the work go on? Lets the page have its turn first where it is due.
   * @param {number} [reserved] ms that must be left
   */
  async next(reserved = 0) {
    if (performance.now() - this.begun >= SLICE_MS) {
      await idle();
      this.begun = performance.now();
    }
    this.stop = this.signal?.aborted ? "aborted" : performance.now() + reserved > this.end ? "budget" : "finished";
    return this.stop === "finished";
  }
}

class Tuner {
  /**
   * @param {import("./ways.js").Ways} ways
   * @param {Subject} subject
   * @param {TuneOptions} options
   */
  constructor(ways, subject, { budgetMs = 10_000, signal }) {
    this.ways = ways;
    this.subject = subject;
    this.budget = budgetMs;
    this.slices = new Slices(budgetMs, signal);
    this.span = Math.max(SAMPLE_MS, STEPS * clockStep());
    this.at = 0;        // the launch before which the arena is
    this.runs = -1;     // of others, since when that is so
  }

  /**
   * Brings the arena to where it is just before a launch, so that kernels see values as they are.
   * @param {number} launch
   */
  reach(launch) {
    if (this.runs !== this.subject.runs() || this.at > launch) {
      this.at = 0;
      this.runs = this.subject.runs();
    }
    this.subject.run(this.at, launch);
    this.at = launch;
  }

  /**
   * Milliseconds that the launches take, in calls that nobody interrupts.
   * @param {number} first
   * @param {number} last
   */
  time(first, last) {
    this.subject.run(first, last);      // into the caches
    const start = performance.now();
    for (let calls = 1; ; calls += 1) {
      this.subject.run(first, last);
      const passed = performance.now() - start;
      if (passed >= this.span) return passed / calls;
    }
  }

  /** Milliseconds of the whole model. */
  whole() {
    this.at = 0;
    this.runs = -1;
    return this.time(0, this.subject.launches);
  }

  /** Milliseconds of the whole model once V8 has compiled it for good. */
  async warm() {
    const until = Math.min(WARM_MS, this.budget / 10) + performance.now();
    let least = Infinity, now = this.whole();
    while (await this.slices.next() && (performance.now() < until || now < FALL * least)) {
      least = Math.min(least, now);
      now = this.whole();
    }
    return Math.min(least, now);
  }

  /** The kernels that are left to tune, those with the largest share of the time first; none where the time is over. */
  async order() {
    const { kernels, tuned } = this.ways, share = kernels.map(() => 0);
    const left = [...kernels.keys()].filter((n) => !tuned[n]).sort((a, b) => kernels[a].launches[0] - kernels[b].launches[0]);
    for (const n of left) {
      if (!await this.slices.next()) return [];
      const { launches } = kernels[n];
      this.reach(launches[0]);
      share[n] = this.time(launches[0], launches[0] + 1) * launches.length;
    }
    return left.sort((a, b) => share[b] - share[a]);
  }

  /**
   * Milliseconds of each way to make a kernel, in turns; null where the time for that is over.
   * @param {number} n
   * @param {number} reserved ms to leave
   */
  async measure(n, reserved) {
    const { launches: [launch], ways } = this.ways.kernels[n], present = this.ways.choices[n];
    const times = Array.from({ length: ways }, () => /** @type {number[]} */ ([]));
    const start = performance.now();
    for (;;) {
      for (let way = 0; way < ways; way += 1) {
        if (!await this.slices.next(reserved)) return null;
        this.reach(launch);
        this.ways.take(n, way);
        const time = this.time(launch, launch + 1);
        this.ways.take(n, present);
        if (time < FALL * Math.min(...times[way])) times[way] = [];
        times[way].push(time);
      }
      const passed = performance.now() - start, best = Math.min(...times.map(typical));
      const settled = times.every((t) => t.length >= SAMPLES && typical(t) < SUSPECT * best);
      if ((settled && passed >= SETTLE_MS) || passed >= PATIENCE_MS) return times.map(typical);
    }
  }

  /**
   * Milliseconds of the whole model with some choices and with others, in turns until it is plain which is faster.
   * @param {readonly (readonly number[])[]} sides two
   */
  async compare(sides) {
    const times = sides.map(() => /** @type {number[]} */ ([])), [a, b] = times;
    const plain = () => a.length >= SAMPLES && (Math.max(...a) < Math.min(...b) || Math.max(...b) < Math.min(...a));
    do {
      sides.forEach((choices, n) => {
        this.take(choices);
        times[n].push(this.whole());
      });
    } while (a.length < ROUNDS && !plain() && await this.slices.next());
    return times.map(typical);
  }

  /** @param {readonly number[]} choices */
  take(choices) {
    choices.forEach((way, n) => this.ways.take(n, way));
  }
}

/**
 * Tunes what is left to tune, within the budget. See index.d.ts.
 * @param {import("./ways.js").Ways} ways
 * @param {Subject} subject
 * @param {TuneOptions} options
 */
export async function tune(ways, subject, options) {
  if (options.again) ways.tuned.fill(false);
  const first = [...ways.choices], total = first.length;
  const done = () => ways.tuned.filter(Boolean).length;
  let before = NaN, after = NaN, ended = "finished";
  if (done() < total) {
    const tuner = new Tuner(ways, subject, options), { slices } = tuner;
    before = after = await tuner.warm();
    const reserved = Math.min(4 * SAMPLES * before, tuner.budget / 3);
    for (const n of slices.stop === "finished" ? await tuner.order() : []) {
      const times = await tuner.measure(n, reserved);
      if (!times) break;
      const best = times.indexOf(Math.min(...times));
      if (times[best] < GAIN * times[ways.choices[n]]) ways.take(n, best);
      ways.tuned[n] = true;
      await ways.keep();        // a page that is closed now goes on from here the next time
      options.onProgress?.({ done: done(), total });
    }
    ended = slices.stop;
    const last = [...ways.choices];
    if (ended === "aborted") {
      after = NaN;
    } else if (last.some((way, n) => way !== first[n])) {
      [before, after] = await tuner.compare([first, last]);
      tuner.take(after < before ? last : first);
      after = Math.min(before, after);
    }
  }
  const changed = ways.choices.filter((way, n) => way !== first[n]).length;
  return { before: before / 1000, after: after / 1000, changed, done: done(), total, ended, choices: [...ways.choices],
    remembered: await ways.keep() };
}
