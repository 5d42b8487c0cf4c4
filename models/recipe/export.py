"""Write a checkpoint as a Hugging Face model folder with f16 weights.

    python export.py --run run --out ../default
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from data import EOT


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of tokenizer and checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    state = torch.load(args.run / "checkpoint.pt")
    weights = {name: weight.half().contiguous() for name, weight in state["model"].items()}
    assert all(weight.isfinite().all() for weight in weights.values()), "a weight leaves the range of f16"
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})

    tokenizer_file = args.run / "tokenizer.json"
    eot = Tokenizer.from_file(str(tokenizer_file)).token_to_id(EOT)
    shutil.copyfile(tokenizer_file, args.out / "tokenizer.json")
    write_json(args.out / "config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **state["config"],
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "float16",
    })  # fmt: skip
    write_json(args.out / "generation_config.json", {"bos_token_id": eot, "eos_token_id": eot})
    write_json(args.out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOT,
        "eos_token": EOT,
        "model_max_length": state["config"]["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    })  # fmt: skip
    parameters = sum(weight.numel() for weight in weights.values())
    print(f"step {state['step']}, {state['tokens']} tokens seen, {parameters} parameters -> {args.out}")


if __name__ == "__main__":
    main()
