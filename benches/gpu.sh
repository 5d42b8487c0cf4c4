#!/usr/bin/env bash
# Everything that only a GPU can answer, in one go of at most eight minutes.
#
#   benches/gpu.sh prepare          builds the command, strips it, and puts it into target/gpu/ (any machine)
#   benches/gpu.sh run OUT          measures with what is in target/gpu/ (the machine with the GPU) and writes into the folder OUT
#   benches/gpu.sh keep OUT NAME    takes results into benches/results/NAME and writes docs/gpu.md anew
#
# `run` needs a Vulkan driver and its loader, 24 GB of memory, 12 GB of the GPU's, and nothing else: no Rust, no network. What does
# not fit or fails is noted in OUT/failed.txt, and the rest goes on. BUDGET=SECONDS sets another limit than 480.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=target/gpu/foretoken

prepare() {
    cargo build --release --package foretoken-native
    mkdir -p target/gpu
    cp "${CARGO_TARGET_DIR:-target}/release/foretoken" "$binary"
    strip "$binary"
    git rev-parse HEAD > target/gpu/commit.txt
    echo "gpu: $(du -h "$binary" | cut -f 1) in $binary; on the machine with the GPU: benches/gpu.sh run OUT"
}

# measure NAME SECONDS WORDS...: what the command prints goes to OUT/NAME.txt.
measure() {
    local name=$1 most=$2 left=$((end - SECONDS))
    shift 2
    if ((left < 10)); then
        echo "$name: no time was left" >> "$out/failed.txt"
        return
    fi
    local began=$SECONDS status=0
    timeout $((left < most ? left : most)) "$binary" "$@" > "$out/$name.txt" 2> "$out/$name.err" || status=$?
    echo "gpu: $name: $((SECONDS - began)) s, exit code $status"
    if ((status == 0)); then
        rm "$out/$name.err"
    else
        echo "$name: exit code $status after $((SECONDS - began)) s: $(tail -n 1 "$out/$name.err")" >> "$out/failed.txt"
    fi
}

run() {
    out=$1
    [[ -x $binary ]] || { echo "gpu: there is no $binary: run benches/gpu.sh prepare first" >&2; exit 1; }
    mkdir -p "$out"
    rm -f "$out"/*.txt "$out"/*.err
    SECONDS=0
    end=${BUDGET:-480}
    cp target/gpu/commit.txt "$out/commit.txt"
    # First what is right: every kernel set against its references, and drafts against no drafts.
    measure devices 60 devices
    measure audit 60 audit
    # Then what is fast, the most important first.
    measure bench-1b-f16 120 bench --shape 1b --dtype f16
    measure drafts 60 bench --drafts
    measure bench-3b-f16 90 bench --shape 3b --dtype f16 --layers 14
    measure bench-8b-q4_k 90 bench --shape 8b --dtype f16 --layers 6 --quantize q4_k
    measure bench-1b-q8_0 60 bench --shape 1b --dtype f16 --layers 11 --quantize q8_0
    measure bench-15m-f32 60 bench
    if [[ -e $out/failed.txt ]]; then cat "$out/failed.txt"; fi
    echo "gpu: $SECONDS s in all; keep the results with benches/gpu.sh keep $out NAME"
}

keep() {
    local to=benches/results/$2
    mkdir -p "$to"
    cp "$1"/*.txt "$to/"
    page
    echo "gpu: $to, docs/gpu.md"
}

# docs/gpu.md: what every folder of results says, as it was printed; the JSON lines stay in the folders.
page() {
    {
        sed '/^<!-- Written by/q' docs/gpu.md
        local folder file
        for folder in benches/results/*/; do
            [[ -e $folder/commit.txt ]] || continue
            printf '\n## %s\n\nforetoken %.12s\n' "$(basename "$folder")" "$(cat "$folder/commit.txt")"
            for file in "$folder"*.txt; do
                [[ $file == */commit.txt ]] && continue
                printf '\n### %s\n\n```text\n' "$(basename "$file" .txt)"
                grep -v '^{' "$file" || true
                printf '```\n'
            done
        done
    } > docs/gpu.md.new
    mv docs/gpu.md.new docs/gpu.md
}

case $#:${1:-} in
    1:prepare) prepare ;;
    2:run) run "$2" ;;
    3:keep) keep "$2" "$3" ;;
    *) sed -n '4,6p' "$0" >&2; exit 2 ;;
esac
