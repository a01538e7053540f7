// Arrays of the model's dtypes: filled, read from files, written as .npy, compared.

/** @typedef {{name: string, dtype: string, shape: number[], file?: string}} Tensor */

/** For each dtype: the array that holds it, and its name in an .npy file. */
const DTYPES = {
  float64: [Float64Array, "<f8"], float32: [Float32Array, "<f4"], float16: [Uint16Array, "<f2"], bool: [Uint8Array, "|b1"],
  int8: [Int8Array, "|i1"], int16: [Int16Array, "<i2"], int32: [Int32Array, "<i4"], int64: [BigInt64Array, "<i8"],
  uint8: [Uint8Array, "|u1"], uint16: [Uint16Array, "<u2"], uint32: [Uint32Array, "<u4"], uint64: [BigUint64Array, "<u8"],
};
const MAGIC = "\x93NUMPY";

/** How large an error is still rounding. */
export const TOLERANCE = { float64: 1e-4, float32: 1e-4, float16: 2e-3 };

/** @param {readonly number[]} shape */
export const count = (shape) => shape.reduce((n, size) => n * size, 1);

/** @param {Tensor} tensor */
export const describe = ({ dtype, shape }) => `${dtype} [${shape.join(", ")}]`;

/** @param {string} dtype */
export const isFloat = (dtype) => dtype.startsWith("float");

/** @param {string} dtype @param {ArrayBuffer} bytes */
export const view = (dtype, bytes) => new DTYPES[dtype][0](bytes);

/** @param {Tensor} tensor */
export const zeros = ({ dtype, shape }) => new DTYPES[dtype][0](count(shape));

/**
 * Floats from a normal distribution; other integers than bytes are 0 or 1, valid as token, mask, class or index in any model.
 * @param {Tensor} tensor
 */
export function random({ dtype, shape }) {
  const low = dtype === "int8" ? -128 : 0, values = { uint8: 256, int8: 256 }[dtype] ?? 2;
  const one = isFloat(dtype)
    ? () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random())
    : () => low + Math.floor(Math.random() * values);
  return encode(Float64Array.from({ length: count(shape) }, one), dtype);
}

/**
 * The array that holds these numbers as `dtype`.
 * @param {ArrayLike<number>} numbers
 * @param {string} dtype
 */
function encode(numbers, dtype) {
  const [kind] = DTYPES[dtype];
  if (dtype === "float16") return kind.from(numbers, toHalf);
  if (dtype === "bool") return kind.from(numbers, (x) => Number(x !== 0));
  return dtype.endsWith("int64") ? kind.from(numbers, (x) => BigInt(Math.trunc(x))) : kind.from(numbers);
}

/**
 * The numbers that an array holds, to show them and to compare them.
 * @param {any} array
 * @param {string} dtype
 * @returns {ArrayLike<number>}
 */
export function numbers(array, dtype) {
  if (dtype === "float16") return Float32Array.from(array, fromHalf);
  return dtype.endsWith("int64") ? Float64Array.from(array, Number) : array;
}

