// Arrays as inputs: the sample, zeros, random numbers or files.

import { $, element } from "./dom.js";
import { short } from "./format.js";
import { describe, fromFile, numbers, random, zeros } from "./tensors.js";

const FIRST = 6;

/**
 * @param {import("./tensors.js").Tensor[]} tensors
 * @param {() => Promise<any[]>} sample
 * @param {(inputs: Record<string, any>) => Promise<any>} run shows what the model makes of them
 * @param {(what: () => Promise<void>) => Promise<boolean>} attempt shows what goes wrong
 */
export function tensorInput(tensors, sample, run, attempt) {
  const fields = tensors.map((tensor, n) => new Field(tensor, async () => (await sample())[n], attempt));
  $("#fields").append(...fields.map((field) => field.node));
  $("#tensors").onsubmit = (event) => {
    event.preventDefault();
    attempt(async () => run(Object.fromEntries(await Promise.all(fields.map(async (f) => [f.tensor.name, await f.value()])))));
  };
  $("#tensors").hidden = false;
  return {
    /** Shows arrays, which are the sample, as the inputs. @param {any[]} arrays */
    show(arrays) {
      fields.forEach((field, n) => field.choose("sample", arrays[n]));
    },
  };
}

/** One input. */
class Field {
  /**
   * @param {import("./tensors.js").Tensor} tensor
   * @param {() => Promise<any>} sample
   * @param {(what: () => Promise<void>) => Promise<boolean>} attempt
   */
  constructor(tensor, sample, attempt) {
    this.tensor = tensor;
    /** @type {Record<string, () => any>} */
    this.sources = { sample, zeros: () => zeros(tensor), random: () => random(tensor) };
    this.select = element("select", { onchange: () => attempt(() => this.value()) },
      ...Object.keys(this.sources).map((value) => element("option", { value, textContent: value })));
    this.select.setAttribute("aria-label", `What ${tensor.name} is filled with`);
    const file = element("input", { type: "file", accept: ".npy,.json,.bin", className: "unseen" });
    const open = (/** @type {FileList | undefined} */ files) => files?.length && attempt(() => this.open(files[0]));
    file.onchange = () => {
      open(file.files);
      file.value = "";
    };
    this.shown = element("p", { className: "values" });
    this.node = element("fieldset", {}, element("legend", {}, tensor.name, element("small", {}, describe(tensor))),
      element("div", { className: "buttons" }, this.select,
        element("label", { className: "button" }, file, element("span", {}, "Choose a file"))), this.shown);
    this.node.ondragover = () => this.node.classList.add("over");
    this.node.ondragleave = () => this.node.classList.remove("over");
    this.node.ondrop = (/** @type {DragEvent} */ event) => {
      this.node.classList.remove("over");
      open(event.dataTransfer?.files);
    };
  }

  /** @param {File} file .npy, .json or raw bytes */
  async open(file) {
    const array = await fromFile(file, this.tensor);
    if (!this.sources.file) this.select.append(element("option", { value: "file" }));
    this.select.querySelector("[value=file]").textContent = file.name;
    this.sources.file = () => array;
    this.choose("file", array);
  }

  /** @param {string} source @param {any} array */
  choose(source, array) {
    this.select.value = source;
    const first = Array.from(numbers(array.slice(0, FIRST), this.tensor.dtype), short);
    this.shown.textContent = first.join("  ") + (array.length > FIRST ? "  …" : "");
  }

  /** The array that is chosen. */
  async value() {
    const source = this.select.value, array = await this.sources[source]();
    if (source === this.select.value) this.choose(source, array);
    return array;
  }
}
