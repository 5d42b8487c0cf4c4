/**
 * Where the time of scripts/test.sh went: the minutes of each part and the slowest tests, printed, and all of it as JSON.
 *
 *   node scripts/test-times.mjs RECORDS OUT    RECORDS: a folder with parts.txt and a JSON file a test run; OUT: one JSON file
 */

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const SLOWEST = 20;

const [records, out] = process.argv.slice(2);
const partsFile = join(records, "parts.txt");
const parts = (existsSync(partsFile) ? readFileSync(partsFile, "utf8") : "")
  .split("\n")
  .filter(Boolean)
  .map((line) => line.split(" "))
  .map(([part, seconds]) => ({ part, minutes: Number(seconds) / 60 }));
const tests = readdirSync(records)
  .filter((name) => name.endsWith(".json"))
  .map((name) => readFileSync(join(records, name), "utf8"))
  // A run that was cut off has left nothing.
  .flatMap((text) => (text ? JSON.parse(text) : []))
  .sort((a, b) => b.seconds - a.seconds);

const commit = () => {
  try {
    return execFileSync("git", ["describe", "--always", "--dirty", "--exclude=*"], { encoding: "utf8" }).trim();
  } catch {
    return "unknown";
  }
};
writeFileSync(out, JSON.stringify({ commit: commit(), parts, tests }, null, 1));

const total = parts.reduce((sum, { minutes }) => sum + minutes, 0);
console.log("\n== minutes");
for (const { part, minutes } of [...parts, { part: "all of these", minutes: total }]) {
  console.log(`${minutes.toFixed(1).padStart(6)}  ${part}`);
}
console.log(`\n== the slowest of ${tests.length} tests, in seconds`);
for (const { seconds, part, program, name } of tests.slice(0, SLOWEST)) {
  console.log(`${seconds.toFixed(1).padStart(6)}  ${part}: ${program}: ${name}`);
}
console.log(`\nAll times: ${out}`);
