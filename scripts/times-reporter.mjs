/** A reporter for `node --test`: the seconds of each test, as scripts/run-tests.mjs notes them of Rust's. */

import { basename } from "node:path";

export default async function* (events) {
  const times = [];
  for await (const { type, data } of events) {
    if ((type !== "test:pass" && type !== "test:fail") || data.details.type === "suite") continue;
    const outcome = type === "test:fail" ? "failed" : data.skip ? "ignored" : "ok";
    const program = data.file ? basename(data.file, ".test.mjs") : "?";
    times.push({ part: "browser", program, name: data.name, outcome, seconds: data.details.duration_ms / 1000 });
  }
  yield JSON.stringify(times);
}
