/** One file of a web folder on its way to a store: from its first byte to its last, going on where it broke off. */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { FileRecord, ModelStore, Stored } from "./cache.js";
import { plainError } from "./errors.js";

/** Broken connections in a row that brought no byte. */
const MOST_FAILURES = 3;
const PAUSE_MS = 500;
const REPORT_BYTES = 1 << 20;
const HASH_BYTES = 4 << 20;

export interface DownloadOptions {
  store: ModelStore;
  /** Ends in "/". */
  base: string;
  name: string;
  /** The expected hash, hex. */
  sha256?: string;
  onBytes: (done: number, total: number | null) => void;
}

/** What another attempt may mend. */
class Broken extends Error {}

export class Download {
  /** What the server says of the file, or null if it has none. */
  readonly opened: Promise<FileRecord | null>;
  /** The whole file is here, with the expected hash. */
  readonly done: Promise<void>;
  readonly #opened: (record: FileRecord | null) => void;
  /** What readers go by. */
  #told: FileRecord | null = null;
  #stored!: Stored;
  #waiting: { end: number; go: () => void }[] = [];
  #reported = 0;

  constructor(private readonly options: DownloadOptions) {
    let opened!: (record: FileRecord | null) => void;
    const answered = new Promise<FileRecord | null>((resolve) => (opened = resolve));
    this.#opened = (record) => {
      this.#told ??= record;
      opened(record);
    };
    const run = this.#run().catch((error: Error) => {
      if (error.name !== "QuotaExceededError") throw error;
      const advice = "free some with cache.clear(), or load with { cache: false }";
      throw this.#error("Storage", "this browser has no room to keep the file", advice);
    });
    this.done = run.finally(() => this.#wake(Infinity));
    this.opened = Promise.race([answered, this.done.then(() => answered)]);
    // Whoever waits hears of a failure; nobody need wait.
    this.done.catch(() => {});
    this.opened.catch(() => {});
  }

  /** Bytes `start` to `end`, once they are here; those of a file with an expected hash once that is known to be right. */
  async read(start: number, end: number): Promise<Uint8Array> {
    if (this.options.sha256) await this.done;
    if (!this.#stored || this.#stored.size < end) {
      // Once it has ended nobody wakes.
      await Promise.race([new Promise<void>((go) => this.#waiting.push({ end, go })), this.done]);
      // A reader that asks for more than there is gets less, unless there was an error.
      if (this.#stored.size < end) await this.done;
    }
    return this.#stored.read(start, end);
  }

  /** Lets those go on who wait for no more than `size` bytes. */
  #wake(size: number): void {
    for (const { end, go } of this.#waiting) if (end <= size) go();
    this.#waiting = this.#waiting.filter(({ end }) => end > size);
  }

  async #run(): Promise<void> {
    const { store, name } = this.options;
    this.#stored = await store.file(name);
    try {
      let failures = 0;
      for (let known = this.#stored.size; ; known = this.#stored.size) {
        try {
          if (!(await this.#fetch())) return;
          break;
        } catch (error) {
          if (!(error instanceof Broken)) throw error;
          failures = this.#stored.size > known ? 1 : failures + 1;
          if (failures >= MOST_FAILURES) throw this.#error("Io", error.message, "try again later: what is here is kept");
          await new Promise((resolve) => setTimeout(resolve, failures * PAUSE_MS));
        }
      }
      await this.#check();
    } finally {
      await this.#stored.rest();
    }
    await store.save();
  }

  /** One request for what is missing. False if there is no such file. */
  async #fetch(): Promise<boolean> {
    const { store, base, name } = this.options;
    const { files } = store.manifest;
    // One byte that is here already comes again: no server refuses a range for being empty.
    const from = Math.max(0, this.#stored.size - 1);
    // Browsers ask for ranges without compression, so that lengths are those of the file. No condition goes with it: other
    // origins would have to be asked for leave first.
    const headers = { range: `bytes=${from}-` };
    const response = await this.#reach(() => fetch(base + name, { headers, cache: "no-store" }));
    // Some hosts answer 403 for what they do not have; of files that every model has it means that they are kept from us.
    const mayLack = name !== "config.json" && !name.endsWith(".safetensors");
    // Others answer with a page of theirs: no file of a model is one.
    const page = response.ok && /^text\/html\b/i.test(response.headers.get("content-type") ?? "");
    if (page && name === "config.json") {
      await response.body?.cancel();
      throw this.#error("Io", "the server answers with a web page", "check the address: it must be that of the folder with the model's files");
    }
    if (page || response.status === 404 || response.status === 410 || (response.status === 403 && mayLack)) {
      await response.body?.cancel();
      await this.#stored.clear();
      files[name] = null;
      await store.save();
      this.#opened(null);
      return false;
    }
    const record = recordOf(response, from);
    if (response.status === 416) {
      if (this.#stored.size > 0) return this.#restart();
      // Nothing of nothing.
      record.length = 0;
    } else if (!response.ok) {
      const answer = `the server answers ${response.status} ${response.statusText}`.trim();
      if (response.status >= 500) throw new Broken(answer);
      throw this.#error("Io", answer, "check the address; models behind a login cannot be loaded");
    }
    if (this.#told && !sameVersion(this.#told, record)) {
      await this.#stored.clear();
      throw this.#error("Io", "the file was changed on the server while it was loaded", "load the model again");
    }
    const old = files[name];
    if (this.#stored.size > 0) {
      if (response.status !== 206) {
        await this.#stored.clear();
      } else if (!old || !sameVersion(old, record)) {
        await response.body?.cancel();
        return this.#restart();
      }
    }
    files[name] = record;
    await store.save();
    if (record.length !== null) this.#opened(record);
    if (record.length !== 0) await this.#take(response, record.length, Math.max(0, this.#stored.size - from));
    record.length = this.#stored.size;
    this.#opened(record);
    return true;
  }

  /** What is here belongs to another version. */
  async #restart(): Promise<boolean> {
    delete this.options.store.manifest.files[this.options.name];
    await this.#stored.clear();
    return this.#fetch();
  }

  /** Takes the body, without its first `known` bytes. */
  async #take(response: Response, length: number | null, known: number): Promise<void> {
    const { name, onBytes } = this.options;
    const reader = response.body?.getReader();
    for (;;) {
      const part = await this.#reach(async () => reader?.read());
      if (!part || part.done) break;
      if (part.value.length > known) await this.#stored.append(part.value.subarray(known));
      known = Math.max(0, known - part.value.length);
      const done = this.#stored.size;
      if (done - this.#reported >= REPORT_BYTES || done === length) {
        this.#reported = done;
        onBytes(done, length);
      }
      this.#wake(done);
    }
    const got = this.#stored.size;
    if (length !== null && got < length) throw new Broken(`the connection ended after ${got} of ${length} bytes`);
    if (length !== null && got > length) {
      await this.#stored.clear();
      throw this.#error("Io", `the server announced ${length} bytes, and sent ${got}`);
    }
  }

  async #check(): Promise<void> {
    const { store, name, sha256: expected } = this.options;
    const record = store.manifest.files[name];
    if (!record) return;
    if (expected) {
      const found = await hash(this.#stored);
      if (found !== expected.toLowerCase()) {
        await this.#stored.clear();
        delete store.manifest.files[name];
        await store.save();
        const advice = "load it again; if that does not help, the source or the expected hash is wrong";
        throw this.#error("Hash", `its SHA-256 is ${found}, expected ${expected}: the file is damaged or another one`, advice);
      }
      record.sha256 = found;
    }
    record.done = true;
  }

  /** What fails here is the network. */
  async #reach<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw new Broken(`the server cannot be reached (${(error as Error).message})`);
    }
  }

  #error(kind: string, message: string, advice?: string): Error {
    const { base, name } = this.options;
    return plainError(kind, `${base}${name}: ${message}`, advice);
  }
}

