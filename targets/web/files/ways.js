// Made by burnish: which of its ways each kernel is made, where a package ships several. What `tune` has found out is kept in
// IndexedDB, so that the next `load` on this device begins with it.

import { BurnishError } from "./index.js";

/**
 * A kernel that can be made in several ways, and the launches that use it.
 * @typedef {{launches: readonly number[], ways: number}} Kernel
 */

const NAME = "burnish", STORE = "ways";
const PATIENCE_MS = 500;

/** A browser's update may make other kernels the fastest. */
const agent = () => globalThis.navigator?.userAgent ?? "";

/**
 * What `ask` asks the store for; rejects where there is no IndexedDB, or none that answers.
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} ask
 * @returns {Promise<any>}
 */
function stored(mode, ask) {
  return new Promise((done, fail) => {
    const opening = indexedDB.open(NAME, 1);
    setTimeout(fail, PATIENCE_MS, new Error("IndexedDB does not answer"));
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    opening.onerror = () => fail(opening.error);
    opening.onsuccess = () => {
      const database = opening.result;
      try {
        const transaction = database.transaction(STORE, mode), asked = ask(transaction.objectStore(STORE));
        transaction.oncomplete = () => done(asked.result);
        transaction.onabort = () => fail(transaction.error);
      } catch (error) {
        fail(error);
      } finally {
        database.close();       // when its transaction has ended
      }
    };
  });
}

/** For each kernel the way it is made (`choices`), and whether that is known to be the fastest here (`tuned`). */
export class Ways {
  /** @type {(launch: number, way: number) => void} */ #choose = () => {};
  #tuning = false;

  /**
   * @param {readonly Kernel[]} kernels
   * @param {string} key of the model's code, weights and threads, by which it is remembered
   */
  constructor(kernels, key) {
    this.kernels = kernels;
    this.key = key;
    this.choices = kernels.map(() => 0);
    this.tuned = kernels.map(() => false);
  }

  /**
   * Takes what the caller says, else what was found out on this device with this browser, else leaves the compiler's choice.
   * @param {readonly number[] | undefined} given
   */
  async begin(given) {
    if (given) {
      if (!this.#fits(given)) {
        const limits = this.kernels.map(({ ways }) => ways).join(", ");
        throw new BurnishError("OPTION", `choices are ${this.kernels.length} whole numbers, each below its one of ${limits}`);
      }
      this.choices = [...given];
      return;
    }
    const kept = await stored("readonly", (store) => store.get(this.key)).catch(() => null);
    if (kept?.agent === agent() && this.#fits(kept.choices) && kept.tuned?.length === this.kernels.length) {
      this.choices = kept.choices;
      this.tuned = kept.tuned;
    }
  }

  /** @param {any} choices */
  #fits(choices) {
    return Array.isArray(choices) && choices.length === this.kernels.length &&
      this.kernels.every(({ ways }, n) => Number.isInteger(choices[n]) && choices[n] >= 0 && choices[n] < ways);
  }

  /**
   * Makes the choices those of a loaded module.
   * @param {(launch: number, way: number) => void} choose
   */
  apply(choose) {
    this.#choose = choose;
    this.choices.forEach((way, n) => this.take(n, way));
  }

  /**
   * @param {number} kernel
   * @param {number} way
   */
  take(kernel, way) {
    for (const launch of this.kernels[kernel].launches) this.#choose(launch, way);
    this.choices[kernel] = way;
  }

  /** Remembers the choices; false where nothing is remembered, as in Node and in private windows. */
  async keep() {
    try {
      await stored("readwrite", (store) => store.put({ agent: agent(), choices: this.choices, tuned: this.tuned }, this.key));
      return true;
    } catch {
      return false;
    }
  }

  /**
   * @param {import("./tune.js").Subject} subject
   * @param {import("./tune.js").TuneOptions} options
   */
  async tune(subject, options) {
    if (this.#tuning) throw new BurnishError("BUSY", "the model is being tuned: wait for the end of that, or abort it");
    this.#tuning = true;
    try {
      const { tune } = await import("./tune.js").catch((error) => {
        throw new BurnishError("FILE_MISSING", `cannot load tune.js: ${error.message}`, error);
      });
      return await tune(this, subject, options);
    } finally {
      this.#tuning = false;
    }
  }
}
