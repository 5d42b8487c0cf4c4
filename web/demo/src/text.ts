/**
 * The text, token by token, each round visible: what was drafted and accepted is marked apart from the token that the
 * model itself said at the round's end.
 *
 * To assistive technology the tokens are a list box: one stop of the Tab key, arrows go from token to token, Enter
 * picks the place that the panel beside it explains. What streams is read out from a live region of its own, a piece at a
 * time, because a list that grows would be read token by token.
 */

import type { Model, Round } from "foretoken";
import { byId, make, percent, visible } from "./dom.js";

type Draft = Round["drafts"][number];

export interface Token {
  /** The start token, which has no text; then the prompt's; then the model's; and the place after the last one. */
  kind: "prompt" | "accepted" | "verified" | "end";
  id: number | null;
  text: string;
  /** The round that brought it, counted from 1. */
  round: number;
  /** What was drafted for this place, where the drafts of its round reached it. */
  draft: Draft | null;
  /** Drafts behind a wrong one, which nothing came of. */
  beyond: Draft[];
}

/** The text so far. */
export const tokens: Token[] = [];

const holder = byId("text");
const card = byId("token-card");
let elements: HTMLElement[] = [];
let rounds = 0;
let picked = -1;
let described: HTMLElement | null = null;
let onPick: (index: number) => void = () => {};

/** Texts of single tokens, as the model's tokenizer has them. */
let pieces = new Map<number, string>();
let piecesOf: Model | null = null;

async function piece(model: Model, id: number): Promise<string> {
  if (piecesOf !== model) {
    pieces = new Map();
    piecesOf = model;
  }
  let text = pieces.get(id);
  if (text === undefined) {
    text = await model.decode([id]);
    pieces.set(id, text);
  }
  return text;
}

/**
 * Deals a text out to the tokens it came from. A decoder drops spaces at the start and holds back half characters, so pieces
 * are looked for in the text. What lies before a piece belongs to the first of those that were not found before it, at
 * most a character each, and what is left at the end to the last token.
 */
export function deal(text: string, parts: string[]): string[] {
  const dealt = parts.map(() => "");
  let at = 0;
  let missing = -1;
  parts.forEach((part, index) => {
    const found = part === "" ? -1 : text.indexOf(part, at);
    const skipped = text.slice(at, Math.max(at, found));
    const mine = skipped.trim() === "";
    if (found < 0 || (!mine && (missing < 0 || [...skipped].length > index - missing))) {
      if (missing < 0) missing = index;
      return;
    }
    if (!mine) dealt[missing] = skipped;
    dealt[index] = mine ? skipped + part : part;
    at = found + part.length;
    missing = -1;
  });
  if (parts.length > 0) dealt[parts.length - 1] += text.slice(at);
  return dealt;
}

/** Empties the text and puts the prompt's tokens there; gives back their ids. */
export async function begin(model: Model, prompt: string): Promise<number[]> {
  tokens.length = 0;
  elements = [];
  rounds = 0;
  picked = -1;
  hideCard();
  spoken = "";
  byId("live").textContent = "";
  byId("text-empty").hidden = true;
  byId("legend").hidden = false;
  holder.replaceChildren();
  holder.setAttribute("aria-busy", "true");
  const ids = await model.encode(prompt);
  // The model will refuse it: so many tokens need not be shown.
  if (ids.length > model.info.context) return ids;
  const texts = deal(prompt, await wordless(model, ids, prompt));
  ids.forEach((id, at) => {
    if (texts[at] !== "") append({ kind: "prompt", id, text: texts[at]!, round: 0, draft: null, beyond: [] });
  });
  return ids;
}

/** The pieces of a prompt's ids; a start token is no part of the text, whatever it decodes to. */
async function wordless(model: Model, ids: number[], prompt: string): Promise<string[]> {
  const texts = await Promise.all(ids.map((id) => piece(model, id)));
  if (texts[0] && !prompt.trimStart().startsWith(texts[0].trim())) texts[0] = "";
  return texts;
}

