#!/usr/bin/env python3
"""Makes the golden fixtures of training: what three optimizer steps do to heads and to a LoRA.

    python make_train.py [--out FOLDER] [CASE...]

Forward pass and losses are plain PyTorch in double precision, written from the definitions in README.md (the backbone's
forward pass is checked against transformers first); autograd and torch.optim.AdamW do the rest. A case is only
written if every misreading that it is there to catch shows in the gradients or in the parameters, and if single precision
gives nearly the same numbers.
"""

import argparse
import dataclasses
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import make
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent / "train"
SEQUENCES, LENGTH = 3, 7
RATES = [0.01, 0.006, 0.002]  # of the three steps
VOCABULARY = 37
LISTED = 32  # tokens of a marginal that are kept

# ------------------------------------------------------------------------------------------------------------ backbones

SMALL = {"vocab_size": VOCABULARY, "max_position_embeddings": 32, "num_hidden_layers": 3}
BASES = {
    "base-llama": make.llama(
        **make.old(), **SMALL, hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=False,
    ),
    # Head sizes and inner sizes that are not multiples of four, and biases.
    "base-tied": make.llama(
        **make.new(100.0), **SMALL, hidden_size=12, intermediate_size=22, num_attention_heads=3, num_key_value_heads=1,
        head_dim=6, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
    ),
    "base-neox": make.neox(
        **make.old_neox(0.5), **SMALL, hidden_size=16, intermediate_size=24, num_attention_heads=2,
        use_parallel_residual=True, tie_word_embeddings=False,
    ),
    # A window that is not used.
    "base-qwen2": make.llama(
        **make.QWEN2, **make.old(), **SMALL, hidden_size=16, intermediate_size=24, num_attention_heads=2,
        num_key_value_heads=1, use_sliding_window=False, sliding_window=3, max_window_layers=1,
        tie_word_embeddings=False,
    ),
    # Norms of heads whose size is not a multiple of four, with an eps that shows.
    "base-qwen3": make.llama(
        **make.QWEN3, **make.new(100.0), **SMALL, **make.layers("full", "full", "full"), hidden_size=16,
        intermediate_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=10, rms_norm_eps=0.05,
        attention_bias=False, use_sliding_window=False, sliding_window=None, max_window_layers=3,
        tie_word_embeddings=True,
    ),
    # Only the first block rotates: heads, which are like the last, do not.
    "base-smollm3": make.llama(
        **make.SMOLLM3, **make.new(100.0), **SMALL, hidden_size=16, intermediate_size=24, num_attention_heads=2,
        num_key_value_heads=1, no_rope_layers=[1, 0, 0], tie_word_embeddings=True,
    ),
    "base-window": make.llama(
        **make.MISTRAL, **make.old(), **SMALL, hidden_size=16, intermediate_size=24, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=3, tie_word_embeddings=False,
    ),
}  # fmt: skip


