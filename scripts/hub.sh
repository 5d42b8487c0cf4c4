#!/usr/bin/env bash
# Checks that foretoken and Python's huggingface_hub find each other's models: tests/hub/compare.py, in a virtual environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
python=$target/hub-venv/bin/python

[[ -x $python ]] || python3 -m venv "$target/hub-venv"
"$python" -m pip install --quiet --requirement tests/hub/requirements.txt
cargo build --workspace
"$python" tests/hub/compare.py "$target/debug/foretoken"
