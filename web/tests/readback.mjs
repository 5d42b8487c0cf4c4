/** A browser that tells of the end of a readback late, as Firefox does, and counts what was on its way meanwhile. */

import { beforeWorker, open } from "./browser.mjs";

const lateBy = (milliseconds) => `
  globalThis.pending = 0;
  globalThis.counts = { readbacks: 0, alone: 0 };
  const { mapAsync } = GPUBuffer.prototype;
  GPUBuffer.prototype.mapAsync = async function (...rest) {
    globalThis.pending += 1;
    await mapAsync.apply(this, rest);
    if (${milliseconds} > 0) await new Promise((resolve) => setTimeout(resolve, ${milliseconds}));
    globalThis.pending -= 1;
    globalThis.counts.readbacks += 1;
    // Nothing else was asked for while this one was awaited: the GPU has nothing to do.
    if (globalThis.pending === 0) globalThis.counts.alone += 1;
  };
`;

/** The default model in such a browser. */
export async function openLate(milliseconds) {
  const tab = await open();
  await beforeWorker(tab.page, lateBy(milliseconds));
  await tab.page.evaluate(async () => {
    globalThis.model = await foretoken.load({ kind: "default" });
  });
  return tab;
}

/** A text, with the readbacks it took and how many of them the GPU waited for. */
export async function generate({ page }, options) {
  const [worker] = page.workers();
  await worker.evaluate(() => void (globalThis.counts = { readbacks: 0, alone: 0 }));
  const text = await page.evaluate((options) => model.generate("Once upon a time", options).result, options);
  return { ...text, ...(await worker.evaluate(() => globalThis.counts)) };
}
