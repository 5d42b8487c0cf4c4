#!/usr/bin/env bash
# Installs what is missing (it says what) and runs every check, the quick ones first: format, lints, documentation, all tests, the browser.
#
# On Linux the tests run on two software adapters that every machine can have, so that a failure here can be repeated
# anywhere. `cargo test` alone takes the machine's own GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

swiftshader=/usr/lib/chromium/vk_swiftshader_icd.json

say() { printf '\n== %s\n' "$*"; }

run_tests() {
    cargo test --workspace
    # The tests have built it. To ask cargo for this package alone would build everything again with other features.
    "${CARGO_TARGET_DIR:-target}/debug/foretoken" devices
}

run_tests_on() { # driver file
    # Mesa's layer of this name complains about a missing Wayland server at every start.
    export VK_DRIVER_FILES=$1 VK_ICD_FILENAMES=$1 NODEVICE_SELECT=1
    run_tests
}

run_browser_tests() {
    scripts/web.sh
    # One file after the other: they share the cores and a software adapter.
    local file failed=()
    # A failed test may leave behind what Node.js would wait for.
    for file in web/tests/*.test.mjs; do timeout 15m node --test "$file" || failed+=("$file"); done
    ((${#failed[@]} == 0)) || { echo "failed: ${failed[*]}" >&2; return 1; }
}

scripts/setup.sh --tests
say format
cargo fmt --all --check
say lints
cargo clippy --workspace --all-targets -- --deny warnings
say documentation
RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps

if [[ $(uname -s) != Linux ]]; then
    say "all tests"
    run_tests
else
    say "all tests, on lavapipe"
    # Its file's name varies, and there may be one for each architecture.
    lavapipe=$(find /usr/share/vulkan/icd.d -name 'lvp_icd*.json' | paste -sd: -)
    run_tests_on "$lavapipe"
    if [[ -e $swiftshader ]]; then
        say "all tests, on SwiftShader"
        run_tests_on "$swiftshader"
    else
        say "SKIPPED: the tests on SwiftShader, which no package of this system has"
    fi
fi

if [[ -x ${CHROMIUM:-/usr/bin/chromium} && -e $swiftshader ]]; then
    say "the browser: the package and the page, in Chromium on SwiftShader"
    run_browser_tests
else
    say "SKIPPED: the tests in a browser, for which there is no Chromium with SwiftShader here"
fi
