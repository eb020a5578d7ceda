#!/usr/bin/env python3
"""Many streams at once: geb-run serve beside llama-server, the same file, threads and prompts, in turn.

    python3 benches/serve/load.py -m model.gguf [--streams 1,8,32,64] [--rounds 3] [--threads 2]
                                  [--geb target/release/geb-run] [--llama-server PATH] [--temperature 0] [--json]

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
"""
import argparse, asyncio, json, pathlib, random, socket, statistics, subprocess, sys, time, urllib.request

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
        """Seconds of processor time so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def stop(self):
        self.process.terminate()
        self.process.wait()


def asked(ids, n, temperature=0):
    """What both servers are asked."""
    return {"prompt": ids, "max_tokens": n, "temperature": temperature, "seed": ids[0], "ignore_eos": True, "stream": True,
            "top_k": 0, "top_p": 1, "min_p": 0, "stream_options": {"include_usage": True}}


async def stream(server, prompt, n):
    """When the pieces of one answer came, from its request on: tokens, or some that make a character together."""
    body = json.dumps(server.body(prompt, n)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
    begun = time.perf_counter()
    writer.write(f"POST {server.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    moments, came, status = [], None, await reader.readline()
    if b" 200 " not in status:
        sys.exit(f"{server.name}: {status.decode()} {(await reader.read(2000)).decode()}")
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        if b'"finish_reason":null' in line:
            moments.append(time.perf_counter() - begun)
        elif b'"usage":{' in line:
            came = json.loads(line[6:])["usage"]["completion_tokens"]
    writer.close()
    if came != n or not moments:
        sys.exit(f"{server.name}: {came} tokens came in {len(moments)} pieces, {n} were asked for")
    return moments


async def load(server, prompts, n):
    begun = time.perf_counter()
    all_moments = await asyncio.gather(*(stream(server, p, n) for p in prompts))
    return time.perf_counter() - begun, all_moments


def measure(server, streams, a, seed):
    rng = random.Random(seed)
    prompts = [[rng.randrange(10, a.vocab) for _ in range(a.prompt)] for _ in range(streams)]
    cpu = server.cpu()
    total, moments = asyncio.run(load(server, prompts, a.tokens))
    gaps = [b - x for m in moments for x, b in zip(m, m[1:])]
    return {
        "tok_s": streams * a.tokens / total,
        "first_p50": percentile([m[0] for m in moments], 0.5), "first_p99": percentile([m[0] for m in moments], 0.99),
        "at_once": sum(g < 1e-3 for g in gaps) / max(1, len(gaps)),
        "next_p50": percentile(gaps, 0.5), "next_p99": percentile(gaps, 0.99),
        "cpu": server.cpu() - cpu, "seconds": total,
    }


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
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    counts = [int(n) for n in a.streams.split(",")]
    most, ctx = max(counts), a.prompt + a.tokens + 16
    ours = Server("geb", [a.geb, "serve", "-m", a.model, "-t", a.threads, "--ctx", ctx, "--streams", most,
                          "--log", "off"], "/v1/completions", lambda ids, n: asked(ids, n, a.temperature))
    servers = [ours]
    if a.llama_server:
        servers.append(Server("llama-server", [
            a.llama_server, "-m", a.model, "-t", a.threads, "-tb", a.threads, "-c", ctx * most, "-np", most,
            "--no-webui", "--cache-ram", 0], "/v1/completions",
            lambda ids, n: {**asked(ids, n, a.temperature), "cache_prompt": False}))
    rows = []
    try:
        for s in servers:
            measure(s, 1, a, seed=0)
        for n in counts:
            rounds = [{s.name: measure(s, n, a, seed=1000 * n + r) for s in servers[:: 1 if r % 2 == 0 else -1]}
                      for r in range(a.rounds)]
            for s in servers:
                mine = [r[s.name] for r in rounds]
                row = {"streams": n, "server": s.name, **{k: statistics.median(m[k] for m in mine) for k in mine[0]}}
                if s is not ours:
                    ratios = [r["geb"]["tok_s"] / r[s.name]["tok_s"] for r in rounds]
                    row["geb_over"] = [statistics.median(ratios), min(ratios), max(ratios)]
                rows.append(row)
                if not a.json:
                    ratio = "" if s is ours else "   geb / it {:.2f} ({:.2f}-{:.2f})".format(*row["geb_over"])
                    print(f"{n:4} streams {s.name:12} {row['tok_s']:8.1f} tok/s   first {row['first_p50']:6.2f} "
                          f"{row['first_p99']:6.2f} s   next {1e3 * row['next_p50']:6.1f} {1e3 * row['next_p99']:6.1f} ms   "
                          f"at once {row['at_once']:4.0%}{ratio}",
                          flush=True)
    finally:
        for s in servers:
            s.stop()
    if a.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
