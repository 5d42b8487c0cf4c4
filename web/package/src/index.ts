/** foretoken: language models that predict several tokens at a time, on WebGPU. All work is done in a worker. */

import { type PlainError, adviceFor } from "./errors.js";
import { check } from "./input.js";
import type { PlainSource, Reply, Request } from "./protocol.js";
import type {
  AdapterInfo,
  Audit,
  Finished,
  GenerateOptions,
  Generation,
  KernelCheck,
  KernelSet,
  LoadOptions,
  MarginalOptions,
  Marginals,
  Model,
  ModelInfo,
  Progress,
  Round,
  Score,
  Shader,
  Source,
} from "./types.js";

export * as cache from "./cache.js";
export type * from "./types.js";

/** What went wrong, and where it is known what to do about it. */
export class ForetokenError extends Error {
  override readonly name = "ForetokenError";

  constructor(
    readonly kind: string,
    message: string,
    readonly advice?: string,
  ) {
    super(message);
  }

  static of({ kind, message, advice = adviceFor(kind) }: PlainError): ForetokenError {
    return new ForetokenError(kind, message, advice);
  }
}

/** Loads a model. */
export async function load(source: Source, options: LoadOptions = {}): Promise<Model> {
  const { onProgress, onLost, signal, context, kernels, quantize, cacheType, cache } = options;
  if (signal?.aborted) throw new ForetokenError("Abort", "loading was aborted");
  const plain = plainSource(source);
  const wire = new Wire({ onProgress, onLost });
  // Not by asking the worker: it may be compiling. What came so far stays in the cache.
  const abort = () => wire.end(new ForetokenError("Abort", "loading was aborted"));
  signal?.addEventListener("abort", abort);
  try {
    const message = { call: "load" as const, source: plain, options: { context, kernels, quantize, cacheType, cache }, assets: assets() };
    const info = await wire.ask<ModelInfo>(message, (event) => onProgress?.(event as Progress));
    return new LoadedModel(wire, info);
  } catch (error) {
    wire.end();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/** What the worker can make use of: whole URLs, and files with their names. */
function plainSource(source: Source): PlainSource {
  switch (source?.kind) {
    case "default":
      return source;
    case "url":
      return { ...source, base: absolute(source.base) };
    case "files":
      return { kind: "files", files: [...source.files].map((file) => [nameOf(file), file]) };
    default:
      throw new ForetokenError("Input", "this is no source of a model", 'give one such as { kind: "default" } or { kind: "url", base }');
  }
}

/**
 * A picked folder's own name is not a part of its files' names. The worker could not tell: the paths of dropped files are set on
 * the page, and do not travel.
 */
function nameOf(file: File): string {
  const path = file.webkitRelativePath;
  return path ? path.slice(path.indexOf("/") + 1) : file.name;
}

/** A URL as the page means it: a worker would start from where it lies itself. */
function absolute(base: string): string {
  const advice = "give one such as https://host/folder/, or a path on this server";
  if (typeof base !== "string" || !URL.canParse(base, document.baseURI)) {
    throw new ForetokenError("Input", `${base} is no URL`, advice);
  }
  const url = new URL(base, document.baseURI);
  if (!/^https?:$/.test(url.protocol) || url.username) throw new ForetokenError("Input", `${base} is no plain http address`, advice);
  if (url.search) throw new ForetokenError("Input", `${base} has a query (${url.search}), and is no folder with files`, advice);
  // A query without content has no length, but a question mark that would end up in the middle of addresses.
  url.search = url.hash = "";
  return url.href;
}

/** The adapters that this browser offers. */
export async function devices(): Promise<AdapterInfo[]> {
  if (!("gpu" in navigator)) return [];
  const wire = new Wire();
  try {
    return await wire.ask<AdapterInfo[]>({ call: "devices", assets: assets() });
  } finally {
    wire.end();
  }
}

/** All shaders that a kernel set can need, on any GPU: for pages that try a browser's compiler. */
export async function shaders(kernels: KernelSet): Promise<Shader[]> {
  const wire = new Wire();
  try {
    return await wire.ask<Shader[]>({ call: "shaders", kernels, assets: assets() });
  } finally {
    wire.end();
  }
}

/** Where the worker, the wasm and the default model lie: beside this module. */
function assets(): string {
  return new URL("./", import.meta.url).href;
}

class LoadedModel implements Model {
  readonly lost: Promise<string>;
  /** Buffers that were left when the model was disposed of. */
  #left: number | undefined;
  #disposal: Promise<void> | undefined;

  constructor(
    private readonly wire: Wire,
    readonly info: ModelInfo,
  ) {
    this.lost = wire.lost;
  }

  generate(prompt: string, options: GenerateOptions = {}): Generation {
    const { signal, ...rest } = options ?? {};
    // Short enough to be typed again.
    const seed = rest.seed ?? Math.floor(Math.random() * 1e6);
    return new Stream(this.wire, { call: "generate", prompt, options: options && { ...rest, seed } }, signal);
  }

  marginals(prompt: string, options: MarginalOptions = {}): Promise<Marginals> {
    return this.wire.ask({ call: "marginals", prompt, options });
  }

  score(text: string): Promise<Score> {
    return this.wire.ask({ call: "score", text });
  }

  encode(text: string): Promise<number[]> {
    return this.wire.ask({ call: "encode", text });
  }

  notes(ids: number[]): Promise<string[]> {
    return this.wire.ask({ call: "notes", ids });
  }

  decode(ids: number[]): Promise<string> {
    return this.wire.ask({ call: "decode", ids });
  }

  audit(options: { onProgress?: (done: number, total: number) => void } = {}): Promise<Audit> {
    return this.wire.ask({ call: "audit" }, (event) => {
      const { done, total } = event as { done: number; total: number };
      options.onProgress?.(done, total);
    });
  }

  selfTest(onCheck?: (check: KernelCheck) => void): Promise<KernelCheck[]> {
    return this.wire.ask({ call: "selfTest" }, (event) => onCheck?.(event as KernelCheck));
  }

  async buffers(): Promise<number> {
    return this.#left ?? this.wire.ask({ call: "buffers" });
  }

  dispose(): Promise<void> {
    this.#disposal ??= this.#dispose();
    return this.#disposal;
  }

  async #dispose(): Promise<void> {
    this.#left = await this.wire.ask<number>({ call: "dispose" }).catch(() => 0);
    this.wire.end();
  }
}

/** Rounds on their way from the worker to a `for await`. */
class Stream implements Generation {
  readonly result: Promise<Finished>;
  readonly #abort = new AbortController();
  /** All so far: each loop begins with the first. */
  readonly #rounds: Round[] = [];
  #waiting: (() => void)[] = [];
  #ended = false;

  constructor(wire: Wire, message: Question, signal?: AbortSignal) {
    const stop = () => this.#abort.abort();
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop);
    const onRound = (event: unknown) => {
      this.#rounds.push(event as Round);
      this.#wake();
    };
    this.result = wire.ask<Finished>(message, onRound, this.#abort.signal).finally(() => {
      signal?.removeEventListener("abort", stop);
      this.#ended = true;
      this.#wake();
    });
    // Who only loops sees the error there.
    this.result.catch(() => {});
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Round> {
    let next = 0;
    try {
      for (;;) {
        if (next < this.#rounds.length) yield this.#rounds[next++]!;
        else if (this.#ended) break;
        else await new Promise<void>((wake) => this.#waiting.push(wake));
      }
      await this.result;
    } finally {
      if (!this.#ended) this.#abort.abort();
    }
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

type WithoutId<T> = T extends unknown ? Omit<T, "id"> : never;
type Question = WithoutId<Request>;

interface Waiting {
  resolve: (result: any) => void;
  reject: (error: unknown) => void;
  onEvent?: (event: unknown) => void;
}

/** The worker, and the calls that wait for its answers. */
class Wire {
  readonly lost: Promise<string>;
  readonly #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 0;
  #ended: ForetokenError | undefined;
  #onLost!: (reason: string) => void;

  constructor(private readonly listeners: Pick<LoadOptions, "onProgress" | "onLost"> = {}) {
    this.lost = new Promise((resolve) => (this.#onLost = resolve));
    this.#worker.onmessage = ({ data }: MessageEvent<Reply>) => this.#receive(data);
    this.#worker.onerror = (event) => this.#fail(new ForetokenError("Internal", event.message || "the worker failed"));
  }

  ask<T>(question: Question, onEvent?: (event: unknown) => void, signal?: AbortSignal): Promise<T> {
    if (this.#ended) return Promise.reject(this.#ended);
    try {
      check(question);
    } catch (error) {
      return Promise.reject(ForetokenError.of(error as PlainError));
    }
    const id = this.#nextId++;
    const abort = () => this.#worker.postMessage({ id: this.#nextId++, call: "abort", of: id } satisfies Request);
    const answer = new Promise<T>((resolve, reject) => this.#waiting.set(id, { resolve, reject, onEvent }));
    this.#worker.postMessage({ id, ...question } as Request);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    return answer.finally(() => signal?.removeEventListener("abort", abort));
  }

  /** Ends the worker; its GPU memory goes with it. */
  end(why = new ForetokenError("Input", "the model was disposed of; load it again")): void {
    this.#worker.terminate();
    this.#fail(why);
  }

  #fail(error: ForetokenError): void {
    this.#ended ??= error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  #receive(reply: Reply): void {
    if (this.#ended) return;
    if ("lost" in reply) return this.#onLost(reply.lost);
    if ("losing" in reply) return this.listeners.onLost?.(reply.losing);
    if ("progress" in reply) return this.listeners.onProgress?.(reply.progress);
    const waiting = this.#waiting.get(reply.id);
    if (!waiting) return;
    if ("event" in reply) {
      waiting.onEvent?.(reply.event);
      return;
    }
    this.#waiting.delete(reply.id);
    if ("error" in reply) waiting.reject(ForetokenError.of(reply.error));
    else waiting.resolve(reply.result);
  }
}