def write_base(folder, name):
    """A checkpoint without a tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case = make.Case(name, BASES[name])
    make.write_json(folder / "config.json", case.config)
    save_file(make.weights(case, 0), folder / "model.safetensors", metadata={"format": "pt"})


class Backbone:
    def __init__(self, folder, dtype):
        self.folder, self.dtype = folder, dtype
        self.config = c = json.loads((folder / "config.json").read_text())
        self.tensors = {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}
        self.neox, self.blocks, self.hidden = c["model_type"] == "gpt_neox", c["num_hidden_layers"], c["hidden_size"]
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads", self.heads)
        self.size = c.get("head_dim", self.hidden // self.heads)
        rope = c.get("rope_parameters", {})
        self.theta = rope.get("rope_theta") or c.get("rope_theta") or c["rotary_emb_base"]
        self.rotated = int(self.size * c.get("rotary_pct", 1))
        self.window = c.get("sliding_window") if c.get("use_sliding_window", True) else None
        self.layers = "gpt_neox.layers" if self.neox else "model.layers"
        self.final_norm = "gpt_neox.final_layer_norm" if self.neox else "model.norm"
        self.embedding = "gpt_neox.embed_in" if self.neox else "model.embed_tokens"
        tied = c.get("tie_word_embeddings", False)
        self.unembedding = self.embedding if tied else "lm_head"
        self.targets = ["query_key_value"] if self.neox else ["q_proj", "k_proj", "v_proj"]

    def target(self, block, name):
        return f"{self.layers}.{block}.{'attention' if self.neox else 'self_attn'}.{name}"

    def parts(self):
        """Name within a block -> shape."""
        prefix = f"{self.layers}.0."
        return {n[len(prefix) :]: tuple(t.shape) for n, t in self.tensors.items() if n.startswith(prefix)}

    def logits(self, net, x):
        return F.linear(net.norm(x, self.final_norm), self.tensors[f"{self.unembedding}.weight"])


# --------------------------------------------------------------------------------------------------------- forward pass


@dataclass(frozen=True)
class Reading:
    """How the definitions are read. The defaults are right; each change is a mistake that some case must show."""

    counted_at_source: bool = False  # the mask is asked about a row's own token
    mean_of_all_rows: bool = False  # a loss is divided by all rows, counted or not
    source_shift: int = 0  # the stream after another block
    token_shift: int = 0  # the sequential heads' token
    embedding_first: bool = False
    temperature: bool = True
    balance: str = "rms"  # or "mean", "off", "with gradient"
    backbone_detached: bool = False  # streams carry no gradient
    micro_batches_added: bool = False  # not averaged
    head_rate: bool = True
    decay: bool = True
    clipping: bool = True
    attached: bool = False  # the backbone learns from heads that are to follow it
    gate_open: bool = False  # a gated LoRA acts on the next token too
    label_shift: int = 0  # soft labels of another row
    branches: int = 16  # of a marginal
    labels: str = "base"  # or "tokens"; "adapted": those of the model with its LoRA
    biases: bool = True
    head_norms: str = "before"  # the rotation, or "after", "none"
    window: int | None = 0  # how many more positions; None: all
    all_rotate: bool = False


RIGHT = Reading()


def rotate(x, theta, dims):
    """RoPE on the first `dims` of each head, rotate-half form; x is [..., length, size]."""
    frequencies = theta ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), frequencies)
    cos, sin = (torch.cat([f(angles)] * 2, -1).to(x.dtype) for f in (torch.cos, torch.sin))
    turned, rest = x[..., :dims], x[..., dims:]
    a, b = turned.chunk(2, -1)
    return torch.cat([turned * cos + torch.cat([-b, a], -1) * sin, rest], -1)


class Net:
    """The backbone's tensors and those being trained, by name, and what is computed with them."""

    def __init__(self, backbone, trained, lora=None, reading=RIGHT):
        self.backbone, self.lora, self.reading = backbone, lora, reading
        self.tensors = backbone.tensors | trained

    def linear(self, x, name, change=None):
        weight, bias = self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")
        y = F.linear(x, weight, bias if self.reading.biases else None)
        if change is not None and f"{change}.a" in self.tensors:
            a, b = self.tensors[f"{change}.a"], self.tensors[f"{change}.b"]
            y = y + self.lora["alpha"] / self.lora["rank"] * F.linear(F.linear(x, a), b)
        return y

    def norm(self, x, name):
        config, weight = self.backbone.config, self.tensors[f"{name}.weight"]
        if self.backbone.neox:
            return F.layer_norm(x, x.shape[-1:], weight, self.tensors[f"{name}.bias"], config["layer_norm_eps"])
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]) * weight

    def rotates(self, at):
        """Whether the attention of this name rotates. Heads are like the last block."""
        of = self.backbone
        number = int(at.removeprefix(of.layers).split(".")[1]) if at.startswith(of.layers) else of.blocks - 1
        return self.reading.all_rotate or of.config.get("no_rope_layers", [1] * of.blocks)[number] == 1

    def turned(self, q, k, at):
        """Queries and keys as they are compared: in some families normalised first."""
        turn = lambda x: rotate(x, self.backbone.theta, self.backbone.rotated) if self.rotates(at) else x
        if f"{at}.q_norm.weight" not in self.tensors or self.reading.head_norms == "none":
            return turn(q), turn(k)
        if self.reading.head_norms == "after":
            return self.norm(turn(q), f"{at}.q_norm"), self.norm(turn(k), f"{at}.k_norm")
        return turn(self.norm(q, f"{at}.q_norm")), turn(self.norm(k, f"{at}.k_norm"))

    def attend(self, q, k, v, at):
        """q, k, v: [sequences, heads, length, size]; heads of keys and values serve several heads of queries."""
        of = self.backbone
        q, k = self.turned(q, k, at)
        k, v = (x.repeat_interleave(of.heads // of.kv_heads, 1) for x in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(of.size)
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if of.window and self.reading.window is not None:
            mask = mask.triu(1 - of.window - self.reading.window)
        return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def block(self, x, at, number=None):
        """One block; `number` is the backbone's, whose queries, keys and values may be changed."""
        of = self.backbone
        change = lambda target: None if number is None else f"lora.{number}.{target}"
        h = self.norm(x, f"{at}.input_layernorm")
        apart = lambda y, size: y.unflatten(-1, (-1, size)).transpose(1, 2)
        if of.neox:
            fused = self.linear(h, f"{at}.attention.query_key_value", change("query_key_value"))
            q, k, v = apart(fused, 3 * of.size).chunk(3, -1)
            attention = self.linear(self.attend(q, k, v, f"{at}.attention"), f"{at}.attention.dense")
            h = self.norm(x, f"{at}.post_attention_layernorm")
            inner = F.gelu(self.linear(h, f"{at}.mlp.dense_h_to_4h"))
            return x + attention + self.linear(inner, f"{at}.mlp.dense_4h_to_h")
        project = lambda part: apart(self.linear(h, f"{at}.self_attn.{part}", change(part)), of.size)
        q, k, v = (project(part) for part in ("q_proj", "k_proj", "v_proj"))
        x = x + self.linear(self.attend(q, k, v, f"{at}.self_attn"), f"{at}.self_attn.o_proj")
        h = self.norm(x, f"{at}.post_attention_layernorm")
        inner = F.silu(self.linear(h, f"{at}.mlp.gate_proj")) * self.linear(h, f"{at}.mlp.up_proj")
        return x + self.linear(inner, f"{at}.mlp.down_proj")

    def embed(self, ids):
        return F.embedding(ids, self.tensors[f"{self.backbone.embedding}.weight"])

    def streams(self, ids):
        """z[0] is the embedding, z[l] the residual stream after block l."""
        z = [self.embed(ids)]
        for number in range(self.backbone.blocks):
            z.append(self.block(z[-1], f"{self.backbone.layers}.{number}", number))
        return z


# ---------------------------------------------------------------------------------------------------------------- cases


@dataclass
class Case:
    base: str
    heads: list  # as in mtp_config.json
    kind: str = "parallel"
    rank: int = 0  # of the LoRA; 0: none
    lora_blocks: list = field(default_factory=lambda: [0, 1])
    exact_copies: bool = False  # heads are as `init-heads` makes them, else a little changed
    train_heads: bool = True
    balance: bool = False
    head_rate: float = 1.0
    gated: bool = False  # the LoRA acts on drafting rows only
    detach: bool = False  # only what the backbone's own last block predicts reaches the LoRA
    target: str = "tokens"  # or "shifted": what the base model thinks of the token's place; or "marginal"
    accumulate: int = 1
    max_norm: float = 0.0  # 0: no clipping
    eps: float = 1e-8  # more where some gradients are nearly zero, so that no step depends on their rounding
    blind: dict = field(default_factory=dict)  # misreading -> changes of Reading


def at(offset, layer=2, layers=1):
    return {"offset": offset, "layers": layers, "source": {"layer": layer}}


def mixed(offset):
    return {"offset": offset, "layers": 1, "source": {"mix": {"temperature": 0.1}}}


def without(name, blind):
    return {misreading: changes for misreading, changes in blind.items() if misreading != name}


PLAIN = {
    "the mask at the row's own token": {"counted_at_source": True},
    "the mean over all rows": {"mean_of_all_rows": True},
    "another stream": {"source_shift": 1},
    "no weight decay": {"decay": False},
}
AHEAD_ONLY = {
    "the token itself": {"token_shift": -1},
    "the embedding first": {"embedding_first": True},
}
AHEAD = AHEAD_ONLY | PLAIN
ADDED = {"micro-batches added": {"micro_batches_added": True}}
CLIPPED = {"no clipping": {"clipping": False}}
JOINT = {
    "no balance": {"balance": "off"},
    "balance by the mean": {"balance": "mean"},
    "balance with a gradient": {"balance": "with gradient"},
    "one rate": {"head_rate": False},
    "a frozen backbone": {"backbone_detached": True},
} | PLAIN
SHIFTED = {"hard labels": {"labels": "tokens"}, "labels of the row itself": {"label_shift": 1}}
GATED = {"an open gate": {"gate_open": True}}
LAST = {"offset": 1, "backbone_last_layer": True}
ADAPTED = {"labels of the adapted model": {"labels": "adapted"}}
MIXED = JOINT | {"no temperature": {"temperature": False}}
BIASES = {"no biases": {"biases": False}}
HEAD_NORMS = {"norms of heads after the rotation": {"head_norms": "after"}, "no norms of heads": {"head_norms": "none"}}
WINDOWS = {"no window": {"window": None}, "one fewer": {"window": -1}, "one more": {"window": 1}}
ROTATED = {"all blocks rotate": {"all_rotate": True}}
joint = {"rank": 4, "balance": True, "head_rate": 4.0}

CASES = {
    "frozen-parallel": Case("base-llama", [at(1), at(2)], exact_copies=True, accumulate=2, blind=PLAIN | ADDED),
    "frozen-parallel-tied": Case("base-tied", [at(1), at(2)], eps=1e-3, blind=PLAIN),
    "frozen-parallel-neox": Case("base-neox", [at(1), at(2)], eps=1e-3, blind=PLAIN),
    "frozen-deep": Case("base-llama", [at(1, 1, 2), at(2, 1, 2)], blind=PLAIN),
    "frozen-sequential": Case("base-llama", [at(2), at(3)], "sequential", eps=1e-3, blind=AHEAD),
    "frozen-sequential-neox": Case(
        "base-neox", [at(2), at(3)], "sequential", eps=1e-3, accumulate=2, blind=AHEAD | ADDED,
    ),
    "joint": Case("base-llama", [at(1), at(2)], **joint, accumulate=2, blind=JOINT | ADDED),
    "joint-tied": Case(
        "base-tied", [at(1), at(2)], **joint, eps=1e-3, max_norm=0.5,
        blind=without("balance by the mean", JOINT) | CLIPPED,
    ),
    "joint-neox": Case("base-neox", [at(1), at(2)], **joint, eps=1e-3, blind=JOINT),
    "joint-deep": Case("base-llama", [at(1), at(2, 1, 2), at(3)], **joint, blind=JOINT),
    "joint-whs": Case(
        "base-llama", [mixed(1), mixed(2)], **joint, accumulate=2,
        blind=without("another stream", MIXED) | ADDED,
    ),
    "joint-detached": Case(
        "base-llama", [LAST, mixed(2), mixed(3)], "sequential", **joint | {"lora_blocks": [0, 1, 2]}, detach=True, eps=1e-3,
        blind=without("another stream", MIXED) | AHEAD_ONLY | {"heads that reach the LoRA": {"attached": True}},
    ),
    "baseline": Case(
        "base-llama", [{"offset": 1, "backbone_last_layer": True}], rank=4, lora_blocks=[0, 1, 2], train_heads=False,
        accumulate=2, blind=without("another stream", PLAIN) | ADDED,
    ),
    "gated": Case(
        "base-llama", [LAST, at(2), at(3, 1)], **joint, gated=True, accumulate=2, eps=1e-3,
        blind=JOINT | ADDED | GATED,
    ),
    "gated-neox": Case(
        "base-neox", [LAST, at(2)], "sequential", **joint, gated=True, target="shifted", eps=1e-3,
        blind=without("balance by the mean", JOINT) | AHEAD | GATED | SHIFTED | ADAPTED,
    ),
    "marginal": Case(
        "base-llama", [at(1), at(2), at(3, 1)], target="marginal",
        blind=PLAIN | {"hard labels": {"labels": "tokens"}, "a single branch": {"branches": 1}},
    ),
    "shifted-parallel": Case(
        "base-llama", [at(2), at(3, 1)], target="shifted", accumulate=2, blind=PLAIN | ADDED | SHIFTED,
    ),
    "shifted-sequential-neox": Case(
        "base-neox", [at(2), at(3)], "sequential", target="shifted", eps=1e-3, blind=AHEAD | SHIFTED,
    ),
    "shifted-joint": Case(
        "base-tied", [at(1), at(2)], **joint, target="shifted", eps=1e-3,
        blind=without("balance by the mean", JOINT) | SHIFTED | ADAPTED,
    ),
    "frozen-sequential-qwen2": Case("base-qwen2", [at(2), at(3)], "sequential", eps=1e-3, blind=AHEAD | BIASES),
    "frozen-parallel-qwen3": Case("base-qwen3", [at(1), at(2)], accumulate=2, blind=PLAIN | ADDED | HEAD_NORMS),
    "joint-smollm3": Case("base-smollm3", [at(1), at(2)], **joint, blind=JOINT | ROTATED),
    "joint-qwen3": Case("base-qwen3", [at(1), at(2)], **joint, blind=JOINT | HEAD_NORMS),
    "joint-window": Case(
        "base-window", [at(1), at(2)], **joint, accumulate=2, eps=1e-3, blind=JOINT | ADDED | WINDOWS,
    ),
}  # fmt: skip


def describe(case, backbone):
    c = backbone.config
    sizes = {
        "model_type": c["model_type"],
        "hidden_size": c["hidden_size"],
        "intermediate_size": c["intermediate_size"],
        "num_hidden_layers": backbone.blocks,
        "num_attention_heads": backbone.heads,
        "num_key_value_heads": backbone.kv_heads,
        "head_dim": backbone.size,
        "vocab_size": c["vocab_size"],
    }
    config = {"format": "foretoken-mtp", "version": 1, "kind": case.kind, "backbone": sizes, "heads": case.heads}
    if case.rank:
        config["lora"] = {
            "rank": case.rank, "alpha": case.rank, "targets": backbone.targets, "blocks": case.lora_blocks,
        }  # fmt: skip
        if case.gated:
            config["lora"]["gated"] = True
    return config


def initial(name, case, backbone):
    """The heads and the LoRA before the first step, in single precision."""
    found = {}

    def put(tensor, values, spread):
        noise = 0 if case.exact_copies else spread * make.random_of("train", name, tensor).standard_normal(values.shape)
        found[tensor] = torch.tensor(np.asarray(values + noise), dtype=torch.float32)

    source = {n: t.double().numpy() for n, t in backbone.tensors.items()}
    blocks, hidden = backbone.blocks, backbone.hidden
    for index, head in enumerate(case.heads):
        depth = head.get("layers", 0)
        for layer in range(depth):
            for part in backbone.parts():
                values = source[f"{backbone.layers}.{blocks - depth + layer}.{part}"]
                put(f"heads.{index}.layers.{layer}.{part}", values, 0.05)
        if "mix" in head.get("source", {}):
            put(f"heads.{index}.mix", np.full(blocks - 1, 0.1), 0.05)
        if case.kind == "sequential" and depth:
            for norm in ("hidden_norm", "embedding_norm"):
                put(f"heads.{index}.{norm}.weight", np.ones(hidden), 0.2)
                if backbone.neox:
                    put(f"heads.{index}.{norm}.bias", np.zeros(hidden), 0.2)
            put(f"heads.{index}.projection.weight", np.eye(hidden, 2 * hidden), 0.2)
    for block in case.lora_blocks if case.rank else []:
        for target in backbone.targets:
            outputs, inputs = source[f"{backbone.target(block, target)}.weight"].shape
            put(f"lora.{block}.{target}.a", np.zeros((case.rank, inputs)), 1 / math.sqrt(inputs))
            # Not zero, as it is when training begins: else no gradient would reach A.
            put(f"lora.{block}.{target}.b", np.zeros((outputs, case.rank)), 0.3)
    return found


def micro_batch(name, step, micro):
    """Ids and which of them count as targets. The last sequence is padded; a position in three does not count."""
    random = make.random_of("train", name, "batch", step, micro)
    ids = random.randint(1, VOCABULARY, (SEQUENCES, LENGTH))
    ids[0, -1] = VOCABULARY - 1
    counts = random.rand(SEQUENCES, LENGTH) > 0.3
    counts[0] = True  # also its first token, which is nobody's target
    counts[1, LENGTH // 2 :] = True
    end = LENGTH - 2 - micro
    ids[2, end:], counts[2, end:] = 0, False
    counts[2, end - 1] = True
    return torch.tensor(ids), torch.tensor(counts)


# --------------------------------------------------------------------------------------------------------------- losses


def marginal(backbone, seen, offset, branches):
    """p(x_{t+offset} | seen), over the likeliest paths in between, renormalised."""
    base = Net(backbone, {})
    next_token = lambda texts: backbone.logits(base, base.streams(texts)[-1])[:, -1].softmax(-1)
    paths, weights = torch.zeros(1, 0, dtype=torch.long), torch.ones(1, dtype=backbone.dtype)
    for _ in range(offset - 1):
        texts = torch.cat([seen.expand(len(paths), -1), paths], 1)
        weights = (weights[:, None] * next_token(texts)).flatten()
        paths = torch.cat([paths.repeat_interleave(VOCABULARY, 0), torch.arange(VOCABULARY).repeat(len(paths))[:, None]], 1)
    heaviest = weights.topk(min(branches, len(weights))).indices
    texts = torch.cat([seen.expand(len(heaviest), -1), paths[heaviest]], 1)
    mixed = (weights[heaviest, None] * next_token(texts)).sum(0)
    return mixed / mixed.sum()


def marginal_lists(backbone, ids, offset, branches):
    """The likeliest tokens of each row's marginal and their probabilities, each `[sequences, length, LISTED]`."""
    found = torch.zeros(SEQUENCES, LENGTH, LISTED, dtype=torch.long), torch.zeros(SEQUENCES, LENGTH, LISTED)
    found = found[0], found[1].to(backbone.dtype)
    with torch.no_grad():
        for sequence in range(SEQUENCES):
            for row in range(LENGTH - offset):
                top = marginal(backbone, ids[sequence, : row + 1], offset, branches).topk(LISTED)
                found[0][sequence, row], found[1][sequence, row] = top.indices, top.values
    return found


def label_losses(case, net, ids, offset, logits, reading):
    """Of a head's rows against soft labels: what the base model thinks of the place of each row's target, seeing all before it
    or only what the row has seen."""
    backbone = net.backbone
    if case.target == "marginal" and offset > 1:
        tokens, shares = (x[:, : LENGTH - offset] for x in marginal_lists(backbone, ids, offset, reading.branches))
        shares = shares / shares.sum(-1, keepdim=True)
        return -(shares * logits.log_softmax(-1).gather(-1, tokens)).sum(-1).flatten()
    with torch.no_grad():
        base = net if reading.labels == "adapted" else Net(backbone, {})
        labels = backbone.logits(base, base.streams(ids)[-1]).softmax(-1)
    first = max(offset - 1 - reading.label_shift, 0)
    labels = labels[:, first : first + LENGTH - offset]
    return -(labels * logits.log_softmax(-1)).sum(-1).flatten()


def token_losses(case, net, ids, counts, reading):
    """For each head the losses of the rows whose target counts: those that are reported, and those that it learns from."""
    backbone = net.backbone
    z = net.streams(ids)
    if reading.backbone_detached:
        z = [x.detach() for x in z]
    own = z
    if case.detach and not reading.attached:
        z = [x.detach() for x in z]
    if case.gated and not reading.gate_open:
        own = Net(backbone, {}).streams(ids)
    found = []
    for index, head in enumerate(case.heads):
        offset = head["offset"]
        rows = LENGTH - offset  # those that have a target
        if head.get("backbone_last_layer"):
            x = own[-1]
        else:
            source = head["source"]
            if "mix" in source:
                temperature = source["mix"]["temperature"] if reading.temperature else 1.0
                weights = (net.tensors[f"heads.{index}.mix"] / temperature).softmax(-1)
                x = sum(w * stream for w, stream in zip(weights, z[1:-1]))
            else:
                x = z[source["layer"] - reading.source_shift]
            if case.kind == "sequential":
                shift = offset - 1 + reading.token_shift
                e = net.embed(F.pad(ids[:, shift:], (0, shift)))
                halves = [net.norm(x, f"heads.{index}.hidden_norm"), net.norm(e, f"heads.{index}.embedding_norm")]
                halves = halves[::-1] if reading.embedding_first else halves
                x = net.linear(torch.cat(halves, -1), f"heads.{index}.projection")
            for layer in range(head["layers"]):
                x = net.block(x, f"heads.{index}.layers.{layer}")
        logits = backbone.logits(net, x)[:, :rows]
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, offset:].flatten(), reduction="none")
        learned = losses
        if case.target != "tokens" and reading.labels != "tokens":
            learned = label_losses(case, net, ids, offset, logits, reading)
        mask = (counts[:, :rows] if reading.counted_at_source else counts[:, offset:]).flatten()
        found.append((losses[mask], learned[mask]))
    return [losses for losses, _ in found], [learned for _, learned in found]


def objective(case, losses, reading):
    """The sum of the heads' mean losses, each rescaled to the root mean square of the first."""
    rms = [x.pow(2).mean().sqrt() for x in losses]
    means = [x.sum() / (SEQUENCES * LENGTH) if reading.mean_of_all_rows else x.mean() for x in losses]
    if not case.balance or reading.balance == "off":
        return sum(means)
    sizes = means if reading.balance == "mean" else rms
    factors = [sizes[0] / size for size in sizes]
    if reading.balance != "with gradient":
        factors = [factor.detach() for factor in factors]
    return sum(factor * mean for factor, mean in zip(factors, means))


def train(name, case, folder, start, dtype, reading=RIGHT):
    """Everything that step.safetensors holds."""
    backbone = Backbone(folder, dtype)
    trained = {n: t.to(dtype, copy=True).requires_grad_() for n, t in start.items()}
    net = Net(backbone, trained, describe(case, backbone).get("lora"), reading)
    ours = lambda prefix: [t for n, t in trained.items() if n.startswith(prefix)]
    rate = case.head_rate if reading.head_rate else 1.0
    groups = [{"params": ours("heads."), "scale": rate}, {"params": ours("lora."), "scale": 1.0}]
    decay = 0.01 if reading.decay else 0.0
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=1.0, eps=case.eps, weight_decay=decay)
    out = {}
    for step, step_rate in enumerate(RATES):
        for t in trained.values():
            t.grad = torch.zeros_like(t)
        for micro in range(case.accumulate):
            ids, counts = micro_batch(name, step, micro)
            losses, learned = token_losses(case, net, ids, counts, reading)
            share = 1 if reading.micro_batches_added else case.accumulate
            (objective(case, learned, reading) / share).backward()
            out[f"ids.{step}.{micro}"] = ids.int()
            out[f"counts.{step}.{micro}"] = counts.byte()
            for offset in [head["offset"] for head in case.heads if case.target == "marginal" and head["offset"] > 1]:
                tokens, shares = marginal_lists(backbone, ids, offset, RIGHT.branches)
                out[f"labels.{step}.{micro}.{offset}"] = tokens.int()
                out[f"shares.{step}.{micro}.{offset}"] = shares
            out[f"losses.{step}.{micro}"] = torch.stack([x.detach().mean() for x in losses])
            out[f"targets.{step}.{micro}"] = torch.tensor([len(x) for x in losses]).int()
        if step == 0:
            out |= {f"gradient.{n}": t.grad.clone() for n, t in trained.items()}
        norm = torch.stack([t.grad.norm() for t in trained.values()]).norm()
        if case.max_norm and reading.clipping and norm > case.max_norm:
            for t in trained.values():
                t.grad *= case.max_norm / norm
        out[f"gradient_norm.{step}"] = norm
        for group in optimizer.param_groups:
            group["lr"] = step_rate * group["scale"]
        optimizer.step()
        if step in (0, len(RATES) - 1):
            out |= {f"after.{step + 1}.{n}": t.detach().clone() for n, t in trained.items()}
    return out


