#!/bin/sh
# Runs the kernel tests for AArch64 on an x86 machine, under emulation, once per Arm level.
#
# Needs Debian's rustc-web and cargo-web, libstd-rust-web-dev:arm64, gcc-aarch64-linux-gnu and
# qemu-user. Binaries are static: dynamic ones hang when the emulator starts threads.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
export RUSTC="${RUSTC:-/usr/bin/rustc}"
export RUSTFLAGS="-C target-feature=+crt-static"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export GEB_CASES="${GEB_CASES:-12}"

cd "$here"
target=aarch64-unknown-linux-gnu
# The list of test binaries comes from cargo's own report, so that a new test is not forgotten.
bins=$(cargo test --package geb-kernels --lib --tests --target "$target" --target-dir target/arm \
    --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
[ -n "$bins" ] || { echo "no test binaries were built" >&2; exit 1; }

run() {
    cpu=$1
    levels=$2
    for bin in $bins; do
        echo "== $cpu: $(basename "$bin")"
        GEB_REQUIRE_ISA="$levels" qemu-aarch64 -cpu "$cpu" "$bin" --quiet
    done
}

cd kernels
run cortex-a53 scalar,neon
run neoverse-n1 scalar,neon,neondot
run max scalar,neon,neondot,neoni8mm