/** A round has come. The model is busy with the next one, so what a token's piece is must follow from the round. */
export function add(round: Round): void {
  const drafts = round.drafts.filter((draft) => draft.accepted);
  const texts = deal(
    round.text,
    round.ids.map((_, at) => drafts[at]?.text ?? ""),
  );
  rounds += 1;
  const group = make("span", { class: "round", role: "presentation" });
  holder.append(group);
  round.ids.forEach((id, at) => {
    // A chain's k-th draft is for the k-th token; the first wrong one stands against what the model said instead.
    const draft = at <= round.accepted ? (round.drafts[at] ?? null) : null;
    const kind = at < round.accepted ? "accepted" : "verified";
    const beyond = kind === "verified" ? round.drafts.slice(at + 1) : [];
    append({ kind, id, text: texts[at]!, round: rounds, draft, beyond }, group);
  });
  speak(round.text);
}

/** The text is complete: the place after it can be picked too. */
export function end(): void {
  holder.setAttribute("aria-busy", "false");
  speak("", true);
  if (tokens.length > 0 && tokens.at(-1)!.kind !== "end") {
    append({ kind: "end", id: null, text: "", round: 0, draft: null, beyond: [] });
  }
}

function append(token: Token, group: HTMLElement = holder): void {
  const index = tokens.length;
  const missed = token.kind === "verified" && token.draft !== null && !token.draft.accepted;
  const element = make("span", {
    class: `token ${token.kind}${missed ? " missed" : ""}${token.text === "" && token.kind !== "end" ? " silent" : ""}`,
    role: "option",
    "aria-selected": "false",
    "aria-label": label(token),
    tabindex: index === 0 ? 0 : -1,
    "data-index": index,
    "data-kind": token.kind,
    "data-id": token.id ?? undefined,
  });
  // The space before a word stands outside its mark: at the end of a line it would be marked where no word is.
  const [, space, rest] = /^( *)([^]*)$/.exec(token.text)!;
  element.append(token.kind === "end" ? "⋯" : rest === "" ? token.text : rest!);
  tokens.push(token);
  elements.push(element);
  if (rest !== "") group.append(space!);
  group.append(element);
}

function label(token: Token): string {
  const text = token.text.trim() === "" ? visible(token.text) : token.text.trim();
  switch (token.kind) {
    case "prompt":
      return `${text}, prompt`;
    case "accepted":
      return `${text}, draft accepted, ${rankOf(token.draft)}`;
    case "verified":
      return token.draft && !token.draft.accepted ? `${text}, instead of the draft ${token.draft.text}` : text;
    case "end":
      return "after the text";
  }
}

function rankOf(draft: Draft | null): string {
  return draft ? `rank ${draft.rank + 1}, probability ${percent(draft.p)}` : "";
}

/** The text before the token at `index`. */
export function textBefore(index: number): string {
  return tokens
    .slice(0, index)
    .map((token) => token.text)
    .join("");
}

// What is read out: pieces that end where a sentence does, or every few seconds.

let spoken = "";
let spokenAt = 0;

function speak(text: string, last = false): void {
  spoken += text;
  const now = performance.now();
  if (last || /[.!?\n]["”]?\s*$/.test(spoken) || now - spokenAt > 4000) {
    if (spoken.trim() !== "") byId("live").textContent = spoken;
    spoken = "";
    spokenAt = now;
  }
}

// The card beside a token.

function showCard(index: number): void {
  const token = tokens[index];
  const element = elements[index];
  if (!token || !element || token.kind === "end") return hideCard();
  card.replaceChildren(...describe(token));
  card.hidden = false;
  described?.removeAttribute("aria-describedby");
  described = element;
  element.setAttribute("aria-describedby", "token-card");
  const at = element.getClientRects()[0] ?? element.getBoundingClientRect();
  const { width, height } = card.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left), document.documentElement.clientWidth - width - 8);
  const below = at.bottom + 6;
  const top = below + height > innerHeight - 8 && at.top - height - 6 > 8 ? at.top - height - 6 : below;
  card.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

export function hideCard(): void {
  card.hidden = true;
  described?.removeAttribute("aria-describedby");
  described = null;
}

