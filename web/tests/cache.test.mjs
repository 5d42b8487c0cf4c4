/** Models by URL and by file: what is kept, resumed, checked and forgotten. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { after, before, beforeEach, test } from "node:test";
import { beforeWorker, open, root } from "./browser.mjs";
import { serve } from "./server.mjs";

const SHARDED = `${root}tests/golden/llama-sharded/`;
const MODEL = `${root}models/default/`;
const WEIGHTS = "/model.safetensors";
const sizeOf = (folder, name) => readFileSync(folder + name).length;

let tab;
/** Where models come from: another origin than the page's, as a hub is. */
let hub;
before(async () => {
  tab = await open();
});
after(() => tab?.close());
beforeEach(async () => {
  await tab.page.evaluate(() => foretoken.cache.clear());
});

async function withHub(folder, work, options) {
  hub = await serve({ "/": folder }, options);
  try {
    return await work();
  } finally {
    await hub.close();
  }
}

/** Breaks a connection after two megabytes, or `after` bytes, once those have had time to arrive; `most` times. */
function cut(most, after = 2_000_000) {
  let cuts = 0;
  return async (part, at) => {
    if (at < after || cuts++ >= most) return part;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    return null;
  };
}

function flipLastByte(part) {
  part[part.length - 1] ^= 1;
  return part;
}

/** Loads, generates a little, leaves. The error where it fails. */
function visit(source, options = {}) {
  return tab.page.evaluate(
    async ([source, options]) => {
      const downloads = {};
      const onProgress = (step) => {
        if (step.phase === "download") downloads[step.file] = step;
      };
      try {
        const model = await foretoken.load(source, { ...options, onProgress });
        const { ids } = await model.generate("The red hen", { maxTokens: 6 }).result;
        await model.dispose();
        return { ids, downloads };
      } catch ({ kind, message, advice }) {
        return { kind, message, advice };
      }
    },
    [source, options],
  );
}

const url = (rest = {}) => ({ kind: "url", base: hub.url, ...rest });
const kept = () => tab.page.evaluate(() => foretoken.cache.list());

test("a model by URL is kept, and read from the cache with the server gone", async () => {
  let source;
  const first = await withHub(MODEL, async () => {
    source = url();
    return visit(source);
  });
  assert.equal(first.ids?.length, 6, first.message);
  assert.equal(first.downloads["model.safetensors"].cached, false);
  const total = readdirSync(MODEL).filter((name) => !name.endsWith(".md")).reduce((sum, name) => sum + sizeOf(MODEL, name), 0);
  const [entry, ...others] = await kept();
  assert.deepEqual(others, []);
  assert.equal(entry.name, `${source.base}/`);
  assert.ok(entry.bytes >= total && entry.bytes < total + 10_000, `${entry.bytes} of ${total} bytes`);
  const second = await visit(source);
  assert.deepEqual(second.ids, first.ids, second.message);
  assert.ok(Object.values(second.downloads).every((step) => step.cached && step.done === step.total));
  await tab.page.evaluate(() => foretoken.cache.clear());
  assert.deepEqual(await kept(), []);
  assert.match((await visit(source)).message, /cannot be reached/);
});

test("weights are downloaded once, also where the connection breaks", async () => {
  await withHub(MODEL, async () => {
    hub.faults.set(WEIGHTS, cut(1));
    const { ids, message } = await visit(url());
    assert.equal(ids?.length, 6, message);
    const requests = hub.requests.filter(({ path }) => path === WEIGHTS);
    assert.equal(requests.length, 2);
    const begin = Number(/bytes=(\d+)-/.exec(requests[1].range)[1]);
    assert.ok(begin > 0, "the second request began anew");
    assert.equal(begin + requests[1].sent, sizeOf(MODEL, "model.safetensors"));
  });
});

