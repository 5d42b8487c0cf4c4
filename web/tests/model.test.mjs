/** The default model in a real browser, against the native command on the same kind of adapter. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { open } from "./browser.mjs";
import { assertGreedy, generate as generateNatively, run } from "./native.mjs";

const PROMPT = "Once upon a time, there was a little fox named Tim.";

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

test("greedy ids are those of the native command", async () => {
  const [plain, expected] = await Promise.all([
    generate({ maxTokens: 48, draft: "off" }),
    generateNatively(PROMPT, 48),
  ]);
  assert.equal(expected.ids.length, 48);
  await assertGreedy(plain, expected);
  assert.equal(plain.shown.length, 48);
});

for (const [seed, sampling, drafters] of [
  [7, { temperature: 0.8, topK: 40 }, [{ draft: "heads" }, { draft: "lookup", draftLen: 3 }, { draft: "marginal", draftLen: 1 }]],
  [2026, { temperature: 1, topP: 0.95, repetitionPenalty: 1.1 }, [{ draftTree: "2,2" }]],
]) {
  test(`seed ${seed} gives the native text, whoever drafts`, async () => {
    const flag = (name) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    const flags = Object.entries({ ...sampling, seed }).flatMap(([name, value]) => [flag(name), `${value}`]);
    const [plain, expected] = await Promise.all([
      generate({ ...sampling, seed, maxTokens: 48, draft: "off" }),
      generateNatively(PROMPT, 48, ...flags),
    ]);
    assert.deepEqual(plain.ids, expected.ids);
    assert.equal(plain.text, expected.text);
    for (const drafts of drafters) {
      const drafted = await generate({ ...sampling, seed, maxTokens: 48, ...drafts });
      const name = JSON.stringify(drafts);
      assert.deepEqual(drafted.ids, plain.ids, name);
      assert.equal(drafted.text, plain.text, name);
      assert.ok(drafted.drafted > 0, `${name}: nothing was drafted`);
      assert.deepEqual(drafted.shown.flatMap((round) => round.ids), drafted.ids, name);
      assert.equal(drafted.shown.map((round) => round.text).join(""), drafted.text, name);
      const accepted = drafted.shown.flatMap((round) => round.drafts).filter((draft) => draft.accepted).length;
      assert.equal(accepted, drafted.accepted, name);
    }
  });
}

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

test("two loops over one text see the same rounds", async () => {
  const [one, two] = await tab.page.evaluate((prompt) => {
    const generation = model.generate(prompt, { maxTokens: 12 });
    const rounds = async () => {
      const seen = [];
      for await (const round of generation) seen.push(round);
      return seen;
    };
    return Promise.all([rounds(), rounds()]);
  }, PROMPT);
  assert.equal(one.flatMap((round) => round.ids).length, 12);
  assert.deepEqual(two, one);
});

test("marginals are the native ones", async () => {
  const [found, expected] = await Promise.all([
    tab.page.evaluate((prompt) => model.marginals(prompt), PROMPT),
    run("marginals", "--prompt", PROMPT),
  ]);
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
