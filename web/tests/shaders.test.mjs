/** Every shader of the kernel sets that browsers can run, through the browser's own compiler. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { open } from "./browser.mjs";

let tab;
before(async () => {
  tab = await open();
});
after(() => tab?.close());

/** What the browser says of each shader that it has something to say about, and how many there are. */
function compile(kernels) {
  return tab.page.evaluate(async (kernels) => {
    const adapter = await navigator.gpu.requestAdapter();
    const device = await adapter.requestDevice();
    const shaders = await foretoken.shaders(kernels);
    const told = [];
    for (const { name, wgsl } of shaders) {
      const { messages } = await device.createShaderModule({ code: wgsl }).getCompilationInfo();
      told.push(...messages.map(({ type, lineNum, message }) => `${name}:${lineNum}: ${type}: ${message}`));
    }
    device.destroy();
    return { count: shaders.length, told };
  }, kernels);
}

for (const kernels of ["software", "workgroup"]) {
  test(`every shader of the set ${kernels} compiles without a message`, async (context) => {
    const { count, told } = await compile(kernels);
    context.diagnostic(`${count} shaders`);
    assert.ok(count > 500, `${count} shaders`);
    assert.deepEqual(told, []);
  });
}

test("the compiler's messages arrive", async () => {
  const messages = await tab.page.evaluate(async () => {
    const device = await (await navigator.gpu.requestAdapter()).requestDevice();
    device.onuncapturederror = (event) => event.preventDefault();
    const [{ wgsl }] = await foretoken.shaders("software");
    const module = device.createShaderModule({ code: wgsl.replace("fn main", "fn main(missing: nothing) {}\nfn main") });
    return (await module.getCompilationInfo()).messages.length;
  });
  assert.ok(messages > 0);
});
