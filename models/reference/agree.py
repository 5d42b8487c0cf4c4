r"""Train the same steps with `foretoken train` and with the reference, in every mode that both have, and compare the losses.

    python agree.py --foretoken ../../target/release/foretoken --model ../tables/backbones/1m --data ../tasks/run/numbers/train.jsonl \
        --out run/agree

Both begin with the heads and the LoRA that foretoken makes, which a first step at next to no rate writes, and train on the batches that it
dumps. Fails above 1e-3.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

LIMIT = 1e-3
SEQUENTIAL = ["--kind", "sequential", "--depth", "2"]
MODES = {
    "frozen": ["--mode", "frozen"],
    "frozen, sequential": ["--mode", "frozen", *SEQUENTIAL],
    "frozen, sequential, shifted labels": ["--mode", "frozen", *SEQUENTIAL, "--target", "shifted"],
    "joint": ["--mode", "joint", "--loss-balance", "rms", "--head-lr-mult", "1"],
    "joint, heads at 4 times the rate": ["--mode", "joint", "--loss-balance", "rms", "--head-lr-mult", "4"],
    "joint, WHS": ["--mode", "joint", "--loss-balance", "rms", "--head-lr-mult", "4", "--whs"],
    "baseline": ["--mode", "baseline"],
}


def log_of(folder):
    """Losses by step and offset."""
    lines = map(json.loads, (folder / "log.jsonl").open())
    return {line["step"]: line["losses"] for line in lines if "losses" in line}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foretoken", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE", help="only these")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rate", default="1e-3")
    parser.add_argument("--batch", default="4")
    parser.add_argument("--seq-len", default="64")
    parser.add_argument("--seed", default="0")
    args = parser.parse_args()
    bad = []
    for number, mode in enumerate(args.modes):
        folder, flags = args.out / str(number), MODES[mode]
        folder.mkdir(parents=True)
        both = ["--model", args.model, "--batch", args.batch, "--seq-len", args.seq_len, *flags]

        def run(*command):
            with (folder / "output.txt").open("a") as output:
                subprocess.run(list(map(str, command)), check=True, stdout=output, stderr=output)

        foretoken = [args.foretoken, "train", "--data", args.data, "--seed", args.seed, *both]
        run(*foretoken, "--steps", 1, "--lr", "1e-30", "--out", folder / "start")
        run(*foretoken, "--steps", args.steps, "--lr", args.rate, "--out", folder / "foretoken", "--dump-batches", folder / "batches")
        run(sys.executable, Path(__file__).with_name("train.py"), *both, "--steps", args.steps, "--rate", args.rate,
            "--start", folder / "start", "--batches", folder / "batches", "--out", folder / "reference")  # fmt: skip
        theirs, ours = log_of(folder / "foretoken"), log_of(folder / "reference")
        differences = [abs(theirs[step][offset] - loss) for step in ours for offset, loss in ours[step].items()]
        print(f"{mode:36} {len(ours)} steps, largest difference of a loss {max(differences):.1e}", flush=True)
        bad += [mode] if not max(differences) < LIMIT else []
    if bad:
        raise SystemExit(f"differ: {'; '.join(bad)}")


if __name__ == "__main__":
    main()
