/**
 * Writes docs/models.md, the models that work, from what tests have found.
 *
 *   node scripts/models.mjs [RESULTS...]    RESULTS: files that tests wrote to where FORETOKEN_RESULTS says; they go to docs/models.json
 *   node scripts/models.mjs --check         fails if docs/models.md is not what docs/models.json says
 */

import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";

const root = new URL("..", import.meta.url);
const at = (path) => new URL(path, root);
const read = (path) => JSON.parse(readFileSync(at(path), "utf8"));
const KEPT = "docs/models.json";
const PAGE = "docs/models.md";

/** What two results of the same comparison have in common. */
const key = ({ kind, name, adapter, kernels = "" }) => [kind, name, adapter, kernels].join("|");

/** The kept results with newer ones in place of older ones, in order. */
function merged(kept, lines) {
  const all = new Map([...kept, ...lines].map((result) => [key(result), result]));
  return [...all.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, result]) => result);
}

const table = (head, rows) =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
const distinct = (list) => [...new Set(list)];
const few = (number) => number.toExponential(1);
const most = (list) => Math.max(...list);
/** What people call a software adapter. */
const short = (adapter) => (adapter.startsWith("llvmpipe") ? "lavapipe" : adapter.split(" ")[0]);

/** Real checkpoints, a line for each and each adapter. */
function checkpoints(results) {
  const models = read("tests/real/models.json");
  const rows = results.map(({ name, adapter, found }) => {
    const { checkpoint } = models[name];
    const { log_probs, greedy, marginals, memory, audit } = found;
    const parted = greedy.parted_where_close ? ` until two were close in ${greedy.parted_where_close}` : "";
    const heads = audit.heads ? "lookup, recorded, untrained heads" : "lookup, recorded";
    return [
      checkpoint,
      Object.keys(found.stored).join(", "),
      short(adapter),
      `${few(log_probs.apart)} over ${log_probs.tokens} tokens`,
      few(log_probs.nll_apart),
      `${greedy.ids_equal}, all of ${greedy.prompts} prompts${parted}`,
      audit.equal ? `none (${heads})` : "SOME",
      `${few(marginals.apart)}, ${marginals.outside_bounds === 0 ? "none" : "SOME"} outside their bounds (${marginals.tokens})`,
      `${(100 * Math.abs(memory.inspected / memory.allocated - 1)).toFixed(1)} %, ${(100 * memory.weights_over_file).toFixed(1)} %`,
    ];
  });
  const head = [
    "checkpoint",
    "stored as",
    "adapter",
    "log-probabilities apart, at most",
    "their mean, relative",
    "greedy ids that are equal",
    "ids that drafts change",
    "marginals apart, at most",
    "memory: inspected and allocated apart; weights above the file's",
  ];
  return table(head, rows);
}

/** Families, with the fixtures that were held against transformers. */
function families(golden, gguf) {
  const folder = "tests/format/configs/";
  const published = readdirSync(at(folder)).map((file) => read(folder + file));
  const names = distinct(golden.map(({ family }) => family)).sort();
  const stored = (name) => {
    const config = read(`tests/golden/${name}/config.json`);
    const { dtype, torch_dtype } = { ...config, ...config.text_config };
    return { float32: "F32", float16: "F16", bfloat16: "BF16" }[dtype ?? torch_dtype];
  };
  const rows = names.map((family) => {
    const own = golden.filter((result) => result.family === family);
    const cases = distinct(own.map(({ name }) => name)).sort();
    const as_gguf = distinct(gguf.map(({ name }) => name)).filter((name) => cases.includes(name)).length;
    const hub = published.filter(({ config }) => (config.text_config ?? config).model_type === family).map(({ hub }) => hub);
    const ids = own.reduce((sum, { greedy_ids }) => sum + greedy_ids, 0);
    return [
      `\`${family}\``,
      hub.sort().join(", "),
      cases.join(", "),
      distinct(cases.map(stored)).sort().join(", "),
      distinct(own.map(({ adapter }) => short(adapter))).join(", "),
      few(most(own.map(({ logits_apart }) => logits_apart))),
      `all of ${ids}`,
      as_gguf ? `${as_gguf}, the same bits` : "",
    ];
  });
  const head = ["family", "configurations read of", "fixtures", "stored as", "on", "logits apart, at most", "greedy ids equal", "as GGUF"];
  return table(head, rows);
}

function page(results) {
  const of = (kind) => results.filter((result) => result.kind === kind);
  const [golden, real, gguf] = ["golden", "real", "gguf"].map(of);
  const sets = distinct(golden.map(({ kernels }) => kernels)).join(", ");
  return `# Models that work

Written by \`scripts/models.mjs\` from what tests have found (\`docs/models.json\`); nothing here is typed by hand.

## Checkpoints that were compared

Each file is held against \`transformers\` on its weights, dequantised to f32: log-probabilities of a text in English, code, German and
Japanese, in nats; greedy ids of ten prompts; and marginals two places ahead against sums by brute force.
Drafts, rows of every width and a prompt's tiles are held against rows alone, bit by bit.
\`scripts/test.sh real\` does it again; \`tests/real/expected.py\` makes what it compares with.

${real.length ? checkpoints(real) : "None yet."}

## Families

Each family has tiny random checkpoints for its every switch, held against \`transformers\` with the kernel sets ${sets}.
Differences of logits are shares of the logits' range.
A configuration of the second column is read, and what is special about it is tested, but its weights are not.

${families(golden, gguf)}
`;
}

const arguments_ = process.argv.slice(2);
const kept = existsSync(at(KEPT)) ? read(KEPT) : [];
if (arguments_[0] === "--check") {
  if (readFileSync(at(PAGE), "utf8") !== page(kept)) {
    console.error(`${PAGE} is not what ${KEPT} says: run node scripts/models.mjs`);
    process.exit(1);
  }
} else {
  const lines = arguments_.flatMap((file) => readFileSync(file, "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line)));
  const results = merged(kept, lines);
  writeFileSync(at(KEPT), `[\n${results.map((result) => JSON.stringify(result)).join(",\n")}\n]\n`);
  writeFileSync(at(PAGE), page(results));
}
