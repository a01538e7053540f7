// Made by burnish: the types of index.js.

/** A typed array for each input, row-major. A bool is a byte, 0 or 1; a float16 is its bits. */
export interface Inputs {
@INPUTS@}

/** A new typed array for each output, row-major. */
export interface Outputs {
@OUTPUTS@}

/** By what the browser's WebAssembly can do; each is there for one thread and, where threads help the model, for several. */
export type Build = "relaxed-simd" | "simd";

/**
 * INPUT_NAME: an input is missing or unknown. INPUT_DTYPE: it is another kind of array. INPUT_SHAPE: it has another length.
 * FILE_MISSING: a file of the package is not where it should be. FILE_DAMAGED: it is not the file that it should be.
 * NETWORK: it could not be fetched, or not to its end. NO_SIMD: the browser cannot run the build. OUT_OF_MEMORY: there is not
 * enough for the model. DISPOSED: the model was disposed of. OPTION: an option of `load` is not one of those that there are.
 * NOT_TUNABLE: the package ships one kernel for each task. BUSY: the model is being tuned already.
 */
export type ErrorCode =
  | "INPUT_NAME" | "INPUT_DTYPE" | "INPUT_SHAPE" | "FILE_MISSING" | "FILE_DAMAGED" | "NETWORK" | "NO_SIMD" | "OUT_OF_MEMORY"
  | "DISPOSED" | "OPTION" | "NOT_TUNABLE" | "BUSY";

export class BurnishError extends Error {
  constructor(code: ErrorCode, message: string, cause?: unknown);
  readonly code: ErrorCode;
}

export interface Tensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** As numpy names it. */
  readonly dtype: string;
}

export interface LoadOptions {
  /** The folder that holds the package's files, where they are not beside index.js. */
  base?: string | URL;
  /** Called as bytes arrive. */
  onProgress?: (progress: { loaded: number; total: number }) => void;
  /** Ends the loading; `load` then rejects with the signal's reason. */
  signal?: AbortSignal;
  /** By default the best that the browser can run. */
  build?: Build;
  /** Which variant of each kernel runs, from `Model.choices`: by default what `tune` has found in this browser. */
  choices?: readonly number[];
  /**
   * How many threads work on a run, the calling one among them: by default as many as CPUs, at most 4. A page has more than one only
   * where it is cross-origin isolated (served with the headers `Cross-Origin-Opener-Policy: same-origin` and
   * `Cross-Origin-Embedder-Policy: require-corp`); elsewhere, and where no worker can be started, the model runs on one thread and a
   * line on the console says why.
   */
  threads?: number;
}

export interface TuneOptions {
  /** Wall time in milliseconds, by default 10,000; a whole run of the model may go on past its end. */
  budgetMs?: number;
  /** Called after each kernel: `done` of `total` are tuned. */
  onProgress?: (progress: { done: number; total: number }) => void;
  /** Ends the tuning with the best so far. */
  signal?: AbortSignal;
  /** Tunes what is tuned already, too. */
  again?: boolean;
}

export interface Tuned {
  /**
   * Seconds of a run with the kernels as they were, and as they are now. NaN where it was not measured: after an abort, and where
   * nothing was left to tune.
   */
  before: number;
  after: number;
  /** How many kernels are now made another way. */
  changed: number;
  /** How many of `total` kernels are tuned. The next `tune` goes on with the others. */
  done: number;
  total: number;
  ended: "finished" | "budget" | "aborted";
  /** As of `Model`. */
  choices: number[];
  /** Will the next `load` in this browser begin with the choices? Not in Node, nor in private windows. */
  remembered: boolean;
}

export interface Model {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly build: Build;
  /** How many there are: at most 16; 1 where nothing in the model is worth sharing out. */
  readonly threads: number;
  /** Bytes of memory that the model holds; 0 when it is disposed of. */
  readonly memoryBytes: number;
  /** The calling thread computes: a page that must stay smooth calls from a Web Worker. */
  run(inputs: Inputs): Promise<Outputs>;
  /** For each kernel that the package has variants of, the number of the one that runs. */
  readonly choices: readonly number[];
  /**
   * Tries the variants of each kernel and keeps the fastest, those with the largest share of the time first. Works in short slices
   * while the page has nothing else to do; `run` may be called meanwhile. Rejects with NOT_TUNABLE where there are no variants.
   */
  tune(options?: TuneOptions): Promise<Tuned>;
  /** Ends the threads and lets go of the memory. */
  dispose(): void;
}

export function load(options?: LoadOptions): Promise<Model>;
