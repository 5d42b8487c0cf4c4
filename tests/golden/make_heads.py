#!/usr/bin/env python3
"""Makes the golden fixtures of multi-token heads: tiny random heads for the checkpoints of make.py, and their logits.

    python make_heads.py [--out FOLDER] [CASE...]

The backbone's hidden states are what transformers computes. The heads are plain PyTorch, written from the descriptions
that docs/mtp-format.md names, and a layer of theirs is first checked against the backbone's last block. A case is only
written if every misreading that it is there to catch moves the logits.
"""

import argparse
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import make

HERE = Path(__file__).parent
LENGTH = 40  # more than one batch of 32 rows
POSITIONS = [0, 1, 2, 7, 30, 31, 32, 33, 36, 37]

# ------------------------------------------------------------------------------------------------------------- modules


def rms(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta, dims):
    """RoPE on the first `dims` of each head, rotate-half form; x is [heads, length, size]."""
    frequencies = theta ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), frequencies)
    cos, sin = (torch.cat([f(angles)] * 2, -1).float() for f in (torch.cos, torch.sin))
    turned, rest = x[..., :dims], x[..., dims:]
    a, b = turned.chunk(2, -1)
    return torch.cat([turned * cos + torch.cat([-b, a], -1) * sin, rest], -1)


def attend(q, k, v, window=None):
    """Causal; heads of keys and values serve several heads of queries. With a window, of the last positions only."""
    groups = q.shape[0] // k.shape[0]
    k, v = (x.repeat_interleave(groups, 0) for x in (k, v))
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    mask = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
    if window is not None:
        mask = mask.triu(1 - window)
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)


def last_window(config):
    """What the backbone's last block sees."""
    kinds = getattr(config, "layer_types", None)
    return None if kinds and kinds[-1] == "full_attention" else getattr(config, "sliding_window", None)


class Module:
    """The tensors of one head, and the backbone they belong to. `window` and `late_norms` are for misreadings."""

    def __init__(self, model, tensors, one_plus=None, late_norms=False, window=...):
        self.model, self.config, self.tensors = model, model.config, tensors
        self.neox = model.config.model_type == "gpt_neox"
        # Qwen3.5 stores the scales of all its norms less one, and projects queries with their gates.
        self.gated = model.config.model_type.startswith("qwen3_5")
        self.one_plus, self.late_norms = self.gated if one_plus is None else one_plus, late_norms
        self.window = last_window(model.config) if window is ... else window

    def linear(self, x, name):
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, x, name):
        weight = self.tensors[f"{name}.weight"]
        if self.neox:
            return F.layer_norm(x, x.shape[-1:], weight, self.tensors[f"{name}.bias"], self.config.layer_norm_eps)
        return rms(x, weight + 1 if self.one_plus else weight, self.config.rms_norm_eps)

    def layer(self, x, at):
        return self.neox_layer(x, at) if self.neox else self.llama_layer(x, at)

    def llama_layer(self, x, at):
        config, at = self.config, f"{at}."
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rope = config.rope_parameters
        theta, dims = rope["rope_theta"], int(size * rope.get("partial_rotary_factor", 1))
        h = self.norm(x, at + "input_layernorm")
        heads = lambda part: self.linear(h, f"{at}self_attn.{part}_proj").unflatten(-1, (-1, size)).transpose(0, 1)
        gate = 1
        if self.gated:
            queries, gate = heads("q").unflatten(0, (-1, 2)).unbind(1)
            gate, ungated = gate.transpose(0, 1).flatten(1).sigmoid(), heads
            heads = lambda part: queries if part == "q" else ungated(part)

        def normed(x, part):
            name = f"{at}self_attn.{part}_norm"
            return self.norm(x, name) if f"{name}.weight" in self.tensors else x

        if self.late_norms:
            q, k = (normed(rotate(heads(part), theta, dims), part) for part in "qk")
        else:
            q, k = (rotate(normed(heads(part), part), theta, dims) for part in "qk")
        attended = attend(q, k, heads("v"), self.window) * gate
        x = x + self.linear(attended, at + "self_attn.o_proj")
        h = self.norm(x, at + "post_attention_layernorm")
        gated = F.silu(self.linear(h, at + "mlp.gate_proj")) * self.linear(h, at + "mlp.up_proj")
        return x + self.linear(gated, at + "mlp.down_proj")

    def neox_layer(self, x, at):
        config, at = self.config, f"{at}."
        assert config.use_parallel_residual and config.hidden_act == "gelu"
        size = config.hidden_size // config.num_attention_heads
        rope = config.rope_parameters
        fused = self.linear(self.norm(x, at + "input_layernorm"), at + "attention.query_key_value")
        q, k, v = fused.unflatten(-1, (-1, 3 * size)).transpose(0, 1).chunk(3, -1)
        q, k = (rotate(part, rope["rope_theta"], int(size * rope["partial_rotary_factor"])) for part in (q, k))
        attention = self.linear(attend(q, k, v), at + "attention.dense")
        h = self.norm(x, at + "post_attention_layernorm")
        return x + attention + self.linear(F.gelu(self.linear(h, at + "mlp.dense_h_to_4h")), at + "mlp.dense_4h_to_h")


