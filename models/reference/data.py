"""Micro-batches of tokens: those that foretoken wrote to a file, or our own from jsonl."""

import json
import math

import numpy as np
import torch
from tokenizers import Tokenizer


def on_device(*arrays):
    return tuple(torch.from_numpy(array).to(torch.get_default_device()) for array in arrays)


class Dump:
    """A file of micro-batches: one line of JSON, {"sequences": S, "length": T}, then for each S * T ids, 32-bit little-endian,
    and S * T bytes, 1 where a token counts as a target. `accumulate` of them make a step; at the end it begins anew.
    """

    def __init__(self, path, accumulate):
        with open(path, "rb") as file:
            header = json.loads(line := file.readline())
        self.shape, self.accumulate = (header["sequences"], header["length"]), accumulate
        record = np.dtype([("ids", "<u4", self.shape), ("counts", "u1", self.shape)])
        self.records = np.memmap(path, record, "r", offset=len(line))

    def step(self, number):
        for micro in range(number * self.accumulate, (number + 1) * self.accumulate):
            record = self.records[micro % len(self.records)]
            yield on_device(record["ids"].astype(np.int64), record["counts"].astype(bool))


def encode(path, tokenizer_file, length, eos):
    """(ids, counts) of each line: begin token, prompt, completion, end token; the completion and the end token count.

    A `text` counts as a whole. Lines are cut at `length` tokens; those of which then nothing counts are left out.
    """
    tokenizer, found = Tokenizer.from_file(str(tokenizer_file)), []
    plain = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    for line in open(path, encoding="utf-8"):
        record = json.loads(line)
        prompt, rest = [eos] + plain(record.get("prompt", "")), plain(record.get("completion") or record.get("text")) + [eos]
        if len(prompt) < length:
            found.append(((prompt + rest)[:length], ([0] * len(prompt) + [1] * len(rest))[:length]))
    return found


def pad(samples):
    length = max(len(ids) for ids, _ in samples)
    ids, counts = np.zeros((len(samples), length), np.int64), np.zeros((len(samples), length), bool)
    for row, (tokens, mask) in enumerate(samples):
        ids[row, : len(tokens)], counts[row, : len(mask)] = tokens, mask
    return on_device(ids, counts)


class Shuffled:
    """Batches of samples of like length; every epoch in another order, which the seed and the epoch decide."""

    POOL = 16  # batches among which samples are sorted by length

    def __init__(self, samples, sequences, accumulate, seed):
        self.samples, self.sequences, self.accumulate, self.seed = samples, sequences, accumulate, seed
        self.steps_of_epoch = math.ceil(len(samples) / (sequences * accumulate))
        self.epoch, self.batches = None, []

    def arrange(self, epoch):
        random = np.random.default_rng([self.seed, epoch])
        order, size = random.permutation(len(self.samples)), self.sequences
        batches = []
        for start in range(0, len(order), size * self.POOL):
            pool = sorted(order[start : start + size * self.POOL], key=lambda i: (len(self.samples[i][0]), i))
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        self.batches = [batches[i] for i in random.permutation(len(batches))]
        self.epoch = epoch

    def step(self, number):
        epoch, within = divmod(number, self.steps_of_epoch)
        if epoch != self.epoch:
            self.arrange(epoch)
        for batch in self.batches[within * self.accumulate : (within + 1) * self.accumulate]:
            yield pad([self.samples[i] for i in batch])
