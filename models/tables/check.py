"""Hold `evaluate.py` against `foretoken analyze --protocol paper`: counts of every sample, of every column that both have.

    python check.py --foretoken ../../target/release/foretoken --model ../default --heads ../reference/run/heads-only \
        --data ../tasks/run/translation/test.jsonl --samples 8
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from evaluate import FEED, TOP, evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--foretoken", type=Path, required=True)
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--heads", type=Path, nargs="+", required=True)
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--samples", type=int, default=8)
args = parser.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    part = Path(scratch, args.data.name)
    part.write_text("".join(args.data.open().readlines()[: args.samples]))
    out = Path(scratch, "out")
    subprocess.run([args.foretoken, "analyze", "--model", args.model, "--heads", *args.heads, "--data", part,
                    "--methods", "next,marginal,heads", "--protocol", "paper", "--feed", f"mix:{FEED}", "--out", out], check=True)  # fmt: skip
    run = json.loads((out / "run.json").read_text())
    records = [json.loads(line) for line in (out / "samples.jsonl").open()]
    base = evaluate(args.model, None, part, marginal=args.samples)["columns"]
    of_heads = [evaluate(args.model, folder, part)["columns"] for folder in args.heads]

scored = [record for record in sorted(records, key=lambda record: record["sample"]) if record["targets"]]
differences = compared = 0
for number, column in enumerate(run["columns"]):
    method, offset, folder = column["method"], column["offset"], column["folder"]
    if column["given"] or method == "marginal" and offset == 1:
        continue
    mine = base[method] if folder is None else of_heads[folder]["next" if offset == 1 else "heads"]
    for name, places, most in [*((f"top{top}", "rank", top) for top in TOP), ("control", "control", max(TOP))]:
        for sample, (record, count) in enumerate(zip(scored, mine[name], strict=True)):
            theirs = sum(1 <= place <= most for place in record["columns"][number][places])
            compared += 1
            if theirs != int(count, 36):
                differences += 1
                label = method if folder is None else f"heads {args.heads[folder].name}"
                print(f"{label} +{offset}, {name}, sample {sample + 1}: {theirs} there, {int(count, 36)} here")
print(f"{compared} counts of {len(scored)} samples compared, {differences} differ")
