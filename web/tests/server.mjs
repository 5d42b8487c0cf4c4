/** A static server for tests: a folder, with range requests, and a log of what was asked for. */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".json": "application/json", ".wasm": "application/wasm", ".css": "text/css" };

/** Serves each folder of `mounts` (`{ "/": folder }`); returns its URL, the requests so far, and how to close it. */
export async function serve(mounts) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    requests.push({ method: request.method, path, range: request.headers.range ?? null });
    const mount = Object.keys(mounts).sort((a, b) => b.length - a.length).find((prefix) => path.startsWith(prefix));
    const file = join(mounts[mount], normalize(`/${path.slice(mount.length)}`));
    const found = await stat(file).catch(() => null);
    if (!found?.isFile()) return void response.writeHead(404).end();
    const range = /^bytes=(\d+)-(\d+)?$/.exec(request.headers.range ?? "");
    const start = range ? Number(range[1]) : 0;
    const end = Math.min(range?.[2] ? Number(range[2]) : found.size - 1, found.size - 1);
    const headers = { "content-type": TYPES[extname(file)] ?? "application/octet-stream", "content-length": end - start + 1, "accept-ranges": "bytes" };
    if (range) headers["content-range"] = `bytes ${start}-${end}/${found.size}`;
    response.writeHead(range ? 206 : 200, headers);
    if (request.method === "HEAD" || found.size === 0) return void response.end();
    createReadStream(file, { start, end }).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, requests, close: () => server.close() };
}
