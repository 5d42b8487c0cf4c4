"""Corpora, held-out sets and the token streams that training draws from.

Every split is a pure function of the text itself (SHA-256), so it does not depend on file order,
on the tokenizer, or on a seed. Nothing that `held_out_*` returns is ever trained on, neither by the
tokenizer nor by the model.

    python data.py --text ../../../shared/text --tokenizer run/tokenizer.json --out run
"""

import argparse
import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np

import numbers_task

EOT = "<|endoftext|>"  # before every document: the model's bos and eos at once

# Share of each source in the training tokens at the start and at the end of training.
# Tales are plentiful but old in language: they carry the early part and then make room for stories.
MIX_START = {"stories": 0.63, "tales": 0.14, "translation": 0.19, "numbers": 0.04}
MIX_END = {"stories": 0.76, "tales": 0.02, "translation": 0.18, "numbers": 0.04}

HELD_OUT_EXTRA = 460  # stories of tinystories/extra held out beside all of tinystories/valid
NEAR_DUPLICATE = 0.3  # a training story sharing this part of its 8-word runs with held-out text is dropped
LONG_TARGET_BYTES = 64  # an English sentence this long has about 20 tokens or more
HELD_OUT_LONG = 0.68  # share of the German sentences with such a target that is held out
HELD_OUT_SHORT = 0.03  # share of the others


