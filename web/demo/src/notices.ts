/** What went wrong, said where everybody sees it, with what to do about it. */

import { byId, make } from "./dom.js";
import { isAbort } from "./engine.js";

export interface Notice {
  level: "error" | "warning" | "info";
  title: string;
  text: string;
  advice?: string[];
  action?: { label: string; id: string; run: () => void };
  /** A notice takes the place of an earlier one with the same key. */
  key?: string;
}

export function notice({ level, title, text, advice = [], action, key }: Notice): void {
  if (key) clearNotice(key);
  const close = make("button", { type: "button", class: "quiet close", "aria-label": `Close: ${title}` }, "×");
  const box = make(
    "div",
    { class: `notice ${level}`, "data-testid": `notice-${level}`, "data-key": key },
    make("h2", {}, title),
    close,
    make("p", {}, text),
  );
  if (advice.length === 1) box.append(make("p", { class: "advice" }, advice[0]!));
  if (advice.length > 1) box.append(make("ul", { class: "advice" }, ...advice.map((line) => make("li", {}, line))));
  if (action) {
    const button = make("button", { type: "button", id: action.id, "data-testid": action.id }, action.label);
    button.addEventListener("click", () => {
      box.remove();
      action.run();
    });
    box.append(make("div", { class: "actions" }, button));
  }
  close.addEventListener("click", () => box.remove());
  byId("notices").append(box);
}

export function clearNotice(key: string): void {
  byId("notices").querySelector(`[data-key="${key}"]`)?.remove();
}

/** An error of the package or of the page. Stop is none. */
export function report(doing: string, error: unknown): void {
  if (isAbort(error)) return;
  const { message, kind, advice } = (error ?? {}) as { message?: string; kind?: string; advice?: string };
  const own = advice ? [advice] : adviceFor(String(kind ?? ""));
  notice({ level: "error", title: doing, text: message ?? String(error), advice: own, key: doing });
}

function adviceFor(kind: string): string[] {
  const plain = kind.toLowerCase().replace(/[^a-z]/g, "");
  if (plain.includes("memory")) {
    return [
      "Close other tabs that use the GPU, choose a shorter context under Model, How to load, or load a smaller model.",
    ];
  }
  if (plain.includes("webgpu") || plain === "adapter") return webgpuAdvice();
  if (plain.includes("hash") || plain.includes("integrity")) {
    return [
      "The file is not what its source promised. Clear it under Machine and load again; if that does not help, " +
        "the source is damaged.",
    ];
  }
  if (plain === "device" || plain.includes("lost"))
    return ["Load the model again. If that happens often, update the graphics driver."];
  return [];
}

/** How to get WebGPU, the reader's own browser first. */
export function webgpuAdvice(): string[] {
  if (!isSecureContext) {
    return ["Browsers offer WebGPU to secure pages only: open this page by https, or as http://localhost."];
  }
  const agent = navigator.userAgent;
  const chromium =
    "Chrome, Edge (113 and later): switch on “Use graphics acceleration when available” in the settings. On Linux, or " +
    "with a driver on the block list, also enable chrome://flags/#enable-unsafe-webgpu, or start the browser with " +
    "--enable-unsafe-webgpu; chrome://gpu says what is missing.";
  const firefox =
    "Firefox: version 141 on Windows, 145 on macOS with Apple chips; elsewhere use Nightly, or set " +
    "dom.webgpu.enabled in about:config.";
  const safari = "Safari: version 26; before that, Settings, Feature Flags, WebGPU.";
  const driver = "Still nothing? Update the graphics driver: WebGPU needs Vulkan, Metal or Direct3D 12.";
  if (/Firefox\//.test(agent)) return [firefox, chromium, safari, driver];
  if (/Safari\//.test(agent) && !/Chrom/.test(agent)) return [safari, chromium, firefox, driver];
  return [chromium, firefox, safari, driver];
}
