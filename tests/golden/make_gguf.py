#!/usr/bin/env python3
"""Writes some of the golden checkpoints as GGUF files, as llama.cpp's conversion does.

    python make_gguf.py [--out FOLDER] [CASE...]

Weights keep their type, but for norms and biases, which become F32. What the files must give is in `expected.json` of the folders
that they are made from. Two runs give the same bytes.
"""

import argparse
import json
import math
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
# Cases, and how many files each becomes.
CASES = {"llama-gqa": 1, "llama-rope3": 1, "llama-bias": 1, "llama-f16": 1, "llama-bf16": 1, "llama-head-dim": 1, "llama-sharded": 3, "qwen2-gqa": 1, "qwen3": 1, "qwen3_5": 1, "mistral-window": 1, "granite": 1, "smollm3": 1}  # fmt: skip
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Qwen3.5's files call the norm before the MLP by another name; the rest are parts of gated DeltaNets.
QWEN3_5 = {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
# Architectures whose heads' halves llama.cpp wants in turn.
INTERLEAVED = ["llama", "granite", "smollm3"]
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
TYPES = {torch.float32: gguf.GGMLQuantizationType.F32, torch.float16: gguf.GGMLQuantizationType.F16, torch.bfloat16: gguf.GGMLQuantizationType.BF16}


def tensor_name(name, arch):
    for module, ours in (("linear_attn.A_log", "ssm_a"), ("linear_attn.dt_bias", "ssm_dt.bias")):
        if name.endswith(module):
            return f"blk.{name.split('.')[2]}.{ours}"
    module, part = name.rsplit(".", 1)
    if module in WHOLE:
        return f"{WHOLE[module]}.{part}"
    number, module = module.removeprefix("model.layers.").split(".", 1)
    parts = PARTS | QWEN3_5 if arch == "qwen35" else PARTS
    return f"blk.{number}.{parts[module]}.{part}"


def tiled(values, config, axis=0):
    """Value heads, each of as many rows, in the order in which key head h serves the heads h, h + key heads, ..."""
    heads, keys = config["linear_num_value_heads"], config["linear_num_key_heads"]
    order = torch.arange(heads).unflatten(0, (keys, heads // keys)).T.flatten()
    return values.unflatten(axis, (heads, -1)).index_select(axis, order).flatten(axis, axis + 1)


def delta_net(name, values, config):
    """A tensor of a gated DeltaNet, or a norm, as llama.cpp keeps it."""
    keys = 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"]
    part = name.split(".", 4)[-1]
    if "norm" in name and not name.endswith("linear_attn.norm.weight"):
        return values + 1
    if part in ("in_proj_qkv.weight", "conv1d.weight"):
        return torch.cat([values[:keys], tiled(values[keys:], config)]).squeeze()
    if part in ("in_proj_z.weight", "in_proj_a.weight", "in_proj_b.weight", "dt_bias"):
        return tiled(values, config)
    if part == "A_log":
        return tiled(-values.exp(), config)
    return tiled(values, config, 1) if part == "out_proj.weight" else values


def interleaved(tensor, heads):
    """The rows of each head's two halves in turn."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def rope_divisors(config, head_dim):
    """What `rope_type` llama3 divides the frequencies by."""
    scaling, theta = config["rope_scaling"], config["rope_theta"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    divisors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(scaling["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


def add_metadata(writer, config, generation, tokenizer, head_dim):
    writer.add_name("golden")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    rope = config.get("rope_parameters") or {}
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    if config["model_type"] == "qwen3_5_text":
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_ssm_state_size(config["linear_key_head_dim"])
        writer.add_ssm_group_count(config["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
        writer.add_ssm_inner_size(config["linear_num_value_heads"] * config["linear_value_head_dim"])
        writer.add_full_attention_interval(1 + config["layer_types"].index("full_attention"))
    if config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config["model_type"] == "mistral" and config["sliding_window"]:
        writer.add_sliding_window(config["sliding_window"])
    if config["model_type"] == "granite":
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if tokenizer["model"]["type"] != "BPE":
        raise SystemExit("a tokenizer of bytes was expected")
    ids = tokenizer["model"]["vocab"]
    tokens = sorted(ids, key=ids.get)
    # The embedding may have more rows than the tokenizer has tokens.
    tokens += [f"[PAD{id}]" for id in range(len(tokens), config["vocab_size"])]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    kinds = [3 if token in special else 5 if token.startswith("[PAD") else 1 for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(tokenizer["model"]["merges"])
    writer.add_bos_token_id(1)
    ends = (generation or config)["eos_token_id"]
    for key, end in zip(["eos", "eot", "eom"], ends if isinstance(ends, list) else [ends]):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", end)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ messages }}")


def write(case, parts, out):
    folder = HERE / case
    config, tokenizer = (json.loads((folder / name).read_text("utf-8")) for name in ["config.json", "tokenizer.json"])
    generation = folder / "generation_config.json"
    generation = json.loads(generation.read_text("utf-8")) if generation.exists() else None
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    arch = {"mistral": "llama", "qwen3_5_text": "qwen35"}.get(config["model_type"], config["model_type"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config.get("num_key_value_heads") or config["num_attention_heads"]}
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    name = out / (case if parts == 1 else f"{case}/{case}")
    name.parent.mkdir(parents=True, exist_ok=True)
    converted = {}
    for tensor in sorted(tensors):
        if tensor.endswith(("inv_freq", "attention.bias", "masked_bias")):
            continue
        values = tensors[tensor]
        part = tensor.split(".")[-2]
        if arch in INTERLEAVED and part in heads:
            values = interleaved(values, heads[part])
        if arch == "qwen35":
            values = delta_net(tensor, values, config)
        converted[tensor_name(tensor, arch)] = values.float() if values.ndim == 1 else values
    if (config.get("rope_scaling") or {}).get("rope_type") == "llama3":
        converted["rope_freqs.weight"] = torch.from_numpy(rope_divisors(config, head_dim))
    names = list(converted)
    for index in range(parts):
        path = Path(f"{name}.gguf" if parts == 1 else f"{name}-{index + 1:05}-of-{parts:05}.gguf")
        writer = gguf.GGUFWriter(path, arch)
        if index == 0:
            add_metadata(writer, config, generation, tokenizer, head_dim)
        if parts > 1:
            writer.add_uint16("split.no", index)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(names))
        for tensor in names[index::parts]:
            values = converted[tensor].contiguous()
            raw = values.view(torch.uint16).numpy() if values.dtype == torch.bfloat16 else values.numpy()
            shape = raw.view(np.uint8).shape if values.dtype == torch.bfloat16 else None
            writer.add_tensor(tensor, raw.view(np.uint8) if shape else raw, raw_shape=shape, raw_dtype=TYPES[values.dtype])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "gguf")
    parser.add_argument("cases", nargs="*", default=list(CASES))
    args = parser.parse_args()
    for case in args.cases:
        write(case, CASES[case], args.out)


if __name__ == "__main__":
    main()
