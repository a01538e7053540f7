#!/usr/bin/env node
// Serves this package's demo page, with the headers that threads need. It depends on nothing but Node.
import { createReadStream, readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const USAGE = `Serves the demo page of this package until Ctrl-C.

  --port N        default: the first free one from 8080
  --host ADDRESS  default: 127.0.0.1; 0.0.0.0 lets others on the network in (without https: no camera, no threads)
  --labels FILE   names of the classes, one on each line
  --mean A,B,C    of the model's pictures, for each channel, in units of 0..1
  --std A,B,C     likewise`;
const ROOT = fileURLToPath(new URL("..", import.meta.url));      // ends with a slash
const FIRST_PORT = 8080, PORTS = 20;
const TYPES = {
  ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8", ".json": "application/json", ".svg": "image/svg+xml", ".wasm": "application/wasm",
};
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff",
};
const HASHED = /\.[0-9a-f]{8}\.\w+$/;

/** @param {string} message @returns {never} */
function refuse(message) {
  console.error(`error: ${message}`);
  process.exit(2);
}

/** @param {string} option @param {string | undefined} text */
function channels(option, text) {
  if (text === undefined) return undefined;
  const values = text.split(",").map((x) => (x.trim() ? Number(x) : NaN));
  const good = [1, 3].includes(values.length) && values.every((x) => Number.isFinite(x) && (option === "mean" || x !== 0));
  return good ? values : refuse(`--${option} ${text}: give one number or three with commas between them` +
    (option === "std" ? ", none of them 0" : ""));
}

/** @param {string | undefined} file */
function lines(file) {
  if (file === undefined) return undefined;
  try {
    return readFileSync(file, "utf8").split(/\r?\n/).map((x) => x.trim()).filter(Boolean);
  } catch (error) {
    return refuse(`cannot read the labels: ${error.message}`);
  }
}

function options() {
  const text = /** @type {const} */ ({ type: "string" }), flag = /** @type {const} */ ({ type: "boolean" });
  try {
    return parseArgs({ options: { port: text, host: text, labels: text, mean: text, std: text, help: flag } }).values;
  } catch (error) {
    return refuse(`${error.message.split(". ")[0]}; --help lists the options`);
  }
}

/** @param {import("node:http").ServerResponse} response @param {number} status @param {string} text */
function say(response, status, text, headers = {}) {
  response.writeHead(status, { ...HEADERS, "Content-Type": "text/plain; charset=utf-8", ...headers }).end(text);
}

/** @param {object} settings what the page is told */
function serve(settings) {
  return createServer(async (request, response) => {
    if (request.method !== "GET" && request.method !== "HEAD") return say(response, 405, "only GET", { Allow: "GET, HEAD" });
    let path;
    try {
      path = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname);
    } catch {
      return say(response, 400, "not an address");
    }
    if (path === "/" || path === "/demo") return say(response, 302, "the demo is at /demo/", { Location: "/demo/" });
    if (path === "/demo/settings.json") {
      return say(response, 200, JSON.stringify(settings), { "Content-Type": TYPES[".json"], "Cache-Control": "no-store" });
    }
    const file = normalize(join(ROOT, path.endsWith("/") ? `${path}index.html` : path));
    const about = file.startsWith(ROOT) && !file.includes("\0") ? await stat(file).catch(() => null) : null;
    if (!about?.isFile()) return say(response, 404, `there is no ${path}`);
    response.writeHead(200, {
      ...HEADERS, "Content-Type": TYPES[extname(file)] ?? "application/octet-stream", "Content-Length": about.size,
      "Cache-Control": HASHED.test(file) ? "public, max-age=31536000, immutable" : "no-cache",
    });
    if (request.method === "HEAD") return response.end();
    return createReadStream(file).on("error", () => response.destroy()).pipe(response);
  });
}

const { port, host = "127.0.0.1", labels, mean, std, help } = options();
if (help) {
  console.log(USAGE);
  process.exit(0);
}
if (port !== undefined && !(/^\d+$/.test(port) && Number(port) < 65536)) refuse(`--port ${port} is no port: give 0 to 65535`);
const server = serve({ labels: lines(labels), mean: channels("mean", mean), std: channels("std", std) });
let next = Number(port ?? FIRST_PORT);
server.on("error", (/** @type {NodeJS.ErrnoException} */ error) => {
  if (error.code === "EADDRINUSE" && port === undefined && ++next < FIRST_PORT + PORTS) return server.listen(next, host);
  return refuse(error.code === "EADDRINUSE" ? `port ${next} is taken: give another with --port, or 0 for any` : error.message);
});
server.on("listening", () => {
  const shown = ["127.0.0.1", "0.0.0.0", "::", "::1"].includes(host) ? "localhost" : host.includes(":") ? `[${host}]` : host;
  console.log(`http://${shown}:${server.address().port}/demo/   (Ctrl-C ends it)`);
});
server.listen(next, host);
