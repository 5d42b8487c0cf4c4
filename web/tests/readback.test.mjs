/** Readbacks that take 100 ms do not keep the GPU waiting. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { generate, openLate } from "./readback.mjs";

test("another submit is always on its way while a readback is awaited, however long that takes", async (context) => {
  const texts = {};
  for (const delay of [0, 100]) {
    const tab = await openLate(delay);
    context.after(tab.close);
    const text = await generate(tab, { maxTokens: 240, draft: "off" });
    assert.ok(text.readbacks > 4, `${text.readbacks} readbacks`);
    // Only the last one may be alone: nothing is left to do then.
    assert.ok(text.alone <= 1, `with ${delay} ms the GPU waited for ${text.alone} of ${text.readbacks} readbacks`);
    assert.deepEqual(tab.problems, []);
    context.diagnostic(`${delay} ms: ${text.readbacks} readbacks, ${text.rounds_per_submit.toFixed(1)} rounds a submit`);
    texts[delay] = text;
    await tab.close();
  }
  assert.deepEqual(texts[100].ids, texts[0].ids);
  // Submits have become longer, as the readback is longer than a submit would be otherwise.
  const [short, long] = [texts[0].rounds_per_submit, texts[100].rounds_per_submit];
  assert.ok(long > 1.3 * short, `${long} rounds a submit, ${short} without the delay`);
});
