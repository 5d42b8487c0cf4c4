/**
 * The demo page as people use it, in a real browser with WebGPU on a software adapter: `scripts/web.sh`, then
 * `node --test web/tests/page.test.mjs`. Screenshots go to target/page.
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { after, afterEach, before, describe, test } from "node:test";
import { beforeWorker, launch, root } from "./browser.mjs";
import { serve } from "./server.mjs";

const shots = `${root}target/page`;
const PROMPT = "Tom likes red apples. Tom likes green apples. Tom likes";
const STORY = "Once upon a time, there was a little fox named Tim.";
/** The parameters of the default model, its head included. */
const DEFAULT = /3,701,952/;
const MINUTE = 60_000;

let server;
let browser;
let page;
let troubles = [];

before(async () => {
  await mkdir(shots, { recursive: true });
  server = await serve({ "/": `${root}web/dist`, "/models/": `${root}models` });
  browser = await launch();
  page = await open();
});

after(async () => {
  await browser?.close();
  await server?.close();
});

// Whatever a test does, the console stays clean.
afterEach(() => assert.deepEqual(troubles.splice(0), []));

async function open(hash = "", options = {}) {
  const opened = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options });
  opened.setDefaultTimeout(MINUTE);
  watch(opened);
  await opened.goto(`${server.url}/index.html${hash}`);
  await opened.waitForSelector("#generate:enabled");
  return opened;
}

function watch(opened) {
  opened.on("pageerror", (error) => troubles.push(String(error)));
  opened.on("console", (message) => {
    if (message.type() === "error") troubles.push(message.text());
  });
}

async function drafts(from, length) {
  await page.selectOption("#drafter", from);
  await page.selectOption("#draft-length", length);
}

async function generated() {
  await page.waitForSelector('#text[aria-busy="false"]');
  await page.waitForSelector("#generate:enabled");
  return page.$$eval("#text .token", (tokens) =>
    tokens.map((token) => ({ kind: token.dataset.kind, text: token.textContent, label: token.ariaLabel })),
  );
}

/** A model's server, apart from the page's. */
async function openHub() {
  const folder = `${root}models/default/`;
  const hub = await serve({ "/": folder });
  return { hub, folder, source: `${hub.url}/` };
}

async function load(source) {
  await page.fill("#model-source", source);
  await page.click("#model-load");
  await page.waitForSelector("#loading", { state: "visible" });
}

async function loadByUrl(source) {
  await load(source);
  await page.waitForSelector("#generate:enabled");
  assert.match(await text("model-facts"), DEFAULT);
  // A server need not have a file of hashes; the browser notes that on the console.
  troubles = troubles.filter((trouble) => !/404/.test(trouble));
}

/** The tokens after the story's beginning. */
async function continued(tokens) {
  await page.fill("#prompt", STORY);
  await page.fill("#max-tokens", `${tokens}`);
  await page.click("#generate");
  return (await generated()).filter(({ kind }) => kind !== "prompt").map(({ text }) => text);
}

const kinds = (tokens, kind) => tokens.filter((token) => token.kind === kind);
const text = (id, on = page) => on.locator(`#${id}`).innerText();

