/** What this machine is, whether it computes what it should, and what is kept on it. */

import { type AdapterInfo, type Audit, type KernelCheck, cache } from "foretoken";
import { byId, bytes, enable, facts, make, table, whole } from "./dom.js";
import { engine } from "./engine.js";
import { report } from "./notices.js";

export function startMachine(): void {
  const selfTest = byId<HTMLButtonElement>("self-test");
  const audit = byId<HTMLButtonElement>("audit");
  selfTest.addEventListener("click", () => void testKernels());
  audit.addEventListener("click", () => void auditDrafts());
  byId("cache-clear").addEventListener("click", () => void clear());
  engine.onChange(() => {
    enable(selfTest, engine.ready);
    enable(audit, engine.ready);
  });
  void listCache();
}

/** What there is to know of the adapter; `kernels` once a model runs on it. */
export function showAdapter(adapter: AdapterInfo, kernels: string | null): void {
  const called = adapter.description || [adapter.vendor, adapter.architecture].filter(Boolean).join(" ") || "unnamed";
  facts(byId("machine-facts"), [
    ["adapter", called],
    ["vendor", adapter.vendor],
    ["architecture", adapter.architecture],
    ["backend", "WebGPU"],
    ["kind", adapter.software ? "software: this computes on the processor" : "hardware"],
    ["subgroups", adapter.subgroup ?? "none"],
    ["kernels", kernels],
    ["browser", browser()],
  ]);
  byId("machine-features").replaceChildren(...adapter.features.map((feature) => make("span", {}, feature)));
  byId("machine-limits").replaceChildren(
    table(
      "Limits of the adapter",
      ["limit", "value"],
      Object.entries(adapter.limits).map(([name, value]) => [
        name,
        `${whole(value)}${/Size$/.test(name) && value >= 4096 ? ` (${bytes(value)})` : ""}`,
      ]),
    ),
  );
  const chip = byId("adapter-chip");
  chip.hidden = false;
  chip.classList.toggle("software", adapter.software);
  chip.textContent = `${called}${adapter.software ? " · software" : ""}`;
}

function browser(): string {
  const brands =
    (navigator as { userAgentData?: { brands?: { brand: string; version: string }[] } }).userAgentData?.brands ?? [];
  const named = brands
    .filter(({ brand }) => !/not.?a.?brand/i.test(brand))
    .map(({ brand, version }) => `${brand} ${version}`);
  return named.length > 0
    ? named.join(", ")
    : (/(Firefox|Version|Edg|Chrome)\/[\d.]+/.exec(navigator.userAgent)?.[0] ?? "unknown");
}

async function testKernels(): Promise<void> {
  const verdict = byId("test-verdict");
  const checks: KernelCheck[] = [];
  const draw = () => byId("test-table").replaceChildren(checksTable(checks));
  await engine.use(async (model) => {
    verdict.textContent = "Testing …";
    delete verdict.dataset["passed"];
    draw();
    try {
      const all = await model.selfTest((check) => {
        checks.push(check);
        verdict.textContent = `Testing: ${checks.length} checks done …`;
        draw();
      });
      checks.splice(0, checks.length, ...all);
      draw();
      const wrong = checks.filter((check) => !check.passed);
      verdict.dataset["passed"] = String(wrong.length === 0);
      verdict.textContent =
        wrong.length === 0
          ? `All ${checks.length} checks passed.`
          : `${wrong.length} of ${checks.length} checks failed: do not trust this adapter. Update the driver, or choose ` +
            "other kernels under Model, How to load.";
    } catch (error) {
      verdict.textContent = "";
      report("The self-test broke off", error);
    }
  });
}

