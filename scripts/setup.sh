#!/usr/bin/env bash
# Installs what foretoken needs besides Rust, and says so first. Run again, it finds everything there and does nothing.
#
#   scripts/setup.sh           a C linker and a Vulkan driver, where this machine has none
#   scripts/setup.sh --web     and what builds the browser's package: Node.js, rustc's wasm32-unknown-unknown
#   scripts/setup.sh --tests   and what the tests want: Mesa's software adapter, Chromium with SwiftShader, rustfmt, clippy
set -euo pipefail

drivers=(/usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d)
swiftshader=/usr/lib/chromium/vk_swiftshader_icd.json
wasm=wasm32-unknown-unknown
debian_rust=${CARGO_TARGET_DIR:-target}/debian-rust
missing=()

has() { command -v "$1" >/dev/null; }
has_vulkan_loader() { [[ $(PATH="$PATH:/usr/sbin:/sbin" ldconfig -p) == *libvulkan.so.1* ]]; }
has_driver() { # a pattern for the names of driver files
    [[ -n $(find "${drivers[@]}" -maxdepth 1 -name "$1" -print -quit 2>/dev/null) ]]
}

want_rust() {
    has cargo && return
    echo "setup: no Rust toolchain was found: install one (https://rustup.rs) and run this again" >&2
    exit 1
}

want_linker() { has cc || missing+=(gcc libc6-dev); }

# Drivers may also come by the loader's own variables.
want_vulkan() {
    has_vulkan_loader || missing+=(libvulkan1)
    [[ -n ${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}} ]] || has_driver '*.json' || missing+=(mesa-vulkan-drivers)
}

want_test_adapters() {
    has_driver 'lvp_icd*.json' || missing+=(mesa-vulkan-drivers)
    [[ -e $swiftshader ]] && return
    # Ubuntu's package of this name installs a snap, which keeps the driver to itself.
    if grep -q '^ID=ubuntu' /etc/os-release; then
        echo "setup: Ubuntu has no package with SwiftShader: its tests will be left out"
    else
        missing+=(chromium)
    fi
}

want_node() {
    has node || missing+=(nodejs)
    has npm || missing+=(npm)
}

# rustc's standard library for browsers. Where rustup cannot fetch it, Debian's own compiler for browsers (rustc-web) makes it
# from its source. It conflicts with rustup, so it is unpacked and not installed; what it links with is installed.
want_wasm() {
    if has rustup && rustup target list --installed | grep -qx "$wasm"; then return; fi
    if has rustup && rustup target add "$wasm"; then return; fi
    [[ -x $debian_rust/usr/bin/cargo ]] || unpack_debian_rust
}

has_debian_rust() { has apt-cache && [[ -n $(apt-cache search --names-only '^rustc-web$') ]]; }

unpack_debian_rust() {
    # A machine whose packages were never listed seems to have none.
    if has apt-get && can_be_root && ! has_debian_rust; then as_root apt-get update --quiet; fi
    if ! has_debian_rust; then
        echo "setup: please install rustc's target $wasm" >&2
        exit 1
    fi
    echo "setup: rustup has no $wasm here: unpacking Debian's compiler for browsers into $debian_rust"
    local std packages links
    std=$(apt-cache depends libstd-rust-web-dev | awk '$1 == "Depends:" && $2 ~ /^libstd-rust-web-[0-9]/ { print $2 }')
    packages=(rustc-web cargo-web rust-web-src libstd-rust-web-dev "$std")
    mapfile -t links < <(apt-cache depends "${packages[@]}" |
        awk '$1 == "Depends:" && $2 ~ /^lib/ && $2 !~ /rust/ { print $2 }' | sort -u)
    install "${links[@]}"
    rm -rf "$debian_rust"
    mkdir -p "$debian_rust/packages"
    (cd "$debian_rust/packages" && apt-get download --quiet "${packages[@]}")
    local package
    for package in "$debian_rust"/packages/*.deb; do dpkg-deb --extract "$package" "$debian_rust"; done
    rm -r "$debian_rust/packages"
}

want_rust_tool() { # subcommand of cargo, component of the toolchain
    cargo "$1" --version >/dev/null 2>&1 && return
    echo "setup: adding $2 to the Rust toolchain"
    rustup component add "$2"
}

install_missing() {
    ((${#missing[@]})) || return 0
    local packages
    mapfile -t packages < <(printf '%s\n' "${missing[@]}" | sort -u)
    install "${packages[@]}"
}

install() { # packages
    local command=(apt-get install --yes --no-install-recommends "$@")
    if ! has apt-get; then
        echo "setup: please install what your system calls: $*" >&2
        exit 1
    fi
    if ! can_be_root; then
        echo "setup: please run, as root: apt-get update && ${command[*]}" >&2
        exit 1
    fi
    echo "setup: installing $* with apt-get"
    as_root apt-get update --quiet
    as_root env DEBIAN_FRONTEND=noninteractive "${command[@]}"
}

can_be_root() { [[ $(id -u) == 0 ]] || has sudo; }
as_root() { if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi; }

mode=${1:-}
want_rust
# macOS and Windows bring their own graphics drivers and, with Rust, a linker.
if [[ $(uname -s) == Linux ]]; then
    want_linker
    want_vulkan
    if [[ $mode == --tests ]]; then want_test_adapters; fi
    if [[ $mode == --web || $mode == --tests ]]; then want_node; fi
    install_missing
fi
if [[ $mode == --web || $mode == --tests ]]; then want_wasm; fi
if [[ $mode == --tests ]]; then
    want_rust_tool fmt rustfmt
    want_rust_tool clippy clippy
fi
