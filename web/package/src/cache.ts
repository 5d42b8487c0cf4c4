/**
 * Downloads kept for the next visit: in the origin's private file system, or in the Cache API where that is missing.
 *
 * A model has a store: a manifest, and files that grow from their beginning. What is there after an interruption is a
 * file's first bytes.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { plainError } from "./errors.js";
import type { CacheEntry } from "./types.js";

/** What is known of a file on a server. */
export interface FileRecord {
  /** Null until it is known: a compressed answer does not tell. */
  length: number | null;
  etag: string | null;
  modified: string | null;
  /** The hash that all its bytes had, where somebody wanted to know. */
  sha256: string | null;
  /** It is here as a whole. */
  done: boolean;
}

export interface Manifest {
  /** The base URL. */
  name: string;
  /** Everything that loading asked for is here; the server need not be asked. */
  complete: boolean;
  /** Null for a file that the server does not have. */
  files: Record<string, FileRecord | null>;
}

/** A file as far as it is here. */
export interface Stored {
  readonly size: number;
  append(bytes: Uint8Array): Promise<void>;
  read(start: number, end: number): Promise<Uint8Array>;
  /** Starts over. */
  clear(): Promise<void>;
  /** Nothing will be appended for now. */
  rest(): Promise<void>;
}

/** The files of a model. */
export interface ModelStore {
  readonly manifest: Manifest;
  file(name: string): Promise<Stored>;
  save(): Promise<void>;
}

/** What is kept. */
export async function list(): Promise<CacheEntry[]> {
  const entries: CacheEntry[] = [];
  for await (const folder of folders()) {
    let bytes = 0;
    for await (const file of folder.values()) if (file.kind === "file") bytes += (await file.getFile()).size;
    entries.push({ name: (await readManifest(folder))?.name ?? folder.name, bytes });
  }
  for (const name of await cacheNames()) {
    const cache = await caches.open(name);
    const sizes = (await cache.keys()).map(async (key) => (await (await cache.match(key))?.blob())?.size ?? 0);
    entries.push({ name: name.slice(CACHE_PREFIX.length), bytes: (await Promise.all(sizes)).reduce((a, b) => a + b, 0) });
  }
  return entries;
}

/** Forgets one model, by its base URL, or all. */
export async function clear(name?: string): Promise<void> {
  const wanted = name?.replace(/\/?$/, "/");
  for await (const folder of folders()) {
    const of = (await readManifest(folder))?.name ?? folder.name;
    if (wanted === undefined || of === wanted) await remove(of, async () => (await root(true)).removeEntry(folder.name, { recursive: true }));
  }
  for (const cache of await cacheNames()) {
    const of = cache.slice(CACHE_PREFIX.length);
    if (wanted === undefined || of === wanted) await remove(of, () => caches.delete(cache));
  }
}

async function remove(base: string, work: () => Promise<unknown>): Promise<void> {
  // A page that has just given up loading lets go a little later.
  const release = await lock(base, CLEAR_MS);
  try {
    if (!release) throw new Error("it is being loaded");
    await work();
  } catch (error) {
    const advice = "close the other pages that load it, or wait until they have";
    throw plainError("Storage", `${base} cannot be removed from the cache now: ${(error as Error).message}`, advice);
  } finally {
    release?.();
  }
}

const CLEAR_MS = 1000;

/** Lets nobody else fill or remove what is kept of the model at `base`, until it is released or its agent ends. Null: others do. */
export async function lock(base: string, wait = 0): Promise<(() => void) | null> {
  if (!navigator.locks) return () => {};
  return new Promise((resolve) => {
    const hold = (held: Lock | null) => {
      if (!held) return resolve(null);
      return new Promise<void>((release) => resolve(release));
    };
    const options = wait > 0 ? { signal: AbortSignal.timeout(wait) } : { ifAvailable: true };
    navigator.locks.request(`foretoken ${base}`, options, hold).catch(() => resolve(null));
  });
}

/** The store of the model at `base`, to be filled under its lock only; null where this browser keeps nothing. Only in a worker. */
export async function openStore(base: string, locked: boolean): Promise<ModelStore | null> {
  for (const open of [FileStore.open, CacheStore.open]) {
    try {
      return await open(base, locked);
    } catch {
      // Private windows have the interfaces, and refuse when they are used.
    }
  }
  return null;
}

function empty(name: string): Manifest {
  return { name, complete: false, files: {} };
}

/** A store that is forgotten with the page. */
export class MemoryStore implements ModelStore {
  readonly manifest: Manifest;
  readonly #files = new Map<string, Stored>();

  constructor(base: string) {
    this.manifest = empty(base);
  }

  async file(name: string): Promise<Stored> {
    const file = this.#files.get(name) ?? new MemoryFile();
    this.#files.set(name, file);
    return file;
  }

