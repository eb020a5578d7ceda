#!/usr/bin/env python3
"""Time from process start to the first token, and peak memory, beside llama.cpp.

    python3 benches/startup.py --model MODEL.gguf [--rounds 15] [--threads 2] [--llama TREE]

Runs `geb-run generate --raw -n 1` and a small program on llama.cpp's library (peers/first_token.cpp: the
library's own loading, no warm-up, no log) in turn, warm page cache, and prints medians. TREE is llama.cpp
built with cmake into TREE/build-native; by default the one that peers/run.py makes.
"""
import argparse, os, pathlib, statistics, subprocess, time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS = ROOT / "target" / "peers"
# 16 tokens of SmolLM2.
PROMPT = "The capital of France is a city that lies on the river which flows through the"


def build_peer(tree):
    target = PEERS / "first_token"
    source = ROOT / "benches" / "peers" / "first_token.cpp"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        PEERS.mkdir(parents=True, exist_ok=True)
        libs = ["src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a"]
        subprocess.run(["c++", "-O2", "-std=c++17", f"-I{tree}/include", f"-I{tree}/ggml/include", str(source), "-o",
                        str(target), *(f"{tree}/build-native/{lib}" for lib in libs), "-fopenmp", "-lpthread", "-ldl"], check=True)
    return target


def first_byte(command):
    """Seconds until the program wrote something, and its peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    first = os.read(process.stdout.fileno(), 1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert first and status == 0, f"{command[0]} failed"
    return seconds, usage.ru_maxrss / 1024


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--model", required=True)
    ap.add_argument("--rounds", type=int, default=15)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--ctx", type=int, default=2048)
    ap.add_argument("--prompt", default=PROMPT)
    ap.add_argument("--geb", default=ROOT / "target" / "release" / "geb-run", type=pathlib.Path)
    ap.add_argument("--llama", default=PEERS / "llama-cpp-python" / "vendor" / "llama.cpp", type=pathlib.Path)
    a = ap.parse_args()
    commands = {
        "geb": [a.geb, "generate", "-m", a.model, "--raw", "-p", a.prompt, "-n", "1", "--temp", "0", "-q",
                "-t", a.threads, "-c", a.ctx],
        "llama.cpp": [build_peer(a.llama), a.model, a.prompt, a.threads, a.ctx],
    }
    commands = {name: [str(word) for word in words] for name, words in commands.items()}
    got = {name: [] for name in commands}
    for i in range(a.rounds + 1):
        for name in sorted(commands, reverse=i % 2 == 1):
            measured = first_byte(commands[name])
            if i > 0:  # the first round warms the page cache
                got[name].append(measured)
    medians = {name: [statistics.median(x) for x in zip(*rows)] for name, rows in got.items()}
    for name, rows in got.items():
        times = [1e3 * t for t, _ in rows]
        print(f"{name:10} first token {1e3 * medians[name][0]:7.1f} ms ({min(times):.1f} .. {max(times):.1f})   "
              f"peak {medians[name][1]:7.1f} MB")
    ratio = [medians["geb"][i] / medians["llama.cpp"][i] for i in (0, 1)]
    print(f"ratio      time {ratio[0]:.2f}, memory {ratio[1]:.2f}   (median of {a.rounds} interleaved rounds, "
          f"{a.threads} threads, load {os.getloadavg()[0]:.1f})")


if __name__ == "__main__":
    main()