# ------------------------------------------------------------------------------------------------------------ backbone


class Backbone:
    """A golden checkpoint: its streams z[0..L], z[0] the embedding, the final norm's output, and how to go on."""

    def __init__(self, name, changes=None):
        self.name = name
        self.model = make.load(HERE / name)
        if changes:
            state = self.model.state_dict()
            for tensor, change in changes.items():
                state[tensor] += change  # the tensors are the model's own
        self.config = self.model.config
        self.core = self.model.gpt_neox if self.config.model_type == "gpt_neox" else self.model.model
        self.blocks = self.config.num_hidden_layers

    def run(self, ids):
        streams = []
        hooks = [layer.register_forward_hook(lambda _m, _i, out: streams.append(out)) for layer in self.core.layers]
        self.normed = self.core(torch.tensor([ids])).last_hidden_state[0]
        for hook in hooks:
            hook.remove()
        self.z = [None] + [(s[0] if isinstance(s, tuple) else s).reshape(len(ids), -1) for s in streams]
        self.ids = torch.tensor(ids)
        self.check()

    def final_norm(self, x):
        norm = self.core.final_layer_norm if self.config.model_type == "gpt_neox" else self.core.norm
        return norm(x)

    def logits(self, x, head=None):
        return F.linear(x, self.model.get_output_embeddings().weight if head is None else head)

    def embed(self, ids, table=None):
        return F.embedding(ids, self.model.get_input_embeddings().weight if table is None else table)

    def check(self):
        """The layers of this file are those of the backbone."""
        at = "gpt_neox.layers" if self.config.model_type == "gpt_neox" else "model.layers"
        module = Module(self.model, self.model.state_dict())
        last = module.layer(self.z[-2], f"{at}.{self.blocks - 1}")
        assert torch.allclose(last, self.z[-1], atol=1e-5), (last - self.z[-1]).abs().max()
        assert torch.allclose(self.final_norm(self.z[-1]), self.normed, atol=1e-5)


def layer_shapes(backbone, at):
    """Those of a block with attention: the last has one in every case."""
    prefix = "gpt_neox.layers" if backbone.config.model_type == "gpt_neox" else "model.layers"
    prefix += f".{backbone.blocks - 1}."
    state = backbone.model.state_dict()
    return {f"{at}.{n[len(prefix):]}": tuple(t.shape) for n, t in state.items() if n.startswith(prefix)}


def norm_shapes(backbone, name):
    parts = ["weight", "bias"] if backbone.config.model_type == "gpt_neox" else ["weight"]
    return {f"{name}.{part}": (backbone.config.hidden_size,) for part in parts}


def drawn(case, shapes, less_one=False):
    """Values by the part a tensor plays, from the case's and the tensor's names alone."""
    found = {}
    for name, shape in shapes.items():
        random = make.random_of("heads", case, name)
        if name.endswith(".mix"):
            values = 0.1 + 0.08 * random.standard_normal(shape)
        elif ".lora." in f".{name}":
            values = random.standard_normal(shape) * (0.4 if name.endswith(".b") else 1 / math.sqrt(shape[1]))
        else:
            plain = name.replace(".linear.bias", ".bias")
            values = make.draw(plain, shape, random)
        if less_one and "norm" in name:
            values = values - 1
        found[name] = torch.tensor(np.asarray(values), dtype=torch.float32)
    return found


# --------------------------------------------------------------------------------------------------------------- cases


@dataclass
class Made:
    backbone: Backbone
    files: dict  # name -> tensors, or JSON
    heads: list  # (offset, logits by position)
    blind: dict  # misreading -> its logits of the last head


