/** A static server for tests: folders, with range requests, a log of what was asked for, and faults. */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { pipeline } from "node:stream/promises";

const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".css": "text/css",
};

/**
 * Serves each folder of `mounts` (`{ "/": folder }`). Returns its URL, the requests so far with the bytes that were sent,
 * `files` with texts by path that lie in no folder, `faults`, and how to close it. A fault, by path, turns a part of the
 * body and its place into what is sent; null cuts the connection. `page` is answered for what is not there.
 */
export async function serve(mounts, { port = 0, ranges = true, page = null } = {}) {
  const requests = [];
  const faults = new Map();
  const files = new Map();
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const log = { method: request.method, path, range: request.headers.range ?? null, sent: 0 };
    requests.push(log);
    // Models may be loaded from pages of other origins.
    response.setHeader("access-control-allow-origin", "*");
    if (files.has(path)) return void response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/plain" }).end(files.get(path));
    const mount = Object.keys(mounts).sort((a, b) => b.length - a.length).find((prefix) => path.startsWith(prefix));
    const file = join(mounts[mount], normalize(`/${path.slice(mount.length)}`));
    const found = await stat(file).catch(() => null);
    if (!found?.isFile()) {
      if (page) response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page);
      else response.writeHead(404).end();
      return;
    }
    const range = ranges && /^bytes=(\d+)-(\d+)?$/.exec(request.headers.range ?? "");
    const start = range ? Number(range[1]) : 0;
    if (range && start >= found.size) return void response.writeHead(416, { "content-range": `bytes */${found.size}` }).end();
    const end = Math.min(range?.[2] ? Number(range[2]) : found.size - 1, found.size - 1);
    const headers = {
      "content-type": TYPES[extname(file)] ?? "application/octet-stream",
      "content-length": end - start + 1,
      "accept-ranges": ranges ? "bytes" : "none",
      "last-modified": found.mtime.toUTCString(),
      etag: `"${found.size}-${found.mtimeMs}"`,
    };
    if (range) headers["content-range"] = `bytes ${start}-${end}/${found.size}`;
    response.writeHead(range ? 206 : 200, headers);
    if (request.method === "HEAD" || found.size === 0) return void response.end();
    const fault = faults.get(path);
    const body = async function* (parts) {
      for await (const part of parts) {
        const bytes = fault ? await fault(part, start + log.sent) : part;
        // Nothing more comes: the connection breaks.
        if (!bytes) throw new Error("cut");
        log.sent += bytes.length;
        yield bytes;
      }
    };
    await pipeline(createReadStream(file, { start, end }), body, response).catch(() => response.destroy());
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  // A test that failed may have left it open: Node.js need not wait for it.
  server.unref();
  const close = () =>
    new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${server.address().port}`, requests, files, faults, close };
}
