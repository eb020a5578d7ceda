#!/usr/bin/env python3
"""Many streams at once: geb-run serve beside llama-server, the same file, threads and prompts, in turn.

    python3 benches/serve/load.py -m model.gguf [--streams 1,8,32,64] [--rounds 3] [--threads 2]
                                  [--geb target/release/geb-run] [--llama-server PATH] [--temperature 0] [--json]
                                  [--cases streams,long,common]

Every request has 256 tokens of its own (random ids, the same for both) and asks for 128, greedy, past the end token,
as a stream. So long a greedy text goes round in circles, and geb guesses many of its tokens at a time: measure with
`--temperature 1` too, where both sample and hardly a guess is right. An answer of another length ends the run. Each
server has answered one request before. Needs Python alone. Medians of rounds; ratios are of the servers in the same
round, of which every second goes the other way round.
llama-server is built in the tree that `benches/peers/run.py` has unpacked
(target/peers/llama-cpp-python/vendor/llama.cpp):

    cmake -B build-native -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \\
          -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_USE_PREBUILT_UI=OFF
    cmake --build build-native --target llama-server -j 2

tok/s   tokens of all answers per second      first     time to the first token, p50 and p99
next    time between two tokens of an answer, p50 and p99      at once   share of tokens that came with the one before
cpu     of geb: processor time of the threads that do not compute (sockets, requests, answers) in percent of a core

streams  the table      long     8 are answered, a prompt of 8,000 tokens arrives, then with it 8 of 32 tokens
common   32 requests that begin with the same 1,024 tokens, 64 of their own, 32 out; computed: tokens not found
"""
import argparse, asyncio, atexit, json, pathlib, random, re, socket, statistics, subprocess, sys, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else float("nan")


