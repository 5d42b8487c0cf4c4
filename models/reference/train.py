"""Train heads and a low-rank change of the backbone as `foretoken train` does, in PyTorch, for runs that a CPU should finish.

    python train.py --model ../default --data ../tasks/run/translation/train.jsonl --row joint-lr --rate 1e-3 --steps 2600 --out run/joint-lr

--row sets the flags of a row of the paper's Table 1 (or `ours`); flags that follow change them. The same command goes on where it was
stopped.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch

import data
import losses
from model import Backbone, Model, new_heads, new_lora, read_heads, write_heads

JOINT = {"mode": "joint", "loss_balance": "rms"}
ROWS = {
    "baseline": {"mode": "baseline", "heads": 0},
    "heads-only": {"mode": "frozen"},
    "joint": JOINT,
    "joint-warmup": JOINT,  # with --warmup-heads
    "joint-lr": JOINT | {"head_lr_mult": 4.0},
    "joint-both": JOINT | {"head_lr_mult": 4.0},  # with --warmup-heads
    "joint-whs": JOINT | {"head_lr_mult": 4.0, "whs": True},
    # The baseline's own training, and beside it a head that cannot change it: it sees the streams, without a gradient.
    "ours": {"mode": "baseline", "kind": "sequential", "heads": 1, "head_lr_mult": 4.0},
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=ROWS)
    parser.add_argument("--model", type=Path, required=True, help="backbone, a folder in Hugging Face layout")
    parser.add_argument("--data", type=Path, help="jsonl of prompt and completion, or of text")
    parser.add_argument("--batches", type=Path, help="micro-batches that foretoken wrote, in place of --data")
    parser.add_argument("--valid", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mode", choices=["frozen", "joint", "baseline"], default="frozen",
                        help="baseline: LoRA on all blocks for the model's own next token; heads, if any, cannot change it")  # fmt: skip
    parser.add_argument("--kind", choices=["parallel", "sequential"], default="parallel")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--init", choices=["copy", "random"], default="copy", help="of heads beyond the first")
    parser.add_argument("--start", type=Path, help="begin with this folder of heads, and its LoRA if it has one")
    parser.add_argument("--warmup-heads", type=Path, help="begin with the heads of this folder")
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--whs", action="store_true")
    parser.add_argument("--loss-balance", choices=["none", "rms"], default="none")
    parser.add_argument("--head-lr-mult", type=float, default=1.0)
    parser.add_argument("--target", choices=["tokens", "shifted"], default="tokens")
    parser.add_argument("--rate", type=float, required=True, help="peak; falls along half a cosine to 0")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--max-norm", type=float)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=64, help="sequences of a micro-batch")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of PyTorch: cuda")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--valid-every", type=int, default=500)
    row = parser.parse_known_args()[0].row
    parser.set_defaults(**ROWS.get(row, {}))
    args = parser.parse_args()
    if (args.data is None) == (args.batches is None):
        parser.error("one of --data and --batches is needed")
    if row in ("joint-warmup", "joint-both") and not args.warmup_heads:
        parser.error(f"--row {row} needs --warmup-heads")
    if args.mode == "baseline" and args.kind == "parallel" and args.heads and not args.start:
        parser.error("--mode baseline is for sequential heads, or --heads 0")
    return args


def build(args, backbone):
    """kind, heads, lora and the tensors that are trained."""
    generator = torch.Generator().manual_seed(args.seed)
    if args.start:
        config, tensors = read_heads(args.start)
        kind, heads, lora = config["kind"], config["heads"], config.get("lora")
    else:
        kind, lora = args.kind, None
        heads, tensors = new_heads(backbone, kind, args.heads, args.depth, args.init, args.whs, generator)
        if args.warmup_heads:
            warm, found = read_heads(args.warmup_heads)
            if (warm["kind"], warm["heads"]) != (kind, heads):
                raise SystemExit(f"{args.warmup_heads}: other heads than those asked for")
            tensors = {name: t for name, t in found.items() if name.startswith("heads.")}
    if args.mode == "frozen":
        if lora:
            raise SystemExit("a LoRA cannot be trained in frozen mode: merge it into the backbone first")
    elif lora is None:
        blocks = range(backbone.blocks - (args.mode == "joint"))
        lora, more = new_lora(backbone, args.lora_rank, blocks, generator)
        tensors |= more
    if args.mode == "baseline" and not any(head.get("backbone_last_layer") for head in heads):
        # Last, so that the others keep their numbers; the file lists it only where the kind has such a head.
        heads = heads + [{"offset": 1, "backbone_last_layer": True}]
    return kind, heads, lora, {name: t.clone().requires_grad_() for name, t in tensors.items()}


def optimizer_of(trained, head_lr_mult, weight_decay, eps=1e-8):
    groups = []
    for prefix, scale in (("heads.", head_lr_mult), ("lora.", 1.0)):
        if chosen := [t for name, t in trained.items() if name.startswith(prefix)]:
            groups.append({"params": chosen, "scale": scale})
    return torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=eps, weight_decay=weight_decay)


def optimize(optimizer, trained, rate, max_norm):
    """A step with the gradients that have been added up; returns their norm."""
    norm = torch.stack([t.grad.norm() for t in trained.values() if t.grad is not None]).norm()
    if not norm.isfinite():
        raise SystemExit("a gradient is not finite")
    if max_norm and norm > max_norm:
        for t in trained.values():
            t.grad *= max_norm / norm
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return norm.item()


@torch.no_grad()
def validate(model, samples, batch):
    sums = [[0.0, 0] for _ in model.heads]
    ordered = sorted(samples, key=lambda sample: len(sample[0]))
    for start in range(0, len(ordered), batch):
        for total, found in zip(sums, losses.head_losses(model, *data.pad(ordered[start : start + batch]))):
            total[0] += found.sum().item()
            total[1] += len(found)
    return {head["offset"]: round(total / max(count, 1), 5) for head, (total, count) in zip(model.heads, sums)}


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    flags = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("threads", "device", "out")}
    flags_file, checkpoint = args.out / "flags.json", args.out / "checkpoint.pt"
    if flags_file.exists() and json.loads(flags_file.read_text()) != flags:
        raise SystemExit(f"{args.out} holds a run with other flags")
    flags_file.write_text(json.dumps(flags, indent=2) + "\n")

    backbone = Backbone(args.model)
    kind, heads, lora, trained = build(args, backbone)
    torch.set_default_device(args.device)
    backbone.to(args.device)
    trained = {name: t.detach().to(args.device).requires_grad_() for name, t in trained.items()}
    model = Model(backbone, kind, heads, lora, trained)
    optimizer = optimizer_of(trained, args.head_lr_mult, args.weight_decay)
    tokenizer = args.model / "tokenizer.json"
    if args.batches:
        batches = data.Dump(args.batches, args.accumulate)
    else:
        samples = data.encode(args.data, tokenizer, args.seq_len, backbone.eos)
        batches = data.Shuffled(samples, args.batch, args.accumulate, args.seed)
    valid = data.encode(args.valid, tokenizer, args.seq_len, backbone.eos) if args.valid else None

    step, targets, seconds = 0, 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        step, targets, seconds = state["step"], state["targets"], state["seconds"]
        for name, t in state["trained"].items():
            trained[name].data.copy_(t)
        optimizer.load_state_dict(state["optimizer"])
    log = open(args.out / "log.jsonl", "a", buffering=1)

    def save():
        state = {"step": step, "targets": targets, "seconds": seconds, "optimizer": optimizer.state_dict()}
        torch.save(state | {"trained": {n: t.detach() for n, t in trained.items()}}, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)

    saved_at = seconds
    while step < args.steps:
        began = time.monotonic()
        rate = args.rate * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        micro_batches = list(batches.step(step))
        sums, counted = [0.0] * len(heads), [0] * len(heads)
        for ids, counts in micro_batches:
            found = losses.head_losses(model, ids, counts, args.mode == "baseline", args.target == "shifted")
            (losses.objective(found, args.loss_balance == "rms") / len(micro_batches)).backward()
            targets += int(counts.sum())
            for index, x in enumerate(found):
                sums[index] += x.sum().item()
                counted[index] += len(x)
        norm = optimize(optimizer, trained, rate, args.max_norm)
        step, seconds = step + 1, seconds + time.monotonic() - began
        done = step == args.steps
        if step % args.log_every == 0 or step <= 50 or done:
            means = {head["offset"]: round(s / max(c, 1), 6) for head, s, c in zip(heads, sums, counted)}
            entry = {"step": step, "targets": targets, "seconds": round(seconds, 1), "rate": rate}
            log.write(json.dumps(entry | {"losses": means, "gradient_norm": round(norm, 6)}) + "\n")
        if valid and (step % args.valid_every == 0 or done):
            log.write(json.dumps({"step": step, "valid": validate(model, valid, args.batch)}) + "\n")
        if seconds - saved_at > 120 or done:
            save()
            saved_at = seconds
    write_heads(args.out, backbone, kind, heads, lora, trained)
    print(f"{args.out}: {step} steps, {targets} target tokens, {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
