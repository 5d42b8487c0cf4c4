/** Small checkpoints of every family and dtype, some with heads, against the native command on the same kind of adapter. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { after, before, test } from "node:test";
import { open, root } from "./browser.mjs";
import { assertGreedy, generate as generateNatively } from "./native.mjs";

const FIXTURES = [
  "llama-gqa",
  "llama-rope3",
  "llama-bf16",
  "llama-odd-f16",
  "gemma2",
  "gemma3",
  "mistral",
  "neox-parallel",
  "neox-tanh",
  "qwen3_5",
];
const TOKENS = 24;

let tab;
before(async () => {
  tab = await open();
});
after(() => tab?.close());

/** Greedy texts of a fixture without drafts and with, and log-probabilities of the prompt. */
function generate(name, prompt, options = {}) {
  return tab.page.evaluate(
    async ([name, prompt, maxTokens, options]) => {
      const model = await foretoken.load({ kind: "url", base: `/golden/${name}` }, { cache: false, ...options });
      const plain = await model.generate(prompt, { maxTokens, draft: "off" }).result;
      const drafted = await model.generate(prompt, { maxTokens, draft: "lookup", draftLen: 3 }).result;
      const { logprobs } = await model.score(prompt);
      await model.dispose();
      return { plain, drafted, logprobs };
    },
    [name, prompt, TOKENS, options],
  );
}

for (const name of FIXTURES) {
  test(`greedy ids of ${name} are the native ones`, async () => {
    const folder = `${root}tests/golden/${name}`;
    const { text } = JSON.parse(readFileSync(`${folder}/expected.json`, "utf8"));
    const model = ["--model", folder];
    const [{ plain, drafted }, expected] = await Promise.all([
      generate(name, text),
      generateNatively(text, TOKENS, ...model),
    ]);
    await assertGreedy(plain, expected, ...model);
    assert.deepEqual(drafted.ids, plain.ids);
  });
}

test("a model packed in q8_0 is the native one with --quantize q8_0", async () => {
  const folder = `${root}tests/golden/llama-gqa`;
  const { text } = JSON.parse(readFileSync(`${folder}/expected.json`, "utf8"));
  const model = ["--model", folder, "--quantize", "q8_0"];
  const packed = await generate("llama-gqa", text, { quantize: "q8_0" });
  await assertGreedy(packed.plain, await generateNatively(text, TOKENS, ...model), ...model);
  assert.deepEqual(packed.drafted.ids, packed.plain.ids);
  // Rounded weights are another model.
  const stored = await generate("llama-gqa", text);
  const differences = packed.logprobs.map((logprob, at) => Math.abs(logprob - stored.logprobs[at]));
  assert.ok(Math.max(...differences) > 1e-4, `log-probabilities differ by at most ${Math.max(...differences)}`);
});

test("a format that there is not, or that a matrix cannot have, is refused", async () => {
  const refusal = (name, quantize) =>
    tab.page.evaluate(
      ([name, quantize]) =>
        foretoken.load({ kind: "url", base: `/golden/${name}` }, { cache: false, quantize }).then(
          () => null,
          ({ kind, message }) => ({ kind, message }),
        ),
      [name, quantize],
    );
  const unknown = await refusal("llama-gqa", "q4_9");
  assert.equal(unknown?.kind, "Input");
  assert.match(unknown.message, /no format 'q4_9' to pack weights in; there are: q4_0, q4_k, q6_k, q8_0/);
  const odd = await refusal("llama-odd", "q8_0");
  assert.equal(odd?.kind, "Unsupported");
  assert.match(odd.message, /tensor "model.embed_tokens.weight" cannot be packed in Q8_0: expected rows of a multiple of 32/);
});

// Heads of several layouts, in a folder with their backbone.
for (const name of ["heads-sequential", "heads-whs", "heads-medusa"]) {
  test(`${name} draft, and change nothing`, async () => {
    const golden = `${root}tests/golden/`;
    const { backbone } = JSON.parse(readFileSync(`${golden}${name}/expected.json`, "utf8"));
    const { text } = JSON.parse(readFileSync(`${golden}${backbone}/expected.json`, "utf8"));
    const files = [backbone, name].flatMap((folder) => readdirSync(golden + folder).map((file) => `${golden}${folder}/${file}`));
    await tab.page.setContent('<input type="file" multiple>');
    await tab.page.setInputFiles("input", files.filter((file) => !file.endsWith("expected.json")));
    const [{ plain, drafted }, expected] = await Promise.all([
      tab.page.evaluate(
        async ([prompt, maxTokens]) => {
          const model = await foretoken.load({ kind: "files", files: document.querySelector("input").files });
          const plain = await model.generate(prompt, { maxTokens, draft: "off" }).result;
          const drafted = await model.generate(prompt, { maxTokens, draft: "heads", draftLen: 1 }).result;
          await model.dispose();
          return { plain, drafted };
        },
        [text, TOKENS],
      ),
      generateNatively(text, TOKENS, "--model", golden + backbone),
    ]);
    await assertGreedy(plain, expected, "--model", golden + backbone);
    assert.deepEqual(drafted.ids, plain.ids);
    assert.ok(drafted.drafted > 0);
  });
}

test("nothing was said to the console", () => assert.deepEqual(tab.problems, []));
