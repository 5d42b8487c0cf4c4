#!/usr/bin/env python3
"""Makes the golden fixtures: tiny random checkpoints in Hugging Face layout and what transformers computes of them.

    python make.py [--out FOLDER] [CASE...]

Weights depend only on the case's name and seed. Seeds are tried from 0 up; the first whose checkpoint passes every
check of `problems` is taken, so that no golden value is blind to the feature that the case is there to test.
"""

import argparse
import copy
import itertools
import json
import math
import os
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.masking_utils import eager_mask
from transformers.models.qwen3.modeling_qwen3 import eager_attention_forward

import sampling
from tiny_tokenizer import tokenizer_config, tokenizer_json

NEW = 24  # greedy ids of a case
PROMPT, LONG_PROMPT = 12, 40
PENALTY = 1.3
TEXT = 'The red hen was in the café, and "Tom" paid 20 € 😀!\n'
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# -------------------------------------------------------------------------------------------------------- misreadings


def attentions(model):
    return [layer.self_attn for layer in model.base_model.layers if hasattr(layer, "self_attn")]


def delta_nets(model):
    return [layer.linear_attn for layer in model.base_model.layers if hasattr(layer, "linear_attn")]


def no_bias(*parts):
    def change(model):
        for attention in attentions(model):
            for part in parts:
                attention.get_submodule(part).bias.zero_()

    return change


def swapped_biases(model):
    """Those of keys and values."""
    for attention in attentions(model):
        k, v = attention.k_proj.bias, attention.v_proj.bias
        k.data, v.data = v.data, k.data


