#!/usr/bin/env python3
"""Speed beside llama.cpp and ik_llama.cpp, in one interleaved run.

    python3 benches/peers/run.py [--peers llama.cpp,ik_llama.cpp] [--types all] [--depths 0,4096] [--rows 1,8,32]
                                 [--threads 1,2] [--isa avx2 --peer-march haswell] [--out docs/performance.md]

Builds geb (release) and the peers (from the source packages of their Python bindings on PyPI), makes the same files
for all, lets them take turns and prints medians and ratios. Needs a Rust toolchain, a C++ compiler, cmake and pip;
nothing else. Files go to target/peers.

prefill  tokens per second of one prompt          depth  tokens in the cache before what is measured
decode   tokens per second, one after the other   rows   tokens per second of n sequences, a token each per pass
"""
import argparse, collections, json, os, pathlib, platform, re, statistics, subprocess, sys, tarfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "peers"
Source = collections.namedtuple("Source", "package version")
SOURCES = {  # Python bindings whose source packages hold the programs under vendor/
    "llama.cpp": Source("llama-cpp-python", "0.3.36"),
    "ik_llama.cpp": Source("ik-llama-cpp-python", "0.1.5"),
}
TYPES = ("f32 bf16 f16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs mxfp4 tq1_0 tq2_0 "
         "iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s")
Case = collections.namedtuple("Case", "model what n depth threads")
ROWS_BEFORE, ROWS_PASSES = 16, 8  # tokens of each sequence before the passes that are measured, and those passes


def sh(*cmd, **kw):
    return subprocess.run([str(c) for c in cmd], check=True, text=True, **kw)


def out(*cmd, env=None):
    return sh(*cmd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env).stdout


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def build_peer(name, march):
    """Where llama-bench is; built with `-march` of that name and nothing beyond it."""
    package, version = SOURCES[name]
    tree = WORK / package / "vendor" / name
    if not tree.exists():
        sh(sys.executable, "-m", "pip", "download", "-q", "--no-binary", package, "--no-deps", f"{package}=={version}", "-d", WORK)
        stem = f"{package.replace('-', '_')}-{version}"
        with tarfile.open(WORK / f"{stem}.tar.gz") as tar:
            tar.extractall(WORK, filter="data")
        (WORK / stem).rename(WORK / package)
    # The source package of ik_llama.cpp lacks the script that writes its version down.
    info = tree / "common" / "cmake" / "build-info-gen-cpp.cmake"
    if (tree / "common" / "build-info.cpp.in").exists() and not info.exists():
        info.parent.mkdir(exist_ok=True)
        info.write_text("set(BUILD_NUMBER 0)\nconfigure_file(common/build-info.cpp.in common/build-info.cpp @ONLY)\n")
    build = tree / f"build-{march}"
    bench = build / "bin" / "llama-bench"
    if not (build / "bin" / "llama-batched-bench").exists():
        flags = ["-DGGML_NATIVE=ON"] if march == "native" else [
            "-DGGML_NATIVE=OFF", f"-DCMAKE_C_FLAGS=-march={march}", f"-DCMAKE_CXX_FLAGS=-march={march}"]
        sh("cmake", "-S", tree, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF",
           "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF", *flags)
        sh("cmake", "--build", build, "--target", "llama-bench", "llama-batched-bench", "-j", os.cpu_count())
    return bench


class Geb:
    """Speeds with the share of the machine's limits, which `bench --limits` has kept."""

    def __init__(self, a):
        # A processor with AVX-512-VNNI alone runs the AVX-VNNI level in the other encoding of its one instruction.
        self.evex = a.isa == "avxvnni" and " avx_vnni " not in open("/proc/cpuinfo").read()
        if not a.geb:
            sh("cargo", "build", "--release", "--bin", "geb-run", *(["--features", "geb-kernels/evex"] if self.evex else []), cwd=ROOT)
        self.binary = a.geb or ROOT / "target" / "release" / "geb-run"
        self.env = dict(os.environ, **({"GEB_ISA": a.isa} if a.isa else {}))

    def bench(self, *words):
        return json.loads(out(self.binary, "bench", *words, "--json", env=self.env))

    def measure(self, case):
        if case.what == "rows":
            row, = self.bench("-m", case.model, "--rows", case.n, "-d", ROWS_BEFORE, "-r", ROWS_PASSES, "-t", case.threads)["rows"]
            return row["tok_s"], row["roofline_share"]
        counts = {"prefill": ("-p", case.n, "-n", 0), "decode": ("-p", 0, "-n", case.n)}[case.what]
        r = self.bench("-m", case.model, *counts, "-d", case.depth, "-t", case.threads, "-r", 1)
        return r[case.what + "_tok_s"], r[case.what + "_share"]

    def limits(self, threads):
        """What the machine can do at most, measured and kept, as a line."""
        r = self.bench("--limits", "-t", threads, "-r", 5)
        peaks = [f"int8 {r['int8_gops']:.0f} GOP/s", f"F32 {r['f32_gflops']:.0f} GFLOP/s"]
        if r["bf16_gflops"]:
            peaks.insert(1, f"BF16 {r['bf16_gflops']:.0f} GFLOP/s")
        return (f"{threads} threads at {r['isa']}: {', '.join(peaks)}, reading {r['read_gb_s']:.1f} GB/s "
                f"({r['read_small_gb_s']:.1f} in small pages, {r['read_huge_gb_s']:.1f} in huge pages, "
                f"{r['read_mapped_gb_s']:.1f} from a mapped file)")


