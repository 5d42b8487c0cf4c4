"""How well a model and its heads predict one and two tokens ahead, as `foretoken analyze --protocol paper` measures it, in PyTorch.

    python evaluate.py --model ../default --heads ../reference/run/heads-only --data ../tasks/run/translation/test.jsonl --out found.json

Teacher-forced, over the last 20 target tokens of each sample, the same ones at every offset. Counts of each sample are kept, so that
other runs on the same samples can be compared pair by pair.
"""

import argparse
import hashlib
import json
import math
import sys
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

sys.path.append(str(Path(__file__).parent.parent / "reference"))

from model import TARGETS, Backbone, Model, read_heads

LAST = 20  # target tokens of a sample, and the fewest that it must have
TOP = (1, 5)
MASS = 0.99  # of the nucleus that a marginal sums over
FEED, WIDE_FEED = 8, 32  # likeliest next tokens that a sequential head is mixed over
CHUNK = 768  # branches at a time
SAVE_EVERY = 20  # samples


def read(path, tokenizer_file, context):
    """(ids, number of the first target) of each sample; a token across the seam of prompt and completion is a target."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    for line in open(path, encoding="utf-8"):
        record = json.loads(line)
        prompt = record.get("prompt")
        ids, first = tokenizer.encode(record["text"] if prompt is None else prompt + record["completion"]).ids[:context], 0
        if prompt is not None:
            pairs = zip(tokenizer.encode(prompt).ids, ids)
            first = next((at for at, (a, b) in enumerate(pairs) if a != b), len(tokenizer.encode(prompt).ids))
        yield ids, first


def long_enough(path, folder, model):
    """The ids of the samples that are scored, in order."""
    # Every offset scores the same targets, so there must be something before the first of them.
    texts = read(path, Path(folder) / "tokenizer.json", model.backbone.config["max_position_embeddings"])
    return (ids for ids, first in texts if len(ids) - max(first, 2) >= LAST)


class Reader:
    """Predictions for the tokens of one text, as probabilities, [targets, vocabulary]."""

    def __init__(self, model, ids, first):
        self.model, self.ids, self.targets = model, torch.tensor([ids]), torch.arange(first, len(ids))
        self.streams = model.streams(self.ids)

    def next(self, offset=1):
        """The model's own next token, `offset` - 1 places before that of the target."""
        return self.model.logits(self.streams[-1][0, self.targets - offset]).softmax(-1)

    def seen(self, x, at):
        """Keys and values of a block for the whole text, the stream x."""
        return [self.model.widen(part) for part in self.model.project(x, at)[1:]]

    def siblings(self, x, position, seen, at):
        """What a block makes of siblings at `position`: each row of x sees what the text has before it, and itself."""
        keys, values = (part[:, :, :position] for part in seen)
        q, k, v = self.model.project(x[None], at, positions=position)
        q, k, v = q / math.sqrt(q.shape[-1]), self.model.widen(k), self.model.widen(v)
        weights = torch.cat([q @ keys.mT, (q * k).sum(-1, keepdim=True)], -1).softmax(-1)
        y = weights[..., :-1] @ values + weights[..., -1:] * v
        return self.model.finish(x, y.transpose(1, 2).flatten(2)[0], at)

    def mix(self, branches, predict):
        """The sum of p(y) q(. | y) for each target, whose branches are tokens y and their p(y)."""
        mixture = torch.zeros(len(self.targets), self.model.backbone.vocabulary)
        for row, branch in enumerate(branches):
            for tokens, p in zip(*(part.split(CHUNK) for part in branch)):
                mixture[row] += p @ self.model.logits(predict(row, tokens)).softmax(-1)
        return mixture

    def step(self):
        """A function of a target's row and of tokens one place before it: the stream that the model predicts from after each of them."""
        blocks = [f"model.layers.{number}" for number in range(self.model.backbone.blocks)]
        seen = [self.seen(z, at) for z, at in zip(self.streams, blocks)]

        def predict(row, tokens):
            x = self.model.embed(tokens)
            for at, before in zip(blocks, seen):
                x = self.siblings(x, int(self.targets[row]) - 1, before, at)
            return x

        return predict

    def marginal(self):
        """Over the nucleus of the next token, renormalised; and the mean size of the nucleus."""
        sorted_p, order = self.next(2).double().sort(dim=-1, descending=True, stable=True)
        sizes = (sorted_p.cumsum(-1) - sorted_p < MASS).sum(-1).tolist()
        branches = [(y[:size], (p[:size] / p[:size].sum()).float()) for y, p, size in zip(order, sorted_p, sizes)]
        return self.mix(branches, self.step()), sum(sizes) / len(sizes)

    def head(self, index, feed=FEED):
        """A head's prediction. A sequential one of offset 2 must not know the text's own next token: it is fed the likeliest ones."""
        model, head = self.model, self.model.heads[index]
        picks = self.targets - head["offset"]
        if model.kind == "parallel" or head["offset"] == 1:
            return model.logits(model.head(index, self.streams, self.ids, picks)).softmax(-1)
        assert head["offset"] == 2, "a sequential head beyond the second token is not measured"
        p, tokens = self.next(2).topk(feed)
        source, seen = model.source(index, self.streams), []
        x = model.join(index, source, F.pad(self.ids[:, 1:], (0, 1)))
        layers = [f"heads.{index}.layers.{layer}" for layer in range(head["layers"])]
        for at in layers:
            seen.append(self.seen(x, at))
            x = model.block(x, at)

        def predict(row, tokens):
            position = int(picks[row])
            x = model.join(index, source[0, position].expand(len(tokens), -1), tokens)
            for at, before in zip(layers, seen):
                x = self.siblings(x, position, before, at)
            return x

        return self.mix(zip(tokens, p / p.sum(-1, keepdim=True)), predict)


