/** The page: panels are wired to each other here, and the default model is loaded. */

import { devices } from "foretoken";
import { engine } from "./engine.js";
import { startGenerate } from "./generate.js";
import { pickPlace, startIdea } from "./idea.js";
import { showAdapter, startMachine } from "./machine.js";
import { offer, open, startModels } from "./models.js";
import { notice, report, webgpuAdvice } from "./notices.js";
import { startRace } from "./race.js";
import * as settings from "./settings.js";
import { startSharing } from "./share.js";
import { startText } from "./text.js";

declare global {
  interface Window {
    foretokenStarted?: boolean;
  }
}

async function start(): Promise<void> {
  window.foretokenStarted = true;
  addEventListener("unhandledrejection", ({ reason }) => report("Something went wrong", reason));
  settings.reset();
  startText(pickPlace);
  startIdea();
  startGenerate();
  startRace();
  startModels();
  startMachine();
  startSharing(offer);
  engine.changed();
  if (!("gpu" in navigator)) {
    notice({
      level: "error",
      key: "webgpu",
      title: "This browser does not offer WebGPU",
      text: "The model runs on the GPU through WebGPU, so nothing can be generated here yet.",
      advice: webgpuAdvice(),
    });
    return;
  }
  try {
    const [adapter] = await devices();
    if (!adapter) {
      notice({
        level: "error",
        key: "webgpu",
        title: "This browser offers WebGPU, but no adapter",
        text: "The browser found no GPU driver that it trusts, so nothing can be generated here yet.",
        advice: webgpuAdvice(),
      });
      return;
    }
    showAdapter(adapter, null);
  } catch (error) {
    report("The GPU could not be opened", error);
    return;
  }
  // Unless somebody was quicker, with the model that a link names.
  if (!engine.loading && !engine.model) await open({ kind: "default" }, "the default model", null);
}

void start();
