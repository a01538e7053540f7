/** The engine behind Node's standard input and output: frames as cpu/runner_c/main.c has them. A hung kernel is ended from outside. */

import { readSync, writeSync } from "node:fs";

import { Died, Engine, Refused } from "./engine.js";

const GREETING = "burnish runner 1";
const HEAD = 16; // u32 what, u32 limit, u64 size
const LARGEST = 65 << 20; // larger frames do not come from our tuner

/** So many bytes of standard input; ends the program where that ends. @param {number} size */
function read(size) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const count = readSync(0, bytes, at, size - at, null);
    if (count === 0) process.exit(0);
    at += count;
  }
  return bytes;
}

/** @param {Uint8Array} bytes */
function write(bytes) {
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at);
}

/** @param {number} what 0: the answer, 1: words that say why not @param {Uint8Array} body */
function answer(what, body) {
  const head = new DataView(new ArrayBuffer(HEAD));
  head.setUint32(0, what, true);
  head.setBigUint64(8, BigInt(body.length), true);
  write(new Uint8Array(head.buffer));
  write(body);
}

/** @param {string} text */
const words = (text) => new TextEncoder().encode(text);

/** @param {string} why @param {number} status */
function end(why, status) {
  writeSync(2, `${why}\n`);
  process.exit(status);
}

const engine = new Engine();
answer(0, words(GREETING));
for (;;) {
  const head = new DataView(read(HEAD).buffer);
  const size = Number(head.getBigUint64(8, true));
  if (size > LARGEST) end(`a frame of ${size} bytes`, 2);
  const body = read(size);
  try {
    answer(0, engine.obey(head.getUint32(0, true), body));
  } catch (error) {
    if (error instanceof Refused) answer(1, words(error.message));
    else if (error instanceof Died) end(error.message, 1);
    else throw error;
  }
}