class Column:
    """One prediction of every target."""

    def __init__(self):
        self.hits, self.control, self.nats = {top: [] for top in TOP}, [], []

    def add(self, p, ids, targets):
        places = torch.arange(p.shape[1])

        def ranks(rows, tokens):
            own = p[rows].gather(1, tokens[:, None])
            ahead = (p[rows] > own) | (p[rows] == own) & (places < tokens[:, None])
            return 1 + ahead.sum(-1)

        found = ranks(slice(None), ids[targets])
        for top, counts in self.hits.items():
            counts.append(int((found <= top).sum()))
        after = targets[targets + 1 < len(ids)] + 1
        self.control.append(int((ranks(slice(len(after)), ids[after]) <= max(TOP)).sum()))
        self.nats.append(-p.gather(1, ids[targets][:, None]).clamp_min(1e-38).log().sum().item())

    def found(self):
        """A count is one character, 0 to k."""
        text = lambda counts: "".join("0123456789abcdefghijk"[count] for count in counts)
        counts = {f"top{top}": text(counts) for top, counts in self.hits.items()}
        return counts | {"control": text(self.control), "nats": round(sum(self.nats) / len(self.nats) / LAST, 5)}


def read_model(folder, heads):
    """The model, and the tensors of the heads' folder, which may be None. A LoRA is merged: its products, though small, take long."""
    config, tensors = read_heads(heads) if heads else ({"kind": "parallel", "heads": []}, {})
    model = Model(Backbone(folder), config["kind"], config["heads"], config.get("lora"), tensors)
    for block in config.get("lora", {}).get("blocks", []):
        for part in TARGETS:
            a, b = (model.tensors.pop(f"lora.{block}.{part}.{side}") for side in "ab")
            weight = f"model.layers.{block}.self_attn.{part}.weight"
            model.tensors[weight] = model.tensors[weight] + model.scale * b @ a
    return model, tensors


@torch.inference_mode()
def predict(model, ids, marginal):
    """What each column predicts of the last targets of a text, and the mean size of the nucleus if a marginal is wanted."""
    reader, found, size = Reader(model, ids, len(ids) - LAST), {}, None
    trained = {head["offset"]: index for index, head in enumerate(model.heads) if not head.get("backbone_last_layer")}
    found["next"] = reader.head(trained[1]) if 1 in trained else reader.next()
    if marginal:
        found["marginal"], size = reader.marginal()
    if 2 in trained:
        found["heads"] = reader.head(trained[2])
        if model.kind == "sequential":
            found["wide"] = reader.head(trained[2], WIDE_FEED)
    return reader, found, size


def evaluate(folder, heads, data, samples=None, marginal=0, part=None, threads=2):
    """`heads` may be None. `samples`: only so many, the first; `marginal`: of how many the marginal, which takes long.

    `part`: a file that keeps what has been found so far, and from which an interrupted measurement goes on. `threads`: samples at a
    time, with a core each: one sample gains little from a second core.
    """
    model, tensors = read_model(folder, heads)
    columns, sizes = {}, []
    if part and part.exists():
        columns, sizes = torch.load(part, weights_only=False)
    done = len(columns["next"].nats) if columns else 0
    torch.set_num_threads(1)
    with ThreadPool(threads) as pool:
        found = pool.imap(lambda text: predict(model, text[1], text[0] < marginal), islice(enumerate(long_enough(data, folder, model)), done, samples))
        for scored, (reader, predicted, size) in enumerate(found, done + 1):
            for name, p in predicted.items():
                columns.setdefault(name, Column()).add(p, reader.ids[0], reader.targets)
            sizes += [size] if size else []
            if part and scored % SAVE_EVERY == 0:
                torch.save((columns, sizes), part.with_suffix(".new"))
                part.with_suffix(".new").replace(part)
    matrices = lambda prefix: sum(t.numel() for name, t in model.tensors.items() if name.startswith(prefix) and t.dim() == 2)
    head = lambda index: f"heads.{index}."
    drafting = [matrices(head(index)) for index, of in enumerate(model.heads) if of["offset"] == 2]
    table = model.backbone.unembedding.numel()
    return {
        "data": Path(data).parent.name + "/" + Path(data).name,
        "sha256": hashlib.sha256(Path(data).read_bytes()).hexdigest(),
        "samples": len(columns["next"].nats),
        "columns": {name: column.found() for name, column in columns.items()},
        "nucleus": round(sum(sizes) / len(sizes), 1) if sizes else None,
        "parameters": {part: sum(t.numel() for name, t in tensors.items() if name.startswith(part)) for part in ("heads", "lora")},
        # Weights that a draft reads over those that a step of the model reads.
        "draft_over_step": round(sum(m + table for m in drafting) / (matrices("model.layers.") + table), 3) if drafting else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--heads", type=Path, help="heads or LoRA of a run")
    parser.add_argument("--data", type=Path, required=True, help="jsonl of prompt and completion, or of text")
    parser.add_argument("--samples", type=int, help="only so many, the first; default all")
    parser.add_argument("--marginal", type=int, default=0, help="also the marginal, which takes long, of so many")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = evaluate(args.model, args.heads, args.data, args.samples, args.marginal)
    args.out.write_text(json.dumps(found) + "\n")
    for name, column in found["columns"].items():
        hits = [int(count, 36) for count in column[f"top{max(TOP)}"]]
        print(f"{name}: top {max(TOP)} {100 * sum(hits) / LAST / len(hits):.1f} %, {column['nats']} nats, {len(hits)} samples")


if __name__ == "__main__":
    main()
