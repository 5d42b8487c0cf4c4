/**
 * In the page: foretoken and transformers.js behind one face, each used as its documentation says. An engine's function loads the
 * model, and gives `about`, what it is, and `generate(prompt, maxTokens, onToken)`, greedy and without drafts.
 */

export async function foretoken() {
  const { load } = await import("/foretoken/index.js");
  const model = await load({ kind: "url", base: "/model/" });
  return {
    about: `${model.info.kernels} kernels`,
    async generate(prompt, maxTokens, onToken) {
      for await (const { ids } of model.generate(prompt, { maxTokens, draft: "off" })) ids.forEach(onToken);
    },
    dispose: () => model.dispose(),
  };
}

export async function transformers(graph) {
  const { env, pipeline } = await import("/transformers/transformers.web.min.js");
  Object.assign(env, { remoteHost: location.origin, remotePathTemplate: "{model}/" });
  const ort = `${location.origin}/onnxruntime-web/ort-wasm-simd-threaded.asyncify`;
  env.backends.onnx.wasm.wasmPaths = { mjs: `${ort}.mjs`, wasm: `${ort}.wasm` };
  const generator = await pipeline("text-generation", "model", { device: "webgpu", dtype: "fp32", model_file_name: graph });
  return {
    about: `${env.version}, onnxruntime-web ${env.backends.onnx.versions.web}`,
    async generate(prompt, max_new_tokens, onToken) {
      // It hands out the prompt first.
      let begun = false;
      const put = ([ids]) => {
        if (begun) ids.forEach((id) => onToken(Number(id)));
        begun = true;
      };
      await generator(prompt, { max_new_tokens, do_sample: false, streamer: { put, end() {} } });
    },
    dispose: () => generator.dispose(),
  };
}

/** A text by an engine: its ids, and the seconds after which each came. */
export async function timed({ generate }, prompt, maxTokens) {
  const [ids, seconds] = [[], []];
  const start = performance.now();
  await generate(prompt, maxTokens, (id) => {
    ids.push(id);
    seconds.push((performance.now() - start) / 1000);
  });
  return { ids, seconds };
}

/** What drafts bring foretoken's default model, whose own head makes them: as many as pay, or always one, over none. */
export async function drafts() {
  const { load } = await import("/foretoken/index.js");
  const model = await load({ kind: "default" });
  const run = (options) => model.generate("Once upon a time", { maxTokens: 96, ...options }).result;
  // The first text teaches what a round costs.
  await run({ draft: "auto" });
  const plain = await run({ draft: "off" });
  const auto = await run({ draft: "auto" });
  const one = await run({ draft: "heads", draftLen: 1 });
  await model.dispose();
  if (auto.text !== plain.text || one.text !== plain.text) throw new Error("drafts have changed the text");
  return {
    auto: auto.tokens_per_s / plain.tokens_per_s,
    autoTokens: auto.tokens_per_round,
    one: one.tokens_per_s / plain.tokens_per_s,
    oneTokens: one.tokens_per_round,
  };
}