def default_scale(model):
    """Scores divided by the root of hidden size over heads instead of the size of a head."""
    for attention in attentions(model):
        attention.scaling = (model.config.hidden_size // model.config.num_attention_heads) ** -0.5


def default_frequencies(model):
    """RoPE for heads of hidden size over heads instead of the size of a head."""
    size = model.config.hidden_size // model.config.num_attention_heads
    model.base_model.rotary_emb.inv_freq.pow_(attentions(model)[0].head_dim / size)


def no_head_norms(model):
    for attention in attentions(model):
        attention.q_norm = attention.k_norm = torch.nn.Identity()


def no_head_scales(model):
    for attention in attentions(model):
        attention.q_norm.weight.fill_(1)
        attention.k_norm.weight.fill_(1)


def swapped_head_norms(model):
    """That of queries and that of keys."""
    for attention in attentions(model):
        attention.q_norm, attention.k_norm = attention.k_norm, attention.q_norm


def default_head_eps(model):
    for attention in attentions(model):
        attention.q_norm.variance_epsilon = attention.k_norm.variance_epsilon = 1e-6


def plain_norms(model):
    """Scales as they are stored, not one more."""
    for module in model.modules():
        if type(module).__name__ in ("Gemma2RMSNorm", "Gemma3RMSNorm", "Qwen3_5RMSNorm"):
            module.weight.sub_(1)


def plain_head_norms(model):
    for attention in attentions(model):
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.sub_(1)


def without(*parts):
    """Blocks that leave out these norms."""

    def change(model):
        for layer in model.base_model.layers:
            for part in parts:
                setattr(layer, part, torch.nn.Identity())

    return change


def plain_embedding(model):
    model.base_model.embed_tokens.embed_scale.fill_(1)


def capped_before_scale(model):
    """`scale * cap * tanh(score / cap)`."""
    for attention in attentions(model):
        attention.attn_logit_softcapping /= attention.scaling


class WholeNorm(torch.nn.Module):
    """A norm over all heads of a position at once, each with the scales of one."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        mean = x.pow(2).mean((-2, -1), keepdim=True)
        return self.norm.weight * x * torch.rsqrt(mean + self.norm.variance_epsilon)


def whole_norms(model):
    for attention in attentions(model):
        attention.q_norm, attention.k_norm = WholeNorm(attention.q_norm), WholeNorm(attention.k_norm)


def late_norms(model):
    """Norms of queries and keys after the rotation."""
    for attention in attentions(model):
        attention.late = attention.q_norm, attention.k_norm
        attention.q_norm = attention.k_norm = torch.nn.Identity()
    model.set_attn_implementation("late_norms")


def attend_late(module, query, key, *rest, **options):
    q_norm, k_norm = module.late
    return eager_attention_forward(module, q_norm(query), k_norm(key), *rest, **options)


def gates(change):
    """Queries and gates, `[heads, 2, head_dim, hidden]`, changed."""

    def of(model):
        for attention in attentions(model):
            weight, size = attention.q_proj.weight, attention.head_dim
            weight.copy_(change(weight.unflatten(0, (-1, 2, size))).flatten(0, 2))

    return of


swapped_gates = gates(lambda weight: weight.flip(1))
# All queries before all gates.
gates_behind = gates(lambda weight: weight.flatten(0, 2).unflatten(0, (2, -1, weight.shape[2])).transpose(0, 1))


def open_gates(model):
    """No gates: sigmoid(large) is 1."""
    for attention in attentions(model):
        attention.q_proj.weight.unflatten(0, (-1, 2, attention.head_dim))[:, 1] = 0
        if attention.q_proj.bias is None:
            attention.q_proj.bias = torch.nn.Parameter(torch.zeros(attention.q_proj.out_features))
        attention.q_proj.bias.unflatten(0, (-1, 2, attention.head_dim))[:, 1] = 40


def in_delta_nets(change):
    def of(model):
        for delta in delta_nets(model):
            change(delta)

    return of


def tiled_heads(delta):
    """Value head h served by key head h modulo the key heads, not by that of its group."""
    groups = delta.num_v_heads // delta.num_k_heads
    order = torch.arange(delta.num_v_heads).unflatten(0, (groups, delta.num_k_heads)).transpose(0, 1).flatten()
    values = delta.in_proj_qkv.weight[2 * delta.key_dim :].unflatten(0, (-1, delta.head_v_dim))
    values.copy_(values[order].clone())
    conv = delta.conv1d.weight[2 * delta.key_dim :].unflatten(0, (-1, delta.head_v_dim))
    conv.copy_(conv[order].clone())
    for part in (delta.in_proj_b.weight, delta.in_proj_a.weight, delta.A_log, delta.dt_bias):
        part.copy_(part[order].clone())
    gate = delta.in_proj_z.weight.unflatten(0, (-1, delta.head_v_dim))
    gate.copy_(gate[order].clone())
    out = delta.out_proj.weight.unflatten(1, (-1, delta.head_v_dim))
    out.copy_(out[:, order].clone())


def short_convolution(delta):
    """Only the last two positions."""
    delta.conv1d.weight[..., :-2] = 0


def backward_convolution(delta):
    delta.conv1d.weight.copy_(delta.conv1d.weight.flip(-1).clone())


def no_decay(delta):
    delta.A_log.fill_(-30)


def no_time_bias(delta):
    delta.dt_bias.zero_()


def whole_steps(delta):
    """beta is 1."""
    delta.in_proj_b.weight.zero_()
    delta.in_proj_b.bias = torch.nn.Parameter(torch.full((delta.num_v_heads,), 40.0))


def no_output_scales(delta):
    delta.norm.weight.fill_(1)


def more_output_scales(delta):
    """Stored less one, as other norms are."""
    delta.norm.weight.add_(1)


AttentionInterface.register("late_norms", attend_late)
AttentionMaskInterface.register("late_norms", eager_mask)

# ---------------------------------------------------------------------------------------------------------- the cases


@dataclass
class Case:
    name: str
    config: dict  # config.json as written
    generation: dict | None = None  # generation_config.json; None: there is no such file
    shards: int = 1
    buffers: bool = False  # old checkpoints also carry buffers which are no weights
    new: int = NEW  # greedy ids after the prompt
    wrapped: bool = False  # in a checkpoint of text and images
    # Name -> what a wrong reader might do, and the least share of the logits' range by which the logits must then move.
    # Either changes of the config, or a function that changes the model.
    blind: dict = field(default_factory=dict)

    @property
    def style(self):
        return "neox" if self.config["model_type"] == "gpt_neox" else "llama"

    @property
    def dtype(self):
        return DTYPES[self.config.get("torch_dtype") or self.config["dtype"]]

    @property
    def eos(self):
        ids = (self.generation or self.config)["eos_token_id"]
        return ids if isinstance(ids, list) else [ids]


def llama(**changes):
    base = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 96,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return base | changes


def neox(**changes):
    base = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 96,
        "max_position_embeddings": 128,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return base | changes


def old(theta=10000.0, dtype="float32", **changes):
    """How transformers before version 5 wrote a llama config."""
    return {"rope_theta": theta, "rope_scaling": None, "torch_dtype": dtype, "transformers_version": "4.40.0"} | changes


def old_neox(pct, dtype="float32", base=10000):
    return {"rotary_pct": pct, "rotary_emb_base": base, "torch_dtype": dtype, "transformers_version": "4.40.0"}


def new(theta=10000.0, dtype="float32", **rope):
    """How version 5 writes it."""
    rope = {"rope_theta": theta, "rope_type": "default"} | rope
    return {"rope_parameters": rope, "dtype": dtype, "transformers_version": "5.23.0"}


def rope(theta=10000.0, **more):
    return {"rope_parameters": {"rope_theta": theta, "rope_type": "default"} | more}


SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
EXACT, TANH = {"hidden_act": "gelu"}, {"hidden_act": "gelu_pytorch_tanh"}
LONG = {
    "short_factor": [1.0, 1.7, 2.5],
    "long_factor": [1.5, 4.0, 9.0],
    "original_max_position_embeddings": 64,
    "partial_rotary_factor": 0.75,
}
ODD = {
    "hidden_size": 36,
    "intermediate_size": 43,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "mlp_bias": True,
}

QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
QWEN3_5 = {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text"}
GEMMA2 = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
GEMMA3 = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
GRANITE = {"architectures": ["GraniteForCausalLM"], "model_type": "granite"}
PHI3 = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "pad_token_id": 0}
SMOLLM3 = {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "pad_token_id": 0}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}


def gemma2(**changes):
    """A Gemma 2 model, as version 5 writes it."""
    base = llama(**GEMMA2, **new(), hidden_activation="gelu_pytorch_tanh") | changes
    del base["hidden_act"]
    return base


def gemma3(local=10000.0, dtype="float32", theta=1000000.0, **changes):
    """A Gemma 3 model, as version 5 writes it."""
    base = llama(**GEMMA3, hidden_activation="gelu_pytorch_tanh", dtype=dtype, transformers_version="5.23.0") | changes
    del base["hidden_act"]
    return base | ropes(local, theta)


def ropes(local, theta):
    """A rope for blocks that see a window, and another for those that see all positions."""
    kinds = {"sliding_attention": local, "full_attention": theta}
    return {"rope_parameters": {kind: {"rope_theta": base, "rope_type": "default"} for kind, base in kinds.items()}}


def qwen3_5(key_heads, value_heads, key_dim, value_dim, taps, **changes):
    """A Qwen3.5 model's text part, as version 5 writes it."""
    delta = {
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": value_dim,
        "linear_conv_kernel_dim": taps,
    }
    return llama(**QWEN3_5) | delta | {"rms_norm_eps": 1e-6, "transformers_version": "5.23.0"} | changes


def mrope(theta, part):
    """A rope with sections for the positions of images, which are one for text."""
    sections = {"mrope_interleaved": True, "mrope_section": [1, 1, 0]}
    return {"rope_parameters": {"rope_theta": theta, "rope_type": "default", "partial_rotary_factor": part} | sections}


def window(size, *seen):
    """How version 5 writes a Qwen model whose blocks see a window or, `full`, all positions."""
    return {
        "use_sliding_window": True,
        "sliding_window": size,
        "max_window_layers": seen.count("full"),
        "layer_types": [f"{kind}_attention" for kind in seen],
    }


def layers(*seen):
    return {"layer_types": [f"{kind}_attention" for kind in seen]}

CASES = [
    Case(
        "llama-mha",
        llama(**old(), tie_word_embeddings=True, rms_norm_eps=1e-3),
        generation={"bos_token_id": 1, "eos_token_id": 2},
        blind={"eps": ({"rms_norm_eps": 1e-5}, 2e-3), "theta": (rope(500000.0), 0.05)},
    ),
    Case(
        "llama-gqa",
        llama(**new(100000.0), num_key_value_heads=2, tie_word_embeddings=False),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95]},
        blind={"theta": (rope(10000.0), 0.02)},
    ),
    Case(
        "llama-head-dim",
        llama(**old(), num_key_value_heads=2, head_dim=12, tie_word_embeddings=False, eos_token_id=[2, 90]),
    ),
    Case(
        "llama-bias",
        llama(**old(), num_key_value_heads=2, attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    ),
    Case(
        "llama-rope3",
        llama(
            **old(500000.0, rope_scaling=SCALING),
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95, 94], "do_sample": True, "temperature": 0.6},
        blind={
            "unscaled": (rope(500000.0), 0.05),
            "no middle band": (rope(500000.0, **SCALING | {"high_freq_factor": 1.000001}), 0.02),
            "no low band": (rope(500000.0, **SCALING | {"original_max_position_embeddings": 512}), 0.02),
            "linear": (rope(500000.0, rope_type="linear", factor=8.0), 0.05),
        },
    ),
    Case(
        "mistral",
        llama(
            **old(),
            architectures=["MistralForCausalLM"],
            model_type="mistral",
            num_key_value_heads=2,
            sliding_window=None,
            tie_word_embeddings=False,
            rms_norm_eps=1e-3,
        ),
        generation={"bos_token_id": 1, "eos_token_id": 2},
        blind={"eps": ({"rms_norm_eps": 1e-5}, 2e-3), "window": ({"sliding_window": 4}, 0.05)},
    ),
    Case(
        "llama-f16",
        llama(**old(dtype="float16"), num_key_value_heads=2, num_hidden_layers=3, tie_word_embeddings=False),
        buffers=True,
    ),
    Case(
        "llama-bf16",
        llama(**old(dtype="bfloat16"), num_key_value_heads=1, num_hidden_layers=3, tie_word_embeddings=True),
        generation={"bos_token_id": 1, "eos_token_id": [2]},
    ),
    Case(
        "llama-sharded",
        llama(**old(), num_key_value_heads=2, intermediate_size=48, num_hidden_layers=3, vocab_size=112),
        shards=3,
    ),
    Case("llama-odd", llama(**new(), **ODD, attention_bias=True)),
    Case("llama-odd-f16", llama(**new(dtype="float16"), **ODD, attention_bias=False, num_hidden_layers=3)),
    Case(
        "neox-parallel",
        neox(**old_neox(0.25), num_attention_heads=2, use_parallel_residual=True, layer_norm_eps=1e-3),
        blind={
            "sequential": ({"use_parallel_residual": False}, 0.05),
            "tanh": (TANH, 1e-3),
            "full rotary": (rope(partial_rotary_factor=1.0), 0.05),
            "eps": ({"layer_norm_eps": 1e-5}, 2e-3),
        },
    ),
    Case(
        "neox-sequential",
        neox(
            # 0.75 of a head of 6 is 4.5, which counts as 4.
            **old_neox(0.75, base=5000),
            hidden_act="gelu_new",
            hidden_size=36,
            intermediate_size=45,
            num_attention_heads=6,
            vocab_size=99,
            use_parallel_residual=False,
            tie_word_embeddings=False,
        ),
        generation={"bos_token_id": 0, "eos_token_id": 0},
        blind={
            "parallel": ({"use_parallel_residual": True}, 0.05),
            "exact": (EXACT, 1e-3),
            "full rotary": (rope(5000.0, partial_rotary_factor=1.0), 0.02),
            "theta": (rope(10000.0, partial_rotary_factor=0.75), 0.01),
        },
    ),
    Case(
        "neox-fast",
        neox(**old_neox(1.0), hidden_act="gelu_fast", hidden_size=40, intermediate_size=56, use_parallel_residual=True),
        generation={"bos_token_id": 0, "eos_token_id": [0, 1]},
        blind={"exact": (EXACT, 1e-3), "quarter rotary": (rope(partial_rotary_factor=0.25), 0.05)},
    ),
    Case(
        "neox-tanh",
        neox(
            **new(partial_rotary_factor=0.5),
            hidden_act="gelu_pytorch_tanh",
            attention_bias=False,
            tie_word_embeddings=True,
            use_parallel_residual=True,
            eos_token_id=[0, 2],
        ),
        blind={"exact": (EXACT, 1e-3), "quarter rotary": (rope(partial_rotary_factor=0.25), 0.05)},
    ),
    Case(
        "neox-f16",
        neox(
            **old_neox(0.25, dtype="float16"),
            hidden_size=48,
            num_attention_heads=3,
            max_position_embeddings=64,
            use_parallel_residual=True,
            tie_word_embeddings=False,
        ),
        buffers=True,
    ),
    Case(
        "qwen2-gqa",
        llama(
            **QWEN2,
            **old(1000000.0),
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            # A window that is not used.
            use_sliding_window=False,
            sliding_window=4,
            max_window_layers=1,
            tie_word_embeddings=False,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95]},
        blind={
            "no biases": (no_bias("q_proj", "k_proj", "v_proj"), 0.05),
            "no bias of queries": (no_bias("q_proj"), 0.02),
            "no bias of keys": (no_bias("k_proj"), 0.02),
            "no bias of values": (no_bias("v_proj"), 0.02),
            "biases of keys and values swapped": (swapped_biases, 0.02),
            "theta": (rope(10000.0), 0.02),
            "window": ({"sliding_window": 4} | layers("full", "sliding"), 0.05),
        },
    ),
    Case(
        "qwen2-window",
        llama(
            **QWEN2,
            **new(dtype="bfloat16"),
            **window(8, "full", "sliding", "sliding"),
            num_key_value_heads=2,
            num_hidden_layers=3,
            tie_word_embeddings=True,
        ),
        generation={"bos_token_id": 1, "eos_token_id": 2},
        new=96,
        blind={
            "no window": (layers("full", "full", "full"), 0.05),
            "a window everywhere": (layers("sliding", "sliding", "sliding"), 0.02),
            "the last block alone": (layers("full", "full", "sliding"), 0.02),
            "the other blocks": (layers("sliding", "full", "full"), 0.05),
            "one fewer": ({"sliding_window": 7}, 0.02),
            "one more": ({"sliding_window": 9}, 0.02),
            "no biases": (no_bias("q_proj", "k_proj", "v_proj"), 0.05),
        },
    ),
    Case(
        "qwen3",
        llama(
            **QWEN3,
            **new(1000000.0, dtype="bfloat16"),
            **layers("full", "full"),
            num_key_value_heads=2,
            head_dim=16,
            rms_norm_eps=1e-6,
            attention_bias=False,
            use_sliding_window=False,
            sliding_window=None,
            max_window_layers=2,
            tie_word_embeddings=True,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95], "do_sample": True, "temperature": 0.6, "top_k": 20},
        blind={
            "no norms of heads": (no_head_norms, 0.05),
            "norms after the rotation": (late_norms, 0.02),
            "norms over all heads": (whole_norms, 0.02),
            "no scales": (no_head_scales, 0.02),
            "norms swapped": (swapped_head_norms, 0.02),
            "scale of another head size": (default_scale, 0.02),
            "frequencies of another head size": (default_frequencies, 0.02),
        },
    ),
    Case(
        "qwen3-bias",
        llama(
            **QWEN3,
            **new(dtype="float16"),
            **window(8, "sliding", "full", "sliding"),
            num_hidden_layers=3,
            num_key_value_heads=2,
            head_dim=6,
            intermediate_size=48,
            rms_norm_eps=0.05,
            attention_bias=True,
            tie_word_embeddings=False,
        ),
        new=96,
        blind={
            "no biases": (no_bias("q_proj", "k_proj", "v_proj", "o_proj"), 0.05),
            "no bias of the output": (no_bias("o_proj"), 0.02),
            "eps": ({"rms_norm_eps": 1e-6}, 2e-3),
            "eps of the norms of heads": (default_head_eps, 2e-3),
            "no norms of heads": (no_head_norms, 0.02),
            "norms after the rotation": (late_norms, 0.02),
            "norms over all heads": (whole_norms, 0.02),
            "no scales": (no_head_scales, 0.02),
            "no window": (layers("full", "full", "full"), 0.02),
            "by the number of layers": (layers("full", "sliding", "sliding"), 0.02),
            "one fewer": ({"sliding_window": 7}, 0.02),
            "one more": ({"sliding_window": 9}, 0.02),
        },
    ),
    Case(
        "granite",
        llama(
            **GRANITE,
            **new(),
            num_key_value_heads=2,
            embedding_multiplier=2.0,
            attention_multiplier=0.6,
            residual_multiplier=0.7,
            logits_scaling=0.7,
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=False,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95]},
        blind={
            "embedding as stored": ({"embedding_multiplier": 1.0}, 0.02),
            "scale by the size of a head": ({"attention_multiplier": 8**-0.5}, 0.02),
            "whole residuals": ({"residual_multiplier": 1.0}, 0.02),
            "logits as they are": ({"logits_scaling": 1.0}, 0.02),
            "logits times": ({"logits_scaling": 1 / 0.7}, 0.02),
        },
    ),
    Case(
        "phi3",
        # 0.75 of a head of 8 rotates.
        llama(
            **PHI3,
            **old(rope_scaling={"type": "longrope"} | {key: LONG[key] for key in ("short_factor", "long_factor")}),
            num_key_value_heads=2,
            partial_rotary_factor=0.75,
            max_position_embeddings=256,
            original_max_position_embeddings=64,
            sliding_window=None,
            tie_word_embeddings=False,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95]},
        blind={
            "frequencies as they are": (rope(rope_type="longrope", **LONG | {"short_factor": [1.0] * 3}), 0.02),
            "factors of long texts": (rope(rope_type="longrope", **LONG | {"short_factor": LONG["long_factor"]}), 0.02),
            "no factor of what rotates": (rope(rope_type="longrope", **LONG, attention_factor=1.0), 0.02),
        },
    ),
    Case(
        "phi3-window",
        llama(**PHI3, **new(dtype="float16"), sliding_window=8, num_hidden_layers=3, tie_word_embeddings=False),
        blind={"no window": ({"sliding_window": None}, 0.02), "one more": ({"sliding_window": 9}, 0.02)},
    ),
    Case(
        "smollm3",
        llama(
            **SMOLLM3,
            **new(2000000.0),
            **layers("full", "full", "full", "full", "full"),
            num_hidden_layers=5,
            num_key_value_heads=2,
            no_rope_layers=[1, 1, 1, 0, 1],
            no_rope_layer_interval=4,
            use_sliding_window=False,
            sliding_window=None,
            attention_bias=False,
            mlp_bias=False,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95]},
        blind={
            "all rotate": ({"no_rope_layers": [1, 1, 1, 1, 1]}, 0.02),
            "another does not": ({"no_rope_layers": [1, 1, 0, 1, 1]}, 0.02),
            "theta": (rope(10000.0), 0.02),
        },
    ),
    Case(
        "smollm3-window",
        # No lists, no base, and nothing said of the LM head: every second block rotates nothing and sees a window.
        llama(
            **SMOLLM3,
            dtype="float32",
            transformers_version="5.23.0",
            num_hidden_layers=3,
            num_key_value_heads=2,
            no_rope_layer_interval=2,
            use_sliding_window=True,
            sliding_window=8,
        ),
        blind={
            "all rotate": ({"no_rope_layers": [1, 1, 1]}, 0.02),
            "no window": (layers("full", "full", "full"), 0.02),
            "windows where blocks rotate": (layers("sliding", "full", "sliding"), 0.02),
            "one fewer": ({"sliding_window": 7}, 0.02),
            "one more": ({"sliding_window": 9}, 0.02),
            "theta": (rope(10000.0), 0.02),
        },
    ),
    Case(
        "gemma2",
        gemma2(
            # No `layer_types`: every other block sees a window, the first one too.
            num_hidden_layers=3,
            num_key_value_heads=2,
            head_dim=12,
            query_pre_attn_scalar=20,
            sliding_window=8,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=5.0,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95]},
        blind={
            "scores without a cap": ({"attn_logit_softcapping": None}, 0.02),
            "logits without a cap": ({"final_logit_softcapping": None}, 0.02),
            "caps swapped": ({"attn_logit_softcapping": 5.0, "final_logit_softcapping": 2.0}, 0.02),
            "scores capped before they are scaled": (capped_before_scale, 0.02),
            "embedding as stored": (plain_embedding, 0.02),
            "norms as stored": (plain_norms, 0.02),
            "no norm after attention": (without("post_attention_layernorm"), 0.02),
            "no norm after the MLP": (without("post_feedforward_layernorm"), 0.02),
            "no norm before the MLP": (without("pre_feedforward_layernorm"), 0.02),
            "scale by the size of a head": ({"query_pre_attn_scalar": 12}, 0.02),
            "no window": (layers("full", "full", "full"), 0.02),
            "windows in the other blocks": (layers("full", "sliding", "full"), 0.02),
            "one fewer": ({"sliding_window": 7}, 0.02),
            "one more": ({"sliding_window": 9}, 0.02),
        },
    ),
    Case(
        "qwen3_5",
        qwen3_5(
            2, 4, 8, 8, 4,
            **mrope(10000.0, 0.25),
            layer_types=["linear_attention"] * 3 + ["full_attention"],
            num_hidden_layers=4,
            num_key_value_heads=2,
            head_dim=16,
            attn_output_gate=True,
            dtype="float32",
            tie_word_embeddings=False,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95]},
        blind={
            "plain norms": (plain_norms, 0.02),
            "no gates": (open_gates, 0.02),
            "gates for queries": (swapped_gates, 0.02),
            "gates behind queries": (gates_behind, 0.02),
            "heads in tiles": (in_delta_nets(tiled_heads), 0.02),
            "a short convolution": (in_delta_nets(short_convolution), 0.02),
            "a convolution backward": (in_delta_nets(backward_convolution), 0.02),
            "no decay": (in_delta_nets(no_decay), 0.02),
            "no bias of the decay": (in_delta_nets(no_time_bias), 0.02),
            "beta of 1": (in_delta_nets(whole_steps), 0.02),
            "no scales of the output": (in_delta_nets(no_output_scales), 0.02),
            "scales of the output less one": (in_delta_nets(more_output_scales), 0.02),
            "full rotary": (mrope(10000.0, 1.0), 0.02),
        },
    ),
    Case(
        "qwen3_5-wrapped",
        qwen3_5(
            3, 3, 8, 16, 3,
            **mrope(500.0, 0.5),
            full_attention_interval=2,
            num_hidden_layers=4,
            num_key_value_heads=1,
            head_dim=12,
            attention_bias=True,
            dtype="bfloat16",
            tie_word_embeddings=True,
        ),
        wrapped=True,
        blind={
            "no biases of attention": (no_bias("q_proj", "k_proj", "v_proj"), 0.02),
        },
    ),
    Case(
        "gemma3",
        gemma3(
            num_hidden_layers=3,
            **layers("sliding", "sliding", "full"),
            num_key_value_heads=2,
            head_dim=12,
            query_pre_attn_scalar=20,
            sliding_window=8,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
        ),
        generation={"bos_token_id": 1, "eos_token_id": [2, 95]},
        blind={
            "embedding as stored": (plain_embedding, 0.02),
            "norms as stored": (plain_norms, 0.02),
            "norms of heads as stored": (plain_head_norms, 0.02),
            "no norm after attention": (without("post_attention_layernorm"), 0.02),
            "no norm after the MLP": (without("post_feedforward_layernorm"), 0.02),
            "no norm before the MLP": (without("pre_feedforward_layernorm"), 0.02),
            "one rope": (ropes(1000000.0, 1000000.0), 0.02),
            "ropes swapped": (ropes(1000000.0, 10000.0), 0.02),
            "scale by the size of a head": ({"query_pre_attn_scalar": 12}, 0.02),
            "no window": (layers("full", "full", "full"), 0.02),
            "one fewer": ({"sliding_window": 7}, 0.02),
            "one more": ({"sliding_window": 9}, 0.02),
        },
    ),
    Case(
        "mistral-window",
        llama(**MISTRAL, **old(), num_key_value_heads=2, sliding_window=8, tie_word_embeddings=False),
        generation={"bos_token_id": 1, "eos_token_id": 2},
        blind={
            "no window": ({"sliding_window": None}, 0.05),
            "one fewer": ({"sliding_window": 7}, 0.02),
            "one more": ({"sliding_window": 9}, 0.02),
        },
    ),
    Case(
        "mistral-long",
        llama(
            **MISTRAL,
            **new(),
            num_key_value_heads=1,
            sliding_window=24,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        ),
        new=96,
        blind={
            "no window": ({"sliding_window": None}, 0.02),
            "one fewer": ({"sliding_window": 23}, 0.01),
            "one more": ({"sliding_window": 25}, 0.01),
        },
    ),
]