class Peer:
    """llama.cpp or a program with its two benchmarks; `flags` are those of one way to run it."""

    def __init__(self, name, bench, flags=()):
        self.name, self.bench, self.flags = name, pathlib.Path(bench), flags

    def measure(self, case):
        if case.what == "rows":
            return self.rows(case)
        words = ["-p", case.n if case.what == "prefill" else 0, "-n", case.n if case.what == "decode" else 0]
        if case.depth and self.name == "llama.cpp":
            words += ["-d", case.depth]
        elif case.depth and case.what == "decode":
            words = ["-p", 0, "-n", 0, "-gp", f"{case.depth},{case.n}"]
        elif case.depth:
            return None  # its benchmark has no prefill behind a cache
        row, = json.loads(out(self.bench, "-m", case.model, *words, "-t", case.threads, "-r", 1, "-o", "json", *self.flags))
        return row["avg_ts"]

    def rows(self, case):
        positions = max(512, case.n * (ROWS_BEFORE + ROWS_PASSES))
        # The flag stands alone here: `-rtr 1` of the other program.
        flags = [f for f in self.flags if f.startswith("-")]
        text = sh(self.bench.with_name("llama-batched-bench"), "-m", case.model, "-c", positions, "-npp", ROWS_BEFORE, "-ntg",
                  ROWS_PASSES, "-npl", case.n, "-t", case.threads, *flags, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
        row, = re.findall(rf"^\| +{ROWS_BEFORE} \| +{ROWS_PASSES} \| +{case.n} \|(.*)\|", text, re.M)
        return float(row.split("|")[4])  # after N_KV, T_PP, S_PP, T_TG


def peers(a):
    """Every way to run every peer."""
    given = {"llama.cpp": a.llama_bench, "ik_llama.cpp": a.ik_llama_bench}
    names = [n for n in SOURCES if n in a.peers.split(",") or given[n]]
    ways = []
    for name in names:
        bench = given[name] or build_peer(name, a.peer_march)
        ways.append(Peer(name, bench))
        if name == "ik_llama.cpp":
            ways.append(Peer(name, bench, ("-rtr", "1")))  # weights repacked at load
    return names, ways


def attempt(player, case):
    """What a peer measures; None where it cannot, which the user is told."""
    try:
        return player.measure(case)
    except (subprocess.CalledProcessError, ValueError) as e:
        print(f"{player.name} {' '.join(player.flags)} fails on {case}: {e}", file=sys.stderr)
        return None


def duel(case, ours, names, ways, rounds):
    """All in turn, each round in the other direction; a row of the table. Ratios are those within a round, so slow
    minutes cancel; of the ways to run a peer the one with the better median counts."""
    mine, theirs = [], {way: [] for way in ways}
    for i in range(rounds):
        for player in [ours, *ways][::1 if i % 2 == 0 else -1]:
            if player is ours:
                mine.append(ours.measure(case))
            elif None not in theirs[player]:
                theirs[player].append(attempt(player, case))
    best = {}
    for way, speeds in theirs.items():
        if None not in speeds and statistics.median(speeds) > statistics.median(best.get(way.name, [0])):
            best[way.name] = speeds
    cells = [f"{statistics.median(best[n]):.2f}" if n in best else "–" for n in names]
    ratio = "–"
    if best:
        rival = max(best.values(), key=statistics.median)
        ratios = sorted(m[0] / r for m, r in zip(mine, rival))
        ratio = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f}–{ratios[-1]:.2f})"
    shares = [m[1] for m in mine if m[1] is not None]
    share = f"{statistics.median(shares):.0%}" if shares else "–"
    row = [case.model.stem, f"{case.what} {case.n}", case.depth, case.threads, f"{statistics.median(m[0] for m in mine):.2f}", share, *cells, ratio]
    print(*row, file=sys.stderr)
    return "| " + " | ".join(map(str, row)) + " |"