/** @param {number} bits of a float16 */
function fromHalf(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

/** The bits of the nearest float16, ties to even. @param {number} x */
function toHalf(x) {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0, size = Math.abs(x);
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(Math.floor(Math.log2(size || 2 ** -24)), -14), steps = size / 2 ** (exponent - 10);
  const down = Math.floor(steps), up = steps - down > 0.5 || (steps - down === 0.5 && down % 2 === 1);
  return sign | (down + Number(up) + (exponent + 14) * 1024);     // 1024 of `steps` carry into the exponent
}

/** @param {any} array @param {string} dtype */
export function statistics(array, dtype) {
  let min = Infinity, max = -Infinity, sum = 0, odd = 0;
  const values = numbers(array, dtype);
  for (let n = 0; n < values.length; n++) {
    const x = values[n];
    if (!Number.isFinite(x)) odd++;
    else {
      if (x < min) min = x;
      if (x > max) max = x;
      sum += x;
    }
  }
  return { min, max, mean: sum / (values.length - odd), odd, values };
}

/**
 * The largest difference, relative to the largest expected value; infinite where only one of them is no finite number.
 * @param {any} got
 * @param {any} expected
 * @param {string} dtype
 */
export function relativeError(got, expected, dtype) {
  const a = numbers(got, dtype), b = numbers(expected, dtype);
  let scale = 0, worst = 0;
  for (let n = 0; n < b.length; n++) {
    if (Number.isFinite(b[n]) && Number.isFinite(a[n])) {
      scale = Math.max(scale, Math.abs(b[n]));
      worst = Math.max(worst, Math.abs(a[n] - b[n]));
    } else if (!Object.is(a[n], b[n])) return Infinity;
  }
  return worst / (scale || 1);
}

// ---- Files -------------------------------------------------------------------------------------------------------------

/**
 * A file as an input: .npy, .json (numbers in arrays) or raw bytes. Throws an Error that says what does not fit.
 * @param {File} file
 * @param {Tensor} tensor
 */
export async function fromFile(file, tensor) {
  const kind = file.name.split(".").pop()?.toLowerCase();
  if (kind === "npy") return readNpy(await file.arrayBuffer(), file.name, tensor);
  if (kind === "json") return readJson(await file.text(), file.name, tensor);
  const wanted = count(tensor.shape) * DTYPES[tensor.dtype][0].BYTES_PER_ELEMENT;
  if (file.size !== wanted) throw new Error(`${file.name} has ${file.size} bytes; ${describe(tensor)} takes ${wanted}`);
  return view(tensor.dtype, await file.arrayBuffer());
}

/** @param {number} found @param {string} name @param {Tensor} tensor */
function checkCount(found, name, tensor) {
  const wanted = count(tensor.shape);
  if (found !== wanted) throw new Error(`${name} holds ${found} numbers; ${describe(tensor)} takes ${wanted}`);
}

/** @param {string} text @param {string} name @param {Tensor} tensor */
function readJson(text, name, tensor) {
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new Error(`${name} is not JSON: ${error.message}`);
  }
  const flat = [parsed].flat(Infinity).map((x) => (typeof x === "boolean" ? Number(x) : x));
  if (!flat.every((x) => typeof x === "number")) throw new Error(`${name} must hold numbers, in arrays`);
  checkCount(flat.length, name, tensor);
  return encode(flat, tensor.dtype);
}

/** @param {ArrayBuffer} bytes @param {string} name @param {Tensor} tensor */
function readNpy(bytes, name, tensor) {
  const data = new DataView(bytes);
  // Not a TextDecoder: what browsers call latin1 is another code.
  const text = (/** @type {number} */ from, /** @type {number} */ to) => String.fromCharCode(...new Uint8Array(bytes.slice(from, to)));
  if (bytes.byteLength < 12 || text(0, 6) !== MAGIC) throw new Error(`${name} is no .npy file`);
  const long = data.getUint8(6) > 1, start = long ? 12 : 10;
  const end = start + (long ? data.getUint32(8, true) : data.getUint16(8, true));
  const header = text(start, Math.min(end, start + 4096));
  const descr = /'descr': *'([^']*)'/.exec(header)?.[1], shape = /'shape': *\(([\d, ]*)\)/.exec(header)?.[1];
  const dtype = Object.keys(DTYPES).find((key) => DTYPES[key][1] === descr);
  if (shape === undefined) throw new Error(`${name} is cut off, or no .npy file`);
  if (dtype === undefined) throw new Error(`${name} holds ${descr ?? "records"}, not numbers`);
  const sizes = shape.split(",").filter((x) => x.trim()).map(Number);
  if (/'fortran_order': *True/.test(header) && sizes.length > 1) {
    throw new Error(`${name} is in Fortran order: save numpy.ascontiguousarray(…)`);
  }
  const content = bytes.slice(end);
  if (content.byteLength !== count(sizes) * DTYPES[dtype][0].BYTES_PER_ELEMENT) throw new Error(`${name} is cut off`);
  checkCount(count(sizes), name, tensor);
  const array = view(dtype, content);
  return dtype === tensor.dtype ? array : encode(numbers(array, dtype), tensor.dtype);
}

/** @param {any} array @param {Tensor} tensor */
export function toNpy(array, { dtype, shape }) {
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const said = `{'descr': '${DTYPES[dtype][1]}', 'fortran_order': False, 'shape': (${sizes}), }`;
  const padded = said.padEnd(Math.ceil((said.length + 11) / 64) * 64 - 11) + "\n";
  const head = Uint8Array.from(`${MAGIC}\x01\x00${String.fromCharCode(padded.length & 255, padded.length >> 8)}${padded}`,
    (c) => c.charCodeAt(0));
  return new Blob([head, array], { type: "application/octet-stream" });
}