# -------------------------------------------------------------------------------------------------------- checkpoints


def random_of(*words):
    return np.random.RandomState(zlib.crc32("/".join(map(str, words)).encode()))


def draw(name, shape, random):
    """Values by the part a tensor plays: enough spread for sharp attention and for logits several units apart."""
    normal = random.standard_normal(shape)
    if name.endswith("A_log"):
        return 0.7 * normal - 1
    if name.endswith("dt_bias"):
        return 0.7 * normal
    if "q_norm" in name or "k_norm" in name:
        return 0.5 * normal + 1.5
    if "norm" in name:
        return 0.2 * normal + (0 if name.endswith("bias") else 1)
    if name.endswith("dense_h_to_4h.bias"):
        return 0.5 * normal - 1.8  # most inputs near -2, where the forms of GELU differ most
    if name.endswith("bias"):
        return 0.2 * normal
    if "embed" in name or "lm_head" in name:
        return 0.2 * normal
    gains = {"qkv_proj": 1.3, "q_proj": 1.4, "k_proj": 1.4, "query_key_value": 1.3, "dense_4h_to_h": 8.0, "down_proj": 1.6}
    gain = next((g for part, g in gains.items() if part in name), 1.0)
    return gain * normal / math.sqrt(shape[1])


def weights(case, seed):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**copy.deepcopy(case.config)))
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        shapes = {n: s for n, s in shapes.items() if n not in ("lm_head.weight", "embed_out.weight")}
    drawn = {n: draw(n, s, random_of(case.name, seed, n)) for n, s in shapes.items()}
    if case.config["model_type"].startswith("gemma"):
        drawn = {n: v - 1 if "norm" in n else v for n, v in drawn.items()}
    if case.config["model_type"] == "qwen3_5_text":
        drawn = {n: v - 1 if "norm" in n and "linear_attn" not in n else v for n, v in drawn.items()}
    return {n: torch.tensor(v, dtype=torch.float32).to(case.dtype) for n, v in drawn.items()}