def own_config(backbone, kind, heads, lora=None):
    config = backbone.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        "head_dim": size,
        "vocab_size": config.vocab_size,
    }
    base = {"format": "foretoken-mtp", "version": 1, "kind": kind, "backbone": sizes, "heads": heads}
    return base | ({"lora": lora} if lora else {})


def ids_of(case, backbone):
    ids = make.random_of("heads", case, "ids").randint(3, backbone.config.vocab_size, LENGTH).tolist()
    return ids[:-1] + [backbone.config.vocab_size - 1]


def without(*parts):
    return lambda model, tensors: Module(model, {n: t for n, t in tensors.items() if not any(p in n for p in parts)})


def unscaled(model, tensors):
    return Module(model, {n: torch.ones_like(t) if "q_norm" in n or "k_norm" in n else t for n, t in tensors.items()})


# Misreading -> the module of a wrong reader.
HEAD_NORMS = {
    "no norms of heads": without("q_norm", "k_norm"),
    "no scales": unscaled,
    "norms after the rotation": lambda *of: Module(*of, late_norms=True),
}
BIASES = {"no bias of queries": without("q_proj.bias"), "no biases": without(".bias")}
WINDOWS = {
    "no window": lambda *of: Module(*of, window=None),
    "one fewer": lambda *of: Module(*of, window=last_window(of[0].config) - 1),
    "one more": lambda *of: Module(*of, window=last_window(of[0].config) + 1),
}


def parallel(case, backbone, misreadings={}):
    """The paper's heads: head 1 is the last block, the others are one block each, here on z^1 and on z^2."""
    backbone.run(ids_of(case, backbone))
    shapes = layer_shapes(backbone, "heads.1.layers.0") | layer_shapes(backbone, "heads.2.layers.0")
    tensors = drawn(case, shapes)
    module = Module(backbone.model, tensors)
    head = lambda index, z, m=module: backbone.logits(backbone.final_norm(m.layer(z, f"heads.{index}.layers.0")))
    config = own_config(backbone, "parallel", [
        {"offset": 1, "backbone_last_layer": True},
        {"offset": 2, "layers": 1, "source": {"layer": 1}},
        {"offset": 3, "layers": 1, "source": {"layer": 2}},
    ])
    heads = [(1, backbone.logits(backbone.normed)), (2, head(1, backbone.z[1])), (3, head(2, backbone.z[2]))]
    blind = {"the stream before": head(2, backbone.z[1]), "the final norm": head(2, backbone.normed)}
    blind |= {name: head(2, backbone.z[2], wrong(backbone.model, tensors)) for name, wrong in misreadings.items()}
    return Made(backbone, {"mtp_config.json": config, "mtp.safetensors": tensors}, heads, blind)


def whs(case, backbone):
    """Mixes softmax(W / T) of z^1 .. z^(L-1), for heads of two layers and of one."""
    backbone.run(ids_of(case, backbone))
    shapes = {"heads.0.mix": (backbone.blocks - 1,), "heads.1.mix": (backbone.blocks - 1,)}
    for at in ["heads.0.layers.0", "heads.0.layers.1", "heads.1.layers.0"]:
        shapes |= layer_shapes(backbone, at)
    tensors = drawn(case, shapes)
    module = Module(backbone.model, tensors)

    def head(index, depth, temperature):
        weights = (tensors[f"heads.{index}.mix"] / temperature).softmax(-1)
        x = sum(w * z for w, z in zip(weights, backbone.z[1:-1]))
        for layer in range(depth):
            x = module.layer(x, f"heads.{index}.layers.{layer}")
        return backbone.logits(backbone.final_norm(x))

    mix = {"mix": {"temperature": 0.1}}
    config = own_config(backbone, "parallel", [
        {"offset": 1, "layers": 2, "source": mix}, {"offset": 2, "layers": 1, "source": mix},
    ])
    heads = [(1, head(0, 2, 0.1)), (2, head(1, 1, 0.1))]
    return Made(backbone, {"mtp_config.json": config, "mtp.safetensors": tensors}, heads, {"no T": head(1, 1, 1.0)})


