#!/usr/bin/env bash
# Builds foretoken for browsers into web/dist, a folder that any static web server can serve.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
triple=wasm32-unknown-unknown
dist=web/dist

say() { printf '\n== %s\n' "$*"; }

build_wasm() {
    rustup target add "$triple"
    # getrandom takes its randomness from the browser only when told so.
    RUSTFLAGS='--cfg getrandom_backend="wasm_js"' \
        cargo build --profile web --package foretoken-web --target "$triple"
}

bind() {
    cargo run --release --quiet --manifest-path web/bindgen/Cargo.toml --target-dir "$target/bindgen" -- \
        "$target/$triple/web/foretoken_web.wasm" web/package/wasm
}

pack() {
    rm -rf "$dist"
    mkdir -p "$dist/model"
    local bin=web/package/node_modules/.bin
    "$bin/wasm-opt" -Oz --all-features web/package/wasm/foretoken_bg.wasm -o "$dist/foretoken_bg.wasm"
    "$bin/tsc" --project web/package
    "$bin/tsc" --project web/demo
    "$bin/esbuild" web/package/src/index.ts web/package/src/worker.ts --bundle --format=esm --target=es2022 \
        --minify --outdir="$dist" --log-level=warning
    "$bin/esbuild" web/demo/src/main.ts web/demo/style.css --bundle --format=esm --target=es2022 --minify \
        --outdir="$dist" --entry-names=[name] --log-level=warning
    cp web/demo/index.html "$dist/"
    cp models/default/{config,generation_config,mtp_config,tokenizer,tokenizer_config}.json \
        models/default/{model,mtp}.safetensors "$dist/model/"
}

check_size() {
    local bytes zipped
    bytes=$(wc -c <"$dist/foretoken_bg.wasm")
    zipped=$(gzip -9 -c "$dist/foretoken_bg.wasm" | wc -c)
    echo "wasm: $bytes bytes (less than 3000000 wanted), $zipped gzipped (less than 1000000)"
    ((bytes < 3000000 && zipped < 1000000)) || { echo "web: the wasm has grown too large" >&2; exit 1; }
}

say "packages"
npm ci --prefix web/package --no-audit --no-fund
say "wasm"
build_wasm
bind
say "JavaScript"
pack
check_size
