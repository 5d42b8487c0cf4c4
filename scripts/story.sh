#!/usr/bin/env bash
# Installs what is missing, builds foretoken, and lets the embedded model tell a story. Flags go to `foretoken generate`:
#
#   scripts/story.sh --seed 2
set -euo pipefail
cd "$(dirname "$0")/.."

prompt='Once upon a time, there was a little fox named Tim.'

scripts/setup.sh
cargo build --release --package foretoken-native
printf '\n%s' "$prompt"
cargo run --release --quiet --package foretoken-native -- generate --prompt "$prompt" \
    --temperature 0.6 --seed 1 "$@"
