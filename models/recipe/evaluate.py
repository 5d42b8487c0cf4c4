"""Bits per byte of held-out stories, for any causal language model in Hugging Face layout.

    python evaluate.py --text ../../../shared/text ../default ../../../shared/models/stories260K

How it is measured, the same for every model: each story of tinystories/valid stands alone. Its text is
encoded without special tokens and cut into windows of at most 511 tokens without overlap; each window is
preceded by the model's bos. The sum of -log2 p over all tokens of the text (bos is given, no end token is
predicted) is divided by the number of UTF-8 bytes of the text. Since a model with a small vocabulary needs
more windows and so loses more context, the stories that fit into one window of every model named are also
reported by themselves. Weights are used as stored, computed in f32.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import data

WINDOW = 512
BATCH = 16


class Scorer:
    def __init__(self, model, tokenizer_file, bos=0):
        """`model` maps a batch of ids to logits."""
        self.model, self.bos = model, bos
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file))

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def windows(self, text):
        ids = self.encode(text)
        return [[self.bos] + ids[i : i + WINDOW - 1] for i in range(0, len(ids), WINDOW - 1)]

    @torch.no_grad()
    def bits(self, texts):
        """Total -log2 p of the texts."""
        windows = sorted((window for text in texts for window in self.windows(text)), key=len)
        nats = 0.0
        for i in range(0, len(windows), BATCH):
            batch = windows[i : i + BATCH]
            longest = len(batch[-1])
            # Padding follows the text, where a causal model cannot see it.
            ids = torch.tensor([window + [self.bos] * (longest - len(window)) for window in batch])
            targets = torch.tensor([window[1:] + [-100] * (longest - len(window)) for window in batch])
            logits = self.model(ids[:, :-1]).float()
            nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum").item()
        return nats / math.log(2)

    def bits_per_byte(self, texts):
        return self.bits(texts) / sum(len(text.encode("utf-8")) for text in texts)


def load(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Scorer(lambda ids: model(ids).logits, folder / "tokenizer.json", model.config.bos_token_id)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("models", type=Path, nargs="+", help="model folders")
    args = parser.parse_args()
    torch.set_num_threads(2)

    scorers = {folder.name: load(folder) for folder in args.models}
    stories = data.validation_stories(args.text)
    fitting = [story for story in stories if all(len(s.windows(story)) == 1 for s in scorers.values())]
    for name, scorer in scorers.items():
        size = sum(len(story.encode("utf-8")) for story in stories)
        print(json.dumps({
            "model": name,
            "stories": len(stories),
            "bytes": size,
            "tokens": sum(len(scorer.encode(story)) for story in stories),
            "bits_per_byte": round(scorer.bits_per_byte(stories), 4),
            "fitting_stories": len(fitting),
            "fitting_bits_per_byte": round(scorer.bits_per_byte(fitting), 4),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
