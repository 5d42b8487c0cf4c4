/** The ten lines of the READMEs, in a page of their own. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { launch, root } from "./browser.mjs";
import { serve } from "./server.mjs";

const example = (readme) => /```html\n([^]*?)```/.exec(readFileSync(root + readme, "utf8"))[1];

test("the page in the READMEs tells a story", async () => {
  const html = example("web/package/README.md");
  assert.equal(html, example("README.md"));
  const site = await serve({ "/": `${root}web/package/dist` });
  site.files.set("/story.html", `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">${html}`);
  const browser = await launch();
  const page = await browser.newPage();
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  await page.goto(`${site.url}/story.html`);
  const story = page.locator("#story");
  await story.filter({ hasText: /^Once upon a time.{100}/ }).waitFor();
  assert.match(await story.innerText(), /^Once upon a time, /);
  assert.deepEqual(problems, []);
  await browser.close();
  await site.close();
});
