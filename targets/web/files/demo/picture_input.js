// A picture as input: dropped, chosen, pasted or from the camera.

import { Camera } from "./camera.js";
import { $, element } from "./dom.js";
import { Failure } from "./engine.js";
import { SCALES, draw, paint, toTensor } from "./picture.js";

const TINY = 128;       // pixels: of a picture smaller than that the preview shows the model's own
const PREVIEW = 720;

/**
 * @param {import("./tensors.js").Tensor} tensor
 * @param {import("./picture.js").Layout} of
 * @param {{mean?: number[], std?: number[], scale: string}} settings scale: what pixels are made by default
 * @param {(inputs: Record<string, any>) => Promise<any>} run shows what the model makes of it
 * @param {(what: () => Promise<void>) => Promise<boolean>} attempt shows what goes wrong; was it done?
 */
export function pictureInput(tensor, of, settings, run, attempt) {
  const preview = $("#preview"), camera = new Camera($("#video")), [scale, colours, fit] = ["#scale", "#colours", "#fit"].map($);
  /** @type {ImageBitmap | HTMLVideoElement | undefined} */
  let source;

  // ---- How pixels become numbers

  const given = { title: "as given", mean: settings.mean ?? [0], std: settings.std ?? [1] };
  const scales = settings.mean || settings.std ? { given, ...SCALES } : SCALES;
  for (const [value, { title, mean, std }] of Object.entries(scales)) {
    if (Math.max(mean.length, std.length) > of.channels) continue;
    const selected = value === "given" || (scale.value !== "given" && value === settings.scale);
    scale.append(element("option", { value, textContent: title, selected }));
  }
  scale.parentElement.hidden = tensor.dtype === "uint8";
  colours.parentElement.hidden = of.channels === 1;

  function prepared() {
    const shown = [scale, colours, fit].filter((select) => !select.parentElement.hidden);
    const words = shown.map((select) => (select === scale ? "values " : "") + select.selectedOptions[0].text);
    $("#prepared").textContent = words.join(" · ");
  }

  // ---- What is seen

  function reveal() {
    const size = Math.max(of.width, of.height), times = size < TINY ? 1 : Math.max(1, PREVIEW / size);
    preview.width = Math.round(of.width * times);
    preview.height = Math.round(of.height * times);
    preview.classList.toggle("pixels", size < TINY);
    preview.classList.toggle("grey", of.channels === 1);
    preview.hidden = false;
    $("#empty").hidden = true;
  }

  const infer = () => run({ [tensor.name]: toTensor(source, of, tensor.dtype, {
    fit: fit.value, values: scales[scale.value], bgr: !colours.parentElement.hidden && colours.value === "bgr" }) });

  async function look() {
    if (!source) return;
    reveal();
    draw(preview, source, fit.value);
    await infer();
  }

  /** @param {File} file */
  async function open(file) {
    stop();
    try {
      source = await createImageBitmap(file);
    } catch {
      throw new Failure(`${file.name} cannot be read as a picture.`);
    }
    await look();
  }

  // ---- The camera

  async function live() {
    source = camera.video;
    reveal();
    let busy = false;
    for (; camera.on; await new Promise(requestAnimationFrame)) {
      draw(preview, source, fit.value);
      if (busy) continue;
      busy = true;
      attempt(infer).then((done) => (done ? (busy = false) : stop()));
    }
  }

  function stop() {
    if (!camera.on) return;
    camera.stop();
    source = undefined;
    tell();
  }

  async function tell() {
    $("#camera").textContent = camera.on ? "Stop" : "Camera";
    $("#outputs").setAttribute("aria-live", camera.on ? "off" : "polite");     // not thirty times a second
    $("#turn").hidden = !camera.on || !(await Camera.several());
  }

  async function toggle() {
    if (camera.on) return stop();
    await camera.start();
    await tell();
    return live();
  }

  // ---- How pictures come

  /** @param {FileList | undefined} files */
  const take = (files) => files?.length && attempt(() => open(files[0]));
  $("#file").onchange = ({ target }) => {
    take(target.files);
    target.value = "";      // so that the same file can be chosen again
  };
  $("#empty").onclick = () => $("#file").click();
  $("#camera").onclick = () => attempt(toggle);
  $("#turn").onclick = () => attempt(() => camera.turn());
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
  document.addEventListener("drop", (event) => take(event.dataTransfer?.files));
  document.addEventListener("dragover", () => $("#stage").classList.add("over"));
  for (const type of ["dragleave", "drop"]) document.addEventListener(type, () => $("#stage").classList.remove("over"));
  for (const select of [scale, colours, fit]) {
    select.onchange = () => {
      prepared();
      if (!camera.on) attempt(look);
    };
  }
  prepared();
  $("#picture").hidden = false;

  return {
    /** Shows an array as the input. @param {any[]} arrays */
    show([array]) {
      stop();
      source = undefined;
      reveal();
      preview.classList.add("pixels");
      paint(preview, array, of, tensor.dtype);
    },
  };
}
