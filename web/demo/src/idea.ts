/**
 * The idea itself: what a model knows about the token after the next one, before the next one is known.
 *
 * Picking a token asks what stands there, given only what is before it: the next token's distribution, and the marginal
 * of the one after, sum over y of p(y) p(z | y), with bounds that hold. Beside it stands what was drafted at that very
 * place, which is what heads, or lookup where a model has none, said.
 */

import type { GenerateOptions, Marginals, Model, Round } from "foretoken";
import { type Bar, Plot, distribution } from "./charts.js";
import { byId, bytes, counted, make, percent, table, visible, whole } from "./dom.js";
import { engine } from "./engine.js";
import { report } from "./notices.js";
import * as text from "./text.js";

const TOP = 8;
const next = new Plot(byId("chart-next"));
const ahead = new Plot(byId("chart-ahead"));
const place = byId("idea-place");

/** What was picked while the model was busy. */
let waiting: number | null = null;
let shown: number | null = null;

export function startIdea(): void {
  engine.onChange(() => {
    if (!engine.ready || waiting === null) return;
    const index = waiting;
    waiting = null;
    void explain(index);
  });
  for (const id of ["idea-offset", "idea-mass", "idea-branches"]) {
    byId(id).addEventListener("change", () => {
      if (shown !== null) pickPlace(shown);
    });
  }
}

/** The text begins anew: what was picked is no place any more. */
export function forget(): void {
  waiting = null;
  shown = null;
}

/** Explains the place of the token at `index`, at once or when the model is free. */
export function pickPlace(index: number): void {
  if (text.textBefore(index) === "") {
    place.textContent = "Nothing stands before the first token; pick a later one.";
    return;
  }
  text.pick(index);
  waiting = null;
  if (engine.ready) {
    void explain(index);
  } else if (engine.model) {
    waiting = index;
    place.textContent = "As soon as the model is free …";
  }
}

async function explain(index: number): Promise<void> {
  await engine.use(async (model, signal) => {
    const prefix = text.textBefore(index);
    const offset = Number(byId<HTMLSelectElement>("idea-offset").value);
    shown = index;
    place.textContent = "Summing over what may stand in between …";
    try {
      const found = await model.marginals(prefix, {
        offset,
        mass: Number(byId<HTMLSelectElement>("idea-mass").value),
        maxBranches: Number(byId<HTMLSelectElement>("idea-branches").value),
        top: TOP,
      });
      const said = await drafts(model, prefix, offset, signal);
      await show(index, found, said, offset, model);
    } catch (error) {
      place.textContent = "That did not work.";
      report("The marginal could not be computed", error);
    }
  });
}

/** A draft, and how many places after the picked one's predecessor it stands. */
interface Said {
  ahead: number;
  draft: Round["drafts"][number];
}

/** What is drafted right after `prefix`, by heads where the model has some. */
async function drafts(model: Model, prefix: string, offset: number, signal: AbortSignal): Promise<Said[]> {
  const asked: GenerateOptions["draft"] = model.info.heads.length > 0 ? "heads" : "lookup";
  const draftLen = asked === "heads" ? offset - 1 : 3;
  const run = model.generate(prefix, { maxTokens: draftLen + 2, temperature: 0, draft: asked, draftLen, signal });
  run.result.catch(() => {});
  let before = 0;
  for await (const round of run) {
    // The first round that drafts is the one that has read nothing more than the prefix and the next token.
    if (round.drafts.length > 0) return round.drafts.map((draft, at) => ({ ahead: before + at + 1, draft }));
    before += round.ids.length;
    if (before > 1) break;
  }
  return [];
}

