/**
 * Runs the Rust tests of one part of scripts/test.sh, and notes how long each test took.
 *
 *   node scripts/run-tests.mjs PART RECORD    PART: cpu, device, swiftshader or real; RECORD: the file that the times go to
 *
 * The part `cpu` runs where no driver is found, so a test that needs an adapter fails there until its module is listed
 * below. libtest gives times and output as JSON only where unstable options are allowed.
 */

import { spawn, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { createInterface } from "node:readline";

/** Unit tests that open an adapter, by their modules. All others run once, in `cpu`. */
const DEVICE_MODULES = [
  "decode::audit::",
  "decode::head_tests::",
  "decode::quantized_tests::",
  "decode::recurrent_tests::",
  "decode::room_tests::",
  "decode::tests::",
  "gpu::poll::",
  "kernels::bench::",
  "kernels::tests::",
  "model::upload::",
];
/** Test programs that open none. */
const CPU_PROGRAMS = ["amd_command", "architecture", "format", "hub"];

/** Test programs that need files which the repository has not. */
const REAL_PROGRAMS = ["real"];

/** Which tests of a program a part runs: libtest's arguments, or null for none. */
const PARTS = {
  cpu: ({ unit, name }) => {
    if (unit) return DEVICE_MODULES.flatMap((module) => ["--skip", module]);
    return CPU_PROGRAMS.includes(name) ? [] : null;
  },
  /** Everything that opens an adapter. */
  device: ({ unit, name }) => {
    if (unit) return DEVICE_MODULES;
    return [...CPU_PROGRAMS, ...REAL_PROGRAMS].includes(name) ? null : [];
  },
  /** The same for a second adapter, without the command: what it reads, refuses and writes depends on no driver. */
  swiftshader: (program) => (program.package === "foretoken-native" ? null : PARTS.device(program)),
  /** Real models. */
  real: ({ unit, name }) => (!unit && REAL_PROGRAMS.includes(name) ? [] : null),
};

const [part, record] = process.argv.slice(2);
const select = PARTS[part];
if (!select || !record) {
  console.error(`usage: run-tests.mjs ${Object.keys(PARTS).join("|")} RECORD`);
  process.exit(2);
}

/** Every test program of the workspace, built. */
function build() {
  const flags = ["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"];
  const { status, stdout } = spawnSync("cargo", flags, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"], maxBuffer: 1 << 28 });
  if (status !== 0) process.exit(status ?? 1);
  const messages = stdout.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  return messages
    .filter(({ reason, executable, profile }) => reason === "compiler-artifact" && executable && profile.test)
    .map(({ executable, manifest_path, target }) => ({
      executable,
      folder: dirname(manifest_path),
      package: /^name = "(.*)"$/m.exec(readFileSync(manifest_path, "utf8"))[1],
      name: target.name,
      unit: !target.kind.includes("test"),
    }));
}

/** A line of JSON; null for what a test has printed past libtest. */
function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

/** Runs a program; gives its tests with their seconds and what they printed. */
async function run(program, filters) {
  const flags = ["-Zunstable-options", "--format=json", "--report-time", "--show-output", ...filters];
  const child = spawn(program.executable, flags, {
    cwd: program.folder,
    env: { ...process.env, CARGO_MANIFEST_DIR: program.folder, RUSTC_BOOTSTRAP: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const tests = [];
  const ended = new Promise((resolve) => child.on("close", (code, signal) => resolve(code ?? signal)));
  for await (const line of createInterface({ input: child.stdout })) {
    const event = parsed(line);
    // A test that takes long is told of before it ends.
    if (event?.type !== "test" || event.event === "started" || event.event === "timeout") continue;
    const { name, event: outcome, exec_time: seconds = 0, stdout = "" } = event;
    tests.push({ name, outcome, seconds, output: stdout });
  }
  return { tests, code: await ended };
}

const programs = build();
const times = [];
let failed = 0;
for (const program of programs) {
  const filters = select(program);
  if (filters === null) continue;
  const label = `${program.package} ${program.unit ? "unit tests" : program.name}`;
  const started = Date.now();
  const { tests, code } = await run(program, filters);
  const broken = tests.filter(({ outcome }) => outcome !== "ok" && outcome !== "ignored");
  for (const { name, outcome, output } of broken) console.log(`\n---- ${label}: ${name}: ${outcome} ----\n${output}`);
  for (const { name, output } of tests) {
    for (const line of output.matchAll(/^SKIPPED: .*$/gm)) console.log(`${label}: ${name}: ${line[0]}`);
  }
  const ignored = tests.filter(({ outcome }) => outcome === "ignored").length;
  const passed = tests.length - broken.length - ignored;
  const seconds = (Date.now() - started) / 1000;
  if (tests.length || code !== 0) {
    console.log(`${label}: ${passed} passed, ${broken.length} failed, ${ignored} ignored; ${seconds.toFixed(1)} s`);
  }
  // A program may also end without a word of a test: by a signal, or before the first.
  if (code !== 0 && broken.length === 0) console.log(`${label}: ended with ${code}`);
  if (code !== 0) failed += 1;
  times.push(...tests.map(({ name, outcome, seconds }) => ({ part: basename(record, ".json"), program: label, name, outcome, seconds })));
}
writeFileSync(record, JSON.stringify(times));
if (failed) console.log(`${part}: ${failed} test program(s) failed`);
process.exit(failed ? 1 : 0);
