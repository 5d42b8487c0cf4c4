/** What a readback that takes 100 ms costs: tokens a second with it over tokens a second without, in alternation. */

import { generate, openLate } from "./readback.mjs";

const DELAYS = [0, 100];
const REPEATS = 5;

const tabs = [];
for (const delay of DELAYS) tabs.push(await openLate(delay));
const rates = DELAYS.map(() => []);
// The first texts teach how long a round takes.
for (let repeat = -1; repeat < REPEATS; repeat++) {
  for (const [at, tab] of tabs.entries()) {
    const { tokens_per_s } = await generate(tab, { maxTokens: 200, draft: "off", temperature: 1, seed: 3 });
    if (repeat >= 0) rates[at].push(tokens_per_s);
  }
}
const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
const [prompt, late] = rates.map(median);
console.log(`readbacks at once: ${prompt.toFixed(1)} tokens/s; 100 ms late: ${late.toFixed(1)} tokens/s; ratio ${(late / prompt).toFixed(2)}`);
await Promise.all(tabs.map((tab) => tab.close()));
