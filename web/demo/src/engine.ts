/**
 * The model that is loaded, and who is using it.
 *
 * A model does one thing at a time. So whatever a panel does with it goes through `use`, which says to the other panels
 * that the model is busy, and gives a signal that Stop aborts.
 */

import type { Model } from "foretoken";

type Listener = () => void;

class Engine {
  /** What is loaded. */
  model: Model | null = null;
  /** Whether a model is being loaded. */
  loading = false;
  private abort: AbortController | null = null;
  private readonly listeners: Listener[] = [];

  /** Something changed: the model, or whether it is in use. */
  onChange(listener: Listener): void {
    this.listeners.push(listener);
  }

  changed(): void {
    for (const listener of this.listeners) listener();
  }

  get busy(): boolean {
    return this.abort !== null;
  }

  /** Loaded, and nobody is using it. */
  get ready(): boolean {
    return this.model !== null && !this.busy && !this.loading;
  }

  /** Runs `work` with the model, unless it is in use. False: it was. */
  async use(work: (model: Model, signal: AbortSignal) => Promise<void>): Promise<boolean> {
    const model = this.model;
    if (!model || !this.ready) return false;
    const abort = new AbortController();
    this.abort = abort;
    this.changed();
    try {
      await work(model, abort.signal);
    } finally {
      this.abort = null;
      this.changed();
    }
    return true;
  }

  /** Ends what is going on, after the round under way. */
  stop(): void {
    this.abort?.abort();
  }
}

export const engine = new Engine();

/** Whether an error only says that somebody pressed Stop. */
export function isAbort(error: unknown): boolean {
  const { name, kind } = (error ?? {}) as { name?: unknown; kind?: unknown };
  return name === "AbortError" || kind === "Abort";
}
