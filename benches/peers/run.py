#!/usr/bin/env python3
"""Speed beside llama.cpp, in one interleaved run.

    python3 benches/peers/run.py [--rounds 5] [--threads 2] [--models DIR] [--out docs/performance.md]

Builds geb (release) and llama.cpp (natively, from the source package `llama-cpp-python` of PyPI),
makes the same files for both, runs rounds A B A B and prints medians and ratios. Needs a Rust
toolchain, a C++ compiler, cmake and pip; nothing else. Files go to target/peers.
"""
import argparse, json, os, pathlib, platform, statistics, subprocess, sys, tarfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "peers"
PEER = "0.3.36"  # llama-cpp-python; its tree holds llama.cpp


def sh(*cmd, **kw):
    return subprocess.run([str(c) for c in cmd], check=True, text=True, **kw)


def out(*cmd, env=None):
    return sh(*cmd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env).stdout


def build_peer(given):
    if given:
        return pathlib.Path(given)
    tree = WORK / "llama-cpp-python" / "vendor" / "llama.cpp"
    bench = tree / "build" / "bin" / "llama-bench"
    if not bench.exists():
        sh(sys.executable, "-m", "pip", "download", "-q", "--no-binary", "llama-cpp-python", "--no-deps",
           f"llama-cpp-python=={PEER}", "-d", WORK)
        with tarfile.open(WORK / f"llama_cpp_python-{PEER}.tar.gz") as tar:
            for m in tar.getmembers():
                m.name = m.name.replace(f"llama_cpp_python-{PEER}", "llama-cpp-python", 1)
                tar.extract(m, WORK)
        sh("cmake", "-S", tree, "-B", tree / "build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
           "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
           "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF")
        sh("cmake", "--build", tree / "build", "--target", "llama-bench", "-j", os.cpu_count())
    return bench


def cpu_times():
    fields = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return sum(fields), fields[7]  # total, stolen by the hypervisor


def geb(binary, model, what, n, a, env):
    """Tokens per second and the share of what this machine could do in the same minute."""
    r = json.loads(out(binary, "bench", "-m", model, "-p", n if what == "prefill" else 0,
                       "-n", n if what == "decode" else 0, "-t", a.threads, "-r", 1, "--json", env=env))
    return r[what + "_tok_s"], r[what + "_share"], r["decode_gb_s"] if what == "decode" else None


def limits(binary, a, env):
    """What the machine can do at most, measured beside the rounds, and a line that says so."""
    r = json.loads(out(binary, "bench", "--limits", "-t", a.threads, "-r", 5, "--json", env=env))
    peaks = [f"int8 {r['int8_gops']:.0f} GOP/s", f"F32 {r['f32_gflops']:.0f} GFLOP/s"]
    if r["bf16_gflops"]:
        peaks.insert(1, f"BF16 {r['bf16_gflops']:.0f} GFLOP/s")
    return (f"Limits with {r['threads']} threads at {r['isa']}: {', '.join(peaks)}, reading {r['read_gb_s']:.1f} GB/s "
            f"({r['read_small_gb_s']:.1f} in small pages, {r['read_huge_gb_s']:.1f} in huge pages, "
            f"{r['read_mapped_gb_s']:.1f} from a mapped file).")


def peer(binary, model, what, n, a):
    row, = json.loads(out(binary, "-m", model, "-p", n if what == "prefill" else 0,
                          "-n", n if what == "decode" else 0, "-t", a.threads, "-r", 1, "-o", "json"))
    return row["avg_ts"]


