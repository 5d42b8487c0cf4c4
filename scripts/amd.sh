#!/usr/bin/env bash
# Holds what an AMD compiler makes of the shaders against a committed table, without such a card: see docs/amd.md.
#
#   scripts/amd.sh check                   the test part `cpu` does this, too
#   scripts/amd.sh update --reason TEXT    writes the table anew
#   scripts/amd.sh isa RDNA3 KERNEL        prints instructions
set -euo pipefail
cd "$(dirname "$0")/.."

# As the tests are built: to ask cargo for this package alone would build everything again with other features.
cargo test --quiet --workspace --no-run
exec "${CARGO_TARGET_DIR:-target}/debug/foretoken-amd" "$@"
