/** The engine in a Worker of the page, which ends it where a kernel hangs. */
import { Died, Engine, Refused } from "./engine.js";

const WARM = 0.05; // seconds without progress, after which kernels are taken to be compiled as well as they will be
const ANSWERED = 0, REFUSED = 1, DIED = 2;

const engine = new Engine({ warm: WARM });

/** @param {number} kind @param {Uint8Array} body */
function answer(kind, body) {
  postMessage({ kind, body }, { transfer: [body.buffer] });
}

const words = (/** @type {string} */ text) => new TextEncoder().encode(text);

onmessage = ({ data: { what, body } }) => {
  try {
    answer(ANSWERED, engine.obey(what, body));
  } catch (error) {
    if (error instanceof Refused) answer(REFUSED, words(error.message));
    else if (error instanceof Died) answer(DIED, words(`died: ${error.message}`));
    else throw error;
  }
};

answer(ANSWERED, new Uint8Array()); // it is there: the answer to the command that began this life