def models(a, ours):
    paths = []
    for t in (TYPES if a.types == "all" else a.types).replace(",", " ").split():
        path = a.models / f"geb-1.3b-shape-{t}.gguf"
        if not path.exists():
            sh(ours.binary, "bench", "--shape", "geb-1.3b", "--type", t, "--save", path, "-p", 0, "-n", 1, "-r", 1)
        paths.append(path)
    return paths + a.model


def cases(a, files):
    for model in files:
        for threads in numbers(a.threads):
            for depth in numbers(a.depths):
                if a.prefill:
                    yield Case(model, "prefill", a.prefill, depth, threads)
                if a.decode:
                    yield Case(model, "decode", a.decode, depth, threads)
            for n in numbers(a.rows):
                yield Case(model, "rows", n, ROWS_BEFORE, threads)


class Machine:
    """What happens beside the rounds: shares of all processor time since it was made."""

    def __init__(self):
        self.before = self.times()

    @staticmethod
    def times():
        """Seconds: all, stolen by the hypervisor, busy, and busy for this script and its programs."""
        user, nice, system, idle, wait, irq, soft, stolen = (
            int(x) / os.sysconf("SC_CLK_TCK") for x in open("/proc/stat").readline().split()[1:9])
        busy = user + nice + system
        return busy + idle + wait + irq + soft + stolen, stolen, busy, sum(os.times()[:4])

    def shares(self):
        total, stolen, busy, own = (now - before for now, before in zip(self.times(), self.before))
        return f"steal {stolen / total:.1%}, other programs {max(0, busy - own) / total:.1%}, load {os.getloadavg()[0]:.1f}"


def arguments():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--threads", default=str(os.cpu_count()), help="numbers with commas between them")
    ap.add_argument("--depths", default="0", help="tokens in the cache, numbers with commas between them")
    ap.add_argument("--rows", default="", help="sequences side by side, numbers with commas between them")
    ap.add_argument("--prefill", type=int, default=512, help="0: none")
    ap.add_argument("--decode", type=int, default=32, help="0: none")
    ap.add_argument("--types", default="f32,bf16,q8_0,q4_0,q4_k", help="types of the GEB-1.3B-shaped files, or all")
    ap.add_argument("--models", type=pathlib.Path, default=WORK, help="folder of those files")
    ap.add_argument("--model", action="append", default=[], type=pathlib.Path, help="further GGUF files, for example SmolLM2")
    ap.add_argument("--peers", default="llama.cpp", help="which are built: llama.cpp,ik_llama.cpp")
    ap.add_argument("--peer-march", default="native", help="level of their build: native, haswell, alderlake, ...")
    ap.add_argument("--llama-bench", help="an existing build of llama-bench, llama-batched-bench beside it")
    ap.add_argument("--ik-llama-bench", help="the same of ik_llama.cpp")
    ap.add_argument("--geb", help="an existing build of geb-run")
    ap.add_argument("--isa", help="lower our instruction level (GEB_ISA)")
    ap.add_argument("--out", help="append the table to this Markdown file")
    return ap.parse_args()


def main():
    a = arguments()
    for folder in (WORK, a.models):
        folder.mkdir(parents=True, exist_ok=True)
    ours, (names, ways) = Geb(a), peers(a)
    files, most = models(a, ours), max(numbers(a.threads))
    limits = lambda: "; ".join(ours.limits(n) for n in numbers(a.threads) if n > 1 or most == 1)
    before, machine = limits(), Machine()
    head = ["model", "what", "depth", "threads", "geb", "of the limit", *names, "geb ÷ best"]
    table = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    table += [duel(case, ours, names, ways, a.rounds) for case in cases(a, files)]
    beside = machine.shares()
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    version = " ".join(out(ours.binary, "--version", env=ours.env).split("\n"))
    built = ", ".join(f"{n} of {' '.join(SOURCES[n])}" for n in names)
    text = (f"Tokens per second, medians of {a.rounds} interleaved rounds; ratios are medians of the rounds' ratios (smallest to "
            f"largest); {cpu}, {os.cpu_count()} cores; {version.strip()}{', its dot product in EVEX encoding' if ours.evex else ''}; "
            f"{built}, -march={a.peer_march}; {time.strftime('%Y-%m-%d')}, {beside}. "
            f"Shares are of these limits, measured before the rounds:\n{before}.\nAfter them: {limits()}.\n\n"
            + "\n".join(table) + "\n")
    print(text)
    if a.out:
        with open(a.out, "a") as f:
            f.write("\n" + text)


if __name__ == "__main__":
    main()
