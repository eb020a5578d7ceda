#!/usr/bin/env python3
"""Instructions per weight (and token) of the Arm kernels, counted under emulation.

    python3 kernels/count.py [--formats q8_0,q4_0,q4_k,f32]

Builds `examples/once.rs` for AArch64 (needs what arm-tests.sh needs), runs it in QEMU one instruction at a time
with one and with two repeats, and prints the difference as a table. Instructions are not time: a NEON instruction
does the work of 4 to 16 scalar ones, which is what the comparison shows.
"""
import argparse, json, os, pathlib, subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
WEIGHTS = 32 * 1024


def build():
    env = dict(os.environ, RUSTC=os.environ.get("RUSTC", "/usr/bin/rustc"), RUSTFLAGS="-C target-feature=+crt-static",
               CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="aarch64-linux-gnu-gcc")
    report = subprocess.run(["cargo", "build", "--release", "--package", "geb-kernels", "--example", "once", "--target",
                             "aarch64-unknown-linux-gnu", "--target-dir", "target/arm", "--message-format=json"],
                            check=True, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True).stdout
    return next(r["executable"] for r in map(json.loads, report.splitlines()) if r.get("executable"))


def instructions(binary, *args):
    """Lines of the trace: one per executed instruction."""
    run = subprocess.Popen(["qemu-aarch64", "-cpu", "max", "-singlestep", "-d", "exec,nochain", binary, *map(str, args)],
                           stderr=subprocess.PIPE)
    count = sum(chunk.count(b"Trace ") for chunk in iter(lambda: run.stderr.readline(), b""))
    if run.wait() != 0:
        raise SystemExit(f"{args}: exit {run.returncode}")
    return count


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--formats", default="q8_0,q4_0,q4_1,f32")
    ap.add_argument("--levels", default="scalar,neon,neondot")
    a = ap.parse_args()
    binary, levels = build(), a.levels.split(",")
    print(f"| format, tokens | {' | '.join(levels)} | scalar / {levels[-1]} |")
    print("|" + "---|" * (len(levels) + 2))
    for f in a.formats.split(","):
        for tokens in (1, 16):
            per = [(instructions(binary, l, f, tokens, 2) - instructions(binary, l, f, tokens, 1)) / WEIGHTS / tokens
                   for l in levels]
            cells = " | ".join(f"{p:.3f}" for p in per)
            print(f"| {f}, {tokens} | {cells} | {per[0] / per[-1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
