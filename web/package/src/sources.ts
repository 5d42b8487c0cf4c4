/** Where a checkpoint's bytes come from, as the wasm reads them: any part of any file, when it is wanted. */

import { type FileRecord, MemoryStore, type ModelStore, type Stored, lock, openStore } from "./cache.js";
import { Download, hash } from "./download.js";
import { hashesOf } from "./hashes.js";
import type { PlainSource } from "./protocol.js";
import type { Progress } from "./types.js";

/** What the wasm reads from. */
export interface ByteSource {
  len(name: string): Promise<number | null>;
  read(name: string, start: number, end: number): Promise<Uint8Array>;
  describe(): string;
  /** Everything that is wanted has been read: waits until all is kept and checked. */
  finish(): Promise<void>;
}

type OnProgress = (progress: Progress) => void;

/** How to open a source. */
export interface OpenOptions {
  /** Where the default model lies. */
  defaultBase: string;
  /** Keep downloads for the next visit. */
  cache: boolean;
  onProgress: OnProgress;
}

/** Opens a source. */
export async function open(source: PlainSource, options: OpenOptions): Promise<ByteSource> {
  switch (source.kind) {
    case "files":
      return new PickedFiles(source.files);
    case "default":
      // It is small, and as old as the package: the browser's own cache is the place for it.
      return new KeptFolder(new MemoryStore(options.defaultBase), {}, options);
    case "url": {
      const base = source.base.endsWith("/") ? source.base : `${source.base}/`;
      const { store, release } = options.cache ? await keep(base) : { store: null, release: () => {} };
      // What is kept as a whole was checked when it came: the server need not even be there.
      const given = store?.manifest.complete ? {} : await hashesOf(base);
      const hashes = { ...given, ...source.sha256 };
      return new KeptFolder(store ?? new MemoryStore(base), hashes, options, release);
    }
  }
}

/** The model's store, unless another page is filling it; and what lets other pages fill it. */
async function keep(base: string): Promise<{ store: ModelStore | null; release: () => void }> {
  const release = await lock(base);
  const store = await openStore(base, release !== null);
  const complete = store?.manifest.complete;
  // It is only read from now on.
  if (complete) release?.();
  return { store: release || complete ? store : null, release: release ?? (() => {}) };
}

/** A folder on a web server whose files go to a store, and are read from there. */
class KeptFolder implements ByteSource {
  readonly #downloads = new Map<string, Download>();
  readonly #kept = new Map<string, Promise<Stored>>();

  constructor(
    public store: ModelStore,
    readonly sha256: Record<string, string>,
    readonly options: OpenOptions,
    /** Lets other pages fill the store. */
    readonly release: () => void = () => {},
  ) {}

  len(name: string): Promise<number | null> {
    return this.#unlessCleared(() => this.#len(name));
  }

  read(name: string, start: number, end: number): Promise<Uint8Array> {
    return this.#unlessCleared(() => this.#read(name, start, end));
  }

  async #len(name: string): Promise<number | null> {
    const record = await this.#known(name);
    if (record === undefined) return (await this.#download(name).opened)?.length ?? null;
    if (record === null) return null;
    const total = record.length;
    this.options.onProgress({ phase: "download", file: name, done: total ?? 0, total, cached: true });
    return total;
  }

  async #read(name: string, start: number, end: number): Promise<Uint8Array> {
    if (!(await this.#known(name))) return this.#download(name).read(start, end);
    return (await this.#stored(name)).read(start, end);
  }

  /** What the store knows of a file for certain: null if there is none; undefined if the server must be asked. */
  async #known(name: string): Promise<FileRecord | null | undefined> {
    const { complete, files } = this.store.manifest;
    const record = complete ? files[name] : undefined;
    const expected = this.sha256[name]?.toLowerCase();
    if (!record || !expected) return record;
    // Nobody may have asked for a hash when the file came.
    record.sha256 ??= await hash(await this.#stored(name));
    if (record.sha256 === expected) return record;
    // Who is right? What is kept stays as it is.
    this.#leave();
    return undefined;
  }

  /** `work`, and if somebody cleared the cache, as they may once the model is loaded, again without it. */
  async #unlessCleared<T>(work: () => Promise<T>): Promise<T> {
    const { store } = this;
    try {
      return await work();
    } catch (error) {
      if ((error as Error).name !== "NotFoundError") throw error;
      if (this.store === store) this.#leave();
      return work();
    }
  }

  /** From now on everything comes from the server, and stays with this page. */
  #leave(): void {
    this.store = new MemoryStore(this.store.manifest.name);
    this.#downloads.clear();
    this.#kept.clear();
  }

  #stored(name: string): Promise<Stored> {
    let stored = this.#kept.get(name);
    if (!stored) {
      stored = this.store.file(name);
      this.#kept.set(name, stored);
    }
    return stored;
  }

  async finish(): Promise<void> {
    const { manifest } = this.store;
    await Promise.all([...this.#downloads.values()].map((download) => download.done));
    if (!manifest.complete) {
      manifest.complete = true;
      // If that fails, the next visit asks the server whether anything is missing.
      await this.store.save().catch(() => {});
    }
    this.release();
  }

  describe(): string {
    return this.store.manifest.name;
  }

  #download(name: string): Download {
    const { onProgress } = this.options;
    const onBytes = (done: number, total: number | null) =>
      onProgress({ phase: "download", file: name, done, total, cached: false });
    const { store, sha256 } = this;
    let download = this.#downloads.get(name);
    if (!download) {
      const base = store.manifest.name;
      download = new Download({ store, base, name, sha256: sha256[name], onBytes });
      this.#downloads.set(name, download);
    }
    return download;
  }
}

/** Files that the user picked or dropped. */
class PickedFiles implements ByteSource {
  readonly #files: Map<string, File>;

  constructor(files: [name: string, file: File][]) {
    this.#files = new Map(files);
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

  async finish(): Promise<void> {}
}

/** A source, and the first error it had: the wasm passes on no more than its text. */
export class Witness implements ByteSource {
  failure: unknown;

  constructor(readonly source: ByteSource) {}

  len(name: string): Promise<number | null> {
    return this.#note(this.source.len(name));
  }

  read(name: string, start: number, end: number): Promise<Uint8Array> {
    return this.#note(this.source.read(name, start, end));
  }

  describe(): string {
    return this.source.describe();
  }

  finish(): Promise<void> {
    return this.source.finish();
  }

  async #note<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      this.failure ??= error;
      throw error;
    }
  }
}
