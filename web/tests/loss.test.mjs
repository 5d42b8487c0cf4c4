/** The GPU's device lost in the middle of things: the model comes back, and nobody can tell from the text. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { beforeWorker, open, root } from "./browser.mjs";
import { serve } from "./server.mjs";

// Longer than a verification batch, so that it is read in another form of the products than what follows it.
const PROMPT =
  "Once upon a time, there was a little fox named Tim. Tim lived in a big forest with his mother and his two sisters. " +
  "One day, his mother said to him:";

/** Lets the test destroy the device before the n-th submit from now, which it cannot reach otherwise. */
const WATCH = `
  globalThis.destroyIn = Infinity;
  globalThis.refuseAdapters = false;
  const { createCommandEncoder } = GPUDevice.prototype;
  GPUDevice.prototype.createCommandEncoder = function (...rest) {
    globalThis.device = this;
    if (--globalThis.destroyIn === 0) this.destroy();
    return createCommandEncoder.apply(this, rest);
  };
  const { requestAdapter } = GPU.prototype;
  GPU.prototype.requestAdapter = function (...rest) {
    return globalThis.refuseAdapters ? Promise.resolve(null) : requestAdapter.apply(this, rest);
  };
`;

let tab;
before(async () => {
  tab = await open();
  await beforeWorker(tab.page, WATCH);
  await tab.page.evaluate(async () => {
    globalThis.losses = [];
    globalThis.phases = [];
    const onProgress = (step) => phases.push(step.phase);
    globalThis.model = await foretoken.load({ kind: "default" }, { onProgress, onLost: (reason) => losses.push(reason) });
    globalThis.generate = async (prompt, options) => {
      const generation = model.generate(prompt, options);
      let text = "";
      let ids = [];
      for await (const round of generation) {
        text += round.text;
        ids.push(...round.ids);
      }
      return { ...(await generation.result), shown: { text, ids } };
    };
  });
});
after(() => tab?.close());

const inWorker = (work, argument) => tab.page.workers()[0].evaluate(work, argument);
const destroyIn = (submits) => inWorker((submits) => void (globalThis.destroyIn = submits), submits);
const losses = () => tab.page.evaluate(() => losses.splice(0));

for (const [what, options] of [
  ["of single tokens", { draft: "off" }],
  ["of drawn tokens, with drafts", { draft: "lookup", draftLen: 3, temperature: 0.8, repetitionPenalty: 1.1, seed: 11 }],
  ["with heads", { draft: "heads" }],
]) {
  test(`a text ${what} goes on after the device was lost in the middle`, async () => {
    // From a model that has just been loaded, as the one that comes back has been.
    const expected = await tab.page.evaluate(([prompt, options]) => generate(prompt, options), [PROMPT, { ...options, maxTokens: 60 }]);
    assert.equal(expected.recoveries, 0);
    await tab.page.evaluate(() => phases.splice(0));
    await destroyIn(7);
    const found = await tab.page.evaluate(([prompt, options]) => generate(prompt, options), [PROMPT, { ...options, maxTokens: 60 }]);
    assert.equal(found.recoveries, 1);
    assert.deepEqual(found.ids, expected.ids);
    assert.equal(found.text, expected.text);
    assert.deepEqual(found.shown, { text: expected.text, ids: expected.ids });
    assert.equal(found.stop, expected.stop);
    const [reason, ...others] = await losses();
    assert.match(reason, /device was lost|reading back/);
    assert.deepEqual(others, []);
    const phases = await tab.page.evaluate(() => [...new Set(phases)]);
    assert.ok(phases.includes("upload") && phases.includes("warmup"), phases.join());
  });
}

test("a device lost while nothing was under way is replaced at the next call", async () => {
  const before = await tab.page.evaluate(() => model.score("Once upon a time"));
  await inWorker(() => device.destroy());
  assert.deepEqual(await tab.page.evaluate(() => model.score("Once upon a time")), before);
  assert.equal((await losses()).length, 1);
});

test("a lost device is replaced also where the cache was cleared in the meantime", async () => {
  const hub = await serve({ "/": `${root}models/default/` });
  await tab.page.evaluate(async (base) => void (globalThis.kept = await foretoken.load({ kind: "url", base })), hub.url);
  const score = () => tab.page.evaluate(() => kept.score("Once upon a time"));
  const before = await score();
  await tab.page.evaluate(() => foretoken.cache.clear());
  await tab.page.workers().at(-1).evaluate(() => device.destroy());
  assert.deepEqual(await score(), before);
  await tab.page.evaluate(() => kept.dispose());
  await hub.close();
  // The server has no file of hashes.
  tab.problems.splice(0);
});

test("a device that does not come back is lost for good, and the model says so", async () => {
  await inWorker(() => {
    globalThis.refuseAdapters = true;
    device.destroy();
  });
  const { error, later, lost } = await tab.page.evaluate(async () => {
    const refusal = (call) => call.then(() => null, ({ kind, message, advice }) => ({ kind, message, advice }));
    const error = await refusal(model.score("Once upon a time"));
    return { error, later: await refusal(model.generate("Once").result), lost: await model.lost };
  });
  assert.match(error.message, /lost and could not be had back/);
  assert.ok(error.advice);
  assert.equal(later.message, error.message);
  assert.equal(lost, error.message);
});

test("nothing was said to the console", () => assert.deepEqual(tab.problems, []));
