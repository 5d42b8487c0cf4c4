/** How many drafts the rounds accepted, as they come in. */

import type { Round } from "foretoken";
import { Plot, histogram, roundsPlot } from "./charts.js";
import { byId, counted, eachFrame, percent, whole } from "./dom.js";

const accepted = new Plot(byId("chart-accepted"));
const sizes = new Plot(byId("chart-rounds"));

let tokens: number[] = [];
let counts: number[] = [];
let drafted = 0;
let right = 0;

const draw = eachFrame(() => {
  histogram(accepted, counts);
  roundsPlot(sizes, tokens);
  byId("rounds-said").textContent = summary();
});

export function begin(): void {
  tokens = [];
  counts = [];
  drafted = 0;
  right = 0;
  draw();
}

export function add(round: Round): void {
  tokens.push(round.ids.length);
  drafted += round.drafted;
  right += round.accepted;
  while (counts.length <= round.accepted) counts.push(0);
  counts[round.accepted]! += 1;
  draw();
}

/** Tokens a round, so far. */
export function tokensPerRound(): number {
  return tokens.reduce((sum, n) => sum + n, 0) / Math.max(1, tokens.length);
}

function summary(): string {
  if (tokens.length === 0) return "No rounds yet.";
  const total = tokens.reduce((sum, n) => sum + n, 0);
  const share =
    drafted > 0
      ? `${whole(right)} of ${counted(drafted, "draft")} right (${percent(right / drafted)})`
      : "nothing was drafted";
  const sizes = `${counted(total, "token")} in ${counted(tokens.length, "round")}`;
  return `${sizes}: ${tokensPerRound().toFixed(2)} tokens a round; ${share}.`;
}
