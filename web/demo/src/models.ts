/** Which model: the default one, one by URL or repository name, or a folder from this machine. */

import { type LoadOptions, type Model, type Progress, type Source, load } from "foretoken";
import { byId, bytes, counted, enable, facts, whole } from "./dom.js";
import { engine } from "./engine.js";
import { listCache, showAdapter } from "./machine.js";
import { clearNotice, notice, report } from "./notices.js";
import { setSharedModel } from "./share.js";

const FAILED = "The model could not be loaded";

/** What the download so far consists of, by file. */
let files = new Map<string, { done: number; total: number | null; cached: boolean }>();
let cancel: AbortController | null = null;
/** The loading under way. */
let loading: Promise<void> = Promise.resolve();

export function startModels(): void {
  byId("model-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = byId<HTMLInputElement>("model-source").value.trim();
    if (typed) loadNamed(typed);
    else byId("model-source").focus();
  });
  byId("model-default").addEventListener("click", () => void open({ kind: "default" }, "the default model", null));
  byId("cancel-load").addEventListener("click", () => cancel?.abort());
  for (const id of ["model-folder", "model-files"]) {
    byId<HTMLInputElement>(id).addEventListener("change", (event) => {
      const input = event.target as HTMLInputElement;
      const picked = [...(input.files ?? [])];
      // The same folder can be picked again.
      input.value = "";
      openFiles(picked);
    });
  }
  startDropping();
  engine.onChange(() => {
    for (const id of ["model-load", "model-default", "model-folder", "model-files"]) {
      enable(byId<HTMLInputElement>(id), !engine.loading && !engine.busy);
    }
  });
}

