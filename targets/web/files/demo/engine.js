// The page's end of the worker that has the model.

/** Something that the page tells people. */
export class Failure extends Error {
  /** @param {string} message @param {string} [code] a BurnishError's, or CAMERA */
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

export class Engine {
  #calls = new Map();
  #last = 0;
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });

  /** @param {(progress: {loaded: number, total: number}) => void} onProgress */
  constructor(onProgress) {
    this.#worker.onmessage = ({ data: { id, progress, result, error } }) => {
      if (progress) return onProgress(progress);
      const { resolve, reject } = this.#calls.get(id);
      this.#calls.delete(id);
      return error ? reject(new Failure(error.message, error.code)) : resolve(result);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const why = event.message || "the worker or the package's index.js cannot be loaded; is all of the package on the server?";
      for (const { reject } of this.#calls.values()) reject(new Failure(why));
      this.#calls.clear();
    };
  }

  /** @param {string} call @param {any} [given] */
  #ask(call, given) {
    const id = this.#last++;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.#worker.postMessage({ id, call, given });
    });
  }

  /** @returns {Promise<{ms: number, build: string, threads: number, memory: number}>} */
  load() {
    return this.#ask("load");
  }

  /** @param {Record<string, any>} inputs @returns {Promise<{ms: number, outputs: Record<string, any>}>} */
  run(inputs) {
    return this.#ask("run", inputs);
  }
}
