#!/usr/bin/env python3
"""What is left of the speed when cores are shared, or when there are more threads than cores.

    python3 benches/neighbour.py --model MODEL.gguf [--rounds 5]

In turn: undisturbed; one program burning CPU on the first core; twice as many threads as cores. A share of
(cores - 1/2) / cores beside the neighbour is fair; 1 is ideal for too many threads. Medians.
"""
import argparse, json, os, pathlib, statistics, subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--model", required=True)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--prompt", type=int, default=256)
    ap.add_argument("--decode", type=int, default=64)
    ap.add_argument("--geb", default=ROOT / "target" / "release" / "geb-run", type=pathlib.Path)
    a = ap.parse_args()
    cpus = sorted(os.sched_getaffinity(0))

    def bench(threads):
        text = subprocess.run([a.geb, "bench", "-m", a.model, "-p", str(a.prompt), "-n", str(a.decode), "-r", "2",
                               "-t", str(threads), "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        r = json.loads(text.stdout)
        return r["prefill_tok_s"], r["decode_tok_s"]

    def beside_neighbour():
        burn = subprocess.Popen(["sh", "-c", "while :; do :; done"],
                                preexec_fn=lambda: os.sched_setaffinity(0, {cpus[0]}))
        try:
            return bench(len(cpus))
        finally:
            burn.kill()
            burn.wait()

    cases = {
        "undisturbed": lambda: bench(len(cpus)),
        "beside a neighbour": beside_neighbour,
        "2 threads per core": lambda: bench(2 * len(cpus)),
    }
    got = {name: [] for name in cases}
    for _ in range(a.rounds):
        for name, run in cases.items():
            got[name].append(run())
    base = [statistics.median(x) for x in zip(*got["undisturbed"])]
    fair = {"undisturbed": 1.0, "beside a neighbour": (len(cpus) - 0.5) / len(cpus), "2 threads per core": 1.0}
    for name, rows in got.items():
        prefill, decode = [statistics.median(x) for x in zip(*rows)]
        print(f"{name:20} prefill {prefill:7.1f} tok/s, share {prefill / base[0]:.2f}   "
              f"decode {decode:6.1f} tok/s, share {decode / base[1]:.2f}   (fair: {fair[name]:.2f})")
    print(f"median of {a.rounds} interleaved rounds, {len(cpus)} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