  async save(): Promise<void> {}
}

/** Bytes that the browser may keep where it likes: not in the wasm's memory. */
class MemoryFile implements Stored {
  size = 0;
  #blob = new Blob();
  #fresh: BlobPart[] = [];

  async append(bytes: Uint8Array): Promise<void> {
    this.#fresh.push(bytes as Uint8Array<ArrayBuffer>);
    this.size += bytes.length;
  }

  async read(start: number, end: number): Promise<Uint8Array> {
    if (this.#fresh.length > 0) this.#blob = new Blob([this.#blob, ...this.#fresh.splice(0)]);
    return new Uint8Array(await this.#blob.slice(start, end).arrayBuffer());
  }

  async clear(): Promise<void> {
    this.#blob = new Blob();
    this.#fresh = [];
    this.size = 0;
  }

  async rest(): Promise<void> {}
}

// The origin private file system.

const FOLDER = "foretoken";
const MANIFEST = "manifest.json";

/** What workers have, and TypeScript's library for pages lacks. */
interface SyncAccess {
  getSize(): number;
  read(into: Uint8Array, options: { at: number }): number;
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
}
type FileHandle = FileSystemFileHandle & { createSyncAccessHandle(): Promise<SyncAccess> };

async function root(create: boolean): Promise<FileSystemDirectoryHandle> {
  return (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create });
}

async function* folders(): AsyncGenerator<FileSystemDirectoryHandle> {
  // Nothing was kept, or this browser keeps nothing.
  const folder = await root(false).catch(() => null);
  if (!folder) return;
  for await (const entry of folder.values()) if (entry.kind === "directory") yield entry;
}

/** Null if there is none, or the page went away while it was written. */
async function readManifest(folder: FileSystemDirectoryHandle): Promise<Manifest | null> {
  try {
    return JSON.parse(await (await (await folder.getFileHandle(MANIFEST)).getFile()).text());
  } catch {
    return null;
  }
}

/** How many bytes were written. Where there is no room, Chromium returns an error's number as if it were a length. */
function put(access: SyncAccess, bytes: Uint8Array, at: number): number {
  const written = access.write(bytes, { at });
  if (written > 0 && written <= bytes.length) return written;
  throw new DOMException("no byte could be written", "QuotaExceededError");
}

class FileStore implements ModelStore {
  #saved: Promise<void> = Promise.resolve();

  private constructor(
    readonly folder: FileSystemDirectoryHandle,
    /** Held on to: Chromium never answers a `createSyncAccessHandle` whose handle is collected as garbage meanwhile. */
    readonly handle: FileHandle,
    readonly manifest: Manifest,
  ) {}

  static async open(base: string, locked: boolean): Promise<FileStore> {
    // URLs can be longer than names of files.
    const id = bytesToHex(sha256(new TextEncoder().encode(base))).slice(0, 32);
    const folder = await (await root(true)).getDirectoryHandle(id, { create: true });
    const manifest = await readManifest(folder);
    const handle = (await folder.getFileHandle(MANIFEST, { create: true })) as FileHandle;
    const store = new FileStore(folder, handle, manifest ?? empty(base));
    // Refused where sync access is missing.
    if (!manifest && locked) await store.save();
    return store;
  }

  async file(name: string): Promise<Stored> {
    const handle = await this.folder.getFileHandle(`file ${encodeURIComponent(name)}`, { create: true });
    return new StoredFile(handle as FileHandle, (await handle.getFile()).size);
  }

  save(): Promise<void> {
    const write = async () => {
      const access = await this.handle.createSyncAccessHandle();
      try {
        const text = new TextEncoder().encode(JSON.stringify(this.manifest));
        put(access, text, 0);
        access.truncate(text.length);
        access.flush();
      } finally {
        access.close();
      }
    };
    // One after the other: a file has one writer.
    this.#saved = this.#saved.catch(() => {}).then(write);
    return this.#saved;
  }
}

class StoredFile implements Stored {
  /** While it grows; it locks the file. */
  #access: SyncAccess | null = null;
  #file: File | null = null;

  constructor(
    readonly handle: FileHandle,
    public size: number,
  ) {}

  async append(bytes: Uint8Array): Promise<void> {
    const access = await this.#open();
    this.#file = null;
    for (let at = 0; at < bytes.length; ) {
      const written = put(access, bytes.subarray(at), this.size);
      at += written;
      this.size += written;
    }
  }

