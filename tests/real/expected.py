#!/usr/bin/env python3
"""What transformers computes of real GGUF files, for `scripts/test.sh real`.

    python tests/real/expected.py FOLDER [NAME...]

For each model of models.json, or those that are named, FOLDER/FILE becomes FOLDER/FILE.expected.json: the weights of the file
dequantised to f32, eager attention, on the processor. It needs `torch`, `transformers`, `accelerate` and `gguf`, and for the
largest model 6 GB of memory.
"""

import argparse
import copy
import hashlib
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
MODELS = json.loads((HERE / "models.json").read_text())
PROMPTS = json.loads((HERE / "prompts.json").read_text())
TOKENS = 1000  # of the text
NEW = 64  # after each prompt
# Marginals: after so many positions, from the first on and so far apart; the branches that foretoken sums, and the many more that
# its bounds speak of; the tokens that are kept.
POSITIONS, FIRST, APART = 20, 9, 13
MASS, BRANCHES, MANY, KEPT = 0.99, 32, 96, 64
ROWS = 32  # at a time


def logits_of(model, hidden):
    """The LM head of some rows: all at once they would take gigabytes."""
    assert not getattr(model.config, "final_logit_softcapping", None)
    return model.lm_head(hidden).float()


def log_probs(model, ids):
    """Of each token after the first."""
    hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
    found = []
    for first in range(0, len(ids) - 1, ROWS):
        rows = hidden[first : min(first + ROWS, len(ids) - 1)]
        targets = torch.tensor(ids[first + 1 : first + 1 + len(rows)])
        found += torch.log_softmax(logits_of(model, rows).double(), -1).gather(1, targets[:, None])[:, 0].tolist()
    return found


def greedy(model, ids):
    """Greedy ids, end tokens or not, and by how much each was ahead of the next."""
    cache, step, found, margins = None, ids, [], []
    for _ in range(NEW):
        out = model.model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        top = logits_of(model, out.last_hidden_state[0, -1:])[0].topk(2)
        cache, step = out.past_key_values, [top.indices[0].item()]
        found += step
        margins.append((top.values[0] - top.values[1]).item())
    return {"prompt_ids": ids, "ids": found, "margins": margins}


def nucleus(probabilities):
    """How many of the likeliest tokens foretoken sums over: the fewest that reach the mass, and not too many."""
    return min((probabilities.cumsum(0) < MASS).sum().item() + 1, BRANCHES)


def marginal(model, ids):
    """The distribution two places ahead, summed over few tokens in between and over many."""
    out = model.model(torch.tensor([ids]), use_cache=True)
    first = torch.softmax(logits_of(model, out.last_hidden_state[0, -1:])[0].double(), -1)
    branches = first.topk(MANY)
    few = nucleus(branches.values)
    sums = torch.zeros(2, len(first), dtype=torch.double)
    for begin in range(0, MANY, ROWS):
        tokens, weights = branches.indices[begin : begin + ROWS], branches.values[begin : begin + ROWS]
        cache = copy.deepcopy(out.past_key_values)
        cache.batch_repeat_interleave(len(tokens))
        rows = model.model(tokens[:, None], past_key_values=cache, use_cache=True).last_hidden_state[:, 0]
        # Of logits in double precision: sums must not add to what is compared.
        terms = torch.softmax(logits_of(model, rows).double(), -1) * weights[:, None]
        sums[0] += terms[: max(0, few - begin)].sum(0)
        sums[1] += terms.sum(0)
    kept = sums[0].topk(KEPT).indices
    return {
        "tokens": len(ids),
        "branches": few,
        "mass": branches.values[:few].sum().item(),
        "edge": (branches.values[few - 1] - branches.values[few]).item(),
        "many_mass": branches.values.sum().item(),
        "ids": kept.tolist(),
        "sums": sums[0][kept].tolist(),
        "many_sums": sums[1][kept].tolist(),
    }


def expected(folder, file):
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager").eval()
    text = (HERE / "text.txt").read_text()
    ids = tokenizer(text).input_ids
    assert len(ids) >= TOKENS, f"{file}: a text of {len(ids)} tokens"
    ids = ids[:TOKENS]
    ends = [FIRST + APART * n for n in range(POSITIONS)]
    packages = {package.__name__: package.__version__ for package in (torch, transformers)}
    return {
        "made_with": packages,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "text_ids": ids,
        "log_probs": log_probs(model, ids),
        "greedy": [greedy(model, tokenizer(prompt).input_ids) for prompt in PROMPTS],
        "marginal": {"mass": MASS, "max_branches": BRANCHES, "positions": [marginal(model, ids[:end]) for end in ends]},
    }


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("folder", type=Path)
    args.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)} (default: all)")
    args = args.parse_args()
    torch.set_grad_enabled(False)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in args.names or MODELS:
        file = MODELS[name]["file"]
        found = expected(args.folder, file)
        out = args.folder / f"{file}.expected.json"
        out.write_text(json.dumps(found) + "\n")
        nll = -sum(found["log_probs"]) / len(found["log_probs"])
        print(f"{out}: {nll:.4f} nats a token", flush=True)


if __name__ == "__main__":
    main()
