/**
 * foretoken and transformers.js on WebGPU in one Chromium, in turns, on the same random Llama.
 *
 *     node benches/browser/bench.mjs FOLDER [--rounds 5] [--tokens 16] [--args="--flag --flag"]
 *
 * FOLDER is what make_model.py has made; web/dist is built, and `npm ci --ignore-scripts` has been run beside this file.
 * Each round starts the browser four times: each engine meets an empty profile, then, in another process, the cache that it
 * has filled. What counts is the ratio of a round. `--args` replaces the flags that let Chromium have WebGPU.
 */

import { execFileSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { beforeWorker, browserBytes, launchWith, processes, root } from "../../web/tests/browser.mjs";
import { serve } from "../../web/tests/server.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "5" },
    tokens: { type: "string", default: "16" },
    args: { type: "string", default: "--enable-unsafe-webgpu" },
  },
});
const [rounds, tokens] = [Number(flags.rounds), Number(flags.tokens)];

const VOCAB = 32000;
const SHORT = 32;
const LONG = 128;
/** Texts are generated for at least this long. */
const DECODE_MS = 4000;
/** A browser that has just started still grows by itself. */
const SETTLE_MS = 2000;

const here = fileURLToPath(new URL(".", import.meta.url));
const modules = `${here}node_modules`;
const site = await serve({
  "/": here,
  "/model/": positionals[0],
  "/foretoken/": `${root}web/dist`,
  "/transformers/": `${modules}/@huggingface/transformers/dist`,
  "/onnxruntime-web/": `${modules}/onnxruntime-web/dist`,
  "/onnxruntime-common/": `${modules}/onnxruntime-common/dist/esm`,
});

/** Counts what a thread asks of the GPU. */
const COUNTING = `
  globalThis.counts = { dispatches: 0, submits: 0, readbacks: 0 };
  const count = (type, method, what) => {
    const plain = type.prototype[method];
    type.prototype[method] = function (...rest) {
      globalThis.counts[what] += 1;
      return plain.apply(this, rest);
    };
  };
  count(GPUComputePassEncoder, "dispatchWorkgroups", "dispatches");
  count(GPUComputePassEncoder, "dispatchWorkgroupsIndirect", "dispatches");
  count(GPUQueue, "submit", "submits");
  count(GPUBuffer, "mapAsync", "readbacks");
`;

/** A prompt that shares no beginning with one of another step, so that no engine knows a part of it already. */
const prompt = (length, step) => Array.from({ length }, (_, at) => `t${((at + 1) * step) % VOCAB}`).join(" ");

/** Work in a page of a fresh browser whose profile is `profile`. */
async function visit(profile, work) {
  const context = await launchWith(profile, flags.args.split(" "));
  try {
    const [page] = context.pages();
    await page.goto(`${site.url}/index.html`);
    await page.evaluate(COUNTING);
    await beforeWorker(page, COUNTING);
    return await work(page);
  } finally {
    await context.close();
  }
}

/** Loads an engine into the page; seconds until it is there, and until the first token after a short prompt is. */
function load(page, engine, graph, text = prompt(SHORT, 7)) {
  return page.evaluate(
    async ([engine, graph, text]) => {
      const start = performance.now();
      globalThis.engines = await import("/engines.js");
      globalThis.engine = await engines[engine](graph);
      const loading = (performance.now() - start) / 1000;
      const { seconds } = await engines.timed(globalThis.engine, text, 1);
      return { about: globalThis.engine.about, loading, first: loading + seconds[0] };
    },
    [engine, graph, text],
  );
}

const generate = (page, text, most) => page.evaluate(([text, most]) => engines.timed(engine, text, most), [text, most]);

/** The thread that asks the GPU: foretoken has a worker. */
const countsOf = async (page) => (page.workers()[0] ?? page).evaluate(() => ({ ...globalThis.counts }));

/** Known where Linux tells what processes share. */
const memory = (page) => (process.platform === "linux" ? browserBytes(page) : NaN);

/** CPU seconds so far of the page's processes, and of the GPU's. */
async function cpu(page) {
  const sum = (all, kind) => all.filter(({ type }) => type === kind).reduce((seconds, { cpuTime }) => seconds + cpuTime, 0);
  const all = await processes(page);
  return { page: sum(all, "renderer"), gpu: sum(all, "GPU") };
}

