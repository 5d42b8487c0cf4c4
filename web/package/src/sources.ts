/** Where a checkpoint's bytes come from, as the wasm reads them: any part of any file, when it is wanted. */

import type { Progress, Source } from "./types.js";

/** What the wasm reads from. */
export interface ByteSource {
  len(name: string): Promise<number | null>;
  read(name: string, start: number, end: number): Promise<Uint8Array>;
  describe(): string;
}

type OnProgress = (progress: Progress) => void;

/** Opens a source; `defaultBase` is where the default model lies. */
export function open(source: Source, defaultBase: string, signal: AbortSignal, onProgress: OnProgress): ByteSource {
  switch (source.kind) {
    case "files":
      return new PickedFiles(source.files);
    case "url":
      return new WebFolder(source.base, signal, onProgress);
    case "default":
      return new WebFolder(defaultBase, signal, onProgress);
  }
}

/** Files that the user picked or dropped. */
class PickedFiles implements ByteSource {
  readonly #files: Map<string, File>;

  constructor(files: File[]) {
    this.#files = new Map(files.map((file) => [nameOf(file), file]));
  }

  async len(name: string): Promise<number | null> {
    return this.#files.get(name)?.size ?? null;
  }

  async read(name: string, start: number, end: number): Promise<Uint8Array> {
    const file = this.#files.get(name);
    if (!file) throw new Error(`${name} is not among the picked files`);
    return new Uint8Array(await file.slice(start, end).arrayBuffer());
  }

  describe(): string {
    return "the picked files";
  }
}

/** A picked folder's own name is not a part of its files' names. */
function nameOf(file: File): string {
  const path = file.webkitRelativePath;
  return path ? path.slice(path.indexOf("/") + 1) : file.name;
}

/** A folder on a web server that answers range requests. */
class WebFolder implements ByteSource {
  readonly #base: string;
  readonly #lengths = new Map<string, number | null>();
  readonly #done = new Map<string, number>();

  constructor(base: string, readonly signal: AbortSignal, readonly onProgress: OnProgress) {
    this.#base = base.endsWith("/") ? base : `${base}/`;
  }

  async len(name: string): Promise<number | null> {
    const known = this.#lengths.get(name);
    if (known !== undefined) return known;
    const response = await this.#fetch(name, { method: "HEAD" });
    let length: number | null = null;
    if (response.ok) {
      const header = response.headers.get("content-length");
      if (header === null) throw new Error(`${this.#base}${name}: the server does not say how long the file is`);
      length = Number(header);
    } else if (response.status !== 404) {
      throw new Error(`${this.#base}${name}: the server answers ${response.status} ${response.statusText}`);
    }
    this.#lengths.set(name, length);
    return length;
  }

  async read(name: string, start: number, end: number): Promise<Uint8Array> {
    if (start === end) return new Uint8Array();
    const response = await this.#fetch(name, { headers: { range: `bytes=${start}-${end - 1}` } });
    if (!response.ok) {
      throw new Error(`${this.#base}${name}: the server answers ${response.status} ${response.statusText}`);
    }
    let bytes = new Uint8Array(await response.arrayBuffer());
    // A server without range requests sends the whole file.
    if (response.status === 200) bytes = bytes.slice(start, end);
    const done = (this.#done.get(name) ?? 0) + bytes.length;
    this.#done.set(name, done);
    const total = this.#lengths.get(name) ?? null;
    this.onProgress({ phase: "download", file: name, done, total, cached: false });
    return bytes;
  }

  describe(): string {
    return this.#base;
  }

  async #fetch(name: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(this.#base + name, { ...init, signal: this.signal });
    } catch (error) {
      if (this.signal.aborted) throw new Error("loading was aborted");
      throw new Error(`${this.#base}${name} cannot be reached: ${(error as Error).message}`);
    }
  }
}
