// Pictures as inputs, and outputs as pictures.

import { statistics } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */
/** @typedef {{channels: number, height: number, width: number, first: boolean}} Layout first: channels before rows */
/** @typedef {{mean: number[], std: number[]}} Values of red, green and blue (or of grey), in units of 0..1 */

const SMALLEST = 16;    // pixels: what is smaller shows nothing

/** What is done to the values of pixels, which are 0..1 before. @type {Record<string, Values & {title: string}>} */
export const SCALES = {
  unit: { title: "0 … 1", mean: [0], std: [1] },
  signed: { title: "−1 … 1", mean: [0.5], std: [0.5] },
  imagenet: { title: "as for ImageNet", mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
  bytes: { title: "0 … 255", mean: [0], std: [1 / 255] },
};

/**
 * Of [1,C,H,W] or [1,H,W,C] with 1 or 3 channels; undefined for what is no picture.
 * @param {Tensor} tensor
 * @returns {Layout | undefined}
 */
export function layout({ dtype, shape }) {
  if (shape.length !== 4 || shape[0] !== 1 || !["float32", "uint8"].includes(dtype)) return undefined;
  const [, a, b, c] = shape;
  if ((a === 1 || a === 3) && Math.min(b, c) >= SMALLEST) return { channels: a, height: b, width: c, first: true };
  if ((c === 1 || c === 3) && Math.min(a, b) >= SMALLEST) return { channels: c, height: a, width: b, first: false };
  return undefined;
}

/** @param {any} source @returns {[number, number]} */
const size = (source) => [source.videoWidth ?? source.width, source.videoHeight ?? source.height];

/**
 * Draws a picture or a frame of a video to fill the canvas.
 * @param {HTMLCanvasElement} canvas
 * @param {any} source
 * @param {string} fit "crop": its middle; "squeeze": all of it, out of proportion; "pad": all of it, with borders
 */
export function draw(canvas, source, fit) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  const { width, height } = canvas, [w, h] = size(source);
  const scale = (fit === "pad" ? Math.min : Math.max)(width / w, height / h);
  const [dw, dh] = fit === "squeeze" ? [width, height] : [w * scale, h * scale];
  context.imageSmoothingQuality = "high";
  context.fillStyle = fit === "pad" ? "#727272" : "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(shrunk(source, dw, dh), (width - dw) / 2, (height - dh) / 2, dw, dh);
}

/**
 * The picture in halves until it is less than twice as large as wanted: browsers that draw it smaller at once look at four
 * pixels only, and what the model sees flickers.
 * @param {any} source
 * @param {number} width
 * @param {number} height
 */
function shrunk(source, width, height) {
  for (let [w, h] = size(source); w >= 2 * width && h >= 2 * height;) {
    [w, h] = [Math.ceil(w / 2), Math.ceil(h / 2)];
    const half = Object.assign(document.createElement("canvas"), { width: w, height: h });
    half.getContext("2d")?.drawImage(source, 0, 0, w, h);
    source = half;
  }
  return source;
}

/**
 * What the model is given for a picture.
 * @param {any} source
 * @param {Layout} of
 * @param {string} dtype
 * @param {{fit: string, values: Values, bgr: boolean}} options
 */
export function toTensor(source, of, dtype, { fit, values: { mean, std }, bgr }) {
  const { channels, height, width, first } = of, area = width * height;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  draw(canvas, source, fit);
  const pixels = /** @type {any} */ (canvas.getContext("2d")).getImageData(0, 0, width, height).data;
  const made = dtype === "uint8" ? new Uint8Array(area * channels) : new Float32Array(area * channels);
  for (let c = 0; c < channels; c++) {
    const scale = dtype === "uint8" ? 1 : 1 / 255 / std[c % std.length];
    const shift = dtype === "uint8" ? 0 : mean[c % mean.length] / std[c % std.length];
    const place = bgr ? channels - 1 - c : c, step = first ? 1 : channels;
    for (let n = 0, at = first ? place * area : place; n < area; n++, at += step) {
      const p = 4 * n;
      const value = channels === 3 ? pixels[p + c] : 0.299 * pixels[p] + 0.587 * pixels[p + 1] + 0.114 * pixels[p + 2];
      made[at] = dtype === "uint8" ? Math.round(value) : value * scale - shift;
    }
  }
  return made;
}

/**
 * Draws an array that looks like a picture, pixel by pixel, in the range that its values are in; returns that range.
 * @param {HTMLCanvasElement} canvas
 * @param {any} array
 * @param {Layout} of
 * @param {string} dtype
 */
export function paint(canvas, array, { channels, height, width, first }, dtype) {
  const { min, max, values } = statistics(array, dtype);
  const [low, high] = range(min, max, dtype);
  const area = width * height, scale = 255 / (high - low || 1), data = new ImageData(width, height);
  for (let n = 0; n < area; n++) {
    for (let c = 0; c < 3; c++) {
      const from = Math.min(c, channels - 1);
      data.data[4 * n + c] = (values[first ? from * area + n : n * channels + from] - low) * scale;
    }
    data.data[4 * n + 3] = 255;
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d")?.putImageData(data, 0, 0);
  return [low, high];
}

/** @param {number} min @param {number} max @param {string} dtype @returns {[number, number]} */
function range(min, max, dtype) {
  if (dtype === "uint8") return [0, 255];
  const slack = 0.05;     // networks overshoot
  if (min >= -slack && max <= 1 + slack) return max < slack ? [min, max] : [0, 1];
  return min >= -1 - slack && max <= 1 + slack ? [-1, 1] : [min, max];
}
