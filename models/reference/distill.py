"""The model's own greedy texts, as `foretoken train --self-distill` writes them, many at a time.

    python distill.py --model ../default --data PROMPTS.jsonl --length 160 --out RUN/distilled.jsonl

foretoken takes the file up where it ends: put it into the output folder, with as many prompts as the data has or fewer.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--data", type=Path, required=True, help='lines of {"prompt": ...}')
parser.add_argument("--length", type=int, required=True, help="prompt and continuation together, in tokens: --seq-len")
parser.add_argument("--tokens", type=int, default=150, help="the most tokens of a continuation: --distill-tokens")
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--batch", type=int, default=64)
args = parser.parse_args()

tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
ends = model.generation_config.eos_token_id
ends = set(ends if isinstance(ends, list) else [ends])
prompts = [tokenizer.encode(json.loads(line)["prompt"]).ids for line in args.data.open(encoding="utf-8")]

# Prompts of one length go together: then nothing has to be padded.
by_length = defaultdict(list)
for number, ids in enumerate(prompts):
    by_length[len(ids)].append(number)
found, done = {}, 0
for length, numbers in sorted(by_length.items()):
    room = min(args.length - length, args.tokens)
    for start in range(0, len(numbers), args.batch):
        part = numbers[start : start + args.batch]
        if room <= 0:
            found |= {number: [] for number in part}
            continue
        ids = torch.tensor([prompts[number] for number in part])
        with torch.no_grad():
            texts = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False)
        for number, text in zip(part, texts[:, length:].tolist()):
            end = next((at + 1 for at, id in enumerate(text) if id in ends), len(text))
            found[number] = text[:end]
        done += len(part)
        print(f"\r{done} of {len(prompts)} texts", end="", flush=True)
print()
with args.out.open("w", encoding="utf-8") as out:
    for number, ids in enumerate(prompts):
        line = {"line": number + 1, "prompt_ids": ids, "ids": found[number]}
        out.write(json.dumps(line, separators=(",", ":")) + "\n")
