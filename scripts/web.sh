#!/usr/bin/env bash
# Installs what is missing (it says what), and builds foretoken for browsers into web/dist, a folder that any static web server
# can serve: the page, the package and the default model. The package alone, with its types, is in web/package.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
triple=wasm32-unknown-unknown
package=web/package/dist
dist=web/dist

say() { printf '\n== %s\n' "$*"; }

build_wasm() {
    # getrandom takes its randomness from the browser only when told so.
    export RUSTFLAGS='--cfg getrandom_backend="wasm_js"'
    local build=(build --profile web --package foretoken-web --target "$triple")
    if [[ -d $(rustc --print sysroot)/lib/rustlib/$triple ]]; then
        cargo "${build[@]}"
    else # the compiler that scripts/setup.sh has unpacked, which makes the standard library too
        local unpacked=$PWD/$target/debian-rust/usr linkers
        [[ $target == /* ]] && unpacked=$target/debian-rust/usr
        linkers=("$(rustc --print sysroot)"/lib/rustlib/*/bin/rust-lld)
        LD_LIBRARY_PATH=$(dirname "$unpacked"/lib/*/librustc_driver*.so) RUSTC=$unpacked/bin/rustc RUSTC_BOOTSTRAP=1 \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=${linkers[0]} \
            "$unpacked/bin/cargo" "${build[@]}" --target-dir "$target/debian-rust/build" -Zbuild-std=std,panic_abort
        install -D "$target/debian-rust/build/$triple/web/foretoken_web.wasm" "$target/$triple/web/foretoken_web.wasm"
    fi
    unset RUSTFLAGS
}

bind() {
    cargo run --release --quiet --manifest-path web/bindgen/Cargo.toml --target-dir "$target/bindgen" -- \
        "$target/$triple/web/foretoken_web.wasm" web/package/wasm
}

# Functions of like names have like bodies: side by side they take 3 % less when zipped. It takes names, so those go last.
optimize() { # wasm-opt
    local wasm=web/package/wasm/foretoken_bg.wasm
    "$1" -Oz --converge --debuginfo "$wasm" -o "$wasm.optimized"
    "$1" --debuginfo --reorder-functions-by-name "$wasm.optimized" -o "$wasm.optimized"
    "$1" --strip-debug --strip-producers "$wasm.optimized" -o "$package/foretoken_bg.wasm"
}

pack() {
    rm -rf "$package" "$dist"
    mkdir -p "$package/model"
    local bin=web/package/node_modules/.bin
    optimize "$bin/wasm-opt"
    "$bin/tsc" --project web/package
    "$bin/tsc" --project web/demo
    "$bin/esbuild" web/package/src/index.ts web/package/src/worker.ts --bundle --format=esm --target=es2022 \
        --minify --outdir="$package" --log-level=warning
    cp models/default/{config,generation_config,mtp_config,tokenizer,tokenizer_config}.json \
        models/default/{model,mtp}.safetensors "$package/model/"
    cp -r "$package" "$dist"
    "$bin/esbuild" web/demo/src/main.ts web/demo/style.css --bundle --format=esm --target=es2022 --minify \
        --outdir="$dist" --entry-names=[name] --log-level=warning
    cp web/demo/index.html "$dist/"
}

check_size() {
    local bytes zipped
    bytes=$(wc -c <"$dist/foretoken_bg.wasm")
    zipped=$(gzip -9 -c "$dist/foretoken_bg.wasm" | wc -c)
    echo "wasm: $bytes bytes (less than 3500000 wanted), $zipped gzipped (less than 1200000)"
    ((bytes < 3500000 && zipped < 1200000)) || { echo "web: the wasm has grown too large" >&2; exit 1; }
}

scripts/setup.sh --web
say "packages"
npm ci --prefix web/package --no-audit --no-fund
say "wasm"
build_wasm
bind
say "JavaScript"
pack
check_size