def buffers(case):
    """What old versions of transformers saved beside the weights. Readers must ignore it."""
    config, found = case.config, {}
    for layer in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{layer}.attention" if case.style == "neox" else f"model.layers.{layer}.self_attn"
        head = config["hidden_size"] // config["num_attention_heads"]
        rotary = int(head * config.get("rotary_pct", 1))
        frequencies = 10000.0 ** -(torch.arange(0, rotary, 2, dtype=torch.float32) / rotary)
        found[f"{at}.rotary_emb.inv_freq"] = frequencies.to(case.dtype)
        if case.style == "neox":
            longest = config["max_position_embeddings"]
            found[f"{at}.bias"] = torch.ones(longest, longest, dtype=torch.bool).tril()[None, None]
            found[f"{at}.masked_bias"] = torch.tensor(-1e9, dtype=torch.float32)  # a scalar: its shape is []
    return found


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_weights(folder, case, tensors):
    meta = {"format": "pt"}
    if case.shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata=meta)
        return
    names, files = list(tensors), {}
    share = math.ceil(len(names) / case.shards)
    for shard in range(case.shards):
        file = f"model-{shard + 1:05}-of-{case.shards:05}.safetensors"
        part = names[shard * share : (shard + 1) * share]
        save_file({n: tensors[n] for n in part}, folder / file, metadata=meta)
        files |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": files}
    write_json(folder / "model.safetensors.index.json", index)


