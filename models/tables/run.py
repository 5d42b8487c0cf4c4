"""Make the runs of `plan.py` that have no result yet, one after the other: train, measure, write `results/NAME.json`.

    python run.py --tasks ../tasks/run

The same command goes on where it was stopped, the training of a run included as long as `run` is there. Results are all that has to
be kept.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import plan
from evaluate import evaluate

HERE = Path(__file__).parent
TRAIN = HERE.parent / "reference/train.py"


def train(run, args, folder):
    """Leaves heads and LoRA in `folder`; returns what the log says of the end, and the validation losses."""
    data, before = args.tasks / run.task, 0
    command = [sys.executable, TRAIN, *plan.ROWS[run.row], "--model", HERE / plan.MODELS[run.size], "--data", data / "train.jsonl",
               "--valid", data / "valid.jsonl", "--batch", str(plan.BATCH), "--steps", str(run.steps), "--seed", str(run.seed),
               "--rate", str(run.rate or plan.RATES[run.row]), "--threads", str(args.threads), "--out", folder]  # fmt: skip
    if run.row in plan.WARMED:
        warm = plan.Run(run.size, run.task, "warmup", run.seed)
        before = train(warm, args, args.run / warm.folder)["targets"]
        command += ["--warmup-heads", args.run / warm.folder]
    if not (folder / "mtp.safetensors").exists():
        subprocess.run(list(map(str, command)), check=True)
    log = [json.loads(line) for line in open(folder / "log.jsonl")]
    flags = json.loads((folder / "flags.json").read_text())
    shown = {key: flags[key] for key in ("rate", "steps", "seed", "depth", "target", "head_lr_mult")}
    return shown | {
        "targets": before + next(line["targets"] for line in reversed(log) if "targets" in line),
        "validation_nats": next(line["valid"] for line in reversed(log) if "valid" in line),
    }


def measure(run, args, folder):
    data = args.tasks / run.task / ("valid.jsonl" if run.rate else "test.jsonl")
    marginal = plan.marginal_samples(run)
    part = args.run / f"{run.name}.measured"
    part.parent.mkdir(parents=True, exist_ok=True)
    return evaluate(HERE / plan.MODELS[run.size], folder, data, marginal=marginal, part=part, threads=args.threads)


def ready(run):
    trained = not run.row or run.rate or {run.row, *(["warmup"] if run.row in plan.WARMED else [])} <= set(plan.RATES)
    return trained and (HERE / plan.MODELS[run.size] / "model.safetensors").exists()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="names of runs; default all of the plan")
    parser.add_argument("--tasks", type=Path, default=HERE.parent / "tasks/run", help="folder that make_tasks.py wrote")
    parser.add_argument("--run", type=Path, default=HERE / "run", help="folder for trainings")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--threads", type=int, default=2, help="1 gets further on cores that others use too")
    parser.add_argument("--next", action="store_true", help="only the first run that is missing; fails if there is none")
    args = parser.parse_args()
    for run in plan.PLAN:
        result = args.results / f"{run.name}.json"
        if result.exists() or args.runs and run.name not in args.runs:
            continue
        if not ready(run):
            print(f"{run.name}: its model or rate is missing", flush=True)
            continue
        print(f"{run.name}", flush=True)
        folder = args.run / run.folder if run.row else None
        trained = train(run, args, folder) if run.row else {}
        result.parent.mkdir(parents=True, exist_ok=True)
        part = result.with_suffix(".part")
        part.write_text(json.dumps({"training": trained} | measure(run, args, folder), indent=1) + "\n")
        os.replace(part, result)
        if args.next:
            return
    if args.next:
        sys.exit("nothing left to do")


if __name__ == "__main__":
    main()
