"""The default model on its other held-out sets: further stories, translation, numbers and dates.

    python evaluate_tasks.py --text ../../../shared/text ../default

Stories: bits per byte, as in evaluate.py. Translation: bits per byte of the English target given the
prompt, and exact matches of the greedy answer. Numbers and dates: exact matches of the greedy answer.
The first `SAMPLE` held-out items by SHA-256 are taken.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import data
import numbers_task
from evaluate import load

SAMPLE = 100


@torch.no_grad()
def target_bits(model, tokenizer, prompt, target):
    prefix = tokenizer(prompt).input_ids
    ids = prefix + tokenizer(target, add_special_tokens=False).input_ids
    logits = model(torch.tensor([ids[:-1]])).logits[0, len(prefix) - 1 :]
    return F.cross_entropy(logits, torch.tensor(ids[len(prefix) :]), reduction="sum").item() / math.log(2)


@torch.no_grad()
def greedy_answer(model, tokenizer, prompt):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64,
                         pad_token_id=tokenizer.eos_token_id)  # fmt: skip
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("model", type=Path, help="model folder")
    args = parser.parse_args()
    torch.set_num_threads(2)

    stories = data.held_out_extra_stories(args.text)
    print(json.dumps({"held_out_extra_stories": len(stories),
                      "bits_per_byte": round(load(args.model).bits_per_byte(stories), 4)}))  # fmt: skip

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()

    pairs = sorted(data.translation_pairs(args.text)[1], key=lambda pair: data.sha("\t".join(pair)))[:SAMPLE]
    bits = sum(target_bits(model, tokenizer, data.translation_prompt(german), " " + english) for german, english in pairs)
    size = sum(len(english.encode("utf-8")) + 1 for _, english in pairs)  # the space before it counts
    exact = sum(greedy_answer(model, tokenizer, data.translation_prompt(german)) == english for german, english in pairs)
    print(json.dumps({"translation_pairs": len(pairs), "bits_per_byte": round(bits / size, 4), "exact": exact}))

    examples = sorted(numbers_task.examples(held_out=True), key=lambda example: data.sha(example[0]))
    for kind, dates in (("numbers", False), ("dates", True)):
        chosen = [example for example in examples if ("-" in example[0]) == dates][:SAMPLE]
        exact = sum(greedy_answer(model, tokenizer, numbers_task.prompt(source)) == answer for source, answer in chosen)
        print(json.dumps({kind: len(chosen), "exact": exact}))


if __name__ == "__main__":
    main()