async function show(index: number, found: Marginals, said: Said[], offset: number, model: Model): Promise<void> {
  const taken = (ahead: number) => text.tokens[index + ahead - 1]?.id ?? null;
  const drafted = (ahead: number) => said.find((one) => one.ahead === ahead)?.draft.id ?? null;
  const bars = (top: Marginals["top"], ahead: number, whiskers: boolean) =>
    Promise.all(
      top.slice(0, TOP).map(async (entry): Promise<Bar> => ({
        label: visible((await model.decode([entry.id])) || (entry.text ?? String(entry.id))),
        p: entry.p,
        ...(whiskers ? { low: entry.low, high: entry.high } : {}),
        taken: entry.id === taken(ahead),
        drafted: entry.id === drafted(ahead),
      })),
    );
  const [now, later] = await Promise.all([bars(found.next, 1, false), bars(found.top, offset, true)]);
  byId("idea-body").hidden = false;
  byId("ahead-title").replaceChildren(
    offset === 2 ? "The one after it, " : "Two after it, ",
    make("i", {}, "p"),
    "(",
    make("i", {}, "x"),
    make("sub", {}, `t+${offset}`),
    ")",
  );
  distribution(next, "Next token", now);
  distribution(ahead, `Token ${offset} places ahead`, later);
  place.replaceChildren("After ", make("q", {}, tail(text.textBefore(index))), " comes …");
  if (!(await sameTokens(model, index)))
    place.append(" (read anew, this text falls into other tokens than it was made of)");
  byId("idea-cost").textContent = cost(found);
  byId("idea-table").replaceChildren(
    table(
      "Next token",
      ["next", "p"],
      now.map((bar) => [name(bar), percent(bar.p)]),
    ),
    table(
      `Token ${offset} places ahead`,
      [`${offset} ahead`, "p", "at least", "at most"],
      later.map((bar) => [name(bar), percent(bar.p), percent(bar.low!), percent(bar.high!)]),
    ),
  );
  showDrafts(said, model);
}

/** Whether the text before a place, read anew, has the tokens that it was made of. */
async function sameTokens(model: Model, index: number): Promise<boolean> {
  const made = text.tokens.slice(0, index).map((token) => token.id);
  const read = await model.encode(text.textBefore(index));
  return made.join() === read.slice(read.length - made.length).join();
}

function name(bar: Bar): string {
  return bar.label + (bar.taken ? " (in the text)" : "") + (bar.drafted ? " (drafted)" : "");
}

function cost(found: Marginals): string {
  const { branches, mass_covered, capped, entropy, cost } = found;
  const cut = capped ? " More branches would make the bounds narrower." : "";
  return (
    `Summed over ${counted(branches, "branch", "branches")} with ${percent(mass_covered)} of the mass; the whiskers ` +
    `hold the full sum for certain. Entropy ${entropy.toFixed(2)} nats; ${counted(cost.rows, "row")} in ` +
    `${counted(cost.chunks, "pass", "passes")}, ${bytes(cost.bytes)} read.${cut}`
  );
}

function showDrafts(said: Said[], model: Model): void {
  const heads = model.info.heads.length > 0;
  byId("said-title").textContent = heads ? "What the heads said" : "What was drafted";
  const rows = said.map(({ ahead, draft }) => [
    place_(ahead),
    code(draft.text),
    percent(draft.p),
    whole(draft.rank + 1),
    verdict(draft),
  ]);
  const note = heads
    ? null
    : make(
        "p",
        { class: "muted small" },
        "This model has no multi-token heads, so drafts are looked up in the text itself: what followed its last ",
        "tokens where they stood before.",
        rows.length === 0 ? " They stood nowhere before." : null,
      );
  const drawn =
    rows.length > 0
      ? [
          make(
            "div",
            { class: "scroll" },
            table("Drafts after this place", ["place", "draft", "its p", "rank", "model says"], rows),
          ),
        ]
      : [];
  byId("idea-drafts").replaceChildren(...drawn, ...(note ? [note] : []));
}

function place_(ahead: number): HTMLElement {
  return make("span", {}, make("i", {}, "x"), make("sub", {}, `t+${ahead}`));
}

function verdict(draft: Said["draft"]): HTMLElement {
  return draft.accepted
    ? make("span", { class: "pass" }, "✓ the same")
    : make("span", {}, "✗ ", code(draft.targetText));
}

function code(value: string): HTMLElement {
  return make("code", {}, visible(value));
}

/** The last words before the place. */
function tail(prefix: string): string {
  const flat = prefix.replace(/\n+/g, "⏎").replace(/\s+/g, " ");
  return flat.length > 48 ? `… ${flat.slice(-46).replace(/^\S*\s/, "")}` : flat;
}
