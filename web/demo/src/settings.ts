/** The form: what is in it, what it means to the package, and how it fits into a link. */

import type { GenerateOptions } from "foretoken";
import { byId } from "./dom.js";

/** Everything a link restores, by the name it has there. Values are what the form shows. */
const FIELDS = {
  prompt: { id: "prompt", initial: "Tom likes red apples. Tom likes green apples. Tom likes" },
  temperature: { id: "temperature", initial: "0" },
  seed: { id: "seed", initial: "1" },
  tokens: { id: "max-tokens", initial: "96" },
  drafts: { id: "drafts", initial: "on" },
  from: { id: "drafter", initial: "auto" },
  length: { id: "draft-length", initial: "auto" },
  topk: { id: "top-k", initial: "0" },
  topp: { id: "top-p", initial: "1" },
  minp: { id: "min-p", initial: "0" },
  penalty: { id: "repetition-penalty", initial: "1" },
  stop: { id: "stop-text", initial: "" },
} as const;

type Name = keyof typeof FIELDS;
type Control = HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement;
const NAMES = Object.keys(FIELDS) as Name[];

function control(name: Name): Control {
  return byId(FIELDS[name].id) as Control;
}

function isSwitch(element: Control): element is HTMLInputElement {
  return element instanceof HTMLInputElement && element.type === "checkbox";
}

function get(name: Name): string {
  const element = control(name);
  return isSwitch(element) ? (element.checked ? "on" : "off") : element.value;
}

/** Sets a field; what the field cannot hold (a link may say anything) leaves it as it was at the start. */
function set(name: Name, value: string): void {
  const element = control(name);
  if (isSwitch(element)) {
    element.checked = value !== "off";
    return;
  }
  element.value = value;
  const refused =
    element instanceof HTMLSelectElement
      ? element.selectedIndex < 0
      : element.value !== value || !element.validity.valid;
  if (refused && name !== "prompt") element.value = FIELDS[name].initial;
}

/** The form as it is at the start. */
export function reset(): void {
  for (const name of NAMES) set(name, FIELDS[name].initial);
}

const MARK = "\uFEFF";

/** The prompt, as typed, but for the mark that some files begin with: it is pasted with them, and is no text. */
export function prompt(): string {
  return marked() ? get("prompt").slice(MARK.length) : get("prompt");
}

/** Whether the prompt was typed with that mark. */
export function marked(): boolean {
  return get("prompt").startsWith(MARK);
}

/** Whether every field holds something that makes sense; the browser points at the first that does not. */
export function valid(): boolean {
  const form = byId<HTMLFormElement>("form");
  const wrong = form.querySelector<HTMLElement>("details :invalid");
  wrong?.closest("details")?.setAttribute("open", "");
  return form.reportValidity();
}

function number(name: Name): number {
  const value = get(name);
  return Number(value === "" ? FIELDS[name].initial : value);
}

/** What the form asks of `generate`. */
export function options(): GenerateOptions {
  const asked: GenerateOptions = {
    maxTokens: number("tokens"),
    temperature: number("temperature"),
    seed: number("seed"),
    draft: get("drafts") === "on" ? (get("from") as NonNullable<GenerateOptions["draft"]>) : "off",
  };
  if (get("length") !== "auto") asked.draftLen = number("length");
  if (number("topk") > 0) asked.topK = number("topk");
  if (number("topp") < 1) asked.topP = number("topp");
  if (number("minp") > 0) asked.minP = number("minp");
  if (number("penalty") !== 1) asked.repetitionPenalty = number("penalty");
  const stop = get("stop").replaceAll("\\n", "\n");
  if (stop !== "") asked.stop = [stop];
  return asked;
}

/** The part of a link after the #: the prompt, and what is not as at the start. */
export function toHash(model: string | null): string {
  const parts = new URLSearchParams();
  for (const name of NAMES) {
    if (name === "prompt" || get(name) !== FIELDS[name].initial) parts.set(name, get(name));
  }
  if (model) parts.set("model", model);
  return `#${parts}`;
}

/** Puts a link's settings into the form, and gives the model it names. Null: it is not such a link. */
export function fromHash(hash: string): { model: string | null } | null {
  // An anchor of the page, #prompt, is none.
  if (!/^#.*=/.test(hash)) return null;
  const parts = new URLSearchParams(hash.slice(1));
  if (!parts.has("prompt")) return null;
  reset();
  for (const name of NAMES) {
    const value = parts.get(name);
    if (value !== null) set(name, value);
  }
  return { model: parts.get("model") };
}