def lora(case, backbone, targets):
    """The parallel head of a backbone with W + alpha / rank * B A."""
    rank, alpha, blocks = 3, 4.0, [0]
    neox = backbone.config.model_type == "gpt_neox"
    part = lambda block, target: f"{'gpt_neox' if neox else 'model'}.layers.{block}." + (
        f"attention.{target}" if neox else f"self_attn.{target}"
    )
    state = backbone.model.state_dict()
    shapes = layer_shapes(backbone, "heads.1.layers.0")
    for block in blocks:
        for target in targets:
            outputs, inputs = state[f"{part(block, target)}.weight"].shape
            shapes |= {f"lora.{block}.{target}.a": (rank, inputs), f"lora.{block}.{target}.b": (outputs, rank)}
    tensors = drawn(case, shapes)
    deltas = {
        f"{part(block, target)}.weight":
            alpha / rank * tensors[f"lora.{block}.{target}.b"] @ tensors[f"lora.{block}.{target}.a"]
        for block in blocks for target in targets
    }
    plain = Backbone(backbone.name)
    ids = ids_of(case, backbone)
    plain.run(ids)
    changed = Backbone(backbone.name, deltas)
    changed.run(ids)
    module = Module(changed.model, tensors)
    head = changed.logits(changed.final_norm(module.layer(changed.z[-2], "heads.1.layers.0")))
    unchanged = plain.logits(plain.final_norm(module.layer(plain.z[-2], "heads.1.layers.0")))
    described = {"rank": rank, "alpha": alpha, "targets": targets, "blocks": blocks}
    config = own_config(changed, "parallel", [
        {"offset": 1, "backbone_last_layer": True},
        {"offset": 2, "layers": 1, "source": {"layer": changed.blocks - 1}},
    ], described)
    heads = [(1, changed.logits(changed.normed)), (2, head)]
    return Made(changed, {"mtp_config.json": config, "mtp.safetensors": tensors}, heads, {"no LoRA": unchanged})


def chain(backbone, modules, first=None, shift=0):
    """Modules that read the normalised hidden state of the one before, the first the backbone's, and the token ahead."""
    hidden = backbone.normed if first is None else first
    for k, module in enumerate(modules, 1):
        known = len(backbone.ids) - k
        hidden = module(hidden[:known], backbone.ids[k - shift : k - shift + known])
        yield k + 1, hidden


def published(case, backbone, shapes, module, less_one=False, head=None, file="model.safetensors"):
    """`module(tensors, k, swap)` is module k as a function of hidden states and tokens."""
    backbone.run(ids_of(case, backbone))
    tensors = drawn(case, shapes, less_one)
    count = 2
    logits = lambda run: [
        (offset, backbone.logits(hidden, None if head is None else tensors[head(offset - 2)])) for offset, hidden in run
    ]
    ours = logits(chain(backbone, [module(tensors, k, False) for k in range(count)]))
    swapped = logits(chain(backbone, [module(tensors, k, True) for k in range(count)]))
    unnormed = logits(chain(backbone, [module(tensors, k, False) for k in range(count)], backbone.z[-1]))
    token = logits(chain(backbone, [module(tensors, k, False) for k in range(count)], shift=1))
    blind = {"other order": swapped[-1][1], "before the norm": unnormed[-1][1], "the token itself": token[-1][1]}
    return Made(backbone, {file: tensors}, ours, blind)


def joined(module, hidden, embedded, hidden_norm, embedding_norm, projection, hidden_first):
    halves = [module.norm(hidden, hidden_norm), module.norm(embedded, embedding_norm)]
    return module.linear(torch.cat(halves if hidden_first else halves[::-1], -1), projection)


def deepseek(case, backbone):
    """[embed ; hidden], an embedding and an LM head of each module's own."""
    hidden, vocab, shapes = backbone.config.hidden_size, backbone.config.vocab_size, {}
    at = lambda k: f"model.layers.{backbone.blocks + k}"
    for k in range(2):
        shapes |= layer_shapes(backbone, at(k)) | {
            f"{at(k)}.enorm.weight": (hidden,),
            f"{at(k)}.hnorm.weight": (hidden,),
            f"{at(k)}.eh_proj.weight": (hidden, 2 * hidden),
            f"{at(k)}.embed_tokens.weight": (vocab, hidden),
            f"{at(k)}.shared_head.norm.weight": (hidden,),
            f"{at(k)}.shared_head.head.weight": (vocab, hidden),
        }

    def module(tensors, k, swap):
        m, to = Module(backbone.model, tensors), at(k)

        def run(h, tokens):
            e = backbone.embed(tokens, tensors[f"{to}.embed_tokens.weight"])
            x = joined(m, h, e, f"{to}.hnorm", f"{to}.enorm", f"{to}.eh_proj", swap)
            return m.norm(m.layer(x, to), f"{to}.shared_head.norm")

        return run

    return published(case, backbone, shapes, module, head=lambda k: f"{at(k)}.shared_head.head.weight")


