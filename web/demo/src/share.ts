/** Links that hold the prompt and the settings. They live behind the #, which browsers do not send to servers. */

import { byId } from "./dom.js";
import { fromHash, toHash } from "./settings.js";

/** The model that a link should name, if it can be fetched by everybody. */
let shared: string | null = null;

export function setSharedModel(model: string | null): void {
  shared = model;
}

/** The address bar shows the settings that the text was made with. */
export function noteInAddress(): void {
  history.replaceState(null, "", toHash(shared));
}

/** Takes up the link that the page was opened with; `onModel` hears which model it names. */
export function startSharing(onModel: (model: string) => void): void {
  const restore = () => {
    const found = fromHash(location.hash);
    if (found?.model) onModel(found.model);
  };
  addEventListener("hashchange", restore);
  restore();
  byId("share").addEventListener("click", () => void copy());
}

async function copy(): Promise<void> {
  noteInAddress();
  const said = byId("share-said");
  try {
    await navigator.clipboard.writeText(location.href);
    said.textContent = "Copied.";
  } catch {
    // No permission, or no secure context: the address bar has it anyway.
    said.textContent = "The link is in the address bar.";
  }
  setTimeout(() => {
    said.textContent = "";
  }, 4000);
}
