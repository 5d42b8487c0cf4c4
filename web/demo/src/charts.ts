/** Plots by uPlot, in the page's colours: bars with whiskers, histograms, lines. */

import uPlot from "uplot";
import { percent } from "./dom.js";

/** The colours of the style sheet, so that plots follow light and dark. */
interface Colors {
  ink: string;
  muted: string;
  line: string;
  draft: string;
  model: string;
  missed: string;
  paper: string;
}

function colors(): Colors {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: of("ink"),
    muted: of("muted"),
    line: of("line"),
    draft: of("draft"),
    model: of("model"),
    missed: of("missed"),
    paper: of("paper"),
  };
}

type Build = (colors: Colors) => {
  height: number;
  options: Omit<uPlot.Options, "width" | "height">;
  data: uPlot.AlignedData;
};

const FONT = "12px system-ui, sans-serif";

/** A plot that fills its holder's width and is drawn again when that or the colour scheme changes. */
export class Plot {
  private plot: uPlot | null = null;
  private build: Build | null = null;

  constructor(private readonly holder: HTMLElement) {
    holder.setAttribute("role", "img");
    let width = 0;
    new ResizeObserver(() => {
      if (holder.clientWidth === width) return;
      width = holder.clientWidth;
      this.draw();
    }).observe(holder);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** `summary` is what the picture says, for those who do not see it. */
  show(summary: string, build: Build): void {
    this.holder.setAttribute("aria-label", summary);
    this.build = build;
    this.draw();
  }

  private draw(): void {
    const width = this.holder.clientWidth;
    if (!this.build || width === 0) return;
    const { height, options, data } = this.build(colors());
    this.plot?.destroy();
    this.plot = new uPlot(
      { legend: { show: false }, cursor: { show: false }, ...options, width, height },
      data,
      this.holder,
    );
  }
}

/** A probability with the bounds it is certified to lie in. */
export interface Bar {
  label: string;
  p: number;
  low?: number;
  high?: number;
  taken: boolean;
  drafted: boolean;
}

/** Lying bars, a token each; whiskers from `low` to `high`; a diamond where a draft named the token. */
export function distribution(plot: Plot, what: string, bars: Bar[]): void {
  const said = bars
    .slice(0, 5)
    .map((bar) => `${bar.label} ${percent(bar.p)}`)
    .join(", ");
  plot.show(`${what}: ${said}`, (color) => {
    const indices = bars.map((_, at) => at);
    const only = (taken: boolean) => bars.map((bar) => (bar.taken === taken ? bar.p : null));
    const longest = Math.max(...bars.map((bar) => bar.high ?? bar.p), 1e-6);
    const paths = uPlot.paths.bars!({ size: [0.56, 16] });
    return {
      height: 24 * bars.length + 16,
      data: [indices, only(false), only(true)],
      options: {
        padding: [4, 4, 4, 0],
        scales: {
          x: { time: false, ori: 1, dir: -1, range: [-0.6, bars.length - 0.4] },
          y: { ori: 0, dir: 1, range: [0, longest * 1.04] },
        },
        axes: [
          {
            scale: "x",
            side: 3,
            size: 84,
            font: FONT,
            stroke: color.ink,
            gap: 6,
            grid: { show: false },
            ticks: { show: false },
            splits: () => indices,
            values: () => bars.map((bar) => clipped(bar.label, 11)),
          },
          { scale: "y", show: false },
        ],
        series: [
          {},
          { scale: "y", paths, fill: color.model, stroke: color.model, width: 0, points: { show: false } },
          { scale: "y", paths, fill: color.draft, stroke: color.draft, width: 0, points: { show: false } },
        ],
        hooks: { draw: [(u) => bars.forEach((bar, at) => annotate(u, color, bar, at))] },
      },
    };
  });
}

function clipped(label: string, most: number): string {
  return label.length > most ? `${label.slice(0, most - 1)}…` : label;
}

/** What uPlot has no word for: whisker, diamond, and the number. */
function annotate(u: uPlot, color: Colors, bar: Bar, at: number): void {
  const { ctx } = u;
  const scale = devicePixelRatio;
  const y = u.valToPos(at, "x", true);
  const x = (p: number) => u.valToPos(p, "y", true);
  ctx.save();
  if (bar.low !== undefined && bar.high !== undefined) {
    ctx.strokeStyle = color.ink;
    ctx.lineWidth = 1.25 * scale;
    ctx.beginPath();
    for (const end of [bar.low, bar.high]) {
      ctx.moveTo(x(end), y - 4 * scale);
      ctx.lineTo(x(end), y + 4 * scale);
    }
    ctx.moveTo(x(bar.low), y);
    ctx.lineTo(x(bar.high), y);
    ctx.stroke();
  }
  ctx.font = `${12 * scale}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  const text = (bar.drafted ? "◆ " : "") + percent(bar.p);
  const after = x(bar.high ?? bar.p) + 6 * scale;
  const inside = after + ctx.measureText(text).width > u.bbox.left + u.bbox.width;
  if (inside) {
    // On the bar, behind the whisker's low end.
    const right = x(bar.low ?? bar.p) - 6 * scale;
    ctx.fillStyle = bar.taken ? color.paper : color.ink;
    ctx.textAlign = "right";
    ctx.fillText(text, right, y);
  } else {
    ctx.fillStyle = bar.drafted ? color.draft : color.muted;
    ctx.textAlign = "left";
    ctx.fillText(text, after, y);
  }
  ctx.restore();
}

function axes(color: Colors, x: string, y: string): uPlot.Axis[] {
  const common = { font: FONT, labelFont: FONT, stroke: color.muted, labelSize: 18, labelGap: 0 };
  const grid = { stroke: color.line, width: 1 };
  return [
    { ...common, label: x, size: 28, grid: { show: false }, ticks: { stroke: color.line, width: 1, size: 4 } },
    { ...common, label: y, size: 36, grid, ticks: { show: false } },
  ];
}

const wholeNumbers = (_: uPlot, splits: number[]) =>
  splits.map((value) => (Number.isInteger(value) ? String(value) : ""));

/** `counts[n]`: how many rounds accepted n drafts. */
export function histogram(plot: Plot, counts: number[]): void {
  const said = counts.map((count, accepted) => `${accepted}: ${count}`).join(", ");
  plot.show(`Rounds by number of accepted drafts. ${said}`, (color) => {
    const xs = counts.map((_, at) => at);
    const [x, y] = axes(color, "drafts accepted", "rounds") as [uPlot.Axis, uPlot.Axis];
    return {
      height: 190,
      data: [xs, counts],
      options: {
        padding: [16, 8, 0, 0],
        scales: {
          x: { time: false, range: [-0.6, Math.max(counts.length, 4) - 0.4] },
          y: { range: [0, Math.max(...counts, 1) * 1.1] },
        },
        axes: [
          { ...x, splits: () => xs, values: wholeNumbers, ticks: { show: false } },
          { ...y, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
        ],
        series: [
          {},
          {
            paths: uPlot.paths.bars!({ size: [0.7, 48] }),
            fill: color.draft,
            stroke: color.draft,
            width: 0,
            points: { show: false },
          },
        ],
        hooks: {
          draw: [
            (u) => {
              u.ctx.save();
              u.ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
              u.ctx.fillStyle = color.muted;
              u.ctx.textAlign = "center";
              counts.forEach(
                (count, at) =>
                  count > 0 &&
                  u.ctx.fillText(
                    String(count),
                    u.valToPos(at, "x", true),
                    u.valToPos(count, "y", true) - 4 * devicePixelRatio,
                  ),
              );
              u.ctx.restore();
            },
          ],
        },
      },
    };
  });
}

/** Tokens of each round: the model's own one, on it the accepted drafts; and the mean so far. */
export function roundsPlot(plot: Plot, tokens: number[]): void {
  let sum = 0;
  const mean = tokens.map((n, at) => (sum += n) / (at + 1));
  plot.show(`Tokens of ${tokens.length} rounds; ${(mean.at(-1) ?? 0).toFixed(2)} on average`, (color) => {
    const xs = tokens.map((_, at) => at + 1);
    const [x, y] = axes(color, "round", "tokens") as [uPlot.Axis, uPlot.Axis];
    const paths = uPlot.paths.bars!({ size: [0.8, 24] });
    const bars = { paths, width: 0, points: { show: false } };
    return {
      height: 190,
      data: [xs, tokens, tokens.map((n) => Math.min(n, 1)), mean],
      options: {
        padding: [16, 8, 0, 0],
        scales: {
          x: { time: false, range: [0.4, Math.max(tokens.length, 12) + 0.6] },
          y: { range: [0, Math.max(...tokens, 2) + 0.4] },
        },
        axes: [
          { ...x, values: wholeNumbers, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
          { ...y, incrs: [1, 2, 5, 10] },
        ],
        series: [
          {},
          { ...bars, fill: color.draft, stroke: color.draft },
          { ...bars, fill: color.model, stroke: color.model },
          { stroke: color.ink, width: 1.5, points: { show: false } },
        ],
      },
    };
  });
}

/** One run of a race: when which number of tokens was there. */
export interface Track {
  drafts: boolean;
  seconds: number[];
  tokens: number[];
}

export function racePlot(plot: Plot, tracks: Track[]): void {
  const ends = tracks.map(
    (track) =>
      `${track.drafts ? "with" : "without"} drafts ${track.tokens.at(-1) ?? 0} tokens ` +
      `in ${(track.seconds.at(-1) ?? 0).toFixed(1)} s`,
  );
  plot.show(`Tokens over seconds: ${ends.join("; ")}`, (color) => {
    const xs = [...new Set(tracks.flatMap((track) => track.seconds))].sort((a, b) => a - b);
    const place = new Map(xs.map((second, at) => [second, at]));
    const columns = tracks.map((track) => {
      const column = new Array<number | null>(xs.length).fill(null);
      track.seconds.forEach((second, at) => {
        column[place.get(second)!] = track.tokens[at]!;
      });
      return column;
    });
    const last = xs.at(-1) ?? 1;
    const most = Math.max(1, ...tracks.map((track) => track.tokens.at(-1) ?? 0));
    return {
      height: 240,
      data: [xs, ...columns] as uPlot.AlignedData,
      options: {
        padding: [12, 12, 0, 0],
        scales: { x: { time: false, range: [0, Math.max(last, 0.1)] }, y: { range: [0, most * 1.05] } },
        axes: axes(color, "seconds after the first token", "tokens"),
        series: [
          {},
          ...tracks.map((track): uPlot.Series => ({
            stroke: track.drafts ? color.draft : color.muted,
            width: 2,
            dash: track.drafts ? [] : [6, 4],
            spanGaps: true,
            points: { show: false },
          })),
        ],
      },
    };
  });
}
