"""What is left of a marginal if only the likeliest tokens are its branches: of the marginal itself, and of a sequential head.

    python branches.py --model backbones/1m --heads run/1m-translation-ours-2 --data ../tasks/run/translation/valid.jsonl \\
        --out results/branches.json
"""

import argparse
import json
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch

from evaluate import LAST, Column, Reader, long_enough, read_model

WIDTHS = (1, 4, 8, 16, 32, 128, 512)


@torch.inference_mode()
def predict(model, ids):
    """Of each width the marginal, the head's mixture, and how much of the next token's probability its branches have."""
    reader, found, masses = Reader(model, ids, len(ids) - LAST), {}, {}
    head = next(index for index, of in enumerate(model.heads) if of["offset"] == 2)
    p, order = reader.next(2).sort(dim=-1, descending=True, stable=True)
    step, mixture, done = reader.step(), 0, 0
    for width in WIDTHS:
        mixture = mixture + reader.mix(zip(order[:, done:width], p[:, done:width]), step)
        masses[width], done = p[:, :width].sum(-1), width
        found["marginal", width] = mixture / mixture.sum(-1, keepdim=True)
        found["head", width] = reader.head(head, width)
    return reader, found, {width: mass.mean().item() for width, mass in masses.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--heads", type=Path, required=True, help="with a sequential head of offset 2")
    parser.add_argument("--data", type=Path, required=True, help="jsonl of prompt and completion")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, _ = read_model(args.model, args.heads)
    texts = list(long_enough(args.data, args.model, model))
    torch.set_num_threads(1)
    columns, masses = {}, dict.fromkeys(WIDTHS, 0.0)
    with ThreadPool(args.threads) as pool:
        for reader, found, mass in pool.imap(lambda ids: predict(model, ids), texts):
            for name, p in found.items():
                columns.setdefault(name, Column()).add(p, reader.ids[0], reader.targets)
            for width in WIDTHS:
                masses[width] += mass[width] / len(texts)
    widths = [
        {"width": width, "mass": round(masses[width], 4)} | {name: columns[name, width].found() for name in ("marginal", "head")}
        for width in WIDTHS
    ]
    about = {"model": args.model.name, "heads": args.heads.name, "data": f"{args.data.parent.name}/{args.data.name}"}
    args.out.write_text(json.dumps(about | {"samples": len(texts), "widths": widths}, indent=1) + "\n")


if __name__ == "__main__":
    main()
