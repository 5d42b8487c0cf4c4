/** Downloads kept for the next visit. */

import type { CacheEntry } from "./types.js";

/** What is kept. */
export async function list(): Promise<CacheEntry[]> {
  return [];
}

/** Forgets one model, or all. */
export async function clear(_name?: string): Promise<void> {}
