"""What each type of `foretoken quantize` costs: bytes, and the likelihood of texts with intervals, as a table in Markdown.

    .venv/bin/python tests/quantize/table.py target/debug/foretoken TEXT... [--model MODEL] [--types q8_0,q4_k] [--tokens 512] [--parts 1]

Each TEXT (.txt, or .jsonl with texts in its lines; packed with gzip or not) is scored from its start, in so many parts of `--tokens`, with the model as it is and with each file that is written of it
(NumPy is needed). The change is that of the same tokens. Intervals of 95 % are percentiles of a bootstrap over stretches of 32 tokens,
the same ones for every type. The last line says with what.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TYPES = "f16,q8_0,q6_k,q5_k,q5_1,q5_0,q4_k,q4_1,q4_0"
STRETCH = 32
DRAWS = 10_000


def run(foretoken, *flags):
    done = subprocess.run([foretoken, *flags], capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"foretoken {' '.join(flags)}: {done.stderr.strip()}")
    return done.stdout, done.stderr


def text_of(path, most):
    """The start of a text, or of the texts in lines of JSON."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        if ".jsonl" not in path.name:
            return file.read(most)
        text = ""
        for line in file:
            entry = json.loads(line)
            text += entry["text"] if "text" in entry else "\n".join(part for part in entry.values() if isinstance(part, str))
            text += "\n\n"
            if len(text) >= most:
                break
        return text[:most]


def score(foretoken, model, texts, tokens):
    """Sums of nats, and numbers of tokens, by stretches."""
    named = ["--model", model] if model else []
    nats, counts = [], []
    for text in texts:
        out, _ = run(foretoken, "score", *named, "--text-file", text, "--truncate", "--context", str(tokens), "--json")
        logprobs = json.loads(out)["logprobs"]
        for start in range(0, len(logprobs), STRETCH):
            stretch = logprobs[start : start + STRETCH]
            nats.append(-sum(stretch))
            counts.append(len(stretch))
    return np.array(nats), np.array(counts)


def interval(values, counts, draws):
    means = values[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return values.sum() / counts.sum(), low, high


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("foretoken")
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--parts", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        texts = []
        for path in args.texts:
            # Of more characters than a part has tokens the rest is not scored.
            length = 8 * args.tokens
            whole = text_of(path, args.parts * length)
            for start in range(0, len(whole), length):
                texts.append(f"{folder}/{len(texts)}.txt")
                Path(texts[-1]).write_text(whole[start : start + length], encoding="utf-8")
        base, counts = score(args.foretoken, args.model, texts, args.tokens)
        draws = np.random.default_rng(0).integers(0, len(base), (DRAWS, len(base)))
        print("| type | MiB | bits a weight | nats a token | change, % |\n|---|---|---|---|---|")
        row = "| {} | {} | {} | {:.4f} ({:.4f} to {:.4f}) | {} |"
        print(row.format("as it is", "", "", *interval(base, counts, draws), ""), flush=True)
        named = ["--model", args.model] if args.model else []
        for kind in args.types.split(","):
            out = Path(folder) / f"{kind}.gguf"
            _, said = run(args.foretoken, "quantize", *named, "--to", kind, "--out", str(out))
            bits = said.strip().splitlines()[-1].split(" bits a weight")[0].split()[-1]
            nats, _ = score(args.foretoken, str(out), texts, args.tokens)
            mean = base.sum() / counts.sum()
            change = "{:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * x / mean for x in interval(nats - base, counts, draws)))
            print(row.format(f"`{kind}`", f"{out.stat().st_size / 2**20:.1f}", bits, *interval(nats, counts, draws), change), flush=True)  # fmt: skip
            out.unlink()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, encoding="utf-8").stdout.strip()
    print(f"\n{len(texts)} parts of {len(args.texts)} texts, {counts.sum()} tokens; commit {commit}")


if __name__ == "__main__":
    main()