# --------------------------------------------------------------------------------------------------------------- checks


def check_backbone(folder, ids):
    """The forward pass is that of transformers."""
    backbone = Backbone(folder, torch.float64)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    net = Net(backbone, {})
    with torch.no_grad():
        ours = backbone.logits(net, net.streams(ids)[-1])
        assert torch.allclose(ours, model(ids).logits, atol=1e-5)  # its RoPE tables are in single precision


def check_lora(case, folder, start, ids):
    """The LoRA is W + alpha / rank * B A."""
    backbone = Backbone(folder, torch.float64)
    described = describe(case, backbone)["lora"]
    start = {n: t.double() for n, t in start.items()}
    with torch.no_grad():
        apart = Net(backbone, start, described).streams(ids)[-1]
        merged = Backbone(folder, torch.float64)
        for block in case.lora_blocks:
            for target in backbone.targets:
                a, b = (start[f"lora.{block}.{target}.{part}"] for part in "ab")
                change = described["alpha"] / described["rank"] * b @ a
                merged.tensors[f"{backbone.target(block, target)}.weight"] += change
        assert torch.allclose(Net(merged, {}).streams(ids)[-1], apart)


def moved(a, b, start):
    """The largest change of any value, as a share of its tensor's largest; of parameters, of the largest step of any."""
    largest, where = 0.0, None
    for name, value in a.items():
        kind, _, rest = name.partition(".")
        if kind in ("ids", "counts", "targets", "labels", "shares"):
            continue
        scale = value
        if kind == "after":
            scale = value - start[rest.partition(".")[2]].to(value.dtype)
        elif kind == "gradient":
            scale = torch.clamp(value.abs().max(), min=1e-3)  # nothing to compare where all is rounding
        share = ((b[name].double() - value).abs().max() / scale.abs().max()).item()
        if share > largest:
            largest, where = share, name
    return largest, where


