/** Chromium with WebGPU on SwiftShader, and a page that has loaded the package. */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { serve } from "./server.mjs";

const { chromium } = createRequire(new URL("../package/package.json", import.meta.url))("playwright-core");

export const root = fileURLToPath(new URL("../..", import.meta.url));

const options = (args) => ({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-quic", ...args],
});

/** Starts Chromium, with WebGPU unless `args` says otherwise. */
export function launch({ args = ["--enable-unsafe-webgpu"] } = {}) {
  return chromium.launch(options(args));
}

/** Starts Chromium with a profile that stays: a folder. */
export function launchWith(profile, args = ["--enable-unsafe-webgpu"]) {
  return chromium.launchPersistentContext(profile, options(args));
}

/** Opens the package in a page, served by `host`. `problems` collects console errors and exceptions. */
export async function open({ host = "127.0.0.1", args = ["--enable-unsafe-webgpu"] } = {}) {
  const site = await serve({ "/": `${root}web/dist`, "/tests/": `${root}web/tests/pages`, "/golden/": `${root}tests/golden` });
  const browser = await launch({ args: [...args, `--host-resolver-rules=MAP ${host} 127.0.0.1`] });
  const page = await browser.newPage();
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  await page.goto(`${site.url.replace("127.0.0.1", host)}/tests/empty.html`);
  await page.evaluate(async () => {
    globalThis.foretoken = await import("/index.js");
  });
  const close = async () => {
    await browser.close();
    site.close();
  };
  return { page, site, problems, close };
}

/** Lets `code`, a module, run in each worker before the package's own. */
export function beforeWorker(page, code) {
  return page.evaluate((code) => {
    const { Worker: Plain } = globalThis;
    const first = `data:text/javascript,${encodeURIComponent(code)}`;
    globalThis.Worker = class extends Plain {
      constructor(url, options) {
        const both = new Blob([`import ${JSON.stringify(first)}; import ${JSON.stringify(`${url}`)};`], { type: "text/javascript" });
        super(URL.createObjectURL(both), options);
      }
    };
  }, code);
}

/** The browser's processes, each with its type, id, and CPU time in seconds. */
export async function processes(page) {
  const session = await page.context().browser().newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  return processInfo;
}

/** Memory of the browser's processes once it has settled: a worker that was ended gives its own back a little later. */
export async function settledBytes(page) {
  const readings = [];
  for (let reading = 0; reading < 8; reading++) {
    readings.push(await browserBytes(page));
    await setTimeout(150);
  }
  return Math.min(...readings);
}

/** Memory of the browser's processes, the GPU's among them; what they share counts once. */
export async function browserBytes(page) {
  const kilobytes = (await processes(page)).map(({ id }) => {
    const rollup = readFileSync(`/proc/${id}/smaps_rollup`, "utf8");
    return Number(/^Pss:\s+(\d+) kB/m.exec(rollup)[1]);
  });
  return kilobytes.reduce((sum, size) => sum + size, 0) * 1024;
}
