"""sampling.json: which tokens the filters keep, and their probabilities.

Order: repetition penalty, temperature, top-k, top-p, min-p. Every case is computed by a few lines of plain Python in
double precision under foretoken's rule (the most probable tokens, ties by lower id first, top-k exactly k, top-p
with the token that reaches p). Cases of kind "transformers" have no tie at a cut-off, and transformers must agree.
"""

import math

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 64
OFF = {"repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
ORDER = list(OFF)
SETTINGS = {
    "plain": {},
    "temperature-high": {"temperature": 1.7},
    "temperature-low": {"temperature": 0.35},
    "penalty": {"repetition_penalty": 1.3},
    "penalty-below-one": {"repetition_penalty": 0.8, "temperature": 0.9},
    "top-k": {"top_k": 7},
    "top-k-one": {"top_k": 1},
    "top-k-above-vocabulary": {"top_k": 1000, "temperature": 1.2},
    "top-p": {"top_p": 0.9},
    "top-p-tiny": {"top_p": 0.001},
    "min-p": {"min_p": 0.05},
    "min-p-one": {"min_p": 1.0},
    "k-then-p": {"top_k": 10, "top_p": 0.8},
    "p-then-min": {"top_p": 0.95, "min_p": 0.08, "temperature": 1.4},
    "all": {"temperature": 1.6, "repetition_penalty": 1.2, "top_k": 9, "top_p": 0.92, "min_p": 0.05},
    "all-hot": {"temperature": 2.5, "repetition_penalty": 1.5, "top_k": 40, "top_p": 0.97, "min_p": 0.03},
}
NO_EFFECT = {"top-k-above-vocabulary": ["top_k"]}


def penalised(logits, seen, penalty):
    """Once for a token, however often it was seen."""
    return [(x / penalty if x > 0 else x * penalty) if i in set(seen) else x for i, x in enumerate(logits)]


def softmax(scores):
    """Of a dict id -> score."""
    top = max(scores.values())
    mass = {i: math.exp(x - top) for i, x in scores.items()}
    total = math.fsum(mass.values())
    return {i: m / total for i, m in mass.items()}


def pipeline(logits, seen, temperature, repetition_penalty, top_k, top_p, min_p):
    """The kept ids with their probabilities, and how far the nearest token is from the other side of a cut-off."""
    scores = penalised(logits, seen, repetition_penalty)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if temperature == 0:
        return {order[0]: 1.0}, scores[order[0]] - scores[order[1]]
    scores = [x / temperature for x in scores]
    room = math.inf
    if 0 < top_k < len(order):
        room = min(room, scores[order[top_k - 1]] - scores[order[top_k]])
        order = order[:top_k]
    if top_p < 1:
        probs, mass, n = softmax({i: scores[i] for i in order}), 0.0, 0
        while mass < top_p and n < len(order):
            mass, n = mass + probs[order[n]], n + 1
        before = mass - probs[order[n - 1]]
        room = min(room, mass - top_p, top_p - before if n > 1 else math.inf)
        if n < len(order):
            room = min(room, scores[order[n - 1]] - scores[order[n]])
        order = order[:n]
    probs = softmax({i: scores[i] for i in order})
    if min_p > 0:
        top = probs[order[0]]
        room = min([room, *(abs(p / top / min_p - 1) for i, p in probs.items() if i != order[0])])
        order = [i for i in order if probs[i] >= min_p * top]
        probs = softmax({i: scores[i] for i in order})
    return {i: probs[i] for i in sorted(order)}, room


def transformers_pipeline(logits, seen, temperature, repetition_penalty, top_k, top_p, min_p):
    steps = [RepetitionPenaltyLogitsProcessor(repetition_penalty), TemperatureLogitsWarper(temperature)]
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    steps += [MinPLogitsWarper(min_p)] if min_p else []
    scores = LogitsProcessorList(steps)(torch.tensor([seen]), torch.tensor([logits], dtype=torch.float32))[0]
    probs = scores.softmax(-1)
    return {i: probs[i].item() for i in range(VOCAB) if scores[i] > -math.inf}


def random_logits(random):
    """Float32 values; eight of them are copies of others, one is zero."""
    logits = (random.standard_normal(VOCAB) * 2.5).astype(np.float32)
    pairs = random.permutation(VOCAB)[:16].reshape(8, 2)
    logits[pairs[:, 0]] = logits[pairs[:, 1]]
    logits[random.randint(VOCAB)] = 0
    return logits


def idle_steps(logits, seen, settings):
    """The settings which are on and change nothing where they stand in the order."""
    so_far, idle = OFF, []
    for step in ORDER:
        before, so_far = so_far, so_far | {step: settings[step]}
        if settings[step] != OFF[step] and pipeline(logits, seen, **before)[0] == pipeline(logits, seen, **so_far)[0]:
            idle.append(step)
    return idle


def compared_case(name, settings):
    """The first draw on which nothing lies on a cut-off and every step changes the outcome of those before it."""
    for seed in range(1000):
        random = np.random.RandomState([seed, *name.encode()])
        logits = [float(x) for x in random_logits(random)]
        ranked = sorted(range(VOCAB), key=lambda i: -logits[i])
        # Some of the most probable tokens, others anywhere, one of them twice: a penalty then changes the kept set.
        seen = [*ranked[1:4], *(int(i) for i in random.randint(0, VOCAB, 6)), ranked[2]]
        kept, room = pipeline(logits, seen, **settings)
        if room < 1e-3 or idle_steps(logits, seen, settings) != NO_EFFECT.get(name, []):
            continue
        theirs = transformers_pipeline(logits, seen, **settings)
        assert list(kept) == list(theirs), (name, kept, theirs)
        assert all(abs(kept[i] - theirs[i]) < 1e-6 for i in kept), (name, kept, theirs)
        return case(name, "transformers", logits, seen, settings, kept)
    raise AssertionError(f"{name}: no draw without a tie at a cut-off")


def rule_case(name, kind, logits, seen=(), **settings):
    kept, _ = pipeline(logits, list(seen), **(OFF | settings))
    return case(name, kind, logits, list(seen), OFF | settings, kept)


def case(name, kind, logits, seen, settings, kept):
    fields = {"name": name, "kind": kind, "logits": logits, "seen": seen, **settings}
    return fields | {"kept": list(kept), "probs": list(kept.values())}


def tie_cases():
    steps = [float(i * 37 % VOCAB // 8) / 2 for i in range(VOCAB)]  # eight values, each eight times, scattered
    flat = [0.75] * VOCAB
    pair = [-3.0] * VOCAB
    pair[11] = pair[40] = 2.0
    meeting = list(pair)
    meeting[11] = 4.0  # 4.0 / 2 meets 2.0 once token 11 was seen
    yield rule_case("ties-top-k", "ties", steps, top_k=11)
    yield rule_case("ties-top-k-flat", "ties", flat, top_k=5)
    yield rule_case("ties-top-p", "ties", steps, top_p=0.55)
    yield rule_case("ties-top-p-flat", "ties", flat, top_p=0.305)
    yield rule_case("ties-top-p-pair", "ties", pair, top_p=0.2)
    yield rule_case("ties-top-k-then-p", "ties", steps, top_k=20, top_p=0.7, temperature=1.5)
    yield rule_case("ties-min-p", "ties", steps, min_p=0.5)
    yield rule_case("ties-penalty", "ties", meeting, [11, 11], repetition_penalty=2.0, top_k=1)
    every = {"repetition_penalty": 2.0, "top_k": 30, "top_p": 0.8, "min_p": 0.25}
    yield rule_case("ties-all", "ties", steps, range(0, VOCAB, 5), **every)
    yield rule_case("greedy", "greedy", compared_case("plain", OFF)["logits"], temperature=0.0)
    yield rule_case("greedy-ties", "greedy", steps, temperature=0.0)
    yield rule_case("greedy-ties-penalty", "greedy", meeting, [11], temperature=0.0, repetition_penalty=2.0)
    yield rule_case("greedy-filters", "greedy", steps, temperature=0.0, top_k=3, top_p=0.5, min_p=0.1)


def cases():
    return [compared_case(name, OFF | changes) for name, changes in SETTINGS.items()] + list(tie_cases())