class Server:
    """A server on a port of its own, until `stop`."""

    def __init__(self, name, command, path, body):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.name, self.path, self.body = name, path, body
        self.process = subprocess.Popen([str(c) for c in command] + ["--port", str(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Whatever ends the run ends the servers.
        atexit.register(self.process.kill)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
                if self.process.poll() is not None:
                    break
        sys.exit(f"{name} did not start: {' '.join(map(str, command))}")

    def cpu(self):
        """Seconds of processor time so far of the threads that serve: of geb all but the lead and its team."""
        ticks = 0
        for stat in pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
            name, fields = stat.read_text().rsplit(")", 1)
            if not re.search(r"\(geb-(lead|grammar|\d)", name):
                fields = fields.split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / 100

    def stop(self):
        self.process.terminate()
        self.process.wait()


def asked(ids, n, temperature=0):
    """What both servers are asked."""
    return {"prompt": ids, "max_tokens": n, "temperature": temperature, "seed": ids[0], "ignore_eos": True, "stream": True,
            "top_k": 0, "top_p": 1, "min_p": 0, "stream_options": {"include_usage": True}}


async def stream(server, prompt, n, moments=None):
    """When the pieces of one answer came, on the clock: its request, then tokens, or some that make a character
    together (added to `moments` as they come); and how many tokens of the prompt were found."""
    body = json.dumps(server.body(prompt, n)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
    moments = [] if moments is None else moments
    moments.append(time.perf_counter())
    writer.write(f"POST {server.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    usage, status = None, await reader.readline()
    if b" 200 " not in status:
        sys.exit(f"{server.name}: {status.decode()} {(await reader.read(2000)).decode()}")
    try:
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            if b'"finish_reason":null' in line:
                moments.append(time.perf_counter())
            elif b'"usage":{' in line:
                usage = json.loads(line[6:])["usage"]
    finally:
        writer.close()
    if not usage or usage["completion_tokens"] != n or len(moments) < 2:
        sys.exit(f"{server.name}: {usage} in {len(moments) - 1} pieces, {n} tokens were asked for")
    return moments, (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def first(moments):
    return moments[1] - moments[0]


def gaps(moments, since=0.0, until=float("inf")):
    """Times between pieces of an answer, of those that came in this time."""
    return [b - a for a, b in zip(moments[1:], moments[2:]) if since <= b <= until]


async def load(server, prompts, n):
    begun = time.perf_counter()
    answers = await asyncio.gather(*(stream(server, p, n) for p in prompts))
    return time.perf_counter() - begun, [moments for moments, _ in answers]


def prompt(rng, a, n):
    return [rng.randrange(10, a.vocab) for _ in range(n)]


def measure(server, streams, a, seed):
    rng = random.Random(seed)
    prompts = [prompt(rng, a, a.prompt) for _ in range(streams)]
    cpu = server.cpu()
    total, answers = asyncio.run(load(server, prompts, a.tokens))
    firsts, between = [first(m) for m in answers], [g for m in answers for g in gaps(m)]
    return {
        "tok_s": streams * a.tokens / total,
        "first_p50": percentile(firsts, 0.5), "first_p99": percentile(firsts, 0.99),
        "at_once": sum(g < 1e-3 for g in between) / max(1, len(between)),
        "next_p50": percentile(between, 0.5), "next_p99": percentile(between, 0.99),
        "cpu": (server.cpu() - cpu) / total,
    }


async def arrives(server, a, seed):
    """A long prompt beside eight streams, and eight short ones beside it; each alone before."""
    rng = random.Random(seed)
    alone, _ = await stream(server, prompt(rng, a, a.long), 8)
    short, _ = await stream(server, prompt(rng, a, 32), 8)
    begun = [[] for _ in range(8)]
    eight = [asyncio.ensure_future(stream(server, prompt(rng, a, 32), a.beside, moments)) for moments in begun]
    while min(map(len, begun)) < 2:
        await asyncio.sleep(0.01)
    long = asyncio.ensure_future(stream(server, prompt(rng, a, a.long), 8))
    await asyncio.sleep(0.1)
    shorts = await asyncio.gather(*(stream(server, prompt(rng, a, 32), 8) for _ in range(8)))
    long, _ = await long
    if any(e.done() for e in eight):
        sys.exit(f"{server.name}: an answer of {a.beside} tokens ended while a prompt of {a.long} was read")
    for e in eight:
        e.cancel()
    await asyncio.gather(*eight, return_exceptions=True)
    between = [g for m in begun for g in gaps(m, long[0], long[1])]
    return {
        "next_p50": percentile(between, 0.5), "next_p99": percentile(between, 0.99),
        "long_alone": first(alone), "long": first(long),
        "short_alone": first(short), "short_p50": percentile([first(m) for m, _ in shorts], 0.5),
    }


async def shares(server, a, seed):
    """Requests with a beginning in common, all at once."""
    rng = random.Random(seed)
    common = prompt(rng, a, 1024)
    prompts = [common + prompt(rng, a, 64) for _ in range(32)]
    begun = time.perf_counter()
    answers = await asyncio.gather(*(stream(server, p, 32) for p in prompts))
    found = sum(cached for _, cached in answers)
    return {
        "seconds": time.perf_counter() - begun, "first_p50": percentile([first(m) for m, _ in answers], 0.5),
        "computed": 32 * (1024 + 64) - found,
    }


def servers(a, streams, ctx, **more):
    """Ours, and the other if there is one; `more` is asked of both."""
    def body(ids, n):
        return asked(ids, n, a.temperature)
    ours = [a.geb, "serve", "-m", a.model, "-t", a.threads, "--ctx", ctx, "--streams", streams, "--log", "off"]
    found = [Server("geb", ours, "/v1/completions", body)]
    if a.llama_server:
        theirs = [a.llama_server, "-m", a.model, "-t", a.threads, "-tb", a.threads, "-c", ctx * streams, "-np", streams,
                  "--no-webui", "--cache-ram", 0]
        found.append(Server("llama-server", theirs, "/v1/completions", lambda ids, n: {**body(ids, n), **more}))
    return found


def table(a):
    """Streams that begin together, as many as wanted."""
    counts = [int(n) for n in a.streams.split(",")]
    both, rows = servers(a, max(counts), a.prompt + a.tokens + 16, cache_prompt=False), []
    try:
        for s in both:
            measure(s, 1, a, seed=0)
        for n in counts:
            rounds = [{s.name: measure(s, n, a, seed=1000 * n + r) for s in both[:: 1 if r % 2 == 0 else -1]}
                      for r in range(a.rounds)]
            for s in both:
                row = {"streams": n} | medians(s, rounds)
                if s is not both[0]:
                    row |= {f"{key}_ratio": ratio(rounds, s, key) for key in ("tok_s", "first_p50", "first_p99", "next_p99")}
                rows.append(row)
                said = ("{streams:4} streams {server:12} {tok_s:8.1f} tok/s   first {first_p50:6.2f} {first_p99:6.2f} s   "
                        "at once {at_once:4.0%}").format(**row)
                said += "   next {:6.1f} {:6.1f} ms".format(1e3 * row["next_p50"], 1e3 * row["next_p99"])
                if "tok_s_ratio" in row:
                    said += "   geb / it {:.2f} ({:.2f}-{:.2f}), first {:.2f}, next p99 {:.2f}".format(
                        *row["tok_s_ratio"], row["first_p50_ratio"][0], row["next_p99_ratio"][0])
                else:
                    said += f"   cpu {row['cpu']:.1%}"
                tell(a, said)
    finally:
        for s in both:
            s.stop()
    return rows


def tell(a, said):
    if not a.json:
        print(said, flush=True)


def medians(server, rounds):
    mine = [r[server.name] for r in rounds]
    return {"server": server.name, **{k: statistics.median(m[k] for m in mine) for k in mine[0]}}


def ratio(rounds, server, key):
    """Ours over the other's in the same round: median, smallest, largest."""
    all = [r["geb"][key] / r[server.name][key] for r in rounds]
    return [statistics.median(all), min(all), max(all)]


def case(a, name, streams, ctx, work, **more):
    """One of the other cases: both servers in turn."""
    both = servers(a, streams, ctx, **more)
    try:
        for s in both:
            measure(s, 1, a, seed=0)
        rounds = [{s.name: asyncio.run(work(s, a, 7 + r)) for s in both[:: 1 if r % 2 == 0 else -1]}
                  for r in range(a.rounds)]
    finally:
        for s in both:
            s.stop()
    rows = [{"case": name, **medians(s, rounds)} for s in both]
    for row in rows:
        numbers = (f"{k} {v:.0f}" if k == "computed" else f"{k} {1e3 * v:.0f} ms" for k, v in row.items() if isinstance(v, float | int))
        tell(a, f"{name:7} {row['server']:12} " + "   ".join(numbers))
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--geb", default=ROOT / "target/release/geb-run")
    p.add_argument("--llama-server")
    p.add_argument("--streams", default="1,8,32,64")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--prompt", type=int, default=256)
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--vocab", type=int, default=30000, help="ids of prompts are below")
    p.add_argument("--temperature", type=float, default=0)
    p.add_argument("--cases", default="streams", help="of streams, long, common")
    p.add_argument("--long", type=int, default=8000, help="tokens of the long prompt")
    p.add_argument("--beside", type=int, default=4000, help="tokens of the answers beside it, at most")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    cases = {
        "streams": lambda: table(a),
        "long": lambda: case(a, "long", 17, max(a.long, a.beside) + 64, arrives, cache_prompt=False),
        "common": lambda: case(a, "common", 32, 1024 + 64 + 32 + 16, shares),
    }
    wanted = a.cases.split(",")
    if unknown := set(wanted) - cases.keys():
        p.error(f"no such case: {', '.join(sorted(unknown))}")
    rows = [row for name in wanted for row in cases[name]()]
    if a.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
