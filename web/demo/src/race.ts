/** The same text with and without drafts, in turns: equal it must be; faster it may be. */

import type { GenerateOptions, Model } from "foretoken";
import { type Track, Plot, racePlot } from "./charts.js";
import { byId, counted, eachFrame, enable, make, median, table } from "./dom.js";
import { engine, isAbort } from "./engine.js";
import { clearNotice, report } from "./notices.js";
import * as settings from "./settings.js";

interface Run {
  track: Track;
  ids: number[];
  text: string;
  rounds: number;
  drafted: number;
  accepted: number;
  rate: number;
  done: boolean;
}

const FAILED = "The race broke off";
const plot = new Plot(byId("chart-race"));
const verdict = byId("race-verdict");
let runs: Run[] = [];
let mine = false;

const draw = eachFrame(() => {
  racePlot(
    plot,
    runs.map((run) => run.track),
  );
  byId("race-table").replaceChildren(
    table(
      "Runs of the race",
      ["run", "drafts", "tokens", "a round", "tokens/s"],
      runs.map((run, at) => [
        at + 1,
        make("span", { class: run.track.drafts ? "key draft" : "key plain" }, run.track.drafts ? "on" : "off"),
        run.ids.length,
        run.rounds > 0 ? (run.ids.length / run.rounds).toFixed(2) : "–",
        run.rate > 0 ? run.rate.toFixed(1) : "–",
      ]),
      { class: "numbers" },
    ),
  );
});

export function startRace(): void {
  const button = byId<HTMLButtonElement>("race");
  const stop = byId<HTMLButtonElement>("race-stop");
  button.addEventListener("click", () => {
    if (engine.ready && settings.valid()) void race();
  });
  stop.addEventListener("click", () => engine.stop());
  engine.onChange(() => {
    enable(stop, mine && engine.busy);
    enable(button, engine.ready);
  });
}

async function race(): Promise<void> {
  clearNotice(FAILED);
  mine = true;
  await engine.use(async (model, signal) => {
    runs = [];
    byId("race-body").hidden = false;
    delete verdict.dataset["equal"];
    verdict.textContent = "Running …";
    draw();
    try {
      await turns(model, signal);
      judge();
    } catch (error) {
      if (signal.aborted || isAbort(error)) {
        runs = runs.filter((run) => run.done);
        judge("Stopped. ");
      } else {
        verdict.textContent = "";
        report(FAILED, error);
      }
    } finally {
      mine = false;
      draw();
    }
  });
}

/** On, off, off, on, ...: who goes first changes, so that a machine that warms up or slows down favours nobody. */
async function turns(model: Model, signal: AbortSignal): Promise<void> {
  const prompt = settings.prompt();
  const asked = settings.options();
  const on: GenerateOptions = { ...asked, draft: asked.draft === "off" ? "auto" : (asked.draft ?? "auto") };
  const off: GenerateOptions = { ...asked, draft: "off" };
  const count = Number(byId<HTMLSelectElement>("race-turns").value);
  for (let turn = 0; turn < count; turn += 1) {
    for (const drafts of turn % 2 === 0 ? [true, false] : [false, true]) {
      verdict.textContent = `Turn ${turn + 1} of ${count}, drafts ${drafts ? "on" : "off"} …`;
      await run(model, prompt, drafts ? on : off, drafts, signal);
      if (signal.aborted) throw new DOMException("stopped", "AbortError");
    }
  }
}

async function run(
  model: Model,
  prompt: string,
  options: GenerateOptions,
  drafts: boolean,
  signal: AbortSignal,
): Promise<void> {
  const run: Run = {
    track: { drafts, seconds: [], tokens: [] },
    ids: [],
    text: "",
    rounds: 0,
    drafted: 0,
    accepted: 0,
    rate: 0,
    done: false,
  };
  runs.push(run);
  const generation = model.generate(prompt, { ...options, signal });
  generation.result.catch(() => {});
  let first = 0;
  for await (const round of generation) {
    const now = performance.now();
    if (run.rounds === 0) first = now;
    run.rounds += 1;
    run.ids.push(...round.ids);
    run.text += round.text;
    run.drafted += round.drafted;
    run.accepted += round.accepted;
    run.track.seconds.push((now - first) / 1000);
    run.track.tokens.push(run.ids.length);
    draw();
  }
  if (signal.aborted) return;
  run.rate = (await generation.result).tokens_per_s;
  run.done = true;
  draw();
}

function judge(before = ""): void {
  const [reference, ...others] = runs;
  const on = runs.filter((run) => run.track.drafts);
  const off = runs.filter((run) => !run.track.drafts);
  if (!reference || on.length === 0 || off.length === 0) {
    verdict.textContent = `${before}Nothing to compare yet.`;
    return;
  }
  const other = others.find((run) => run.text !== reference.text || run.ids.join() !== reference.ids.join());
  verdict.dataset["equal"] = String(!other);
  if (other) {
    const at = reference.ids.findIndex((id, index) => id !== other.ids[index]);
    const where = at < 0 ? Math.min(reference.ids.length, other.ids.length) : at;
    verdict.textContent =
      `${before}DIFFERENT at token ${where + 1}: do not trust drafts on this device, and please report it with what ` +
      "Machine says.";
    return;
  }
  const ratios = runs
    .flatMap((_, at) => (at % 2 === 0 && runs[at + 1] ? [pair(runs[at]!, runs[at + 1]!)] : []))
    .filter(Number.isFinite);
  const tokens = counted(reference.ids.length, "token");
  verdict.textContent =
    `${before}Equal: ${counted(runs.length, "run")} gave the same ${tokens}, id for id. ` + speed(on, off, ratios);
}

/** Rate with drafts over rate without, of two runs that went one after the other. */
function pair(a: Run, b: Run): number {
  return a.track.drafts ? a.rate / b.rate : b.rate / a.rate;
}

function speed(on: Run[], off: Run[], ratios: number[]): string {
  const [with_, without] = [median(on.map((run) => run.rate)), median(off.map((run) => run.rate))];
  if (ratios.length === 0 || !Number.isFinite(with_ / without)) return "";
  const range = ratios.length > 1 ? ` (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})` : "";
  const ratio = median(ratios);
  const why = on.every((run) => run.drafted === 0) ? " Nothing was drafted: no draft paid here." : "";
  const rates = `${with_.toFixed(1)} tokens/s with drafts, ${without.toFixed(1)} without`;
  return `${rates}: ${ratio.toFixed(2)} times as fast${range}.${why}`;
}