def make_case(out, name):
    case, base = CASES[name], out / CASES[name].base
    ids, _ = micro_batch(name, 0, 0)
    start = initial(name, case, Backbone(base, torch.float64))
    if case.rank:
        check_lora(case, base, start, ids)
    right = train(name, case, base, start, torch.float64)
    weak = [n for n, t in right.items() if n.startswith("gradient.") and t.abs().max() < 1e-4]
    assert not weak or case.exact_copies, f"{name}: no gradient in {weak}"
    for misreading, changes in case.blind.items():
        wrong = train(name, case, base, start, torch.float64, dataclasses.replace(RIGHT, **changes))
        share, _ = moved(right, wrong, start)
        assert share > 5e-3, f"{name}: {misreading} moves nothing by more than {share:.1e}"
    noise, where = moved(right, train(name, case, base, start, torch.float32), start)
    assert noise < 3e-4, f"{name}: rounding moves {where} by {noise:.1e}"
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make.write_json(folder / "mtp_config.json", describe(case, Backbone(base, torch.float64)))
    save_file(start, folder / "mtp.safetensors", metadata={"format": "pt"})
    unusual = {} if case.target == "tokens" else {"target": case.target}
    unusual |= {"detach": True} if case.detach else {}
    make.write_json(folder / "step.json", unusual | {
        "base": case.base, "sequences": SEQUENCES, "length": LENGTH, "accumulate": case.accumulate, "rates": RATES,
        "train_heads": case.train_heads, "train_lora": case.rank > 0, "balance": case.balance,
        "head_rate": case.head_rate, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": case.eps,
        "max_norm": case.max_norm or None, "made_with": {"torch": torch.__version__.split("+")[0]},
    })  # fmt: skip
    single = lambda t: t.float() if t.is_floating_point() else t
    save_file({n: single(t).contiguous() for n, t in right.items()}, folder / "step.safetensors")
    return noise, where


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for base in BASES:
        write_base(args.out / base, base)
        check_backbone(args.out / base, micro_batch(base, 0, 0)[0])
    for name in args.cases or CASES:
        noise, where = make_case(args.out, name)
        size = sum(f.stat().st_size for f in (args.out / name).iterdir())
        print(f"{name:24} {size / 1024:6.1f} KiB  rounding moves {noise:.1e} ({where})", flush=True)


if __name__ == "__main__":
    main()
