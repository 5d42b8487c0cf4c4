/** Generate and Stop. */

import type { Model, Stop } from "foretoken";
import { byId, counted, enable } from "./dom.js";
import { engine, isAbort } from "./engine.js";
import { forget } from "./idea.js";
import { clearNotice, notice, report } from "./notices.js";
import * as rounds from "./rounds.js";
import * as settings from "./settings.js";
import { noteInAddress } from "./share.js";
import * as text from "./text.js";

const meter = byId("meter");
const FAILED = "The text could not be generated";
const UNEXPECTED = "About this prompt";
let mine = false;

export function startGenerate(): void {
  const button = byId<HTMLButtonElement>("generate");
  const stop = byId<HTMLButtonElement>("stop");
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (engine.ready && settings.valid()) void generate();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId<HTMLFormElement>("form").requestSubmit();
  });
  byId("new-seed").addEventListener("click", () => {
    byId<HTMLInputElement>("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]! % 1_000_000);
  });
  stop.addEventListener("click", () => engine.stop());
  engine.onChange(() => {
    enable(stop, mine && engine.busy);
    enable(button, engine.ready);
  });
}

async function generate(): Promise<void> {
  clearNotice(FAILED);
  clearNotice(UNEXPECTED);
  mine = true;
  await engine.use(async (model, signal) => {
    try {
      await stream(model, signal);
    } catch (error) {
      byId("status").textContent = isAbort(error) ? "Stopped." : FAILED;
      report(FAILED, error);
    } finally {
      text.end();
      mine = false;
    }
  });
}

async function stream(model: Model, signal: AbortSignal): Promise<void> {
  noteInAddress();
  const prompt = settings.prompt();
  byId("status").textContent = "Generating.";
  meter.textContent = "Reading the prompt …";
  forget();
  rounds.begin();
  noteOn(await model.notes(await text.begin(model, prompt)));
  const run = model.generate(prompt, { ...settings.options(), signal });
  // Whoever stops reading rounds does not want the result either.
  run.result.catch(() => {});
  let tokens = 0;
  let first = 0;
  try {
    for await (const round of run) {
      text.add(round);
      rounds.add(round);
      const now = performance.now();
      if (tokens === 0) first = now;
      tokens += round.ids.length;
      const rate = now > first ? ` · ${((1000 * (tokens - 1)) / (now - first)).toFixed(1)} tokens/s` : "";
      meter.textContent = `${counted(tokens, "token")} · ${rounds.tokensPerRound().toFixed(2)} a round${rate}`;
    }
  } catch (error) {
    if (!signal.aborted && !isAbort(error)) throw error;
  }
  if (signal.aborted) {
    meter.textContent += " · stopped";
    byId("status").textContent = `Stopped after ${counted(tokens, "token")}.`;
    return;
  }
  const result = await run.result;
  const drafts = result.off_reason
    ? ` · ${result.off_reason}`
    : result.drafter === "off"
      ? ""
      : ` · drafts from ${FROM[result.drafter] ?? result.drafter}`;
  meter.textContent =
    `${counted(result.new_tokens, "token")} · ${rounds.tokensPerRound().toFixed(2)} a round · ` +
    `${result.tokens_per_s.toFixed(1)} tokens/s · prompt: ${counted(result.prompt_tokens, "token")} in ` +
    `${result.prefill_s.toFixed(2)} s · ended: ${STOPS[result.stop]}${drafts}`;
  byId("status").textContent = `Done: ${counted(result.new_tokens, "token")}.`;
}

/** Says what one may not expect of the prompt's tokens. */
function noteOn(notes: string[]): void {
  if (settings.marked()) notes.unshift("the text begins with a byte order mark, which is no text and was left out");
  if (notes.length > 0) notice({ level: "info", key: UNEXPECTED, title: UNEXPECTED, text: notes.join("; ") });
}

const FROM: Record<string, string> = { lookup: "the text", heads: "the heads", marginal: "the marginal" };
const STOPS: Record<Stop, string> = {
  eos: "by the model",
  length: "at the length asked for",
  stop_text: "at the stop text",
  interrupt: "stopped",
};