def write_checkpoint(folder, case, seed):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = weights(case, seed) | (buffers(case) if case.buffers else {})
    write_json(folder / "config.json", wrapped_config(case.config) if case.wrapped else case.config)
    if case.generation:
        write_json(folder / "generation_config.json", case.generation | {"_from_model_config": True})
    (folder / "tokenizer.json").write_text(tokenizer_json(case.style), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(tokenizer_config(case.style))
    if case.wrapped:
        tensors = {n.replace("model.", "model.language_model.", 1): t for n, t in tensors.items()}
        tensors["model.visual.pos_embed.weight"] = torch.zeros(2, 4, dtype=case.dtype)
    write_weights(folder, case, tensors)


def wrapped_config(config):
    """The configuration of a model of text and images with this text model."""
    images = {"vision_config": {"model_type": "qwen3_5_vision"}, "image_token_id": config["vocab_size"] - 2}
    tied = config["tie_word_embeddings"]
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": config,
        "tie_word_embeddings": tied,
        "transformers_version": config["transformers_version"],
    } | images


def load(folder, dtype=torch.float32, **changes):
    """The checkpoint as transformers reads it from the folder, every tensor accounted for."""
    config = AutoConfig.from_pretrained(folder, **changes)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    unexpected = {n for n in info["unexpected_keys"] if "rotary_emb" not in n and not n.endswith("masked_bias")}
    assert not info["missing_keys"] and not info["mismatched_keys"] and not unexpected, info
    assert all(p.dtype == dtype for p in model.parameters())
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == config.tie_word_embeddings
    return model.eval()