test("an interrupted download goes on at the next visit", async () => {
  const port = await withHub(MODEL, async () => {
    hub.faults.set(WEIGHTS, cut(Infinity));
    const { kind, message, advice } = await visit(url());
    assert.equal(kind, "Io");
    assert.match(message, /model\.safetensors: the (connection ended|server cannot be reached)/);
    assert.match(advice, /is kept/);
    return Number(new URL(hub.url).port);
  });
  await withHub(
    MODEL,
    async () => {
      const { ids, message } = await visit(url());
      assert.equal(ids?.length, 6, message);
      const [request, ...others] = hub.requests.filter(({ path }) => path === WEIGHTS);
      assert.deepEqual(others, []);
      const begin = Number(/bytes=(\d+)-/.exec(request.range)[1]);
      assert.ok(begin > 1_000_000, `it began at byte ${begin}`);
      // Other files were whole: a byte of each shows that they are the same still.
      const tokenizer = hub.requests.filter(({ path }) => path === "/tokenizer.json");
      assert.ok(tokenizer.every(({ sent }) => sent === 1 || sent === sizeOf(MODEL, "tokenizer.json")));
    },
    { port },
  );
});

test("an interrupted download goes on, also where only a little is missing", async () => {
  await withHub(MODEL, async () => {
    hub.faults.set(WEIGHTS, cut(Infinity, sizeOf(MODEL, "model.safetensors") - 60_000));
    assert.equal((await visit(url())).kind, "Io");
    hub.faults.clear();
    const { ids, message } = await visit(url());
    assert.equal(ids?.length, 6, message);
  });
});

test("shards load, each checked by its hash, and a corrupted one is refused", async () => {
  const names = readdirSync(SHARDED).filter((name) => name.endsWith(".safetensors"));
  const sha256 = Object.fromEntries(
    names.map((name) => [name, createHash("sha256").update(readFileSync(SHARDED + name)).digest("hex")]),
  );
  await withHub(SHARDED, async () => {
    const shard = names[1];
    hub.faults.set(`/${shard}`, flipLastByte);
    for (const cache of [true, false]) {
      const { kind, message, advice } = await visit(url({ sha256 }), { cache });
      assert.equal(kind, "Hash", message);
      assert.match(message, new RegExp(`${shard}: its SHA-256 is [0-9a-f]{64}, expected ${sha256[shard]}`));
      assert.match(advice, /load it again/);
    }
    hub.faults.clear();
    const whole = await visit(url({ sha256 }));
    assert.equal(whole.ids?.length, 6, whole.message);
    // Who gives a wrong hash is refused, and loses nothing.
    const before = await kept();
    assert.equal((await visit(url({ sha256: { "config.json": "0".repeat(64) } }))).kind, "Hash");
    assert.deepEqual(await kept(), before);
    // Without the cache, and without hashes: only what is needed, when it is needed.
    const direct = await visit(url(), { cache: false });
    assert.deepEqual(direct.ids, whole.ids, direct.message);
  });
});

test("a file SHA256SUMS beside the others is what they are checked by", async () => {
  const names = readdirSync(SHARDED).filter((name) => name.endsWith(".safetensors"));
  const line = (name) => `${createHash("sha256").update(readFileSync(SHARDED + name)).digest("hex")}  ${name}\n`;
  await withHub(SHARDED, async () => {
    hub.files.set("/SHA256SUMS", names.map(line).join(""));
    hub.faults.set(`/${names[0]}`, flipLastByte);
    const { kind, message } = await visit(url());
    assert.equal(kind, "Hash", message);
    assert.match(message, new RegExp(`${names[0]}: its SHA-256 is`));
    hub.faults.clear();
    assert.equal((await visit(url())).ids?.length, 6);
  });
});

test("files of the Hugging Face hub are checked by the hashes that it lists", async () => {
  const base = "https://huggingface.co/someone/something/resolve/main/";
  const asked = [];
  const sha256 = (name) => createHash("sha256").update(readFileSync(SHARDED + name)).digest("hex");
  let wrong = true;
  await tab.page.context().route("https://huggingface.co/**", (route) => {
    const { pathname } = new URL(route.request().url());
    asked.push(pathname);
    const headers = { "access-control-allow-origin": "*" };
    if (pathname === "/api/models/someone/something/tree/main") {
      const files = readdirSync(SHARDED).map((path) => ({
        path,
        ...(path.endsWith(".safetensors") ? { lfs: { oid: wrong ? "0".repeat(64) : sha256(path) } } : {}),
      }));
      return route.fulfill({ headers, json: files });
    }
    const name = pathname.slice("/someone/something/resolve/main/".length);
    if (!existsSync(SHARDED + name)) return route.fulfill({ status: 404, headers });
    return route.fulfill({ headers, body: readFileSync(SHARDED + name) });
  });
  const refused = await visit({ kind: "url", base });
  assert.equal(refused.kind, "Hash", refused.message);
  wrong = false;
  const { ids, message } = await visit({ kind: "url", base });
  assert.equal(ids?.length, 6, message);
  assert.ok(asked.includes("/api/models/someone/something/tree/main"));
  await tab.page.context().unroute("https://huggingface.co/**");
});