def mimo(case, backbone):
    """[hidden ; embed], the backbone's embedding and LM head."""
    hidden, shapes = backbone.config.hidden_size, {}
    at = lambda k: f"model.mtp_layers.{k}"
    for k in range(2):
        shapes |= layer_shapes(backbone, at(k)) | {
            f"{at(k)}.token_layernorm.weight": (hidden,),
            f"{at(k)}.hidden_layernorm.weight": (hidden,),
            f"{at(k)}.input_proj.weight": (hidden, 2 * hidden),
            f"{at(k)}.final_layernorm.weight": (hidden,),
        }

    def module(tensors, k, swap):
        m, to = Module(backbone.model, tensors), at(k)

        def run(h, tokens):
            e = backbone.embed(tokens)
            x = joined(m, h, e, f"{to}.hidden_layernorm", f"{to}.token_layernorm", f"{to}.input_proj", not swap)
            return m.norm(m.layer(x, to), f"{to}.final_layernorm")

        return run

    return published(case, backbone, shapes, module)


def qwen(case, backbone):
    """[embed ; hidden], scales stored less one, one projection for all layers."""
    hidden = backbone.config.hidden_size
    shapes = {
        "mtp.fc.weight": (hidden, 2 * hidden),
        "mtp.pre_fc_norm_hidden.weight": (hidden,),
        "mtp.pre_fc_norm_embedding.weight": (hidden,),
        "mtp.norm.weight": (hidden,),
    }
    for k in range(2):
        shapes |= layer_shapes(backbone, f"mtp.layers.{k}")

    def module(tensors, k, swap, plain=False):
        m = Module(backbone.model, tensors, one_plus=not plain)

        def run(h, tokens):
            e = backbone.embed(tokens)
            x = joined(m, h, e, "mtp.pre_fc_norm_hidden", "mtp.pre_fc_norm_embedding", "mtp.fc", swap)
            return m.norm(m.layer(x, f"mtp.layers.{k}"), "mtp.norm")

        return run

    made = published(case, backbone, shapes, module, less_one=True)
    written = made.files["model.safetensors"]
    plain = [module(written, k, False, True) for k in range(2)]
    made.blind["scale w"] = backbone.logits(list(chain(backbone, plain))[-1][1])
    return made


def sequential(case, backbone, depths=(2, 1), misreadings={}):
    """Ours: head 2 reads the stream before the last block, head 3 what head 2 leaves."""
    backbone.run(ids_of(case, backbone))
    hidden, shapes = backbone.config.hidden_size, {}
    for k, depth in enumerate(depths):
        at = f"heads.{k}"
        shapes |= norm_shapes(backbone, f"{at}.hidden_norm") | norm_shapes(backbone, f"{at}.embedding_norm")
        shapes |= {f"{at}.projection.weight": (hidden, 2 * hidden)}
        for layer in range(depth):
            shapes |= layer_shapes(backbone, f"{at}.layers.{layer}")
        shapes |= norm_shapes(backbone, f"{at}.norm") if k else {}
    tensors = drawn(case, shapes)

    def module(m, k, depth):
        at = f"heads.{k}"

        def run(h, tokens):
            names = [f"{at}.hidden_norm", f"{at}.embedding_norm", f"{at}.projection"]
            x = joined(m, h, backbone.embed(tokens), *names, True)
            for layer in range(depth):
                x = m.layer(x, f"{at}.layers.{layer}")
            return m.norm(x, f"{at}.norm") if k else backbone.final_norm(x)

        return run

    def run(first, m):
        modules = [module(m, k, depth) for k, depth in enumerate(depths)]
        return [(n, backbone.logits(h)) for n, h in chain(backbone, modules, first)]

    config = own_config(backbone, "sequential", [
        {"offset": k + 2, "layers": depth}
        | ({"source": {"head": k}, "own_norm": True} if k else {"source": {"layer": backbone.blocks - 1}})
        for k, depth in enumerate(depths)
    ])
    right = Module(backbone.model, tensors)
    heads = run(backbone.z[-2], right)
    blind = {"the last stream": run(backbone.z[-1], right)[-1][1]}
    for name, wrong in misreadings.items():
        blind[name] = run(backbone.z[-2], wrong(backbone.model, tensors))[-1][1]
    return Made(backbone, {"mtp_config.json": config, "mtp.safetensors": tensors}, heads, blind)


