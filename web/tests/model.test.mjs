/** The default model in a real browser, against the native command on the same kind of adapter. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";
import { open, root } from "./browser.mjs";

const PROMPT = "Once upon a time, there was a little fox named Tim.";
const native = process.env.FORETOKEN ?? `${process.env.CARGO_TARGET_DIR ?? `${root}target`}/debug/foretoken`;
const swiftshader = process.env.SWIFTSHADER ?? "/usr/lib/chromium/vk_swiftshader_icd.json";

function run(...args) {
  const env = { ...process.env, VK_DRIVER_FILES: swiftshader, VK_ICD_FILENAMES: swiftshader };
  return JSON.parse(execFileSync(native, [...args, "--json"], { env, stdio: ["ignore", "pipe", "ignore"] }));
}

let tab;
before(async () => {
  tab = await open();
  await tab.page.evaluate(async () => {
    globalThis.progress = [];
    globalThis.model = await foretoken.load({ kind: "default" }, { onProgress: (step) => progress.push(step) });
    globalThis.generate = async (prompt, options) => {
      const rounds = [];
      const generation = model.generate(prompt, options);
      for await (const round of generation) rounds.push(round);
      return { ...(await generation.result), shown: rounds };
    };
  });
});
after(() => tab?.close());

const generate = (options) => tab.page.evaluate(([prompt, options]) => generate(prompt, options), [PROMPT, options]);

test("loading reports download, upload and warm-up", async () => {
  const phases = await tab.page.evaluate(() => [...new Set(progress.map((step) => step.phase))]);
  assert.deepEqual(phases.sort(), ["download", "upload", "warmup"]);
});

test("greedy ids are those of the native command, with drafts and without", async () => {
  const expected = run("generate", "--prompt", PROMPT, "--max-tokens", "48", "--draft", "off");
  const plain = await generate({ maxTokens: 48, draft: "off" });
  const drafted = await generate({ maxTokens: 48, draft: "lookup", draftLen: 3 });
  assert.equal(expected.ids.length, 48);
  assert.deepEqual(plain.ids, expected.ids);
  assert.deepEqual(drafted.ids, plain.ids);
  assert.ok(drafted.drafted > 0);
  for (const text of [plain, drafted]) {
    assert.deepEqual(text.shown.flatMap((round) => round.ids), text.ids);
    assert.equal(text.shown.map((round) => round.text).join(""), text.text);
  }
  const accepted = drafted.shown.reduce((sum, round) => sum + round.drafts.filter((draft) => draft.accepted).length, 0);
  assert.equal(accepted, drafted.accepted);
});

test("an abort ends the text between rounds, and the model goes on", async () => {
  const ids = await tab.page.evaluate(async (prompt) => {
    const controller = new AbortController();
    const generation = model.generate(prompt, { maxTokens: 200, draft: "off", signal: controller.signal });
    let rounds = 0;
    for await (const _ of generation) if (++rounds === 5) controller.abort();
    const { stop, ids } = await generation.result;
    return { stop, count: ids.length };
  }, PROMPT);
  assert.equal(ids.stop, "interrupt");
  assert.ok(ids.count >= 5 && ids.count < 200, `${ids.count} tokens`);
  assert.equal((await generate({ maxTokens: 4 })).ids.length, 4);
});

test("marginals are the native ones", async () => {
  const expected = run("marginals", "--prompt", PROMPT);
  const found = await tab.page.evaluate((prompt) => model.marginals(prompt), PROMPT);
  assert.equal(found.offset, 2);
  assert.deepEqual(found.top.slice(0, 3).map((token) => token.id), expected.top.slice(0, 3).map((token) => token.id));
  found.top.slice(0, 3).forEach((token, at) => assert.ok(Math.abs(token.p - expected.top[at].p) < 1e-4));
  assert.ok(found.next.length === 10);
});

test("every kernel passes its self-test", async () => {
  const checks = await tab.page.evaluate(() => model.selfTest());
  assert.ok(checks.length > 50, `${checks.length} checks`);
  assert.deepEqual(checks.filter((check) => !check.passed), []);
});

test("nothing was said to the console", () => assert.deepEqual(tab.problems, []));
