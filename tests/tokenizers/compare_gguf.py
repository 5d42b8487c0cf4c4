"""Compares token ids of tokenizers in GGUF files with those of transformers.

    pip install transformers==5.23.0 gguf accelerate torch
    cargo build --example tokens
    python tests/tokenizers/compare_gguf.py target/debug/examples/tokens FILE.gguf... [--strings 2000] [--seed 0] [--expected E.json]

For each file random strings of all that Unicode has (emoji sequences, combining marks, CJK, right-to-left, digits, spaces of every
kind, control characters, special tokens) are turned into ids by both, and ids into texts; --expected adds the texts of a list
`[{"text": ...}]`. transformers does not know the split `smollm` and takes GPT-2's: there digits are split one by one first, as in the
model's own `tokenizer.json`. Ends with 1 if a file differs.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from texts import ours, strings

def reference(path):
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    fields = GGUFReader(path).fields
    if "tokenizer.ggml.pre" in fields and fields["tokenizer.ggml.pre"].contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--strings", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--expected", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    failed = False
    for path in args.files:
        rng = random.Random(args.seed)
        texts = list(strings(rng, args.strings))
        texts += [entry["text"] for file in args.expected for entry in json.loads(file.read_text("utf-8"))]
        tokenizer = reference(path)
        want = [tokenizer.backend_tokenizer.encode(text).ids for text in texts]
        answers = ours(args.program, str(path), texts + want)
        wrong = 0
        for text, got, ids, back in zip(texts, answers, want, answers[len(texts) :]):
            decoded = [tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=skip) for skip in (True, False)]
            if got != ids or back.get("text") != decoded:
                wrong += 1
                if wrong <= 3:
                    print(f"{path.name}: {text!r}: {got}, expected {ids}; {back}, expected {decoded}")
        print(f"{path.name}: {len(texts)} texts, {sum(map(len, want))} tokens: {wrong} differ")
        failed |= wrong > 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
