/** The worker: it owns the wasm, and answers one call after the other. */

import init, { Abort, WebModel, adapters, shaders } from "../wasm/foretoken.js";
import { liveBuffers } from "./buffers.js";
import { type PlainError, needWebGpu, requestAdapter } from "./errors.js";
import type { Reply, Request } from "./protocol.js";
import { Witness, open } from "./sources.js";
import type { AdapterInfo, KernelCheck, Progress } from "./types.js";

/** What waits for its turn. */
type Queued = Exclude<Request, { call: "abort" | "dispose" }>;

const scope = self as unknown as { postMessage(message: Reply): void; onmessage: (event: MessageEvent<Request>) => void };

let model: WebModel | undefined;
let modelName = "";
/** What ends each call that can be ended. */
const aborts = new Map<number, () => void>();
/** The end of the calls so far. */
let last: Promise<void> = Promise.resolve();

scope.onmessage = ({ data }) => {
  if (data.call === "abort") {
    aborts.get(data.of)?.();
    return;
  }
  // It does not wait for its turn: a page that leaves a model wants the GPU's memory back now.
  if (data.call === "dispose") {
    model?.destroy();
    scope.postMessage({ id: data.id, result: liveBuffers() });
    return;
  }
  // An abort may come while a call still waits for its turn.
  const controller = new AbortController();
  aborts.set(data.id, () => controller.abort());
  last = last.then(() => answer(data, controller.signal));
};

async function answer(request: Queued, signal: AbortSignal): Promise<void> {
  const { id } = request;
  try {
    const result = await run(request, signal, (event) => scope.postMessage({ id, event }));
    scope.postMessage({ id, result });
  } catch (error) {
    const { kind = "Internal", message = String(error), advice } = error as Partial<PlainError>;
    scope.postMessage({ id, error: { kind: signal.aborted ? "Abort" : kind, message, advice } });
    if (model?.isLost()) scope.postMessage({ lost: message });
  } finally {
    aborts.delete(id);
  }
}

async function run(request: Queued, signal: AbortSignal, tell: (event: unknown) => void): Promise<unknown> {
  switch (request.call) {
    case "load": {
      await needWebGpu();
      await start(request.assets);
      const { context, kernels, quantize, cacheType, cache = true } = request.options;
      const defaultBase = new URL("model/", request.assets).href;
      // Loading again, after a loss, is no part of this call any more.
      const onProgress = (progress: Progress) => (model ? scope.postMessage({ progress }) : tell(progress));
      const source = new Witness(await open(request.source, { defaultBase, cache, onProgress }));
      const onStep = (phase: "upload" | "warmup", done: number, total: number) => onProgress({ phase, done, total });
      const onLost = (losing: string) => scope.postMessage({ losing });
      try {
        model = await WebModel.load(source, JSON.stringify({ context, kernels, quantize, cacheType }), onStep, onLost);
      } catch (error) {
        throw source.failure ?? error;
      }
      await source.finish();
      modelName = request.source.kind === "default" ? "the default model" : source.describe();
      const info = JSON.parse(model.info());
      return { ...info, name: modelName, adapter: await adapterInfo(info.adapter) };
    }
    case "devices":
      await start(request.assets);
      return Promise.all(JSON.parse(await adapters()).map(adapterInfo));
    case "shaders": {
      await start(request.assets);
      const texts = shaders(request.kernels);
      return texts.filter((_, at) => at % 2 === 0).map((name, at) => ({ name, wgsl: texts[2 * at + 1] }));
    }
    case "buffers":
      return liveBuffers();
    default:
      return ask(loaded(), request, signal, tell);
  }
}

async function start(assets: string): Promise<void> {
  await init({ module_or_path: new URL("foretoken_bg.wasm", assets) });
}

async function ask(
  model: WebModel,
  request: Exclude<Queued, { call: "load" | "devices" | "shaders" | "buffers" }>,
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
    case "notes":
      return model.notes(Uint32Array.from(request.ids));
    case "decode":
      return model.decode(Uint32Array.from(request.ids));
    case "audit": {
      const audit = JSON.parse(await model.audit((done: number, total: number) => tell({ done, total })));
      return { model: modelName, ...audit };
    }
    case "selfTest": {
      const all: KernelCheck[] = [];
      for (const form of model.kernelSets()) {
        await model.selfTest(form, (check: string) => {
          all.push({ ...JSON.parse(check), form });
          tell(all[all.length - 1]);
        });
      }
      return all;
    }
  }
}

function loaded(): WebModel {
  if (!model) throw new Error("no model is loaded");
  return model;
}

/** The core's summary as the API has it, with the browser's own words for the adapter. */
async function adapterInfo(summary: Record<string, any>): Promise<AdapterInfo> {
  const { info } = (await requestAdapter()) ?? { info: undefined };
  const features = ["f16", "timestamps"].filter((name) => summary[name]);
  const limits = Object.entries(summary).filter(([name, value]) => name.startsWith("max_") && typeof value === "number");
  const [low, high] = summary.subgroup ?? [null, null];
  return {
    vendor: info?.vendor ?? "",
    architecture: info?.architecture ?? "",
    description: info?.description ?? summary.name,
    backend: "webgpu",
    software: summary.software,
    features,
    limits: Object.fromEntries(limits) as Record<string, number>,
    subgroup: low === null ? null : low === high ? `${low}` : `${low} to ${high}`,
  };
}
