#!/usr/bin/env bash
# Installs what is missing (it says what) and runs every check, the quick ones first.
#
#   scripts/test.sh           every part that this system has
#   scripts/test.sh PART...   these parts:
#
#     lint         format, lints, documentation
#     cpu          tests that open no adapter: formats, shader translation, layouts, architecture, examples in the documentation;
#                  what an AMD compiler makes of the shaders (docs/amd.md)
#     lavapipe     all tests that open an adapter, on Mesa's software adapter
#     swiftshader  the library's on a second software adapter, which compiles shaders in another way
#     gpu          all tests that open an adapter, on this machine's own
#     browser      the package and the page, in Chromium on SwiftShader
#     real         three pretrained models against transformers, on both software adapters (an hour or more); only where it is asked for:
#                  FORETOKEN_REAL names a folder with the files of tests/real/models.json, and with what tests/real/expected.py makes of
#                  them; what is found goes to docs/models.md. FORETOKEN_REQUIRE_REAL=1: a missing file is a failure
#
# On Linux the tests run on software adapters that every machine can have, so that a failure here can be repeated anywhere.
# Times go to target/test-times.json, and the minutes of each part and the slowest tests are printed last.
set -euo pipefail
cd "$(dirname "$0")/.."

swiftshader=/usr/lib/chromium/vk_swiftshader_icd.json
target=${CARGO_TARGET_DIR:-target}
records=$target/test-times

say() { printf '\n== %s\n' "$*"; }

with_driver() { # driver files, command
    # Mesa's layer of this name complains about a missing Wayland server at every start.
    VK_DRIVER_FILES=$1 VK_ICD_FILENAMES=$1 NODEVICE_SELECT=1 "${@:2}"
}

rust_tests() { node scripts/run-tests.mjs "$1" "$records/$2.json"; }

on_adapter() { # what to run, part
    rust_tests "$1" "$2"
    # The tests have built it. To ask cargo for this package alone would build everything again with other features.
    "$target/debug/foretoken" devices
}

lint() {
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- --deny warnings
    RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps
    node scripts/models.mjs --check
}

cpu() {
    with_driver /nonexistent rust_tests cpu cpu
    cargo test --workspace --doc
    # It has been built with the tests, and finds a driver by itself.
    "$target/debug/foretoken-amd" check
}

lavapipe() {
    # Its file's name varies, and there may be one for each architecture.
    local files
    files=$(find /usr/share/vulkan/icd.d -name 'lvp_icd*.json' | paste -sd: -)
    with_driver "$files" on_adapter device lavapipe
}

swiftshader() {
    if [[ ! -e $swiftshader ]]; then
        say "SKIPPED: the tests on SwiftShader, which no package of this system has"
        return
    fi
    with_driver "$swiftshader" on_adapter swiftshader swiftshader
}

gpu() { on_adapter device gpu; }

browser() {
    if [[ ! -x ${CHROMIUM:-/usr/bin/chromium} || ! -e $swiftshader ]]; then
        say "SKIPPED: the tests in a browser, for which there is no Chromium with SwiftShader here"
        return
    fi
    scripts/web.sh
    # What the browser computes is held against the command, which comes with the tests.
    cargo test --workspace --no-run
    # One file after the other: they share the cores and a software adapter.
    local file failed=() reporters
    for file in web/tests/*.test.mjs; do
        reporters=(--test-reporter=spec --test-reporter-destination=stdout --test-reporter=./scripts/times-reporter.mjs
            --test-reporter-destination="$records/browser-$(basename "$file").json")
        # A failed test may leave behind what Node.js would wait for.
        timeout 15m node --test "${reporters[@]}" "$file" || failed+=("$file")
    done
    ((${#failed[@]} == 0)) || { echo "failed: ${failed[*]}" >&2; return 1; }
}

real() {
    local results files
    results=$(cd "$target" && pwd)/real-results.jsonl
    rm -f "$results"
    files=$(find /usr/share/vulkan/icd.d -name 'lvp_icd*.json' | paste -sd: -)
    # One model at a time.
    export RUST_TEST_THREADS=1 FORETOKEN_RESULTS=$results
    with_driver "$files" rust_tests real real-lavapipe
    if [[ -e $swiftshader ]]; then
        with_driver "$swiftshader" rust_tests real real-swiftshader
    else
        say "SKIPPED: real models on SwiftShader, which no package of this system has"
    fi
    if [[ -e $results ]]; then node scripts/models.mjs "$results"; fi
}

all=(lint cpu lavapipe swiftshader browser)
[[ $(uname -s) == Linux ]] || all=(lint cpu gpu browser)
parts=("$@")
((${#parts[@]})) || parts=("${all[@]}")
for part in "${parts[@]}"; do
    case $part in
        lint | cpu | lavapipe | swiftshader | gpu | browser | real) ;;
        *) echo "test: no part '$part'; there are: lint, cpu, lavapipe, swiftshader, gpu, browser, real" >&2; exit 2 ;;
    esac
done

rm -rf "$records"
mkdir -p "$records"
# The part under way; its minutes count where it fails, too.
running=
started=0
note_part() { [[ -z $running ]] || echo "$running $((SECONDS - started))" >>"$records/parts.txt"; }
trap 'note_part; node scripts/test-times.mjs "$records" "$target/test-times.json"' EXIT
say setup
scripts/setup.sh --tests
for part in "${parts[@]}"; do
    say "$part"
    running=$part
    started=$SECONDS
    "$part"
    note_part
    running=
done
if (($# == 0)); then say "SKIPPED: real models against transformers, which are asked for by name: FORETOKEN_REAL=FOLDER scripts/test.sh real"; fi