# ------------------------------------------------------------------------------------------------------------ goldens


@dataclass
class Golden:
    prompt: list
    long_prompt: list
    ids: list
    margins: list
    penalty_ids: list
    penalty_margins: list
    logits: torch.Tensor  # of every prompt position
    long_logits: torch.Tensor  # of the last position

    @property
    def range(self):
        return (self.logits.max() - self.logits.min()).item()


def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0]


def top_two_gap(scores):
    top = scores.topk(2).values
    return (top[..., 0] - top[..., 1]).tolist()


def greedy(model, prompt, new=NEW, **options):
    """Ids after the prompt, whatever the end tokens are, and the top-2 margin of each step."""
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=new, pad_token_id=0, **options)
    out = model.generate(torch.tensor([prompt]), output_scores=True, return_dict_in_generate=True)
    ids = out.sequences[0, len(prompt) :].tolist()
    assert len(ids) == new
    return ids, top_two_gap(torch.cat(out.scores))


def prompts(case):
    """Random ids, the last of the vocabulary among them; a llama prompt begins with its first token."""
    random, last = random_of(case.name, "prompts"), case.config["vocab_size"] - 1
    first = [1] if case.style == "llama" else []
    for length in (PROMPT, LONG_PROMPT):
        ids = random.permutation(np.arange(3, last) if length < last - 3 else None)[: length - len(first)].tolist()
        ids[3] = last
        yield first + ids


