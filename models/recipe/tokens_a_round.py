"""Tokens a round of greedy drafting over prompts, by the built command: the mean over prompts, how it spreads, and how many loop.

    python tokens_a_round.py ../tasks/run/story-prompts/test.jsonl --foretoken ../../target/release/foretoken -- --draft-len 1
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("prompts", help='lines of {"prompt": ...}')
parser.add_argument("--foretoken", required=True, help="the command")
parser.add_argument("--count", type=int, default=100)
parser.add_argument("--tokens", type=int, default=150, help="new tokens, at most")
parser.add_argument("--draft", default="heads")
parser.add_argument("--jobs", type=int, default=1)
own = sys.argv[1:]
args = parser.parse_args(own[: own.index("--")] if "--" in own else own)
rest = own[own.index("--") + 1 :] if "--" in own else []


def loops(ids):
    """Whether the last 24 tokens repeat those just before them, at a distance of at most 24."""
    return any(len(ids) >= 24 + gap and ids[-24:] == ids[-24 - gap : -gap] for gap in range(1, 25))


def generate(prompt):
    command = [args.foretoken, "generate", "--prompt", prompt, "--max-tokens", str(args.tokens), "--draft", args.draft, "--json"]
    return json.loads(subprocess.run(command + rest, check=True, capture_output=True, text=True).stdout)


prompts = [json.loads(line)["prompt"] for line in open(args.prompts, encoding="utf-8")][: args.count]
with ThreadPoolExecutor(args.jobs) as pool:
    reports = list(pool.map(generate, prompts))
each = [report["stats"]["tokens_per_round"] for report in reports]
total = lambda key: sum(report["stats"][key] for report in reports)
low, *_, high = statistics.quantiles(each, n=20)
print(f"{len(each)} prompts on {reports[0]['adapter']}, {total('new_tokens')} tokens: {statistics.mean(each):.3f} tokens a round,")
print(f"9 of 10 prompts between {low:.2f} and {high:.2f}; {total('accepted')} of {total('drafted')} drafts right;")
print(f"{sum(loops(report['ids']) for report in reports)} texts end in a loop")
