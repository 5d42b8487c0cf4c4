/** Small helpers for elements and for numbers that people read. */

/** The element with this id; a page without it is a mistake in the page. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return found as T;
}

type Child = Node | string | number | null | undefined | false;

/** An element with attributes and children: `make("td", { class: "number" }, 3)`. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | number | boolean | undefined> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false)
      element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** A table whose first row is its head; numbers are set to the right. */
export function table(
  caption: string,
  head: string[],
  rows: Child[][],
  attributes: Record<string, string> = {},
): HTMLTableElement {
  const cell = (child: Child) => make("td", { class: typeof child === "number" ? "number" : undefined }, child);
  return make(
    "table",
    attributes,
    make("caption", { class: "sr" }, caption),
    make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))),
  );
}

/** Terms and what they are. */
export function facts(list: HTMLElement, entries: [string, Child][]): void {
  list.replaceChildren(
    ...entries
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))),
  );
}

/** `1 token`, `2 tokens`. */
export function counted(n: number, noun: string, plural = `${noun}s`): string {
  return `${whole(n)} ${n === 1 ? noun : plural}`;
}

/** `3,221,952`. */
export function whole(n: number): string {
  return n.toLocaleString("en");
}

/** `6.1 MiB`. */
export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = n < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(n) / 10));
  return `${(n / 1024 ** unit).toFixed(unit === 0 ? 0 : 1)}\u00a0${units[unit]}`;
}

/** `75.7 %`, and two more digits where there is little. Lines do not break before a unit. */
export function percent(p: number): string {
  if (p > 0 && p < 1e-5) return "<\u00a00.001\u00a0%";
  return `${(100 * p).toFixed(p < 0.01 ? 3 : 1)}\u00a0%`;
}

/** A token's text as one sees it: spaces and line ends as signs. */
export function visible(text: string): string {
  const seen = text.replace(/^[Ġ▁]/, " ").replaceAll("Ċ", "\n");
  if (seen === "") return "∅";
  return seen.replace(/^ /, "␣").replace(/ $/, "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

let focused: Control | null = null;
type Control = HTMLButtonElement | HTMLInputElement;

/** Whether a control can be used. One that had the focus gets it back, unless it has gone elsewhere meanwhile. */
export function enable(control: Control, on: boolean): void {
  if (control.disabled === !on) return;
  if (!on && document.activeElement === control) focused = control;
  control.disabled = !on;
  if (!on || focused !== control) return;
  focused = null;
  if (document.activeElement === null || document.activeElement === document.body)
    control.focus({ preventScroll: true });
}

/** Calls at most once a frame, however often it is asked. */
export function eachFrame(draw: () => void): () => void {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    // A hidden tab has no frames, but may be looked at by a test or a screen reader.
    const run = () => {
      asked = false;
      draw();
    };
    if (document.hidden) setTimeout(run, 0);
    else requestAnimationFrame(run);
  };
}

/** The middle value. */
export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}