function describe(token: Token): HTMLElement[] {
  const lines = [make("p", { class: "card-title" }, make("code", {}, visible(token.text)), ` ${ROLE[token.kind]}`)];
  const entries: [string, string][] = [];
  if (token.kind !== "prompt") entries.push(["round", String(token.round)]);
  if (token.draft) entries.push(...drafted(token.draft, token.kind === "accepted"));
  const list = make(
    "dl",
    {},
    ...entries.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))),
  );
  if (entries.length > 0) lines.push(list as unknown as HTMLParagraphElement);
  if (token.kind === "verified" && !token.draft)
    lines.push(make("p", { class: "muted" }, "Nothing was drafted for this place."));
  if (token.beyond.length > 0) {
    const lost = token.beyond.map((draft) => visible(draft.text)).join(" ");
    lines.push(make("p", { class: "muted" }, "Drafted behind it, in vain: ", make("code", {}, lost)));
  }
  return lines;
}

const ROLE = { prompt: "from the prompt", accepted: "drafted, and right", verified: "said by the model", end: "" };

function drafted(draft: Draft, right: boolean): [string, string][] {
  const entries: [string, string][] = [];
  if (!right) entries.push(["draft", visible(draft.text)]);
  entries.push([right ? "probability" : "its probability", percent(draft.p)]);
  entries.push([right ? "rank" : "its rank", draft.rank === 0 ? "1, the likeliest" : String(draft.rank + 1)]);
  entries.push(["the model preferred", draft.target === draft.id ? "the same" : visible(draft.targetText)]);
  return entries;
}

// Pointer and keyboard.

function indexOf(target: EventTarget | null): number {
  const element = target instanceof Element ? target.closest<HTMLElement>(".token") : null;
  return element?.dataset["index"] === undefined ? -1 : Number(element.dataset["index"]);
}

function focus(index: number): void {
  const element = elements[index];
  if (!element) return;
  for (const other of holder.querySelectorAll('[tabindex="0"]')) other.setAttribute("tabindex", "-1");
  element.setAttribute("tabindex", "0");
  element.focus();
}

/** Marks the place that is explained. */
export function pick(index: number): void {
  elements[picked]?.setAttribute("aria-selected", "false");
  picked = index;
  elements[index]?.setAttribute("aria-selected", "true");
}

/** The token in the line above or below that is nearest in x. */
function neighbourLine(index: number, step: 1 | -1): number {
  const here = elements[index]!.getBoundingClientRect();
  let best = index;
  let line: number | null = null;
  for (let at = index + step; at >= 0 && at < elements.length; at += step) {
    const there = elements[at]!.getBoundingClientRect();
    if (Math.abs(there.top - here.top) < here.height / 2) continue;
    line ??= there.top;
    if (Math.abs(there.top - line) > here.height / 2) break;
    const distance = (i: number) => Math.abs(elements[i]!.getBoundingClientRect().left - here.left);
    if (best === index || distance(at) < distance(best)) best = at;
  }
  return best;
}

export function startText(whenPicked: (index: number) => void): void {
  onPick = whenPicked;
  holder.addEventListener("pointerover", (event) => {
    const index = indexOf(event.target);
    if (index >= 0) showCard(index);
  });
  holder.addEventListener("pointerleave", hideCard);
  holder.addEventListener("focusin", (event) => showCard(indexOf(event.target)));
  holder.addEventListener("focusout", hideCard);
  addEventListener("scroll", hideCard, { passive: true });
  holder.addEventListener("click", (event) => {
    const index = indexOf(event.target);
    if (index < 0) return;
    focus(index);
    onPick(index);
  });
  holder.addEventListener("keydown", (event) => {
    const index = indexOf(event.target);
    if (index < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const goal = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: elements.length - 1 }[event.key];
    if (goal !== undefined) focus(goal);
    else if (event.key === "ArrowDown") focus(neighbourLine(index, 1));
    else if (event.key === "ArrowUp") focus(neighbourLine(index, -1));
    else if (event.key === "Enter" || event.key === " ") onPick(index);
    else if (event.key === "Escape") hideCard();
    else return;
    event.preventDefault();
  });
}