/** Everything about one engine in one round. */
async function measure(engine, graph) {
  const profile = await mkdtemp(join(tmpdir(), "foretoken-bench-"));
  try {
    const cold = await visit(profile, (page) => load(page, engine, graph));
    return await visit(profile, async (page) => {
      await page.waitForTimeout(SETTLE_MS);
      const empty = await memory(page);
      const warm = await load(page, engine, graph);
      const { seconds: [prefill] } = await generate(page, prompt(LONG, 11), 1);
      const before = { cpu: await cpu(page), counts: await countsOf(page) };
      const texts = [];
      for (const start = performance.now(); performance.now() < start + DECODE_MS; ) {
        texts.push(await generate(page, prompt(SHORT, 13 + texts.length), tokens));
      }
      const after = { cpu: await cpu(page), counts: await countsOf(page) };
      const loaded = await memory(page);
      const decoding = texts.reduce((sum, { seconds }) => sum + seconds.at(-1) - seconds[0], 0);
      const each = (kind, name) => (after[kind][name] - before[kind][name]) / (texts.length * tokens);
      const found = {
        decode: (texts.length * (tokens - 1)) / decoding,
        prefill: LONG / prefill,
        loading: cold.loading,
        first: cold.first,
        loadingAgain: warm.loading,
        firstAgain: warm.first,
        pageCpu: each("cpu", "page") * 1000,
        gpuCpu: each("cpu", "gpu") * 1000,
        dispatches: each("counts", "dispatches"),
        submits: each("counts", "submits"),
        readbacks: each("counts", "readbacks"),
        memory: (loaded - empty) / 2 ** 20,
        whole: loaded / 2 ** 20,
      };
      await page.evaluate(() => engine.dispose());
      const drafts = engine === "foretoken" ? await page.evaluate(() => engines.drafts()) : null;
      return { about: warm.about, ids: texts[0].ids, found, drafts };
    });
  } finally {
    await rm(profile, { recursive: true, force: true });
  }
}

/** The first ids of a text, in a browser of its own. */
function idsOf(engine, graph) {
  return visit("", async (page) => {
    await load(page, engine, graph);
    return (await generate(page, prompt(SHORT, 13), 8)).ids;
  });
}

/** The graph that transformers.js runs: the fused one where that is right on this adapter, else the plain one. */
async function rightGraph() {
  const expected = `${await idsOf("foretoken")}`;
  for (const graph of ["model_fused", "model"]) {
    const found = `${await idsOf("transformers", graph)}`;
    const same = found === expected;
    console.log(`greedy ids of ${graph}.onnx: ${same ? "those of foretoken" : `${found}; foretoken: ${expected}`}`);
    if (same) return graph;
  }
  throw new Error("no graph gives foretoken's ids: there is nothing to compare");
}

async function adapter() {
  return visit("", async (page) => {
    const { vendor, architecture, description } = await page.evaluate(async () => {
      const { vendor, architecture, description } = (await navigator.gpu.requestAdapter()).info;
      return { vendor, architecture, description };
    });
    const version = page.context().browser().version();
    return `Chromium ${version}, adapter ${[vendor, architecture, description].filter(Boolean).join(" ")}`;
  });
}

const number = (value) => (value < 100 ? value.toPrecision(3) : value.toFixed(0));
function spread(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return `${number(median)} (${number(sorted[0])} - ${number(sorted.at(-1))})`;
}

const ROWS = {
  decode: `decode after ${SHORT} tokens, tokens/s`,
  prefill: `prefill of ${LONG} tokens, tokens/s`,
  loading: "first visit: loading, s",
  first: "first visit: until the first token, s",
  loadingAgain: "from the cache: loading, s",
  firstAgain: "from the cache: until the first token, s",
  pageCpu: "CPU of the page a token, ms",
  gpuCpu: "CPU of the GPU process a token, ms",
  dispatches: "dispatches a token",
  submits: "submits a token",
  readbacks: "readbacks a token",
  memory: "memory beyond an empty page, MiB",
  whole: "memory of the whole browser, MiB",
};

const about = await adapter();
const graph = await rightGraph();
const all = [];
for (let round = 0; round < rounds; round++) {
  const results = {};
  const engines = ["foretoken", "transformers"];
  for (const engine of round % 2 ? engines.reverse() : engines) results[engine] = await measure(engine, graph);
  const { foretoken, transformers } = results;
  if (`${foretoken.ids}` !== `${transformers.ids}`) throw new Error(`ids differ: ${foretoken.ids} and ${transformers.ids}`);
  console.error(`... round ${round + 1}: ${number(foretoken.found.decode / transformers.found.decode)} times the decode rate`);
  all.push(results);
}
site.close();

const commit = execFileSync("git", ["-C", root, "describe", "--always", "--dirty", "--abbrev=12"], { encoding: "utf8" }).trim();
console.log(`\n${about}`);
console.log(`foretoken ${commit}, ${all[0].foretoken.about}; transformers.js ${all[0].transformers.about}, ${graph}.onnx`);
console.log(`Random Llama, f32; ${rounds} rounds, ${tokens} new tokens a text, the same ids; median (lowest - highest)\n`);
const line = (...cells) => console.log(cells.map((cell, at) => (at ? cell.padStart(26) : cell.padEnd(42))).join(""));
line("", "ours over theirs", "foretoken", "transformers.js");
for (const [row, what] of Object.entries(ROWS)) {
  const [ours, theirs] = ["foretoken", "transformers"].map((engine) => all.map((results) => results[engine].found[row]));
  line(what, spread(ours.map((value, at) => value / theirs[at])), spread(ours), spread(theirs));
}
const drafts = all.map(({ foretoken }) => foretoken.drafts);
console.log("\nThe default model with drafts from its own head, over none: 96 tokens");
line("", "speed", "tokens a round");
for (const [what, speed, tokens] of [["as many as pay", "auto", "autoTokens"], ["always one", "one", "oneTokens"]]) {
  line(what, ...[speed, tokens].map((name) => spread(drafts.map((found) => found[name]))));
}
console.log(JSON.stringify({ about, commit, graph, rounds: all }));
