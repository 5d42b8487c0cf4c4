"""Generate text from a model folder: greedily, or at a temperature with a stated seed.

    python sample.py ../default --prompt "Once upon a time" --temperature 0.7 --seed 1
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", action="append", help="repeatable; none: an unprompted text")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=300, help="at most so many")
    args = parser.parse_args()
    torch.set_num_threads(2)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    choice = {"do_sample": True, "temperature": args.temperature, "top_k": 0} if args.temperature > 0 else {"do_sample": False}
    for prompt in args.prompt or [""]:
        torch.manual_seed(args.seed)
        ids = tokenizer(prompt.replace("\\n", "\n"), return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.tokens,
                                 pad_token_id=tokenizer.eos_token_id, **choice)  # fmt: skip
        print(tokenizer.decode(out[0], skip_special_tokens=True), end="\n\n")


if __name__ == "__main__":
    main()
