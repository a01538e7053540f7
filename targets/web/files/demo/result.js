// Shows an output: scores as bars, pictures as pictures, anything else in numbers.

import { element, save } from "./dom.js";
import { percent, short } from "./format.js";
import { layout, paint } from "./picture.js";
import { count, describe, isFloat, numbers, statistics, toNpy } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */

const TOP = 5;
const FIRST = 24;

/** @param {Tensor} tensor */
const isScores = ({ dtype, shape }) => isFloat(dtype) && shape.at(-1) === count(shape) && count(shape) > 1;

/**
 * Shares of 1, where the scores are not shares already.
 * @param {ArrayLike<number>} scores
 */
function shares(scores) {
  const values = Array.from(scores);
  if (values.every((x) => x >= 0 && x <= 1)) return values;
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity), powers = values.map((x) => Math.exp(x - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}

/** One output's place on the page. It is made once and then shown new values, so that a camera's results do not flicker. */
export class Output {
  /** @param {Tensor} tensor @param {string[] | undefined} labels */
  constructor(tensor, labels) {
    this.tensor = tensor;
    this.labels = labels?.length === count(tensor.shape) ? labels : undefined;
    this.picture = layout(tensor);
    this.range = element("p", { className: "values" });
    const kind = isScores(tensor) ? this.#bars() : this.picture ? this.#canvas() : this.#numbers();
    const keep = element("button", { type: "button", className: "quiet", textContent: "Download .npy" });
    keep.onclick = () => save(toNpy(this.array, tensor), `${tensor.name.replace(/[^\w.-]+/g, "_")}.npy`);
    this.node = element("article", { className: "output" },
      element("h3", {}, tensor.name, element("small", {}, describe(tensor))), kind, element("footer", {}, this.range, keep));
  }

  #bars() {
    this.rows = Array.from({ length: Math.min(TOP, count(this.tensor.shape)) }, () => {
      const name = element("span", { className: "name" }), share = element("span", { className: "share" });
      const bar = element("span", { className: "fill" });
      const track = element("span", { className: "track" }, bar);
      track.setAttribute("aria-hidden", "true");
      return { name, share, bar, node: element("li", {}, name, share, track) };
    });
    this.draw = () => {
      const values = shares(numbers(this.array, this.tensor.dtype));
      const best = values.map((_, n) => n).sort((a, b) => values[b] - values[a]);
      this.rows?.forEach(({ name, share, bar }, n) => {
        name.textContent = this.labels?.[best[n]] ?? `class ${best[n]}`;
        share.textContent = percent(values[best[n]]);
        bar.style.width = percent(values[best[n]]).replace(" ", "");
      });
    };
    return element("ol", { className: "scores" }, ...this.rows.map((row) => row.node));
  }

  #canvas() {
    const canvas = element("canvas", { role: "img" });
    canvas.setAttribute("aria-label", `${this.tensor.name} as a picture`);
    const shown = element("figcaption");
    this.draw = () => {
      const [low, high] = paint(canvas, this.array, /** @type {any} */ (this.picture), this.tensor.dtype);
      shown.textContent = `black is ${short(low)}, white is ${short(high)}`;
    };
    return element("figure", {}, canvas, shown);
  }

  #numbers() {
    const code = element("code");
    this.draw = () => {
      const first = Array.from(numbers(this.array.slice(0, FIRST), this.tensor.dtype), short);
      code.textContent = first.join("  ") + (this.array.length > FIRST ? "  …" : "");
    };
    return element("pre", {}, code);
  }

  /** @param {any} array */
  show(array) {
    this.array = array;
    this.draw?.();
    const { min, max, mean, odd } = statistics(array, this.tensor.dtype);
    this.range.textContent = (odd === array.length ? "" : `min ${short(min)} · max ${short(max)} · mean ${short(mean)}`) +
      (odd ? ` ${odd} not finite` : "");
  }
}
