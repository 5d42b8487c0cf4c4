#!/usr/bin/env bash
# Installs what foretoken needs besides Rust, and says so first. Run again, it finds everything there and does nothing.
#
#   scripts/setup.sh           a C linker and a Vulkan driver, where this machine has none
#   scripts/setup.sh --tests   and what the tests want: Mesa's software adapter, SwiftShader, rustfmt and clippy
set -euo pipefail

drivers=(/usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d)
swiftshader=/usr/lib/chromium/vk_swiftshader_icd.json
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

want_rust_tool() { # subcommand of cargo, component of the toolchain
    cargo "$1" --version >/dev/null 2>&1 && return
    echo "setup: adding $2 to the Rust toolchain"
    rustup component add "$2"
}

install_missing() {
    ((${#missing[@]})) || return 0
    local packages install
    mapfile -t packages < <(printf '%s\n' "${missing[@]}" | sort -u)
    install=(apt-get install --yes --no-install-recommends "${packages[@]}")
    if ! has apt-get; then
        echo "setup: please install what your system calls: ${packages[*]}" >&2
        exit 1
    fi
    local as_root=()
    if [[ $(id -u) != 0 ]]; then
        if ! has sudo; then
            echo "setup: please run, as root: apt-get update && ${install[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    echo "setup: installing ${packages[*]} with apt-get"
    "${as_root[@]}" apt-get update --quiet
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}"
}

want_rust
# macOS and Windows bring their own graphics drivers and, with Rust, a linker.
if [[ $(uname -s) == Linux ]]; then
    want_linker
    want_vulkan
    if [[ ${1:-} == --tests ]]; then want_test_adapters; fi
    install_missing
fi
if [[ ${1:-} == --tests ]]; then
    want_rust_tool fmt rustfmt
    want_rust_tool clippy clippy
fi