def medusa(case, backbone):
    """x + silu(W x + b) twice, then an LM head of its own, on the final norm's output."""
    backbone.run(ids_of(case, backbone))
    hidden, vocab, count, depth = backbone.config.hidden_size, backbone.config.vocab_size, 3, 2
    shapes = {}
    for head in range(count):
        for block in range(depth):
            shapes |= {f"{head}.{block}.linear.weight": (hidden, hidden), f"{head}.{block}.linear.bias": (hidden,)}
        shapes |= {f"{head}.{depth}.weight": (vocab, hidden)}
    tensors = drawn(case, shapes)
    m = Module(backbone.model, tensors)

    def head(index, x):
        for block in range(depth):
            x = x + F.silu(m.linear(x, f"{index}.{block}.linear"))
        return m.linear(x, f"{index}.{depth}")

    heads = [(index + 2, head(index, backbone.normed)) for index in range(count)]
    blind = {"before the norm": head(count - 1, backbone.z[-1])}
    return Made(backbone, {"medusa_lm_head.safetensors": tensors}, heads, blind)


QKV = ["q_proj", "k_proj", "v_proj"]
CASES = {
    "heads-parallel": lambda name: parallel(name, Backbone("llama-gqa")),
    "heads-neox": lambda name: parallel(name, Backbone("neox-parallel")),
    "heads-whs": lambda name: whs(name, Backbone("llama-sharded")),
    "heads-lora": lambda name: lora(name, Backbone("llama-gqa"), QKV),
    "heads-neox-lora": lambda name: lora(name, Backbone("neox-f16"), ["query_key_value"]),
    "heads-sequential": lambda name: sequential(name, Backbone("neox-parallel")),
    "heads-deepseek": lambda name: deepseek(name, Backbone("llama-odd")),
    "heads-mimo": lambda name: mimo(name, Backbone("llama-bias")),
    "heads-qwen": lambda name: qwen(name, Backbone("llama-gqa")),
    "heads-qwen3_5": lambda name: qwen(name, Backbone("qwen3_5")),
    "heads-medusa": lambda name: medusa(name, Backbone("mistral")),
    "heads-qwen2": lambda name: sequential(name, Backbone("qwen2-gqa"), (1,), BIASES),
    "heads-qwen3": lambda name: parallel(name, Backbone("qwen3"), HEAD_NORMS),
    "heads-qwen3-sequential": lambda name: sequential(name, Backbone("qwen3"), (1, 1), HEAD_NORMS),
    "heads-window": lambda name: parallel(name, Backbone("mistral-window"), WINDOWS),
}


def write(folder, name, made):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file, content in made.files.items():
        if file.endswith(".json"):
            make.write_json(folder / file, content)
        else:
            save_file({n: t.contiguous() for n, t in content.items()}, folder / file, metadata={"format": "pt"})
    spread = lambda logits: (logits.max() - logits.min()).item()
    last = made.heads[-1][1]
    for misreading, logits in made.blind.items():
        moved = (logits[POSITIONS] - last[POSITIONS]).abs().max().item() / spread(last)
        assert moved > 0.01, f"{name}: {misreading} moves the logits by {moved:.1e} of their range only"
    number = lambda x: float(f"{x:.9g}")
    heads = [
        {
            "offset": offset,
            "positions": len(logits),
            "logits": [[number(x) for x in logits[at].tolist()] for at in POSITIONS if at < len(logits)],
            "logits_range": number(spread(logits)),
        }
        for offset, logits in made.heads
    ]
    versions = {"torch": torch.__version__.split("+")[0], "transformers": make.transformers.__version__}
    expected = {
        "backbone": made.backbone.name,
        "ids": made.backbone.ids.tolist(),
        "checked_positions": POSITIONS,
        "heads": heads,
        "made_with": versions,
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for name in args.cases or CASES:
            write(args.out / name, name, CASES[name](name))
            print(name)


if __name__ == "__main__":
    main()
