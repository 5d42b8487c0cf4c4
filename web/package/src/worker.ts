/** The worker: it owns the wasm, and answers one call after the other. */

import init, { Abort, WebModel, adapters, shaders } from "../wasm/foretoken.js";
import type { Reply, Request } from "./protocol.js";
import { open } from "./sources.js";
import type { AdapterInfo, KernelCheck } from "./types.js";

const scope = self as unknown as { postMessage(message: Reply): void; onmessage: (event: MessageEvent<Request>) => void };

let model: WebModel | undefined;
let modelName = "";
/** What ends each call that can be ended. */
const aborts = new Map<number, () => void>();
/** The end of the calls so far. */
let last: Promise<void> = Promise.resolve();

// Counted where the browser makes them, so that a leak test does not trust our own books.
let liveBuffers = 0;
countBuffers();

scope.onmessage = ({ data }) => {
  if (data.call === "abort") {
    aborts.get(data.of)?.();
    return;
  }
  // An abort may come while a call still waits for its turn.
  const controller = new AbortController();
  aborts.set(data.id, () => controller.abort());
  last = last.then(() => answer(data, controller.signal));
};

async function answer(request: Request, signal: AbortSignal): Promise<void> {
  const { id } = request;
  try {
    const result = await run(request, signal, (event) => scope.postMessage({ id, event }));
    scope.postMessage({ id, result });
  } catch (error) {
    const { kind = "Internal", message = String(error) } = error as { kind?: string; message?: string };
    scope.postMessage({ id, error: { kind: signal.aborted ? "Abort" : kind, message } });
  } finally {
    aborts.delete(id);
  }
}

async function run(request: Request, signal: AbortSignal, tell: (event: unknown) => void): Promise<unknown> {
  switch (request.call) {
    case "load": {
      await init({ module_or_path: new URL("foretoken_bg.wasm", request.assets) });
      const source = open(request.source, new URL("model/", request.assets).href, signal, tell);
      const { context, kernels } = request.options;
      model = await WebModel.load(source, JSON.stringify({ context, kernels }), (phase: string, done: number, total: number) =>
        tell({ phase, done, total }),
      );
      modelName = request.source.kind === "default" ? "the default model" : source.describe();
      const info = JSON.parse(model.info());
      return { ...info, name: modelName, adapter: adapterInfo(info.adapter) };
    }
    case "devices":
      await init({ module_or_path: new URL("foretoken_bg.wasm", request.assets) });
      return JSON.parse(await adapters()).map(adapterInfo);
    case "shaders": {
      await init({ module_or_path: new URL("foretoken_bg.wasm", request.assets) });
      const texts = shaders(request.kernels);
      return texts.filter((_, at) => at % 2 === 0).map((name, at) => ({ name, wgsl: texts[2 * at + 1] }));
    }
    case "buffers":
      return liveBuffers;
    case "abort":
      return null;
    default:
      return ask(loaded(), request, signal, tell);
  }
}

async function ask(
  model: WebModel,
  request: Exclude<Request, { call: "load" | "devices" | "shaders" | "buffers" | "abort" }>,
  signal: AbortSignal,
  tell: (event: unknown) => void,
): Promise<unknown> {
  switch (request.call) {
    case "generate": {
      const abort = new Abort();
      if (signal.aborted) abort.abort();
      signal.addEventListener("abort", () => abort.abort());
      const onRound = (round: string) => tell(JSON.parse(round));
      return JSON.parse(await model.generate(request.prompt, JSON.stringify(request.options), onRound, abort.handle()));
    }
    case "marginals":
      return JSON.parse(await model.marginals(request.prompt, JSON.stringify(request.options)));
    case "score":
      return JSON.parse(await model.score(request.text));
    case "encode":
      return Array.from(model.encode(request.text));
    case "decode":
      return model.decode(Uint32Array.from(request.ids));
    case "audit": {
      const audit = JSON.parse(await model.audit((done: number, total: number) => tell({ done, total })));
      return { model: modelName, ...audit };
    }
    case "selfTest": {
      const all: KernelCheck[] = [];
      for (const form of model.kernelSets()) {
        for (const check of JSON.parse(await model.selfTest(form))) {
          all.push({ ...check, form });
          tell(all[all.length - 1]);
        }
      }
      return all;
    }
  }
}

function loaded(): WebModel {
  if (!model) throw new Error("no model is loaded");
  return model;
}

/** The core's summary as the API has it. */
function adapterInfo(summary: Record<string, any>): AdapterInfo {
  const features = ["f16", "timestamps"].filter((name) => summary[name]);
  const limits = Object.entries(summary).filter(([name, value]) => name.startsWith("max_") && typeof value === "number");
  const [low, high] = summary.subgroup ?? [null, null];
  return {
    vendor: summary.name,
    architecture: summary.driver,
    description: summary.name,
    backend: "webgpu",
    software: summary.software,
    features,
    limits: Object.fromEntries(limits) as Record<string, number>,
    subgroup: low === null ? null : low === high ? `${low}` : `${low} to ${high}`,
  };
}

function countBuffers(): void {
  const types = globalThis as unknown as { GPUDevice?: any; GPUBuffer?: any };
  if (!types.GPUDevice) return;
  const live = new WeakSet<object>();
  const { createBuffer } = types.GPUDevice.prototype;
  types.GPUDevice.prototype.createBuffer = function (descriptor: unknown) {
    const buffer = createBuffer.call(this, descriptor);
    live.add(buffer);
    liveBuffers += 1;
    return buffer;
  };
  const { destroy } = types.GPUBuffer.prototype;
  types.GPUBuffer.prototype.destroy = function () {
    if (live.delete(this)) liveBuffers -= 1;
    return destroy.call(this);
  };
}
