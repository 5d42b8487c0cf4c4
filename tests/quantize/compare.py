"""Files that `foretoken quantize` writes, as llama.cpp reads them: the same token ids, and the same greedy texts.

    python3 -m venv .venv && .venv/bin/pip install -r tests/quantize/requirements.txt      (four minutes of a compiler)
    .venv/bin/python tests/quantize/compare.py target/debug/foretoken FILE.gguf... [--tokens 64] [--margin 1e-2]

For each file ten prompts are turned into ids by both, and continued greedily by both. Where a text differs first, the distance between
llama.cpp's two best logits there is printed: it must be below --margin. llama.cpp rounds the inputs of products with quantised weights
to 8 bits, which moves its logits by more than that. So each file is also written with --to f32, which changes no number of it, and
there the margin holds: llama.cpp on exact weights and foretoken on quantised ones. Ends with 1 where it does not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama_cpp import Llama

PROMPTS = [
    "Once upon a time, there was a little fox who",
    "The capital of France is",
    "def fibonacci(n):\n",
    "Water boils at",
    "Die Hauptstadt von Deutschland ist",
    "1, 2, 3, 4, 5,",
    "The three most important inventions of the 20th century are",
    "Tom likes red apples. Tom likes green apples. Tom likes",
    "In the beginning",
    "  She said: \"I don't know what you're talking about,\" and",
]  # fmt: skip


def ours(foretoken, path, prompt, tokens):
    flags = ["--prompt", prompt, "--max-tokens", str(tokens), "--draft", "off", "--json"]
    run = subprocess.run([foretoken, "generate", "--model", path, *flags], capture_output=True, encoding="utf-8")
    if run.returncode != 0:
        sys.exit(f"{path}: {run.stderr.strip()}")
    report = json.loads(run.stdout)
    return report["prompt_ids"], report["ids"]


def theirs(model, prompt_ids, ids):
    """llama.cpp's choice after each of our ids, and how far its second choice is."""
    model.reset()
    model.eval(prompt_ids + ids)
    logits = np.array(model.scores[len(prompt_ids) - 1 : len(prompt_ids) + len(ids) - 1])
    order = np.argsort(logits, axis=1)
    margins = np.take_along_axis(logits, order[:, -1:], 1) - np.take_along_axis(logits, order[:, -2:-1], 1)
    return order[:, -1].tolist(), margins[:, 0].tolist()


def compare(name, path, generated, margin):
    model = Llama(str(path), n_ctx=1024, logits_all=True, verbose=False)
    texts, tokens, first = 0, 0, []
    for prompt, (prompt_ids, ids) in generated.items():
        # Metadata say whether a text begins with a token of its own.
        add_bos = model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
        their_ids = model.tokenize(prompt.encode(), add_bos=add_bos, special=True)
        if their_ids != prompt_ids:
            print(f"{name}: {prompt!r}: ids {prompt_ids}, llama.cpp's {their_ids}")
            return False
        choices, margins = theirs(model, prompt_ids, ids)
        different = [at for at, (a, b) in enumerate(zip(ids, choices)) if a != b]
        texts += not different
        tokens += different[0] if different else len(ids)
        first += [margins[different[0]]] if different else []
    worst = max(first, default=0.0)
    print(f"{name}: {len(generated)} prompts have the same ids; {texts} texts are equal, {tokens} tokens before a difference; largest margin at one {worst:.4f}", flush=True)  # fmt: skip
    return worst < margin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("foretoken")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--margin", type=float, default=1e-2)
    args = parser.parse_args()
    sound = True
    for path in args.files:
        generated = {prompt: ours(args.foretoken, str(path), prompt, args.tokens) for prompt in PROMPTS}
        compare(f"{path.name} as it is", path, generated, args.margin)
        with tempfile.TemporaryDirectory() as folder:
            exact = Path(folder) / "exact.gguf"
            flags = ["quantize", "--model", str(path), "--to", "f32", "--out", str(exact)]
            subprocess.run([args.foretoken, *flags], check=True, capture_output=True)
            sound &= compare(f"{path.name} with its weights in f32", exact, generated, args.margin)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