test("a download that fails is told, also where nobody is waiting for it", async () => {
  await withHub(MODEL, async () => {
    hub.faults.set(WEIGHTS, (part, at) => (at < 500_000 ? part : null));
    // The weights have been given up long before they are asked for.
    hub.faults.set("/tokenizer.json", async (part) => {
      await new Promise((resolve) => setTimeout(resolve, 4000));
      return part;
    });
    const { kind, message } = await visit(url());
    assert.equal(kind, "Io", message);
  });
});

test("a browser without room says so", async () => {
  const session = await tab.page.context().newCDPSession(tab.page);
  const { origin } = new URL(tab.page.url());
  await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 3e6 });
  await withHub(MODEL, async () => {
    const { kind, message, advice } = await visit(url());
    assert.equal(kind, "Storage", message);
    assert.match(advice, /cache\.clear\(\)/);
    // Nothing need be kept.
    assert.equal((await visit(url(), { cache: false })).ids?.length, 6);
  });
  await session.send("Storage.overrideQuotaForOrigin", { origin });
});

test("two tabs load a model at once, and a server without ranges sends it once to each", async () => {
  const popup = tab.page.waitForEvent("popup");
  await tab.page.evaluate(() => void window.open(location.href));
  const other = await popup;
  await other.evaluate(async () => void (globalThis.foretoken = await import("/index.js")));
  const load = (page) =>
    page.evaluate(async (base) => {
      const model = await foretoken.load({ kind: "url", base });
      const { ids } = await model.generate("The red hen", { maxTokens: 6 }).result;
      await model.dispose();
      return ids;
    }, hub.url);
  await withHub(
    MODEL,
    async () => {
      const [one, two] = await Promise.all([load(tab.page), load(other)]);
      assert.equal(one.length, 6);
      assert.deepEqual(two, one);
      const sent = hub.requests.filter(({ path }) => path === WEIGHTS).reduce((sum, { sent }) => sum + sent, 0);
      assert.ok(sent <= 2 * sizeOf(MODEL, "model.safetensors"), `${sent} bytes`);
    },
    { ranges: false },
  );
  await other.close();
});

test("a model that is in use keeps no other page from filling the cache", async () => {
  await withHub(MODEL, async () => {
    await tab.page.evaluate(async (base) => void (globalThis.inUse = await foretoken.load({ kind: "url", base })), hub.url);
    await tab.page.evaluate(() => foretoken.cache.clear());
    assert.equal((await visit(url())).ids?.length, 6);
    const [{ bytes }] = await kept();
    assert.ok(bytes > sizeOf(MODEL, "model.safetensors"), `${bytes} bytes`);
    await tab.page.evaluate(() => inUse.dispose());
  });
});

test("a model is kept while garbage is collected", async (context) => {
  const { page, close } = await open({ args: ["--enable-unsafe-webgpu", "--js-flags=--expose-gc"] });
  context.after(close);
  await beforeWorker(
    page,
    `const { createSyncAccessHandle } = FileSystemFileHandle.prototype;
     FileSystemFileHandle.prototype.createSyncAccessHandle = function () {
       const opened = createSyncAccessHandle.apply(this);
       queueMicrotask(gc);
       return opened;
     };`,
  );
  await withHub(MODEL, async () => {
    const load = page.evaluate(async (base) => {
      const model = await foretoken.load({ kind: "url", base });
      await model.dispose();
      return (await foretoken.cache.list()).map(({ name }) => name);
    }, hub.url);
    assert.deepEqual(await load, [`${hub.url}/`]);
  });
});

