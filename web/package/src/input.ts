/** What callers may get wrong, said before it reaches the worker: messages and JSON would drop it or turn it into something else. */

import { plainError } from "./errors.js";

const wrong = (name: string, expected: string, got: unknown) =>
  plainError("Input", `${name}: expected ${expected}, got ${typeof got === "number" ? got : got === null ? "null" : typeof got}`);

/** Refuses texts that are none, ids that are none, and options that are no plain data. */
export function check(question: object): void {
  for (const [name, value] of Object.entries(question)) {
    if ((name === "prompt" || name === "text") && typeof value !== "string") throw wrong(name, "a text", value);
    if (name === "ids") checkIds(value);
    if (name === "options") checkOptions(value);
  }
}

function checkIds(ids: unknown): void {
  if (!Array.isArray(ids)) throw wrong("ids", "an array of token ids", ids);
  const at = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id > 0xffff_ffff);
  if (at >= 0) throw wrong(`ids[${at}]`, "a token id", ids[at]);
}

function checkOptions(options: unknown): void {
  if (typeof options !== "object" || options === null) throw wrong("options", "an object", options);
  for (const [name, value] of Object.entries(options)) {
    const plain = value === undefined || ["string", "boolean"].includes(typeof value) || Array.isArray(value);
    if (!plain && !Number.isFinite(value)) throw wrong(name, "a finite number, a text or true or false", value);
  }
}