def duel(ours, theirs, model, what, n, rounds, a, env):
    """Rounds A B, B A, A B ...; the ratio is the median of the rounds' ratios, so slow minutes cancel."""
    mine, other = [], []
    for i in range(rounds):
        for which in ("ab" if i % 2 == 0 else "ba"):
            if which == "a":
                mine.append(geb(ours, model, what, n, a, env))
            else:
                other.append(peer(theirs, model, what, n, a))
        print(f"{model.name} {what} {i + 1}/{rounds}: geb {mine[-1][0]:.2f} ({mine[-1][1]:.0%} of the limit), "
              f"llama.cpp {other[-1]:.2f}", file=sys.stderr)
    ratios = sorted(m[0] / o for m, o in zip(mine, other))
    median = lambda k: statistics.median(m[k] for m in mine)
    spread = f"{ratios[0]:.2f}–{ratios[-1]:.2f}"
    return median(0), median(1), median(2) if what == "decode" else None, statistics.median(other), statistics.median(ratios), spread


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--prefill", type=int, default=512)
    ap.add_argument("--decode", type=int, default=32)
    ap.add_argument("--types", default="f32,bf16,q8_0,q4_0,q4_k", help="types of the GEB-1.3B-shaped files")
    ap.add_argument("--model", action="append", default=[], help="further GGUF files, for example SmolLM2")
    ap.add_argument("--llama-bench", help="an existing native build of llama-bench")
    ap.add_argument("--isa", help="lower our instruction level (GEB_ISA)")
    ap.add_argument("--out", help="append the table to this Markdown file")
    a = ap.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    # A processor with AVX-512-VNNI alone runs the AVX-VNNI level in the other encoding of its one instruction.
    evex = a.isa == "avxvnni" and " avx_vnni " not in open("/proc/cpuinfo").read()
    sh("cargo", "build", "--release", "--bin", "geb-run", *(["--features", "geb-kernels/evex"] if evex else []), cwd=ROOT)
    ours, theirs = ROOT / "target" / "release" / "geb-run", build_peer(a.llama_bench)
    env = dict(os.environ, **({"GEB_ISA": a.isa} if a.isa else {}))
    models = list(map(pathlib.Path, a.model))
    for t in filter(None, a.types.split(",")):
        path = WORK / f"geb-1.3b-shape-{t}.gguf"
        if not path.exists():
            sh(ours, "bench", "--shape", "geb-1.3b", "--type", t, "--save", path, "-p", 0, "-n", 1, "-r", 1)
        models.append(path)
    lines = ["| model | prefill geb | of the peak | llama.cpp | ratio | decode geb | GB/s | of reading | llama.cpp | ratio |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    before = limits(ours, a, env)
    t0 = cpu_times()
    for m in models:
        p = duel(ours, theirs, m, "prefill", a.prefill, a.rounds, a, env)
        d = duel(ours, theirs, m, "decode", a.decode, 2 * a.rounds, a, env)
        lines.append(f"| {m.stem} | {p[0]:.1f} | {p[1]:.0%} | {p[3]:.1f} | **{p[4]:.2f}** ({p[5]}) "
                     f"| {d[0]:.2f} | {d[2]:.1f} | {d[1]:.0%} | {d[3]:.2f} | **{d[4]:.2f}** ({d[5]}) |")
    t1 = cpu_times()
    steal = 100 * (t1[1] - t0[1]) / max(1, t1[0] - t0[0])
    version = out(ours, "--version").strip().splitlines()
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    head = (f"Tokens per second, medians of {a.rounds} interleaved rounds of prefill {a.prefill} and {2 * a.rounds} of "
            f"decode {a.decode}, {a.threads} threads; ratios are medians of the rounds' ratios (smallest to largest); shares are of "
            f"limits measured in the same round; {cpu}, {os.cpu_count()} cores; {' '.join(version)}"
            f"{', GEB_ISA=' + a.isa if a.isa else ''}{', its dot product in EVEX encoding' if evex else ''}; llama.cpp of llama-cpp-python {PEER}, native build; "
            f"{time.strftime('%Y-%m-%d')}, steal {steal:.1f} %.\n"
            f"Before the rounds: {before}\nAfter them: {limits(ours, a, env)}")
    text = head + "\n\n" + "\n".join(lines) + "\n"
    print(text)
    if a.out:
        with open(a.out, "a") as f:
            f.write("\n" + text)


if __name__ == "__main__":
    main()