/** A line a kernel: the check that came closest to its bound stands for all, a wrong one before any other. */
function checksTable(checks: KernelCheck[]): HTMLTableElement {
  const used = (check: KernelCheck) =>
    (check.tolerance > 0 ? check.error / check.tolerance : check.error) + (check.passed ? 0 : 1e9);
  const kernels = new Map<string, { worst: KernelCheck; count: number }>();
  for (const check of checks) {
    const name = check.kernel.split(" ")[0]!;
    const kernel = kernels.get(name) ?? { worst: check, count: 0 };
    kernel.count += 1;
    if (used(check) > used(kernel.worst)) kernel.worst = check;
    kernels.set(name, kernel);
  }
  const rows = [...kernels].map(([name, { worst, count }]) => [
    make("span", { class: worst.passed ? "pass" : "fail" }, worst.passed ? "ok" : "WRONG"),
    make("span", { title: `${worst.kernel}, ${worst.form}` }, name),
    count,
    worst.error.toExponential(1),
    worst.tolerance.toExponential(1),
  ]);
  return table("Self-test of the kernels", ["", "kernel", "checks", "error", "allowed"], rows, {
    class: "numbers",
    "data-testid": "self-test-table",
  });
}

async function auditDrafts(): Promise<void> {
  const verdict = byId("test-verdict");
  await engine.use(async (model) => {
    verdict.textContent = "Auditing …";
    delete verdict.dataset["passed"];
    byId("test-table").replaceChildren();
    try {
      const audit = await model.audit({
        onProgress: (done, total) => {
          verdict.textContent = `Auditing: ${done} of ${total} …`;
        },
      });
      verdict.dataset["passed"] = String(audit.equal);
      verdict.textContent = audit.equal
        ? audit.width_invariant
          ? "Equal: drafts change nothing."
          : "Equal, because drafts are off on this device: they would change texts."
        : "DIFFERENT: do not trust drafts on this device, and please report it.";
      byId("test-table").replaceChildren(auditTable(audit));
    } catch (error) {
      verdict.textContent = "";
      report("The audit broke off", error);
    }
  });
}

function auditTable(audit: Audit): HTMLTableElement {
  return table(
    "Audit of the drafts",
    ["", "drafts from", "tree", "T", "tokens", "accepted"],
    audit.cases.map((one) => [
      make("span", { class: one.equal ? "pass" : "fail" }, one.equal ? "equal" : "DIFFERENT"),
      one.drafter,
      one.tree,
      one.temperature,
      one.tokens,
      one.accepted,
    ]),
    { class: "numbers", "data-testid": "audit-table" },
  );
}

/** What was downloaded before. */
export async function listCache(): Promise<void> {
  const holder = byId("cache-list");
  const all = byId<HTMLButtonElement>("cache-clear");
  try {
    const entries = await cache.list();
    all.disabled = entries.length === 0;
    if (entries.length === 0) {
      holder.replaceChildren(
        make("p", { class: "muted small" }, "Nothing. Downloaded models stay here, and load from here the next time."),
      );
      return;
    }
    const rows = entries.map(({ name, bytes: size }) => {
      const button = make("button", { type: "button", class: "quiet", "aria-label": `Clear ${name}` }, "Clear");
      button.addEventListener("click", () => void clear(name));
      return [make("span", { class: "path" }, name), bytes(size), button];
    });
    rows.push([
      make("strong", {}, "together"),
      bytes(entries.reduce((sum, entry) => sum + entry.bytes, 0)),
      make("span", {}),
    ]);
    holder.replaceChildren(
      make(
        "div",
        { class: "scroll" },
        table("What is kept on this machine", ["file", "size", ""], rows, { class: "cache" }),
      ),
    );
  } catch (error) {
    all.disabled = true;
    holder.replaceChildren(
      make(
        "p",
        { class: "muted small" },
        `This browser gives no storage (${(error as Error).message}); models are downloaded every time.`,
      ),
    );
  }
}

async function clear(name?: string): Promise<void> {
  try {
    await cache.clear(name);
  } catch (error) {
    report("The cache could not be cleared", error);
  }
  await listCache();
}
