"""foretoken and llama.cpp on the same adapter, in turns: how many times faster one decodes and reads a prompt.

    python3 benches/llama_cpp.py target/release/foretoken LLAMA_BENCH [--rounds 7] [--device Vulkan0]

LLAMA_BENCH is llama.cpp's tool of that name, built with -DGGML_VULKAN=ON. Both run a Llama with random f32 weights of the
same shape (that of `foretoken bench`), batch 1: a prompt of 32 tokens, then 32 new ones, which foretoken picks greedily and
llama-bench at random without sampling. llama-bench warms up before it measures; a fresh process of foretoken does not. Each
round runs both, so that a load that comes and goes meets both; what counts is the ratio of a round. Needs numpy, gguf and
safetensors from PyPI. On a software adapter set GGML_VK_VISIBLE_DEVICES=0: llama.cpp leaves those out by itself.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy
from safetensors.numpy import save_file

HIDDEN, LAYERS, HEADS, INNER, VOCAB, CONTEXT = 288, 6, 6, 768, 32000, 2048
PROMPT = NEW = 32

# Name in Hugging Face's layout, in GGUF's, and shape.
LAYER = [
    ("input_layernorm", "attn_norm", [HIDDEN]),
    ("self_attn.q_proj", "attn_q", [HIDDEN, HIDDEN]),
    ("self_attn.k_proj", "attn_k", [HIDDEN, HIDDEN]),
    ("self_attn.v_proj", "attn_v", [HIDDEN, HIDDEN]),
    ("self_attn.o_proj", "attn_output", [HIDDEN, HIDDEN]),
    ("post_attention_layernorm", "ffn_norm", [HIDDEN]),
    ("mlp.gate_proj", "ffn_gate", [INNER, HIDDEN]),
    ("mlp.up_proj", "ffn_up", [INNER, HIDDEN]),
    ("mlp.down_proj", "ffn_down", [HIDDEN, INNER]),
]


def weights():
    shapes = [("model.embed_tokens", "token_embd", [VOCAB, HIDDEN]), ("model.norm", "output_norm", [HIDDEN])]
    for i in range(LAYERS):
        shapes += [(f"model.layers.{i}.{ours}", f"blk.{i}.{theirs}", shape) for ours, theirs, shape in LAYER]
    random = numpy.random.default_rng(1)
    for ours, theirs, shape in shapes:
        values = numpy.ones(shape) if len(shape) == 1 else random.normal(size=shape) / numpy.sqrt(shape[1])
        yield f"{ours}.weight", f"{theirs}.weight", values.astype(numpy.float32)


def write(folder):
    tensors = list(weights())
    save_file({ours: values for ours, _, values in tensors}, folder / "model.safetensors")
    config = {
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(VOCAB)
    for _, theirs, values in tensors:
        writer.add_tensor(theirs, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run(command):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def ours(args, folder):
    ids = ",".join(str(i * 7 + 3) for i in range(PROMPT))
    report = run([args.foretoken, "generate", "--model", folder, "--ids", ids, "--max-tokens", str(NEW), "--json"])
    stats = report["stats"]
    assert stats["new_tokens"] == NEW, stats
    return report["adapter"], PROMPT / stats["prefill_s"], stats["tokens_per_s"]


def theirs(args, folder):
    base = [args.llama_bench, "-m", folder / "model.gguf", "-r", "1", "-o", "json", *args.llama_flags.split()]
    base += ["-dev", args.device, "-ngl", "0" if args.device == "none" else "99"]
    (prefill,) = run([*base, "-p", str(PROMPT), "-n", "0"])
    (decode,) = run([*base, "-p", "0", "-n", str(NEW), "-d", str(PROMPT)])
    return f"{args.device}, build {decode['build_commit']}", prefill["avg_ts"], decode["avg_ts"]


def spread(name, values):
    values = sorted(values)
    print(f"{name:28} {statistics.median(values):8.2f}   ({values[0]:.2f} - {values[-1]:.2f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("foretoken")
    parser.add_argument("llama_bench")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="Vulkan0", help="as in llama-bench --list-devices; none for the processor")
    parser.add_argument("--llama-flags", default="", help="more flags for llama-bench: '--llama-flags=-fa 0'")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write(folder)
        rounds = []
        for number in range(args.rounds):
            rounds.append((ours(args, folder), theirs(args, folder)))
            print(f"... round {number + 1}: {rounds[-1]}", file=sys.stderr)
    print(f"foretoken on {rounds[0][0][0]}; llama.cpp on {rounds[0][1][0]}; {args.rounds} rounds, median (range)")
    for at, what in [(1, "prefill"), (2, "decode")]:
        spread(f"{what}, foretoken, tokens/s", [a[at] for a, _ in rounds])
        spread(f"{what}, llama.cpp, tokens/s", [b[at] for _, b in rounds])
        spread(f"{what}, ratio", [a[at] / b[at] for a, b in rounds])


main()