describe("the page", { concurrency: false }, () => {
  test("opens with the default model, and says on what it runs", async () => {
    assert.match(await text("model-facts"), DEFAULT);
    assert.match(await text("model-facts"), /heads\s+1 sequential head/);
    assert.match(await text("machine-facts"), /WebGPU/);
    assert.match(await text("adapter-chip"), /software/);
    assert.equal(await page.locator("#loading").isVisible(), false);
    for (const report of ["download", "upload", "warmup"]) {
      const [value, max] = await page.locator(`#${report}`).evaluate((bar) => [bar.value, bar.max]);
      assert.equal(value, max, `the ${report} report ends full`);
    }
  });

  test("streams a text whose accepted drafts are marked", async () => {
    await page.fill("#prompt", PROMPT);
    await page.fill("#max-tokens", "48");
    await drafts("lookup", "3");
    await page.click("#generate");
    const tokens = await generated();
    assert.equal(
      await page
        .locator("#text")
        .innerText()
        .then((all) => all.startsWith(PROMPT)),
      true,
      "the prompt comes first",
    );
    assert.equal(kinds(tokens, "accepted").length + kinds(tokens, "verified").length, 48);
    assert.ok(kinds(tokens, "accepted").length > 0, "a text that repeats itself has right drafts");
    assert.match(await text("status"), /Done: 48 tokens/);
    assert.match(await text("rounds-said"), /48 tokens in \d+ rounds: 1\.\d+ tokens a round; \d+ of \d+ drafts right/);
    for (const chart of ["chart-accepted", "chart-rounds"])
      assert.equal(await page.locator(`#${chart} canvas`).count(), 1, chart);
  });

  test("drafts with the model's own heads, and says so", async () => {
    await page.fill("#prompt", STORY);
    await page.fill("#max-tokens", "64");
    // Left to itself it drafts where that pays, which depends on what else this machine does.
    await drafts("auto", "1");
    await page.click("#generate");
    const tokens = await generated();
    assert.ok(kinds(tokens, "accepted").length >= 8, `${kinds(tokens, "accepted").length} of 64 tokens were drafted`);
    assert.match(await text("meter"), /64 tokens · 1\.\d+ a round · .*drafts from the heads/);
  });

  test("a draft tells its rank, probability and what the model preferred, to mouse and keyboard", async () => {
    await page.locator("#text .token.accepted").first().hover();
    assert.match(await text("token-card"), /probability[^]*%[^]*rank[^]*the model preferred/);
    await page.mouse.move(0, 0);
    assert.equal(await page.locator("#token-card").isVisible(), false);
    await page.focus('#text [tabindex="0"]');
    const before_ = await page.evaluate(() => document.activeElement.dataset.index);
    await page.keyboard.press("ArrowRight");
    assert.equal(Number(await page.evaluate(() => document.activeElement.dataset.index)), Number(before_) + 1);
    assert.equal(await page.locator("#token-card").isVisible(), true);
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("#token-card").isVisible(), false);
    assert.equal(await page.locator('#text [tabindex="0"]').count(), 1, "one stop of the Tab key");
  });

  test("shows the next token and the marginal at a token picked with the keyboard", async () => {
    await page.selectOption("#idea-mass", "0.5");
    await page.selectOption("#idea-branches", "16");
    await page.locator("#text .token.verified").nth(2).focus();
    await page.keyboard.press("Enter");
    await page.waitForSelector("#idea-body:visible");
    await page.waitForSelector("#generate:enabled");
    assert.match(await text("idea-place"), /After .* comes/);
    for (const chart of ["chart-next", "chart-ahead"])
      assert.equal(await page.locator(`#${chart} canvas`).count(), 1, chart);
    await page.locator("#idea-body summary").click();
    const rows = await page.$$eval("#idea-table table:nth-of-type(2) tbody tr", (all) =>
      all.map((row) => [...row.cells].slice(1).map((cell) => parseFloat(cell.textContent.replace("<", "")))),
    );
    assert.equal(rows.length, 8);
    for (const [p, low, high] of rows) assert.ok(low <= high && p > 0, `${low} to ${high}, renormalised ${p}`);
    assert.match(await text("idea-table"), /\(in the text\)/, "the text's own token is among the likeliest");
    assert.equal(await text("said-title"), "What the heads said");
    assert.match(await text("idea-drafts"), /t\+2[^]*%/);
    await page.locator("#idea-body summary").click();
  });

  test("screenshots, desktop and phone, light and dark", async () => {
    for (const [name, width, height] of [
      ["desktop", 1280, 900],
      ["phone", 360, 740],
    ]) {
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height });
        await page.waitForTimeout(300);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        assert.equal(wide, width, `nothing is wider than ${width} pixels`);
        await page.screenshot({ path: `${shots}/${name}-${colorScheme}.png`, fullPage: true });
      }
    }
    await page.emulateMedia({ colorScheme: "light" });
    // The README's picture.
    await page.setViewportSize({ width: 1280, height: 1180 });
    await page.locator('[data-testid="notice-warning"] .close').click();
    await page.screenshot({ path: `${shots}/readme.png` });
    await page.emulateMedia({ colorScheme: null });
    await page.setViewportSize({ width: 1280, height: 900 });
  });

  test("stops in the middle, and goes on with the next text", async () => {
    await page.fill("#max-tokens", "600");
    await page.click("#generate");
    await page.waitForSelector("#text .token.verified >> nth=3");
    await page.click("#stop");
    const tokens = await generated();
    assert.match(await text("status"), /Stopped after \d+ tokens/);
    assert.ok(kinds(tokens, "verified").length < 600);
    await page.fill("#max-tokens", "4");
    await page.click("#generate");
    assert.equal(kinds(await generated(), "prompt").length + 4 + 1, await page.locator("#text .token").count());
  });

  test("races with drafts against without, and finds the texts equal", async () => {
    await page.fill("#max-tokens", "32");
    await page.selectOption("#race-turns", "1");
    await page.click("#race");
    await page.waitForSelector("#race-verdict[data-equal]");
    assert.equal(await page.locator("#race-verdict").getAttribute("data-equal"), "true");
    assert.match(await text("race-verdict"), /Equal: 2 runs gave the same 32 tokens.*times as fast/);
    assert.equal(await page.locator("#race-table tbody tr").count(), 2);
    await page.locator("#panel-race").screenshot({ path: `${shots}/race.png` });
  });

  test("a link restores the prompt and the settings", async () => {
    await page.fill("#prompt", "Grüße & more: 100 % ü#?");
    await page.fill("#temperature", "0.75");
    await page.fill("#seed", "42");
    await drafts("auto", "2");
    await page.locator("#drafts").uncheck();
    await page.click("#share");
    const hash = new URL(page.url()).hash;
    const other = await open(hash);
    const restored = await other.evaluate(() =>
      ["prompt", "temperature", "seed", "draft-length", "drafter"].map((id) => document.getElementById(id).value),
    );
    assert.deepEqual(restored, ["Grüße & more: 100 % ü#?", "0.75", "42", "2", "auto"]);
    assert.equal(await other.locator("#drafts").isChecked(), false);
    // What a link may not do: fill in nonsense, or load a model without asking.
    await other.evaluate(() => {
      location.hash = "#prompt=hi&temperature=hot&from=nowhere&model=someone/something";
    });
    await other.waitForSelector("#load-offered");
    assert.deepEqual(
      await other.evaluate(() => ["prompt", "temperature", "drafter"].map((id) => document.getElementById(id).value)),
      ["hi", "0", "auto"],
    );
    await other.close();
    // Also in the link that the page is opened with; and an anchor of the page is no such link.
    const third = await open("#prompt=hi&model=someone/something");
    await third.waitForSelector("#load-offered");
    await third.evaluate(() => document.querySelector("a.skip").click());
    assert.equal(await third.locator("#prompt").inputValue(), "hi");
    await third.close();
    // Who takes it up does not wait for the default model first.
    const fourth = await browser.newPage();
    watch(fourth);
    await fourth.goto(`${server.url}/index.html#prompt=hi&model=${encodeURIComponent("/models/default/")}`);
    await fourth.click("#load-offered");
    await fourth.waitForSelector("#generate:enabled");
    assert.equal(await text("model-name", fourth), `${server.url}/models/default/`);
    await fourth.close();
    troubles = troubles.filter((trouble) => !/404/.test(trouble));
    await page.locator("#drafts").check();
  });

  test("a prompt's tokens are told apart, whatever they are written in", async () => {
    await page.fill("#max-tokens", "2");
    const compact = (text) => text.replaceAll(" ", "");
    // Characters of which the model has the bytes only stay together.
    for (const [prompt, least] of [
      ["Zoé likes red apples. Tom likes", 9],
      ["مرحبا يا صديقي and שלום 🦊 too", 4],
    ]) {
      await page.fill("#prompt", prompt);
      await page.click("#generate");
      const tokens = kinds(await generated(), "prompt").map(({ text }) => text);
      assert.ok((await text("text")).startsWith(prompt));
      assert.equal(compact(tokens.join("")), compact(prompt));
      assert.ok(tokens.length >= least, tokens.join("|"));
    }
  });

  test("a prompt that does not fit is refused in words, and the page goes on", async () => {
    await page.fill("#prompt", "word ".repeat(3000));
    await page.click("#generate");
    await page.waitForSelector('[data-testid="notice-error"]');
    assert.match(await page.locator('[data-testid="notice-error"]').innerText(), /context/);
    assert.equal(await page.locator("#text .token").count(), 0, "what is refused is not shown either");
    await page.locator('[data-testid="notice-error"] .close').click();
    await page.fill("#prompt", PROMPT);
    await page.waitForSelector("#generate:enabled");
  });

  test("says what one may not expect of a prompt's tokens", async () => {
    const said = page.locator('[data-testid="notice-info"][data-key="About this prompt"]');
    await page.fill("#max-tokens", "2");
    await page.fill("#prompt", "\uFEFF<|endoftext|>Once");
    await page.click("#generate");
    await generated();
    assert.match(await said.innerText(), /begins with a byte order mark.*begins with "<\|endoftext\|>", which the tokenizer puts there too/);
    await page.fill("#prompt", "Once");
    await page.click("#generate");
    await generated();
    assert.equal(await said.count(), 0, "of another prompt");
    await page.fill("#prompt", PROMPT);
  });

  test("loads a folder by file input, and a model by URL", async () => {
    await page.setInputFiles("#model-folder", `${root}models/default`);
    await page.waitForSelector("#loading", { state: "visible" });
    await page.waitForSelector("#generate:enabled");
    assert.match(await text("model-facts"), DEFAULT);
    await loadByUrl(`${server.url}/models/default/`);
  });

  test("lists what it kept, and clears it", async () => {
    await page.waitForSelector("#cache-clear:enabled");
    assert.match(await text("cache-list"), /models\/default[^]*MiB/);
    await page.click("#cache-clear");
    await page.waitForSelector("#cache-clear:disabled");
    assert.match(await text("cache-list"), /Nothing/);
  });

  test("a second visit reads a model by URL from the cache, with its server gone", async () => {
    const { hub, source } = await openHub();
    await loadByUrl(source);
    const first = await continued(20);
    await hub.close();
    await loadByUrl(source);
    assert.match(await text("download-said"), /kept from before/);
    assert.deepEqual(await continued(20), first);
  });

  test("a download that broke off is kept, and goes on when it is asked for again", async () => {
    const { hub, source } = await openHub();
    await page.click("#cache-clear");
    await page.waitForSelector("#cache-clear:disabled");
    hub.faults.set("/model.safetensors", async (part, at) => {
      if (at < 2_000_000) return part;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return null;
    });
    await load(source);
    await page.waitForSelector('[data-testid="notice-error"]');
    assert.match(await page.locator('[data-testid="notice-error"]').innerText(), /model\.safetensors[^]*kept/);
    troubles = troubles.filter((trouble) => !/Failed to load resource/.test(trouble));
    hub.faults.clear();
    hub.requests.splice(0);
    await loadByUrl(source);
    const [request] = hub.requests.filter(({ path }) => path === "/model.safetensors");
    assert.ok(Number(/bytes=(\d+)-/.exec(request.range)[1]) > 1_000_000, `it asked for ${request.range}`);
    await hub.close();
  });

  test("a damaged file is refused by its hash", async () => {
    const { hub, source, folder } = await openHub();
    const sum = createHash("sha256").update(readFileSync(`${folder}model.safetensors`)).digest("hex");
    hub.files.set("/SHA256SUMS", `${sum}  model.safetensors\n`);
    hub.faults.set("/model.safetensors", (part) => {
      part[0] ^= 1;
      return part;
    });
    await load(source);
    await page.waitForSelector('[data-testid="notice-error"]');
    assert.match(await page.locator('[data-testid="notice-error"]').innerText(), new RegExp(`expected ${sum}`));
    hub.faults.clear();
    await loadByUrl(source);
    await hub.close();
  });

  test("the device lost in the middle of a text: the page says so, and the text is the same", async () => {
    await beforeWorker(
      page,
      `globalThis.destroyIn = Infinity;
       const { createCommandEncoder } = GPUDevice.prototype;
       GPUDevice.prototype.createCommandEncoder = function (...rest) {
         if (--globalThis.destroyIn === 0) this.destroy();
         return createCommandEncoder.apply(this, rest);
       };`,
    );
    await page.click("#model-default");
    await page.waitForSelector("#loading", { state: "visible" });
    await page.waitForSelector("#generate:enabled");
    const undisturbed = await continued(60);
    await page.workers()[0].evaluate(() => void (globalThis.destroyIn = 6));
    assert.deepEqual(await continued(60), undisturbed);
    assert.match(await page.locator('[data-testid="notice-warning"][data-key="replaced"]').innerText(), /was lost/);
    assert.equal(await page.locator("#loading").isVisible(), false);
    // What the lost device still had to do is not an error of the page.
    troubles = troubles.filter((trouble) => !/device|lost/i.test(trouble));
  });

  test("says what is wrong with a model that is not there, and takes the default one again", async () => {
    await page.fill("#model-source", `${server.url}/nothing/here/`);
    await page.click("#model-load");
    await page.waitForSelector('[data-testid="notice-error"]');
    assert.match(await page.locator('[data-testid="notice-error"]').innerText(), /could not be loaded[^]*config\.json/);
    // The browser itself notes the missing file on the console.
    troubles = troubles.filter((trouble) => !/404/.test(trouble));
    await page.click("#model-default");
    await page.waitForSelector("#generate:enabled");
    assert.equal(await page.locator('[data-testid="notice-error"]').count(), 0, "what is mended is not complained of");
  });

  test("addresses of the hub's pages mean the folders that they show", async () => {
    const asked = [];
    await page.context().route("https://huggingface.co/**", (route) => {
      asked.push(new URL(route.request().url()).pathname);
      return route.fulfill({ status: 404, headers: { "access-control-allow-origin": "*" } });
    });
    const hub = "https://huggingface.co/some/thing";
    for (const [typed, folder] of [
      ["some/thing", "main/"],
      ["some/thing@v1.0", "v1.0/"],
      [hub, "main/"],
      [`${hub}/tree/main`, "main/"],
      [`${hub}/tree/v1.0/small/`, "v1.0/small/"],
      [`${hub}/blob/main/small/config.json`, "main/small/"],
      [`${hub}/resolve/main/model.safetensors?download=true`, "main/"],
    ]) {
      await page.fill("#model-source", typed);
      await page.click("#model-load");
      await page.waitForSelector('[data-testid="notice-error"]');
      await page.waitForSelector("#model-load:enabled");
      assert.ok(asked.includes(`/some/thing/resolve/${folder}config.json`), `${typed}: ${asked}`);
      asked.splice(0);
    }
    await page.context().unroute("https://huggingface.co/**");
    troubles = troubles.filter((trouble) => !/404/.test(trouble));
    await page.click("#model-default");
    await page.waitForSelector("#generate:enabled");
  });

  test("tests every kernel on this GPU", async () => {
    await page.click("#self-test");
    // Each check is shown when it is done.
    await page.waitForFunction(() => document.querySelector("#test-table td"));
    assert.equal(await page.locator("#test-verdict").getAttribute("data-passed"), null);
    await page.waitForSelector("#test-verdict[data-passed]", { timeout: 5 * MINUTE });
    assert.equal(await page.locator("#test-verdict").getAttribute("data-passed"), "true");
    assert.match(await text("test-table"), /matmul/);
    await page.locator("#panel-machine").screenshot({ path: `${shots}/machine.png` });
  });
});

test("without WebGPU the page says what to do", async () => {
  const bare = await launch({ args: [] });
  const opened = await bare.newPage({ viewport: { width: 360, height: 740 } });
  watch(opened);
  await opened.goto(`${server.url}/index.html`);
  await opened.waitForSelector('[data-testid="notice-error"]');
  const said = await opened.locator('[data-testid="notice-error"]').innerText();
  assert.match(said, /WebGPU/);
  assert.match(said, /chrome:\/\/flags\/#enable-unsafe-webgpu/);
  assert.equal(await opened.locator("#prompt").isVisible(), true, "the page is there all the same");
  assert.equal(await opened.locator("#generate").isDisabled(), true);
  await opened.screenshot({ path: `${shots}/no-webgpu.png`, fullPage: true });
  await bare.close();
});