/** The hash of a whole file, hex. */
export async function hash(stored: Stored): Promise<string> {
  const state = sha256.create();
  for (let at = 0; at < stored.size; at += HASH_BYTES) {
    state.update(await stored.read(at, Math.min(at + HASH_BYTES, stored.size)));
  }
  return bytesToHex(state.digest());
}

/** What an answer to a request for everything from byte `from` on says of the file. */
function recordOf(response: Response, from: number): FileRecord {
  const { headers, status } = response;
  const range = /\/(\d+)$/.exec(headers.get("content-range") ?? "")?.[1];
  const rest = headers.get("content-encoding") ? null : headers.get("content-length");
  // Other origins may hide the range.
  const left = rest === null || status === 416 ? null : Number(rest) + (status === 206 ? from : 0);
  const length = range === undefined ? left : Number(range);
  return { length, etag: headers.get("etag"), modified: headers.get("last-modified"), sha256: null, done: false };
}

/** Whether two answers are about the same bytes, as far as servers tell. */
export function sameVersion(a: FileRecord, b: FileRecord): boolean {
  const differ = (one: string | number | null, other: string | number | null) =>
    one !== null && other !== null && one !== other;
  return !differ(a.length, b.length) && !differ(a.etag, b.etag) && !differ(a.modified, b.modified);
}
