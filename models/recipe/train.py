"""Train the model for a fixed time: the schedule follows the clock, so it always reaches its end.

    python train.py --text ../../../shared/text --run run --minutes 100

Stopped at any moment, the same command goes on from the last checkpoint with the minutes that were left. With --steps in place of
--minutes the schedule follows the steps.
"""

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch

import data
from evaluate import Scorer
from model import SIZES, Llama

TOKENS_PER_STEP = 3072
MUON_RATE, ADAM_RATE = 0.02, 4e-3  # peaks; all rates share one schedule
WEIGHT_DECAY = 0.1  # of the matrices
WARM_UP, DECAY_FROM = 0.02, 0.25  # parts of the time
LONGER_FROM = 0.5  # part of the time after which windows are longer
SEED = 1


def rate_factor(progress):
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return min(1.0, (1.0 - progress) / (1.0 - DECAY_FROM))


def window_length(step, progress):
    if progress < LONGER_FROM:
        return 256
    return 1024 if step % 8 == 0 else 512


def orthogonalise(matrices):
    """Newton-Schulz iteration towards the nearest orthogonal matrix, over a stack of matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix step is orthogonalised (Jordan et al., 2024)."""

    def __init__(self, matrices, lr, weight_decay, momentum=0.95):
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(state["momentum"], group["momentum"]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, update in zip(parameters, orthogonalise(torch.stack(updates))):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-scale)


def make_optimizers(model):
    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.dim() == 1 or "embed" in name]
    optimizers = [
        Muon(inner, lr=MUON_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def save_atomically(state, path):
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of the corpora (for validation)")
    parser.add_argument("--run", type=Path, required=True, help="folder of tokenizer, token streams and checkpoints")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="time for the whole training")
    length.add_argument("--steps", type=int, help=f"steps of {TOKENS_PER_STEP} tokens in the whole training")
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)

    model = Llama(SIZES[args.size])
    optimizers = make_optimizers(model)
    loss_of = torch.compile(model.loss, dynamic=False) if args.compile else model.loss
    validation = data.validation_stories(args.text)[::4]
    scorer = Scorer(model, args.run / "tokenizer.json")
    checkpoint = args.run / "checkpoint.pt"
    step, tokens, elapsed = 0, 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        step, tokens, elapsed = state["step"], state["tokens"], state["elapsed"]
    mixture = data.Mixture(args.run, seed=SEED + step)  # a resumed run shuffles anew
    if checkpoint.exists():
        for name, drawn in state["drawn"].items():
            mixture.streams[name].drawn = drawn

    log = open(args.run / "log.jsonl", "a", buffering=1)
    started = time.monotonic() - elapsed
    recent, saved_at = [], elapsed

    def progress_now():
        return step / args.steps if args.steps else elapsed / (60 * args.minutes)

    def save():
        save_atomically({
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "config": asdict(model.config),
            "drawn": {name: stream.drawn for name, stream in mixture.streams.items()},
            "step": step,
            "tokens": tokens,
            "elapsed": elapsed,
        }, checkpoint)  # fmt: skip

    while (progress := progress_now()) < 1.0:
        length = window_length(step, progress)
        ids = torch.from_numpy(mixture.batch(TOKENS_PER_STEP // length, length + 1, progress))
        loss = loss_of(ids)
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate_factor(progress)
            optimizer.step()
            optimizer.zero_grad()
        step, tokens, elapsed = step + 1, tokens + ids[:, 1:].numel(), time.monotonic() - started
        recent.append(loss.item())

        if step % 20 == 0:
            entry = {"step": step, "tokens": tokens, "progress": round(progress, 4), "minutes": round(elapsed / 60, 2)}
            entry |= {"window": length, "loss": round(sum(recent) / len(recent), 4)}
            entry["epochs"] = {name: round(stream.epochs(), 2) for name, stream in mixture.streams.items()}
            if step % 200 == 0:
                entry["validation_bits_per_byte"] = round(scorer.bits_per_byte(validation), 4)
            log.write(json.dumps(entry) + "\n")
            recent = []
        if elapsed - saved_at > 120:
            save()
            saved_at = elapsed
    save()
    log.write(json.dumps({"step": step, "tokens": tokens, "finished": True,
                          "validation_bits_per_byte": round(scorer.bits_per_byte(validation), 4)}) + "\n")


if __name__ == "__main__":
    main()
