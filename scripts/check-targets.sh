#!/usr/bin/env bash
# Type-checks foretoken for Windows (DX12) and macOS (Metal) from whatever machine this is. Nothing is linked or run.
#
#   scripts/check-targets.sh             both
#   scripts/check-targets.sh TARGET...   these targets of rustc
set -euo pipefail
cd "$(dirname "$0")/.."

targets=("$@")
((${#targets[@]})) || targets=(x86_64-pc-windows-gnu aarch64-apple-darwin)

# Without the command's feature tls, which compiles C for the target.
check() {
    cargo check --package foretoken --package foretoken-native --no-default-features --features foretoken/default --target "$@"
}

# Where rustup cannot help, the standard library's source, if it is there, is checked along with ours. For Windows that
# takes a dlltool, on Debian from binutils-mingw-w64-x86-64.
std_source=$("${RUSTC:-rustc}" --print sysroot)/lib/rustlib/src/rust/library

for target in "${targets[@]}"; do
    printf '\n== %s\n' "$target"
    if command -v rustup >/dev/null && rustup target add "$target"; then
        check "$target"
    elif [[ -d $std_source ]]; then
        RUSTC_BOOTSTRAP=1 check "$target" -Zbuild-std=std,panic_abort
    else
        echo "check-targets: no standard library for $target: install it with rustup, or its source (rust-src)" >&2
        exit 1
    fi
done
