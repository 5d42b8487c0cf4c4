"""A Llama checkpoint, heads on it and a low-rank change of it, as `docs/mtp-format.md` describes them, in PyTorch."""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

TARGETS = ["q_proj", "k_proj", "v_proj"]


class Backbone:
    def __init__(self, folder):
        folder = Path(folder)
        self.config = c = json.loads((folder / "config.json").read_text())
        if c["model_type"] != "llama":
            raise SystemExit(f"{folder}: model_type {c['model_type']}: the reference knows llama only")
        self.tensors = {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
        self.blocks, self.hidden, self.vocabulary = c["num_hidden_layers"], c["hidden_size"], c["vocab_size"]
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.heads
        self.size = c.get("head_dim") or self.hidden // self.heads
        self.eps, self.eos = c["rms_norm_eps"], c["eos_token_id"]
        theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        frequencies = theta ** (-torch.arange(0, self.size, 2, dtype=torch.float64) / self.size)
        angles = torch.outer(torch.arange(c["max_position_embeddings"], dtype=torch.float64), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos().float(), angles.sin().float()

    @property
    def unembedding(self):
        tied = self.config.get("tie_word_embeddings")
        return self.tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]

    def to(self, device):
        self.tensors = {name: t.to(device) for name, t in self.tensors.items()}
        self.cos, self.sin = self.cos.to(device), self.sin.to(device)

    def part_names(self):
        prefix = "model.layers.0."
        return [name[len(prefix) :] for name in self.tensors if name.startswith(prefix)]

    def sizes(self):
        """What `mtp_config.json` says of the backbone."""
        keys = ["model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
        return {key: self.config[key] for key in keys} | {"num_key_value_heads": self.kv_heads, "head_dim": self.size}


class Model:
    """`heads` and `lora` are those of `mtp_config.json`; `trained` the tensors of `mtp.safetensors`."""

    def __init__(self, backbone, kind, heads, lora, trained):
        self.backbone, self.kind, self.heads, self.lora = backbone, kind, heads, lora
        self.tensors = backbone.tensors | trained
        self.scale = lora["alpha"] / lora["rank"] if lora else 0.0

    def linear(self, x, name, change=None):
        y = F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))
        if change and f"{change}.a" in self.tensors:
            y = y + self.scale * F.linear(F.linear(x, self.tensors[f"{change}.a"]), self.tensors[f"{change}.b"])
        return y

    def norm(self, x, name):
        return F.rms_norm(x, x.shape[-1:], self.tensors[f"{name}.weight"], self.backbone.eps)

    def rotate(self, x, positions):
        a, b = x.chunk(2, -1)
        return x * self.backbone.cos[positions] + torch.cat([-b, a], -1) * self.backbone.sin[positions]

    def project(self, x, at, number=None, positions=None):
        """Queries, keys and values, [sequences, heads, length, size], of the stream x."""
        of = self.backbone
        h = self.norm(x, f"{at}.input_layernorm")
        change = lambda part: None if number is None else f"lora.{number}.{part}"
        split = lambda part: self.linear(h, f"{at}.self_attn.{part}", change(part)).unflatten(-1, (-1, of.size)).transpose(1, 2)
        q, k, v = (split(part) for part in TARGETS)
        positions = torch.arange(x.shape[1]) if positions is None else positions
        return self.rotate(q, positions), self.rotate(k, positions), v

    def widen(self, x):
        return x.repeat_interleave(self.backbone.heads // self.backbone.kv_heads, 1)

    def finish(self, x, attention, at):
        """What follows the attention in a block."""
        x = x + self.linear(attention, f"{at}.self_attn.o_proj")
        h = self.norm(x, f"{at}.post_attention_layernorm")
        inner = F.silu(self.linear(h, f"{at}.mlp.gate_proj")) * self.linear(h, f"{at}.mlp.up_proj")
        return x + self.linear(inner, f"{at}.mlp.down_proj")

    def block(self, x, at, number=None, picks=None):
        """`picks`, indices of rows: only these leave the block, as [picked, hidden]."""
        q, k, v = self.project(x, at, number)
        y = F.scaled_dot_product_attention(q, self.widen(k), self.widen(v), is_causal=True).transpose(1, 2).flatten(2)
        if picks is not None:
            x, y = x.flatten(0, 1)[picks], y.flatten(0, 1)[picks]
        return self.finish(x, y, at)

    def embed(self, ids):
        return F.embedding(ids, self.tensors["model.embed_tokens.weight"])

    def streams(self, ids, last=True):
        """z[l]: the stream after block l; z[0] the embedding. Without `last`, up to the last block's input."""
        z = [self.embed(ids)]
        for number in range(self.backbone.blocks - (0 if last else 1)):
            z.append(self.block(z[-1], f"model.layers.{number}", number))
        return z

    def next(self, z, picks=None):
        """The stream that the backbone's own next token is read from."""
        number = self.backbone.blocks - 1
        return self.block(z[number], f"model.layers.{number}", number, picks)

    def source(self, index, z):
        source = self.heads[index]["source"]
        if "mix" in source:
            weights = (self.tensors[f"heads.{index}.mix"] / source["mix"]["temperature"]).softmax(-1)
            return sum(w * x for w, x in zip(weights, z[1 : self.backbone.blocks]))
        return z[source["layer"]]

    def join(self, index, x, ids):
        """What the layers of a sequential head read: the source and the embedding of `ids`."""
        at = f"heads.{index}"
        halves = [self.norm(x, f"{at}.hidden_norm"), self.norm(self.embed(ids), f"{at}.embedding_norm")]
        return self.linear(torch.cat(halves, -1), f"{at}.projection")

    def head(self, index, z, ids, picks=None):
        """The stream of a head before the final norm, at all rows or at those picked."""
        head = self.heads[index]
        if head.get("backbone_last_layer"):
            return self.next(z, picks)
        x = self.source(index, z)
        if self.kind == "sequential":
            shift = head["offset"] - 1
            x = self.join(index, x, F.pad(ids[:, shift:], (0, shift)))
        for layer in range(head["layers"]):
            x = self.block(x, f"heads.{index}.layers.{layer}", picks=picks if layer + 1 == head["layers"] else None)
        return x

    def logits(self, x):
        return F.linear(self.norm(x, "model.norm"), self.backbone.unembedding)


# ------------------------------------------------------------------------------------------------------- heads on disk


def read_heads(folder):
    folder = Path(folder)
    config = json.loads((folder / "mtp_config.json").read_text())
    path = folder / "mtp.safetensors"
    return config, {name: t.float() for name, t in load_file(path).items()} if path.exists() else {}


def write_heads(folder, backbone, kind, heads, lora, tensors):
    """A folder that foretoken loads. A sequential kind lists no head of offset 1: that is the model itself."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    listed = [h for h in heads if kind == "parallel" or not h.get("backbone_last_layer")]
    config = {"format": "foretoken-mtp", "version": 1, "kind": kind, "backbone": backbone.sizes(), "heads": listed}
    if lora:
        config["lora"] = lora
    (folder / "mtp_config.json").write_text(json.dumps(config, indent=2) + "\n")
    kept = {name: t.detach().contiguous() for name, t in tensors.items()}
    save_file(kept, folder / "mtp.safetensors.part", metadata={"format": "pt"})
    (folder / "mtp.safetensors.part").replace(folder / "mtp.safetensors")


def new_heads(backbone, kind, count, depth, init, whs, generator):
    """Descriptions and tensors as `foretoken init-heads` makes them; random numbers are others."""
    first, heads, tensors = (2 if kind == "sequential" else 1), [], {}
    normal = lambda shape, deviation: deviation * torch.randn(shape, generator=generator)
    for index in range(count):
        source = {"mix": {"temperature": 0.1}} if whs else {"layer": backbone.blocks - depth}
        heads.append({"offset": index + first, "layers": depth, "source": source})
        for layer in range(depth):
            for part in backbone.part_names():
                old = backbone.tensors[f"model.layers.{backbone.blocks - depth + layer}.{part}"]
                new = f"heads.{index}.layers.{layer}.{part}"
                # Head 1 is always a copy: it is the model's own next token.
                if init == "copy" or heads[-1]["offset"] == 1:
                    tensors[new] = old.clone()
                elif old.dim() == 1:
                    tensors[new] = torch.zeros_like(old) if part.endswith("bias") else torch.ones_like(old)
                else:
                    adds = "o_proj" in part or "down_proj" in part
                    tensors[new] = normal(old.shape, 0.02 / math.sqrt(2 * backbone.blocks) if adds else 0.02)
        if whs:
            tensors[f"heads.{index}.mix"] = torch.full((backbone.blocks - 1,), 0.1)
        if kind == "sequential":
            hidden = backbone.hidden
            for norm in ("hidden_norm", "embedding_norm"):
                tensors[f"heads.{index}.{norm}.weight"] = torch.ones(hidden)
            shape = (hidden, 2 * hidden)
            tensors[f"heads.{index}.projection.weight"] = torch.eye(*shape) if init == "copy" else normal(shape, 0.02)
    return heads, tensors


def new_lora(backbone, rank, blocks, generator):
    """A Kaiming-uniform (a = sqrt 5), B zero, alpha = rank."""
    tensors = {}
    for block in blocks:
        for target in TARGETS:
            outputs, inputs = backbone.tensors[f"model.layers.{block}.self_attn.{target}.weight"].shape
            uniform = torch.rand((rank, inputs), generator=generator)
            tensors[f"lora.{block}.{target}.a"] = (2 * uniform - 1) / math.sqrt(inputs)
            tensors[f"lora.{block}.{target}.b"] = torch.zeros(outputs, rank)
    return {"rank": rank, "alpha": rank, "targets": TARGETS, "blocks": list(blocks)}, tensors
