/** The native command on SwiftShader, which is also what Chromium computes on. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { root } from "./browser.mjs";

const native = process.env.FORETOKEN ?? `${process.env.CARGO_TARGET_DIR ?? `${root}target`}/debug/foretoken`;
const swiftshader = process.env.SWIFTSHADER ?? "/usr/lib/chromium/vk_swiftshader_icd.json";

/** The JSON of a command. */
export async function run(...args) {
  const env = { ...process.env, VK_DRIVER_FILES: swiftshader, VK_ICD_FILENAMES: swiftshader };
  const { stdout } = await promisify(execFile)(native, [...args, "--json"], { env, maxBuffer: 1 << 26 });
  return JSON.parse(stdout);
}

/** A text continued by the command, with the kernels that a browser takes on this adapter. */
export function generate(prompt, maxTokens, ...options) {
  const usual = ["--kernels", "software", "--draft", "off", "--max-tokens", `${maxTokens}`];
  return run("generate", ...usual, "--prompt", prompt, ...options);
}

/**
 * Checks that greedy ids are the command's, up to a place where its two likeliest tokens differ by less than 1e-3 in their
 * logits: there another compiler's rounding may choose.
 */
export async function assertGreedy(found, expected, ...model) {
  const at = expected.ids.findIndex((id, place) => id !== found.ids[place]);
  if (at < 0) return assert.equal(found.ids.length, expected.ids.length);
  const before = [...expected.prompt_ids, ...expected.ids.slice(0, at)];
  const { top } = await run("marginals", ...model, "--offset", "1", "--top", "2", "--ids", before.join(","));
  const margin = Math.log(top[0].p / top[1].p);
  assert.ok(margin < 1e-3, `token ${at} is ${found.ids[at]} and not ${expected.ids[at]}, with a margin of ${margin}`);
}