/** The address of what was typed: a URL as it is, `owner/name` on the Hugging Face hub. */
export function address(typed: string): string | null {
  const repository = /^([\w.-]+\/[\w.-]+)(?:@([\w.\/-]+))?$/.exec(typed);
  if (repository && !typed.startsWith("."))
    return `https://huggingface.co/${repository[1]}/resolve/${repository[2] ?? "main"}/`;
  try {
    const url = new URL(typed.replace(/^(www\.)?huggingface\.co\//, "https://huggingface.co/"), location.href);
    if (!/^https?:$/.test(url.protocol)) return null;
    // People copy the address of the repository's page, of a folder in it, or of a file.
    const page = /^\/([\w.-]+\/[\w.-]+)(?:\/(?:tree|blob|resolve)\/([^/]+)(\/.*)?)?\/?$/.exec(url.pathname);
    if (url.hostname === "huggingface.co" && page) {
      const [, repository, revision = "main", path = ""] = page;
      url.pathname = `/${repository}/resolve/${revision}${path}`;
      url.search = "";
    }
    url.pathname = url.pathname.replace(/\/(config\.json|tokenizer\.json|[^/]*\.safetensors)$/, "/").replace(/\/?$/, "/");
    return url.href;
  } catch {
    return null;
  }
}

function loadNamed(typed: string): void {
  const base = address(typed);
  if (!base) {
    notice({
      level: "error",
      key: FAILED,
      title: FAILED,
      text: `“${typed}” is neither a URL nor the name of a repository.`,
      advice: ["Give the folder's URL, https://example.org/model/, or owner/name, as in HuggingFaceTB/SmolLM2-135M."],
    });
    return;
  }
  clearNotice("offer");
  void open({ kind: "url", base }, typed, typed);
}

/** A link names a model: nobody should download gigabytes for having followed a link, so it asks. */
export function offer(typed: string): void {
  byId<HTMLInputElement>("model-source").value = typed;
  notice({
    level: "info",
    key: "offer",
    title: "This link names another model",
    text: `It was made with ${typed.length > 200 ? `${typed.slice(0, 200)} …` : typed}.`,
    action: { label: "Load it", id: "load-offered", run: () => loadNamed(typed) },
  });
}

function openFiles(picked: File[]): void {
  if (picked.length === 0) return;
  const folder = picked[0]!.webkitRelativePath.split("/")[0];
  void open({ kind: "files", files: picked }, folder || counted(picked.length, "file"), null);
}

/** Loads a model in place of the one there is. */
export async function open(source: Source, name: string, shared: string | null): Promise<void> {
  // Who asks for another model does not want the one that is on its way.
  while (engine.loading) {
    cancel?.abort();
    await loading;
  }
  loading = replace(source, name, shared);
  await loading;
}

async function replace(source: Source, name: string, shared: string | null): Promise<void> {
  if (engine.busy) {
    notice({ level: "info", key: "busy", title: "The model is busy", text: "Stop the text first, then load another model." });
    return;
  }
  clearNotice(FAILED);
  clearNotice("busy");
  clearNotice("lost");
  clearNotice("replaced");
  engine.loading = true;
  engine.changed();
  cancel = new AbortController();
  beginProgress(name);
  try {
    // Two models at once may not fit.
    const old = engine.model;
    engine.model = null;
    await old?.dispose();
    const model = await load(source, options(name, cancel.signal));
    engine.model = model;
    setSharedModel(shared);
    showModel(model);
    watch(model, source, name, shared);
  } catch (error) {
    showNone();
    if (!cancel.signal.aborted) report(FAILED, error);
  } finally {
    cancel = null;
    byId("loading").hidden = true;
    engine.loading = false;
    engine.changed();
    await listCache();
  }
}

function options(name: string, signal: AbortSignal): LoadOptions {
  const context = byId<HTMLInputElement>("load-context").valueAsNumber;
  const kernels = byId<HTMLSelectElement>("load-kernels").value as NonNullable<LoadOptions["kernels"]> | "";
  return {
    signal,
    onProgress: showProgress,
    onLost: (reason) => sayLost(name, reason),
    cache: byId<HTMLInputElement>("load-cache").checked,
    ...(Number.isFinite(context) ? { context } : {}),
    ...(kernels ? { kernels } : {}),
  };
}

/** A device that was lost is replaced while a call is under way, which then goes on. */
function sayLost(name: string, reason: string): void {
  beginProgress(`${name} on a new device`);
  notice({
    level: "warning",
    key: "replaced",
    title: "The GPU device was lost",
    text: `The model is loaded again and the text goes on as it would have gone on. The browser said: ${reason}`,
  });
}

/** A device that is lost for good takes the model with it. */
function watch(model: Model, source: Source, name: string, shared: string | null): void {
  void model.lost.then((why) => {
    if (engine.model !== model) return;
    engine.model = null;
    engine.changed();
    byId("loading").hidden = true;
    showNone();
    notice({
      level: "error",
      key: "lost",
      title: "The GPU device is lost",
      text: why,
      advice: [
        "Load the model again; if that happens often, close other tabs that use the GPU, and update its driver.",
      ],
      action: { label: "Load again", id: "load-again", run: () => void open(source, name, shared) },
    });
  });
}

function showNone(): void {
  byId("model-name").textContent = "None loaded.";
  facts(byId("model-facts"), []);
}

function showModel({ info }: Model): void {
  byId("model-name").textContent = info.name;
  facts(byId("model-facts"), [
    ["family", info.family],
    ["parameters", whole(info.parameters)],
    ["layers", whole(info.layers)],
    ["hidden size", whole(info.hidden)],
    ["vocabulary", whole(info.vocab)],
    ["context", whole(info.context)],
    ["heads", info.heads.length > 0 ? info.heads.join(", ") : "none: drafts come from the text itself"],
    ["notes", info.notes.join(" ")],
  ]);
  showAdapter(info.adapter, info.kernels);
  if (info.adapter.software) {
    notice({
      level: "warning",
      key: "software",
      title: "Computing on the processor",
      text: "WebGPU has only a software adapter here: everything is right, but slow.",
      advice: [
        "If this machine has a GPU, switch on graphics acceleration in the browser's settings and update its driver; " +
          "chrome://gpu says what is missing.",
      ],
    });
  } else {
    clearNotice("software");
  }
}

// Three reports: bytes that come, tensors that go to the GPU, pipelines that are made.

function bar(id: string, done: number, total: number | null, said: string): void {
  const progress = byId<HTMLProgressElement>(id);
  if (total === null) progress.removeAttribute("value");
  else {
    progress.max = Math.max(1, total);
    progress.value = total === 0 ? 1 : done;
  }
  byId(`${id}-said`).textContent = said;
}

function beginProgress(name: string): void {
  byId("cancel-load").hidden = cancel === null;
  files = new Map();
  byId("loading-title").textContent = `Loading ${name}`;
  byId("loading").hidden = false;
  for (const id of ["download", "upload", "warmup"]) bar(id, 0, 1, "");
}

function showProgress(progress: Progress): void {
  const { phase, done, total } = progress;
  if (phase === "upload") return bar("upload", done, total, `${bytes(done)} of ${bytes(total)}`);
  if (phase === "warmup") {
    bar("warmup", done, total, `${done} of ${total}`);
    // After a loss nobody but the reports tells of the end.
    if (done === total && !engine.loading) byId("loading").hidden = true;
    return;
  }
  files.set(progress.file, { done, total, cached: progress.cached });
  const all = [...files.values()];
  const got = all.reduce((sum, file) => sum + file.done, 0);
  const whole = all.some((file) => file.total === null) ? null : all.reduce((sum, file) => sum + file.total!, 0);
  const from = all.every((file) => file.cached) ? ", kept from before" : "";
  bar("download", got, whole, `${bytes(got)}${whole === null ? "" : ` of ${bytes(whole)}`}${from}`);
}

// Folders that are dropped anywhere on the page.

function startDropping(): void {
  const veil = byId("drop-veil");
  const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
  addEventListener("dragenter", (event) => {
    if (hasFiles(event)) veil.hidden = false;
  });
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) veil.hidden = true;
  });
  addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    // The list is only readable now; what it holds may be read later.
    const dropped = [...event.dataTransfer!.items].map((item) => item.webkitGetAsEntry());
    const plain = [...event.dataTransfer!.files];
    void gather(dropped, plain).then(openFiles, (error: unknown) => report(FAILED, error));
  });
}

async function gather(entries: (FileSystemEntry | null)[], plain: File[]): Promise<File[]> {
  const known = entries.filter((entry) => entry !== null);
  return known.length > 0 ? (await Promise.all(known.map(walk))).flat() : plain;
}

async function walk(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    // Dropped files do not say where they lay, as picked ones do.
    Object.defineProperty(file, "webkitRelativePath", { value: entry.fullPath.replace(/^\//, "") });
    return [file];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: FileSystemEntry[] = [];
  // A folder is read in portions until one is empty.
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(walk))).flat();
}