def sha(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha_fraction(text):
    """A number in [0, 1) that the text alone decides."""
    return int(sha(text)[:12], 16) / 16**12


def words_of(text):
    return re.findall(r"\w+", text.lower())


def normalised(text):
    """What two copies of a story share even if case, spacing or punctuation was changed."""
    return "".join(words_of(text))


def runs_of(text, n=8):
    words = words_of(text)
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def read_jsonl(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def read_marked(path):
    """Stories separated by a line that holds only the end-of-text marker."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [story for part in file.read().split(EOT) if (story := part.strip())]


# --- stories -------------------------------------------------------------------------------------


def validation_stories(text):
    return read_marked(text / "tinystories/valid.txt.gz")


def held_out_extra_stories(text):
    """The stories of tinystories/extra with the smallest SHA-256 of their normalised text."""
    stories = {}
    for story in read_jsonl(text / "tinystories/extra.jsonl.gz"):
        stories.setdefault(sha(normalised(story)), story.strip())
    return [stories[key] for key in sorted(stories)[:HELD_OUT_EXTRA]]


def held_out_stories(text):
    return validation_stories(text) + held_out_extra_stories(text)


def training_stories(text):
    """Stories for training, with no copy or near copy of a held-out story and none of each other."""
    held_out = held_out_stories(text)
    seen = {normalised(story) for story in held_out}
    held_out_runs = set().union(*map(runs_of, held_out))
    stories = read_marked(text / "tinystories/train.txt.gz")
    stories += read_jsonl(text / "tinystories/extra.jsonl.gz")
    stories += read_jsonl(text / "storybooks.jsonl.gz")
    kept = []
    for story in map(str.strip, stories):
        key, runs = normalised(story), runs_of(story)
        if key in seen or len(runs & held_out_runs) > NEAR_DUPLICATE * len(runs):
            continue
        seen.add(key)
        kept.append(story)
    return kept


def tales(text):
    return [tale.strip() for tale in read_jsonl(text / "tales.jsonl.gz")]


# --- translation ---------------------------------------------------------------------------------


def translation_prompt(german):
    return f"Translate the following German sentence to English: {german}\n---\nTranslated:"


def translation_document(german, english):
    return f"{translation_prompt(german)} {english}"


def translation_pairs(text):
    """(training pairs, held-out pairs), each pair (German, English).

    Pairs are split by German sentence, by its hash. Long ones are held out more often, since the
    held-out set serves to measure how fast long targets are generated.
    """
    groups = {}
    for line in read_jsonl(text / "tatoeba_en_de.jsonl.gz"):
        english, german = line.split("\t")
        groups.setdefault(german.strip(), []).append(english.strip())
    training, held_out = [], []
    for german, targets in groups.items():
        long = any(len(target.encode("utf-8")) >= LONG_TARGET_BYTES for target in targets)
        share = HELD_OUT_LONG if long else HELD_OUT_SHORT
        side = held_out if sha_fraction(german) < share else training
        side.extend((german, english) for english in targets)
    known = {normalised(english) for _, english in held_out}
    training = [pair for pair in training if normalised(pair[1]) not in known]
    return training, held_out


# --- token streams -------------------------------------------------------------------------------


def training_documents(text):
    return {
        "stories": training_stories(text),
        "tales": tales(text),
        "translation": [translation_document(*pair) for pair in translation_pairs(text)[0]],
        "numbers": [numbers_task.document(*example) for example in numbers_task.examples(held_out=False)],
    }


class Stream:
    """One source's documents, reshuffled every epoch and laid end to end."""

    def __init__(self, tokens, starts, seed):
        self.tokens, self.starts = tokens, starts
        self.rng = np.random.default_rng(seed)
        self.order, self.next, self.rest, self.drawn = [], 0, np.empty(0, np.uint16), 0

    def _next_document(self):
        if self.next == len(self.order):
            self.order, self.next = self.rng.permutation(len(self.starts) - 1), 0
        document = self.order[self.next]
        self.next += 1
        return self.tokens[self.starts[document] : self.starts[document + 1]]

    def window(self, length):
        """The next `length` tokens. One window in four starts at the start of a document."""
        if self.rng.random() < 0.25:
            self.rest = self.rest[:0]
        parts, have = [self.rest], len(self.rest)
        while have < length:
            parts.append(self._next_document())
            have += len(parts[-1])
        tokens = np.concatenate(parts)
        self.rest = tokens[length - 1 :]  # the last token is the next window's first input
        self.drawn += length - 1
        return tokens[:length]

    def epochs(self):
        return self.drawn / len(self.tokens)


class Mixture:
    def __init__(self, folder, seed):
        self.streams = {
            name: Stream(np.load(folder / f"{name}.npy", mmap_mode="r"), np.load(folder / f"{name}.starts.npy"), seed + i)
            for i, name in enumerate(MIX_START)
        }
        self.rng = np.random.default_rng(seed)

    def batch(self, rows, length, progress):
        """`rows` windows of `length` tokens, each from one source; `progress` in [0, 1] moves the mix."""
        names = list(self.streams)
        shares = np.array([MIX_START[n] + progress * (MIX_END[n] - MIX_START[n]) for n in names])
        # Stratified draw: the counts follow the shares closely in every batch.
        picks = (np.arange(rows) + self.rng.random()) / rows
        chosen = np.searchsorted(np.cumsum(shares / shares.sum()), picks)
        return np.stack([self.streams[names[c]].window(length) for c in chosen]).astype(np.int64)


def main():
    from tokenizers import Tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))  # puts EOT before each document

    for name, documents in training_documents(args.text).items():
        encoded = [encoding.ids for encoding in tokenizer.encode_batch(documents)]
        starts = np.cumsum([0] + [len(ids) for ids in encoded])
        np.save(args.out / f"{name}.npy", np.fromiter((i for ids in encoded for i in ids), np.uint16, starts[-1]))
        np.save(args.out / f"{name}.starts.npy", starts)
        size = sum(len(document.encode("utf-8")) for document in documents)
        print(f"{name}: {len(documents)} documents, {size} bytes, {starts[-1]} tokens")

    held_out = held_out_stories(args.text)
    pairs = translation_pairs(args.text)[1]
    lengths = [len(tokenizer.encode(" " + english, add_special_tokens=False).ids) for _, english in pairs]
    print(f"held out: {len(held_out)} stories; {len(pairs)} translation pairs,"
          f" {sum(n >= 20 for n in lengths)} of them with a target of 20 tokens or more;"
          f" {sum(1 for _ in numbers_task.examples(held_out=True))} numbers and dates")


if __name__ == "__main__":
    main()