test("a server that answers with a page of its own for what it does not have", async () => {
  const page = "<!doctype html><title>An app</title>";
  const load = async () => {
    assert.equal((await visit(url())).ids?.length, 6);
    const { kind, message, advice } = await visit({ kind: "url", base: `${hub.url}/elsewhere/` });
    assert.equal(kind, "Io", message);
    assert.match(message, /elsewhere\/config\.json: the server answers with a web page/);
    assert.match(advice, /check the address/);
  };
  await withHub(MODEL, load, { page });
});

test("several loads of one model at once keep it once", async () => {
  await withHub(MODEL, async () => {
    const lengths = await tab.page.evaluate(async (base) => {
      const load = async () => {
        const model = await foretoken.load({ kind: "url", base });
        const { ids } = await model.generate("The red hen", { maxTokens: 6 }).result;
        await model.dispose();
        return ids.length;
      };
      return Promise.all([load(), load(), load()]);
    }, hub.url);
    assert.deepEqual(lengths, [6, 6, 6]);
    const [{ bytes }, ...others] = await kept();
    assert.ok(bytes > sizeOf(MODEL, "model.safetensors"), `${bytes} bytes`);
    assert.deepEqual(others, []);
  });
});

test("what is being loaded is not cleared away", async () => {
  await withHub(MODEL, async () => {
    // Longer than `clear` waits for somebody who has just given up.
    let waited = false;
    hub.faults.set(WEIGHTS, async (part, at) => {
      if (at > 2_000_000 && !waited) {
        waited = true;
        await new Promise((resolve) => setTimeout(resolve, 4000));
      }
      return part;
    });
    const { refusal, length } = await tab.page.evaluate(async (base) => {
      let refusal;
      const onProgress = ({ phase, file }) => {
        if (phase !== "download" || file !== "model.safetensors") return;
        refusal ??= foretoken.cache.clear(base).then(() => null, ({ kind, message, advice }) => ({ kind, message, advice }));
      };
      const model = await foretoken.load({ kind: "url", base }, { onProgress });
      const { ids } = await model.generate("The red hen", { maxTokens: 6 }).result;
      await model.dispose();
      return { refusal: await refusal, length: ids.length };
    }, hub.url);
    assert.equal(length, 6);
    assert.equal(refusal?.kind, "Storage");
    assert.match(refusal.message, /cannot be removed from the cache now/);
    assert.match(refusal.advice, /wait until they have/);
    // As it was given to `load`: without a slash.
    await tab.page.evaluate((base) => foretoken.cache.clear(base), hub.url);
    assert.deepEqual(await kept(), []);
  });
});

test("picked files load", async () => {
  const names = readdirSync(SHARDED);
  await tab.page.setContent('<input type="file" multiple>');
  await tab.page.setInputFiles("input", names.map((name) => SHARDED + name));
  const picked = await tab.page.evaluate(async () => {
    // Files in a folder of the folder have names of their own.
    const nested = new File(["{}"], "config.json");
    Object.defineProperty(nested, "webkitRelativePath", { value: "model/1_Pooling/config.json" });
    const files = [...document.querySelector("input").files, nested];
    const model = await foretoken.load({ kind: "files", files });
    const { ids } = await model.generate("The red hen", { maxTokens: 6 }).result;
    await model.dispose();
    return ids;
  });
  await withHub(SHARDED, async () => assert.deepEqual(picked, (await visit(url())).ids));
});

test("where there are no private files, the Cache API keeps the model", async () => {
  await beforeWorker(tab.page, "delete StorageManager.prototype.getDirectory");
  const port = await withHub(MODEL, async () => {
    hub.faults.set(WEIGHTS, cut(Infinity));
    assert.equal((await visit(url())).kind, "Io");
    return Number(new URL(hub.url).port);
  });
  const source = await withHub(
    MODEL,
    async () => {
      const { ids, message } = await visit(url());
      assert.equal(ids?.length, 6, message);
      const [request] = hub.requests.filter(({ path }) => path === WEIGHTS);
      assert.ok(!request.range.startsWith("bytes=0-"), "the download began anew");
      return url();
    },
    { port },
  );
  assert.equal((await kept()).length, 1);
  assert.equal((await visit(source)).ids?.length, 6);
});

test("nothing was said to the console but of missing files", () => {
  const expected = /Failed to load resource/;
  assert.deepEqual(tab.problems.filter((problem) => !expected.test(problem)), []);
});