  async read(start: number, end: number): Promise<Uint8Array> {
    if (this.#access) {
      const bytes = new Uint8Array(end - start);
      return bytes.subarray(0, this.#access.read(bytes, { at: start }));
    }
    const file = this.#file ?? (await this.handle.getFile());
    // What has been appended in the meantime is not in it.
    if (file.size === this.size) this.#file = file;
    return new Uint8Array(await file.slice(start, end).arrayBuffer());
  }

  async clear(): Promise<void> {
    const access = await this.#open();
    this.#file = null;
    access.truncate(0);
    this.size = 0;
  }

  async rest(): Promise<void> {
    this.#access?.flush();
    this.#access?.close();
    this.#access = null;
  }

  async #open(): Promise<SyncAccess> {
    this.#access ??= await this.handle.createSyncAccessHandle();
    return this.#access;
  }
}

// The Cache API: a file is a row of responses, as responses cannot grow.

const CACHE_PREFIX = "foretoken ";
const PIECE_BYTES = 8 << 20;

async function cacheNames(): Promise<string[]> {
  const names = await globalThis.caches?.keys().catch(() => []);
  return (names ?? []).filter((name) => name.startsWith(CACHE_PREFIX));
}

/** Keys of a cache must be URLs; nobody asks for these. */
function keyOf(...parts: (string | number)[]): string {
  return `https://foretoken.invalid/${parts.map(encodeURIComponent).join("/")}`;
}

class CacheStore implements ModelStore {
  private constructor(
    readonly cache: Cache,
    readonly manifest: Manifest,
  ) {}

  static async open(base: string): Promise<CacheStore> {
    const cache = await caches.open(CACHE_PREFIX + base);
    const manifest = await (await cache.match(keyOf(MANIFEST)))?.json();
    return new CacheStore(cache, manifest ?? empty(base));
  }

  async file(name: string): Promise<Stored> {
    let size = 0;
    for (let piece = 0; ; piece++) {
      const response = await this.cache.match(keyOf("file", name, piece));
      if (!response) break;
      size += (await response.blob()).size;
    }
    return new CachedFile(this.cache, name, size);
  }

  async save(): Promise<void> {
    await this.cache.put(keyOf(MANIFEST), new Response(JSON.stringify(this.manifest)));
  }
}

class CachedFile implements Stored {
  /** The bytes of the last piece, which is not full. */
  #tail: Uint8Array[] = [];
  #tailBytes = 0;
  /** The piece that was read last: tensors lie side by side. */
  #read: { piece: number; blob: Blob } | null = null;

  constructor(
    readonly cache: Cache,
    readonly name: string,
    public size: number,
  ) {}

  async append(bytes: Uint8Array): Promise<void> {
    const part = this.size % PIECE_BYTES;
    // After an interruption the last piece goes on where it ended.
    if (part > 0 && this.#tailBytes === 0) this.#keep(await this.read(this.size - part, this.size));
    for (let at = 0; at < bytes.length; ) {
      const taken = bytes.slice(at, at + PIECE_BYTES - this.#tailBytes);
      this.#keep(taken);
      at += taken.length;
      this.size += taken.length;
      if (this.#tailBytes === PIECE_BYTES) await this.rest();
    }
  }

  async read(start: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - start);
    for (let at = start; at < end; ) {
      const piece = Math.floor(at / PIECE_BYTES);
      const first = at - piece * PIECE_BYTES;
      const blob = await this.#piece(piece);
      const part = new Uint8Array(await blob.slice(first, first + end - at).arrayBuffer());
      if (part.length === 0) throw new Error(`${this.name}: a part is missing in the cache; clear it and load again`);
      bytes.set(part, at - start);
      at += part.length;
    }
    return bytes;
  }

  async clear(): Promise<void> {
    for (let piece = 0; await this.cache.delete(keyOf("file", this.name, piece)); piece++);
    this.#tail = [];
    this.#tailBytes = 0;
    this.#read = null;
    this.size = 0;
  }

  async rest(): Promise<void> {
    if (this.#tailBytes === 0) return;
    const piece = Math.ceil(this.size / PIECE_BYTES) - 1;
    await this.cache.put(keyOf("file", this.name, piece), new Response(this.#tailBlob()));
    this.#tail = [];
    this.#tailBytes = 0;
    this.#read = null;
  }

  async #piece(piece: number): Promise<Blob> {
    if (this.#tailBytes > 0 && piece === Math.floor((this.size - 1) / PIECE_BYTES)) return this.#tailBlob();
    if (this.#read?.piece !== piece) {
      const response = await this.cache.match(keyOf("file", this.name, piece));
      this.#read = { piece, blob: (await response?.blob()) ?? new Blob() };
    }
    return this.#read.blob;
  }

  #tailBlob(): Blob {
    return new Blob(this.#tail as Uint8Array<ArrayBuffer>[]);
  }

  #keep(bytes: Uint8Array): void {
    this.#tail.push(bytes);
    this.#tailBytes += bytes.length;
  }
}