def golden(case, model):
    prompt, long_prompt = prompts(case)
    ids, margins = greedy(model, prompt, case.new)
    penalised = greedy(model, prompt, repetition_penalty=PENALTY)
    logits = logits_of(model, prompt)
    return Golden(prompt, long_prompt, ids, margins, *penalised, logits, logits_of(model, long_prompt)[-1])


def numbers(values):
    """Nine significant digits tell every float32 from its neighbours."""
    return "[" + ",".join(f"{v:.9g}" for v in values) + "]"


def write_expected(path, case, seed, model, g):
    steps = g.logits[:-1].double().log_softmax(-1)
    logprobs = [steps[i, token].item() for i, token in enumerate(g.prompt[1:])]
    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    text_ids = tokenizer.encode(TEXT).ids
    assert AutoTokenizer.from_pretrained(path.parent).encode(TEXT) == text_ids
    assert tokenizer.decode(text_ids) == TEXT and 0 not in text_ids and max(text_ids) < case.config["vocab_size"]
    fields = {
        "made_with": json.dumps(f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"),
        "seed": json.dumps(seed),
        "eos": json.dumps(case.eos),
        "prompt_ids": json.dumps(g.prompt),
        "ids": json.dumps(g.ids),
        "ids_text": json.dumps(tokenizer.decode(g.ids)),
        "margins": numbers(g.margins),
        "repetition_penalty": json.dumps(PENALTY),
        "penalty_ids": json.dumps(g.penalty_ids),
        "penalty_margins": numbers(g.penalty_margins),
        "score_logprobs": numbers(logprobs),
        "text": json.dumps(TEXT),
        "text_ids": json.dumps(text_ids),
        "logits_range": f"{g.range:.9g}",
        "logits": "[\n" + ",\n".join(numbers(row.tolist()) for row in g.logits) + "\n]",
        "long_prompt_ids": json.dumps(g.long_prompt),
        "long_logits": numbers(g.long_logits.tolist()),
    }
    path.write_text("{\n" + ",\n".join(f'"{k}": {v}' for k, v in fields.items()) + "\n}\n")
    assert torch.equal(torch.tensor(json.loads(path.read_text())["logits"]), g.logits)


# ------------------------------------------------------------------------------------------------------------- checks


def shift(g, model):
    """The largest change of a logit, as a share of the range, when `model` reads the same prompts."""
    short = (logits_of(model, g.prompt) - g.logits).abs().max()
    long = (logits_of(model, g.long_prompt)[-1] - g.long_logits).abs().max()
    return max(short, long).item() / g.range


def ids_in_one_pass(model, g):
    return logits_of(model, g.prompt + g.ids[:-1])[len(g.prompt) - 1 :].argmax(-1).tolist()


def text_problems(case, model, g):
    for ids, margins in ((g.ids, g.margins), (g.penalty_ids, g.penalty_margins)):
        # Logits within 2e-4 of the range, even times the penalty, can then never choose another id.
        if min(margins) < 6e-4 * g.range:
            yield f"margin {min(margins):.4f}"
        if set(ids) & set(case.eos):
            yield "an end token"
    if len(set(g.ids)) < 8 or max(len(list(run)) for _, run in itertools.groupby(g.ids)) > 3:
        yield "repetitive text"
    if g.ids[:NEW] == g.penalty_ids:
        yield "the penalty changes nothing"
    if not 5 < g.range < 40:
        yield f"range {g.range:.2f}"
    # The cached steps of `generate` against one pass over everything.
    if ids_in_one_pass(model, g) != g.ids:
        yield "steps and one pass disagree"


def order_problems(case, model, g):
    """The last logits must depend on the order of what came before, and on positions by way of RoPE."""
    shuffled = [*g.prompt[:1], *random_of(case.name, "shuffle").permutation(g.prompt[1:-1]).tolist(), g.prompt[-1]]
    moved = (logits_of(model, shuffled)[-1] - g.logits[-1]).abs().max().item() / g.range
    if moved < 0.05:
        yield f"order moves the logits by only {moved:.4f}"
    rotary = model.base_model.rotary_emb
    # One for all blocks, or one for each of their types.
    # Some ropes take theirs from the original ones at each pass.
    frequencies = [buffer for name, buffer in rotary.named_buffers() if name.endswith("inv_freq")]
    kept = [buffer.clone() for buffer in frequencies]
    for buffer in frequencies:
        buffer.zero_()
    moved = shift(g, model)
    for buffer, value in zip(frequencies, kept):
        buffer.copy_(value)
    if moved < 0.05:
        yield f"RoPE moves the logits by only {moved:.4f}"


def tensor_problems(model, g):
    """Every tensor, shifted by one element, must show."""
    for name, tensor in model.named_parameters():
        kept = tensor.clone()
        tensor.copy_(tensor.flatten().roll(1).view_as(tensor))
        moved = shift(g, model)
        tensor.copy_(kept)
        if moved < 0.01:
            yield f"{name} moves the logits by only {moved:.4f}"


def blind_problems(folder, case, g):
    for name, (misreading, least) in case.blind.items():
        wrong = load(folder, **({} if callable(misreading) else misreading))
        if callable(misreading):
            misreading(wrong)
        moved = shift(g, wrong)
        if moved < least:
            yield f"{name} moves the logits by only {moved:.5f}"
        if case.new > NEW and ids_in_one_pass(wrong, g) == g.ids:
            yield f"{name} does not change the text"


def noise_problems(folder, g):
    """Rounding: sums in double precision must give nearly the same logits, or no tolerance would be fair."""
    moved = shift(g, load(folder, torch.float64))
    if moved > 5e-6:
        yield f"rounding moves the logits by {moved:.2e}"


def problems(folder, case, model, g):
    yield from text_problems(case, model, g)
    yield from order_problems(case, model, g)
    yield from tensor_problems(model, g)
    yield from blind_problems(folder, case, g)
    yield from noise_problems(folder, g)


# --------------------------------------------------------------------------------------------------------------- main


def make(folder, case, verbose):
    for seed in range(500):
        write_checkpoint(folder, case, seed)
        model = load(folder)
        g = golden(case, model)
        problem = next(problems(folder, case, model, g), None)
        if problem is None:
            write_expected(folder / "expected.json", case, seed, model, g)
            return seed, g
        if verbose:
            print(f"  {case.name} seed {seed}: {problem}", flush=True)
    raise SystemExit(f"{case.name}: no seed will do; the last: {problem}")


def write_sampling(path):
    lines = []
    for case in sampling.cases():
        parts = [f'"{k}":{numbers(v) if k in ("logits", "probs") else json.dumps(v)}' for k, v in case.items()]
        lines.append("{" + ",".join(parts) + "}")
    path.write_text('{"cases":[\n' + ",\n".join(lines) + "\n]}\n")
    return len(lines)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--out", type=Path, default=Path(__file__).parent)
    args.add_argument("--verbose", action="store_true", help="say why seeds are passed over")
    args.add_argument("cases", nargs="*", help="only these (default: all, and sampling.json)")
    args = args.parse_args()
    unknown = set(args.cases) - {case.name for case in CASES}
    if unknown:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for case in CASES:
        if args.cases and case.name not in args.cases:
            continue
        seed, g = make(args.out / case.name, case, args.verbose)
        size = sum(f.stat().st_size for f in (args.out / case.name).iterdir())
        least, distinct = min(g.margins), len(set(g.ids))
        print(
            f"{case.name:16} {size / 1024:6.1f} KiB  seed {seed:3}  range {g.range:6.2f}  "
            f"least margin {least:.4f}, with penalty {min(g.penalty_margins):.4f}  {distinct} distinct ids",
            flush=True,
        )
    if not args.cases:
        print(f"sampling.json    {write_sampling(args.out / 'sampling.json')} cases")


if __name__ == "__main__":
    main()
