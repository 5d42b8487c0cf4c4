"""Compares token ids of tokenizers in GGUF files with those of llama.cpp.

    pip install llama-cpp-python==0.3.36
    cargo build --example tokens
    python tests/tokenizers/compare_llama.py target/debug/examples/tokens FILE.gguf... [--strings 2000] [--seed 0] [--expected E.json]

The texts are those of `compare_gguf.py`. Where llama.cpp and transformers differ, foretoken follows transformers: so this says how many
texts differ and shows some of them, and ends with 0.
"""

import argparse
import json
import random
from pathlib import Path

from llama_cpp import Llama

from texts import ours, strings


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--strings", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--expected", type=Path, nargs="*", default=[])
    parser.add_argument("--shown", type=int, default=5)
    args = parser.parse_args()
    for path in args.files:
        texts = list(strings(random.Random(args.seed), args.strings))
        texts += [entry["text"] for file in args.expected for entry in json.loads(file.read_text("utf-8"))]
        llama = Llama(str(path), vocab_only=True, verbose=False)
        theirs = [llama.tokenize(text.encode("utf-8"), add_bos=True, special=True) for text in texts]
        differ = [row for row in zip(texts, ours(args.program, str(path), texts), theirs) if row[1] != row[2]]
        for text, got, want in differ[: args.shown]:
            at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            print(f"{path.name}: {text!r}: from token {at} on {got[at : at + 6]}, llama.cpp {want[at : at + 6]}")
        print(f"{path.name}: {len(texts)} texts, {sum(map(len, theirs))} tokens: {len(differ)} differ")


if __name__ == "__main__":
    main()
