"""Write the tasks on which heads are trained and measured, as jsonl files.

    python make_tasks.py --text ../../../shared/text --model ../default --out run

Each task is a folder with train.jsonl, valid.jsonl and test.jsonl. What `../recipe` holds out from the default model stays out of
every train.jsonl. The order of lines and the splits are decided by SHA-256 of the text alone; the tokenizer of --model
only decides which held-out targets are long enough to be measured.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "recipe"))

import data
import numbers_task

LEAST = 20  # tokens of a target that is measured
TEST_TARGETS = 1000
TEST_STORIES = 600
TEST_NUMBERS = 800
PROMPT_TOKENS = 24  # of a story's beginning


def by_hash(items, key=lambda item: item):
    """In an order that only the texts decide."""
    return sorted(items, key=lambda item: data.sha(key(item)))


def translation(text, count):
    """Test targets have LEAST tokens or more; all of a German sentence go to one side."""
    training, held_out = data.translation_pairs(text)
    line = lambda pair: "\t".join(pair)
    groups = {}
    for pair in by_hash(held_out, line):
        groups.setdefault(pair[0], []).append(pair)
    test, chosen = [], set()
    for german in by_hash(groups):
        long = [pair for pair in groups[german] if count(" " + pair[1]) >= LEAST]
        if long and len(test) + len(long) <= TEST_TARGETS:
            chosen.add(german)
            test += long
    known = {data.normalised(english) for _, english in test}
    rest = [pair for german, pairs in groups.items() if german not in chosen for pair in pairs]
    valid = [pair for pair in rest if data.normalised(pair[1]) not in known and count(" " + pair[1]) >= LEAST]
    record = lambda pair: {"prompt": data.translation_prompt(pair[0]), "completion": " " + pair[1]}
    return {
        "train": [record(pair) for pair in by_hash(training, line)],
        "valid": [record(pair) for pair in by_hash(valid, line)],
        "test": [record(pair) for pair in test],
    }


def stories(text, _count):
    """Whole stories."""
    held_out = by_hash(data.held_out_stories(text))
    training = by_hash(data.training_stories(text))
    sides = {"train": training, "valid": held_out[TEST_STORIES:], "test": held_out[:TEST_STORIES]}
    return {side: [{"text": story} for story in chosen] for side, chosen in sides.items()}


def numbers(_text, count):
    """Numbers and dates in words; test targets have LEAST tokens or more."""
    record = lambda example: {"prompt": numbers_task.prompt(example[0]), "completion": " " + example[1]}
    training, held_out = (by_hash(numbers_task.examples(held_out=side), lambda e: e[0]) for side in (False, True))
    long = [example for example in held_out if count(" " + example[1]) >= LEAST]
    return {
        "train": [record(example) for example in training],
        "valid": [record(example) for example in long[TEST_NUMBERS:]],
        "test": [record(example) for example in long[:TEST_NUMBERS]],
    }


def story_prompts(text, count):
    """Beginnings of stories, for a model that continues them itself: whole sentences, or PROMPT_TOKENS tokens of words."""

    def beginning(story):
        words, found = re.findall(r"\s*\S+", story), ""
        for word in words:
            if count(found + word) > PROMPT_TOKENS:
                break
            found += word
        sentences = re.match(r".*[.!?][\"”]?(?=\s|$)", found, re.S)
        return sentences[0] if sentences else found

    found = {}
    for side, chosen in stories(text, count).items():
        unique = dict.fromkeys(beginning(record["text"]) for record in chosen)
        found[side] = [{"prompt": prompt, "completion": ""} for prompt in unique if prompt]
    trained = {record["prompt"] for record in found["train"]}
    for side in ("valid", "test"):
        found[side] = [record for record in found[side] if record["prompt"] not in trained]
    return found


TASKS = {"translation": translation, "stories": stories, "numbers": numbers, "story-prompts": story_prompts}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--model", type=Path, required=True, help="model folder, for its tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    count = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    for task, make in TASKS.items():
        folder = args.out / task
        folder.mkdir(parents=True, exist_ok=True)
        for side, records in make(args.text, count).items():
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            (folder / f"{side}.jsonl").write_text("".join(lines), encoding="utf-8")
            tokens = sum(count(record.get("completion") or record.get("text") or record["prompt"]) for record in records)
            print(f"{task}/{side}.jsonl: {len(records)} lines, {tokens} tokens that count", flush=True)


if __name__ == "__main__":
    main()
