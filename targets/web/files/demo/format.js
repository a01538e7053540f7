// Numbers as people read them.

/** @param {number} ms */
export const milliseconds = (ms) =>
  ms < 1000 ? `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(2)} s`;

/** @param {number} ms */
export const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** @param {number} bytes */
export const megabytes = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(1)} MB`);

/** @param {number} value */
export const percent = (value) => `${(100 * value).toFixed(value < 0.9995 ? 1 : 0)} %`;

/** Four digits. @param {number} value */
export const short = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : String(value)).replace("-", "−");

/** @param {number[]} values */
export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
