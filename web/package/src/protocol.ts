/** The messages between the page and the worker that owns the wasm. */

import type { PlainError } from "./errors.js";
import type { KernelSet, LoadOptions, Progress, Source } from "./types.js";

/** A source, as it travels. */
export type PlainSource = Exclude<Source, { kind: "files" }> | { kind: "files"; files: [name: string, file: File][] };

/** What the page asks; `id` pairs it with its answers. */
export type Request = { id: number } & (
  | { call: "load"; source: PlainSource; options: Pick<LoadOptions, "context" | "kernels" | "quantize" | "cacheType" | "cache">; assets: string }
  | { call: "generate"; prompt: string; options: object }
  | { call: "marginals"; prompt: string; options: object }
  | { call: "score"; text: string }
  | { call: "encode"; text: string }
  | { call: "notes"; ids: number[] }
  | { call: "decode"; ids: number[] }
  | { call: "audit" }
  | { call: "selfTest" }
  | { call: "buffers" }
  /** Frees the GPU's memory, and answers how many buffers are left. */
  | { call: "dispose" }
  | { call: "devices"; assets: string }
  | { call: "shaders"; kernels: KernelSet; assets: string }
  /** Ends the call `of`, as soon as it can be ended. */
  | { call: "abort"; of: number }
);

/** What the worker says. */
export type Reply =
  /** On the way: a round, progress, a check. */
  | { id: number; event: unknown }
  | { id: number; result: unknown }
  | { id: number; error: PlainError }
  /** The device was lost, and is being replaced; progress of that; or it is lost for good. */
  | { losing: string }
  | { progress: Progress }
  | { lost: string };
