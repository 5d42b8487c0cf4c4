/** Loading and leaving: memory comes back, and a browser that cannot run a model says why. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { open, settledBytes } from "./browser.mjs";

/** Opens a page for one test. */
async function visit(context, options) {
  const tab = await open(options);
  context.after(tab.close);
  return tab;
}

/** Loads the default model, generates a little and leaves; buffers in between and after. */
const loadAndLeave = async () => {
  const model = await foretoken.load({ kind: "default" });
  await model.generate("Once", { maxTokens: 4 }).result;
  const during = await model.buffers();
  await model.dispose();
  return { during, after: await model.buffers() };
};

test("dispose frees every GPU buffer, and ten loads leave the browser's memory as it was", async (context) => {
  const LOADS = 10;
  // The first loads fill the caches of the browser and its driver.
  const WARM = 4;
  const { page, problems } = await visit(context, { args: ["--enable-unsafe-webgpu", "--js-flags=--expose-gc"] });
  const sizes = [];
  for (let load = 0; load < LOADS; load++) {
    const { during, after } = await page.evaluate(loadAndLeave);
    assert.ok(during > 50, `${during} buffers`);
    assert.equal(after, 0);
    await page.evaluate(() => gc());
    sizes.push(await settledBytes(page));
  }
  context.diagnostic(sizes.map((size) => `${(size / 2 ** 20).toFixed(0)} MiB`).join(", "));
  const grown = Math.min(...sizes.slice(-2)) - Math.min(...sizes.slice(WARM - 2, WARM));
  // A model that stayed would add its 7 MB of weights, cache and wasm to each of the loads in between.
  assert.ok(grown < (LOADS - WARM) * 4 * 2 ** 20, `the browser has grown by ${(grown / 2 ** 20).toFixed(0)} MiB`);
  assert.deepEqual(problems, []);
});

/** The error of a load. */
const refusal = () =>
  foretoken.load({ kind: "default" }).then(
    () => null,
    ({ name, kind, message, advice }) => ({ name, kind, message, advice }),
  );

for (const [what, options, message, advice] of [
  ["that offers no GPU", { args: ["--disable-gpu"] }, /no GPU to offer/, /chrome:\/\/flags/],
  // Browsers hide WebGPU from pages that anyone on the way could have changed.
  ["that has no WebGPU for this page", { host: "foretoken.test" }, /has no WebGPU/, /https/],
]) {
  test(`a browser ${what} says so, and what to do`, async (context) => {
    const { page, problems } = await visit(context, options);
    const error = await page.evaluate(refusal);
    assert.equal(error?.name, "ForetokenError");
    assert.equal(error.kind, "Adapter");
    assert.match(error.message, message);
    assert.match(error.advice, advice);
    assert.deepEqual(problems, []);
  });
}

test("loading can be given up at any time", async (context) => {
  const { page } = await visit(context);
  for (const phase of ["download", "upload", "warmup"]) {
    const kind = await page.evaluate(async (phase) => {
      const controller = new AbortController();
      const onProgress = (step) => step.phase === phase && controller.abort();
      const load = foretoken.load({ kind: "default" }, { signal: controller.signal, onProgress });
      return load.then(() => "loaded", (error) => error.kind);
    }, phase);
    assert.equal(kind, "Abort", phase);
  }
  assert.equal((await page.evaluate(loadAndLeave)).after, 0);
});

test("what is wrong with a call is said", async (context) => {
  const { page } = await visit(context);
  const errors = await page.evaluate(async () => {
    const BASES = ["/model/?key=1", "ftp://somewhere/model/", "http://me:secret@somewhere/model/"];
    const kinds = [];
    const refused = async (work) => {
      const error = await Promise.resolve().then(work).then(() => ({}), (error) => error);
      kinds.push([error.name, error.kind, error.message]);
    };
    for (const source of ["http://somewhere/", {}, undefined, { kind: "url" }, ...BASES.map((base) => ({ kind: "url", base }))]) await refused(() => foretoken.load(source));
    const model = await foretoken.load({ kind: "default" });
    for (const prompt of [123, undefined, null]) await refused(() => model.generate(prompt).result);
    for (const options of [{ temperature: NaN }, { maxTokens: Infinity }, { seed: 5n }, { topK: () => 1 }, { offset: 7 }])
      await refused(() => model.generate("Once", options).result);
    await refused(() => model.generate("Once", null).result);
    await refused(() => model.score(5));
    await refused(() => model.encode({}));
    for (const ids of ["abc", [-1], [1.5], [2 ** 32]]) await refused(() => model.decode(ids));
    await refused(() => model.marginals("Once", { mass: NaN }));
    await refused(() => model.marginals("Once", { offset: 9 }));
    // It is as it was.
    const { ids } = await model.generate("Once", { maxTokens: 3 }).result;
    await model.dispose();
    return { kinds, length: ids.length };
  });
  for (const [name, kind, message] of errors.kinds) {
    assert.equal(name, "ForetokenError", message);
    assert.equal(kind, "Input", message);
  }
  assert.equal(errors.length, 3);
});

test("a call on a model that was left is refused", async (context) => {
  const { page } = await visit(context);
  const messages = await page.evaluate(async () => {
    const model = await foretoken.load({ kind: "default" });
    const under = model.generate("Once", { maxTokens: 400 }).result.catch((error) => error.message);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await model.dispose();
    await model.dispose();
    const later = await model.score("Once upon a time").catch((error) => error.message);
    return [await under, later];
  });
  for (const message of messages) assert.match(message, /disposed of; load it again/);
});
