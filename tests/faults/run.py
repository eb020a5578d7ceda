#!/usr/bin/env python3
"""What clients do wrong, in quantity: `geb-run serve` with its built-in model, asked until something gives way.

    python3 tests/faults/run.py --geb target/release/geb-run                   the full amounts
    python3 tests/faults/run.py --geb target/release/geb-run --scale 0.01      a quick look
    python3 tests/faults/run.py --geb target/release/geb-run --only mixed,kill [--strict-times] [--json]

Needs Linux and Python alone. Each row has servers of its own and prints one line: how much was asked and what was
measured. A row fails on a wrong text (every answer is compared with the same request asked alone), another status
than the table says, a request that was taken and not finished, a panic, pages and descriptors that are not back where
they were, a process that has grown by more than a fifth and goes on growing in three more rounds, a server that does not
answer or end, and after its own limit of seconds. Times are printed; they fail a row with `--strict-times` only.

mixed      requests of four dialects, whole and streamed, sampled, held to forms, several answers; 64 at once
leave      clients that leave while they read, wait and queue, beside four that stay
readers    64 (8 below a scale of 0.05) that take a byte per second are cut; eight beside them are answered
slow       silent connections, half heads and half bodies, a byte every five seconds: all cut, a server for each kind
malformed  floods of fields, huge and lying bodies, depth, bad chunks, two lengths: the status of each, nothing smuggled
mutants    valid requests with one to four random faults: a refusal, an answer or a closed connection
overload   ten times as many as may run and wait: answers that are right, or 503 (Anthropic's 529) and Retry-After
terminate  SIGTERM with 64 streams: they end whole, new ones are refused, exit code 0, the same port again
kill       SIGKILL with 64 streams and a cache on disk: all are told, the same port and the same texts again
forms      hostile schemas, expressions and grammars are refused by name or right, beside eight answers held to forms

health     time of GET /health while the row runs, p99     free     until nothing is held when the last client is gone
"""
import argparse, asyncio, collections, functools, itertools, json, os, pathlib, random, re, resource, signal, socket, subprocess
import sys, tempfile, threading, time, traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
PATHS = {"text": "/v1/completions", "chat": "/v1/chat/completions", "messages": "/v1/messages", "ollama": "/api/chat"}
WORDS = ("and the king of his people went up from there to a great city by night, for they said: who is he that "
         "came out of the land with fire? é 漢字 👩‍🚀 {\"a\": [1, 2]} <s> \\n").split()


class Fault(Exception):
    """Something that a server must not do."""


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else float("nan")


# Bytes on the wire.

Reply = collections.namedtuple("Reply", "status headers body")


def request(method, path, body=b"", fields=""):
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}"
    if method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def chunks(data):
    """The body that the chunks at the front make, and what follows them."""
    body = bytearray()
    while True:
        line, end, rest = data.partition(b"\r\n")
        if not end:
            raise Fault("cut between chunks")
        n = int(line, 16)
        if len(rest) < n + 2 or rest[n:n + 2] != b"\r\n":
            raise Fault("cut in a chunk")
        body += rest[:n]
        data = rest[n + 2:]
        if n == 0:
            return bytes(body), data


def replies(data):
    """All whole responses of a connection; a part of one is a fault."""
    data, all = bytes(data), []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.[01] (\d{3})( .*)?", lines[0])
        if not end or not found:
            raise Fault(f"no response: {head[:80]!r}")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        status = int(found[1])
        if status == 100:
            continue
        if "chunked" in headers.get("transfer-encoding", ""):
            body, data = chunks(data)
        else:
            n = int(headers.get("content-length", len(data)))
            if len(data) < n:
                raise Fault("cut in a body")
            body, data = data[:n], data[n:]
        all.append(Reply(status, headers, body))
    return all


async def connect(port):
    return await asyncio.open_connection(HOST, port, limit=1 << 20)


async def narrow(port):
    """A connection that takes little: with packets as large as loopback's the kernel would keep megabytes."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    s.setblocking(False)
    await asyncio.get_running_loop().sock_connect(s, (HOST, port))
    return s


async def talk(port, data, patience=120.0, finish=None):
    """What comes back until the connection is closed; `finish`: after so many seconds say that nothing follows."""
    loop, got, s = asyncio.get_running_loop(), bytearray(), socket.socket()
    s.setblocking(False)

    async def send():
        # It may be closed before all was sent; what was said before counts.
        try:
            await loop.sock_sendall(s, data)
            if finish is not None:
                await asyncio.sleep(finish)
                s.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    async def whole():
        await loop.sock_connect(s, (HOST, port))
        sending = asyncio.ensure_future(send())
        try:
            while piece := await loop.sock_recv(s, 1 << 16):
                got.extend(piece)
        except ConnectionResetError:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    try:
        await asyncio.wait_for(whole(), patience)
    except asyncio.TimeoutError:
        raise Fault(f"silence for {patience:g} s after {len(got)} bytes") from None
    finally:
        s.close()
    return bytes(got)


async def ask(port, method, path, body=b"", fields="", patience=120.0):
    all = replies(await talk(port, request(method, path, body, fields), patience))
    if len(all) != 1:
        raise Fault(f"{len(all)} responses to {method} {path}")
    return all[0]


# A server.

State = collections.namedtuple("State", "rss descriptors held panics free")


class Server:
    """`geb-run serve --demo` on a port."""

    def __init__(self, geb, *flags, port=0):
        self.process = subprocess.Popen(
            [geb, "serve", "--demo", "--log", "off", "--port", str(port), *map(str, flags)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            # Panics that are caught say so, too.
            env=os.environ | {"RUST_BACKTRACE": "1"})
        self.said, self.port = [], None
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stderr:
            self.said.append(line)
            found = re.search(rf"http://{re.escape(HOST)}:(\d+)", line)
            if found and self.port is None:
                self.port = int(found[1])

    async def ready(self):
        end = time.monotonic() + 60
        while self.port is None or (await self.health()) != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                raise Fault("the server did not start: " + "".join(self.said)[-500:])
            await asyncio.sleep(0.05)
        return self

    async def health(self):
        try:
            return (await ask(self.port, "GET", "/health", patience=10)).status
        except (OSError, Fault):
            return 0

    async def metrics(self):
        text = (await ask(self.port, "GET", "/metrics", patience=30)).body.decode()
        return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}

    def rss(self):
        """MiB."""
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def rest(self, start=None, patience=15.0):
        """What it holds when nobody asks: as soon as that is what it held at `start`, at the latest after `patience`."""
        begun, free = time.monotonic(), None
        while True:
            m = await self.metrics()
            held = m["geb_num_requests_running"], m["geb_num_requests_waiting"], m["geb_kv_cache_usage_perc"]
            # What has just come is counted with the next step: nothing is held if that is still so a little later.
            if any(held):
                free = None
            elif free is None:
                free = time.monotonic() - begun
                await asyncio.sleep(0.1)
                continue
            late = time.monotonic() - begun > patience
            if free is not None or late:
                # The connection that asked is closed, too.
                await asyncio.sleep(0.05)
                least = min([self.descriptors()] if start else [self.descriptors(), await self.quiet()])
                if late or not start or least <= start.descriptors:
                    return State(self.rss(), least, held, m["geb_panics"], free)
            await asyncio.sleep(0.02)

    async def quiet(self):
        """Descriptors that stay."""
        counts = []
        for _ in range(20):
            await asyncio.sleep(0.05)
            counts.append(self.descriptors())
        return min(counts)

    async def end(self, sign=signal.SIGTERM, patience=45.0):
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        until = time.monotonic() + patience
        while self.process.poll() is None:
            if time.monotonic() > until:
                self.process.kill()
                self.process.wait()
                raise Fault(f"no end {patience:g} s after {sign.name}")
            await asyncio.sleep(0.02)
        return self.process.returncode


class Pulse:
    """Asks /health all the time."""

    def __init__(self, *servers):
        self.servers, self.times, self.bad = servers, [], 0

    async def beat(self, server):
        while True:
            begun = time.perf_counter()
            status = await server.health()
            self.times.append(time.perf_counter() - begun)
            self.bad += status != 200
            await asyncio.sleep(0.05)

    async def __aenter__(self):
        self.tasks = [asyncio.ensure_future(self.beat(s)) for s in self.servers]
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


# Requests that have an answer.

RIVER = {"type": "object", "properties": {
    "river": {"type": "string", "maxLength": 12}, "km": {"type": "integer", "minimum": 1, "maximum": 9999},
    "deep": {"type": "boolean"}}, "required": ["river", "km"], "additionalProperties": False}
DAYS = {"type": "array", "items": {"enum": ["Mon", "Tue", "Wed"]}, "minItems": 1, "maxItems": 4}
CODE = "[A-Z]{2}-[0-9]{3}( [a-z]{1,6}){0,3}"


def is_river(text):
    v = json.loads(text)
    return (set(v) - {"deep"} == {"river", "km"} and isinstance(v["river"], str) and len(v["river"]) <= 12
            and type(v["km"]) is int and 1 <= v["km"] <= 9999 and type(v.get("deep", True)) is bool)


def is_days(text):
    v = json.loads(text)
    return isinstance(v, list) and 1 <= len(v) <= 4 and all(d in ("Mon", "Tue", "Wed") for d in v)


def is_code(text):
    return re.fullmatch(CODE, text) is not None


FORMS = [(RIVER, is_river), (DAYS, is_days), (CODE, is_code)]
Case = collections.namedtuple("Case", "kind body form")


def case(i, rng, form=None):
    """A request; its answer is decided by its fields."""
    kind = list(PATHS)[i % 4]
    words = " ".join(rng.choice(WORDS) for _ in range(rng.choice((2, 6, 20, 60))))
    n = rng.choice((1, 5, 16, 40))
    # Anthropic's form has no seed.
    heat = {"temperature": 0} if kind == "messages" or rng.random() < 0.4 else {
        "temperature": rng.choice((0.7, 1.3)), "seed": rng.randrange(1 << 30)}
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": words}]
    if form is None and rng.random() < 0.15:
        form = rng.randrange(len(FORMS))
    if form is not None:
        n = 100
        if not isinstance(FORMS[form][0], dict) and kind in ("messages", "ollama"):
            form = 0
    held = FORMS[form][0] if form is not None else None
    if kind == "ollama":
        options = {"num_predict": n, **heat}
        if rng.random() < 0.2:
            options["stop"] = [" the", "e a"]
        body = {"model": "geb-nano", "messages": said, "options": options}
        if held:
            body["format"] = held
            options.pop("stop", None)
        return Case(kind, body, form)
    body = {"max_tokens": n, **heat}
    if kind == "text":
        body["prompt"] = words if rng.random() < 0.5 else [rng.randrange(300, 2000) for _ in range(rng.choice((1, 17, 90)))]
    else:
        body["messages"] = said[1:] if kind == "messages" else said
    if kind == "messages":
        body["model"] = "geb-nano"
        if held:
            body["output_config"] = {"format": {"type": "json_schema", "schema": held}}
        return Case(kind, body, form)
    if held:
        if isinstance(held, str):
            body["regex"] = held
        else:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": held}}
        return Case(kind, body, form)
    if rng.random() < 0.3:
        body["n"] = rng.choice((2, 3))
    if rng.random() < 0.3:
        body["ignore_eos"] = True
    if rng.random() < 0.2:
        body["stop"] = [" the", "e a"]
    if rng.random() < 0.4:
        body |= {"logprobs": 2} if kind == "text" else {"logprobs": True, "top_logprobs": 2}
    return Case(kind, body, form)


def weights(kind, choice):
    """Tokens and their log-probabilities."""
    w = choice.get("logprobs")
    if not w:
        return []
    if kind == "text":
        return list(zip(w["tokens"], w["token_logprobs"]))
    return [(t["token"], t["logprob"]) for t in w.get("content") or []]


def events(body):
    for block in body.decode().split("\n\n"):
        data = "".join(line[5:].strip() for line in block.splitlines() if line.startswith("data:"))
        if data:
            yield data


def heard(kind, reply, stream):
    """Text, end and weights of each choice, or `Fault`."""
    if reply.status != 200:
        raise Fault(f"status {reply.status}: {reply.body[:200].decode(errors='replace')}")
    if kind == "ollama":
        lines = [json.loads(line) for line in reply.body.decode().splitlines() if line]
        if not lines or any("error" in line for line in lines) or not lines[-1].get("done"):
            raise Fault(f"no last line: {reply.body[-200:]!r}")
        return [("".join(line["message"]["content"] for line in lines), lines[-1]["done_reason"], [])]
    if not stream:
        body = json.loads(reply.body)
        if kind == "messages":
            return [("".join(b.get("text", "") for b in body["content"]), body["stop_reason"], [])]
        choices = sorted(body["choices"], key=lambda c: c["index"])
        return [(c["text"] if kind == "text" else c["message"]["content"] or "", c["finish_reason"], weights(kind, c))
                for c in choices]
    all = list(events(reply.body))
    if kind == "messages":
        parsed = [json.loads(e) for e in all]
        kinds = [e["type"] for e in parsed]
        if "error" in kinds or kinds[-1:] != ["message_stop"]:
            raise Fault(f"no message_stop: {reply.body[-200:]!r}")
        text = "".join(e["delta"].get("text", "") for e in parsed if e["type"] == "content_block_delta")
        return [(text, next(e["delta"]["stop_reason"] for e in parsed if e["type"] == "message_delta"), [])]
    if all[-1:] != ["[DONE]"]:
        raise Fault(f"no [DONE]: {reply.body[-200:]!r}")
    out = {}
    for e in map(json.loads, all[:-1]):
        if "error" in e:
            raise Fault(f"error in a stream: {e['error']}")
        for c in e["choices"]:
            text, end, said = out.get(c["index"], ("", None, []))
            if end:
                raise Fault("something behind the end of an answer")
            text += (c["text"] if kind == "text" else c["delta"].get("content")) or ""
            out[c["index"]] = (text, c["finish_reason"], said + weights(kind, c))
    return [out[i] for i in sorted(out)]


async def answer(server, c, stream=False, patience=120.0):
    body = c.body | {"stream": stream}
    reply = await ask(server.port, "POST", PATHS[c.kind], body, patience=patience)
    return heard(c.kind, reply, stream)


async def in_parallel(width, n, one):
    """`one(i)` for i below n, so many at once."""
    numbers = iter(range(n))

    async def worker():
        for i in numbers:
            await one(i)
    await asyncio.gather(*(worker() for _ in range(min(width, n))))


class Trial:
    """A row while it runs."""

    def __init__(self, args, name):
        self.args, self.name = args, name
        self.faults, self.said, self.servers = [], [], []
        self.right = self.late = 0
        self.amount = ""

    def n(self, full, least=1):
        return max(least, round(full * self.args.scale))

    def say(self, what, **values):
        self.said.append((what, values))

    def fail(self, what):
        self.faults.append(what)

    def slow(self, is_slow, what):
        if is_slow and self.args.strict_times:
            self.fail(what)

    async def server(self, *flags, port=0):
        server = Server(self.args.geb, *flags, port=port)
        self.servers.append(server)
        return await server.ready()

    async def alone(self, server, cases):
        """The answers to these when nobody else asks."""
        out = []
        for c in cases:
            expected = await answer(server, c)
            if c.form is not None and expected[0][1] not in ("length", "max_tokens"):
                if not FORMS[c.form][1](expected[0][0]):
                    self.fail(f"not of its form: {expected[0][0]!r} for {c.body}")
            out.append(expected)
        return out

    async def compare(self, server, c, expected, stream):
        """Whether it is the same answer; takes the time of it."""
        begun = time.perf_counter()
        try:
            found = await answer(server, c, stream)
        except (Fault, OSError, ValueError, KeyError, TypeError) as e:
            if c.form is not None and "constraint_too_complex" in str(e):
                # A mask that took longer than it may: a matter of the machine.
                self.late += 1
                self.slow(True, "a form was too complex")
            else:
                self.fail(f"{type(e).__name__} {e} for {c.kind} {json.dumps(c.body)}")
            return None
        if found != expected:
            self.fail(f"wrong {'stream' if stream else 'answer'}: {found} instead of {expected} for {c.kind} {json.dumps(c.body)}")
            return None
        self.right += 1
        return time.perf_counter() - begun

    def texts(self):
        wrong = sum(f.startswith("wrong") for f in self.faults)
        self.say(f"right {self.right}, wrong {wrong}" + (f", too complex {self.late}" if self.late else ""),
                 right=self.right, wrong=wrong, too_complex=self.late)

    def health(self, pulse):
        p99 = percentile(pulse.times, 0.99) * 1e3
        self.say(f"health {p99:.0f} ms", health_p99_ms=p99)
        if pulse.bad:
            self.fail(f"/health failed {pulse.bad} of {len(pulse.times)} times")
        self.slow(p99 > 50, f"/health p99 {p99:.0f} ms")

    def back(self, start, after):
        """Nothing is held, nothing is left open."""
        self.say(f"pages {start.held[2]:g} -> {after.held[2]:g}, descriptors {start.descriptors} -> {after.descriptors}"
                 + (f", free {after.free:.2f} s" if after.free is not None else ""),
                 pages=[start.held[2], after.held[2]], descriptors=[start.descriptors, after.descriptors], free_s=after.free)
        if any(after.held):
            self.fail("still held: {} running, {} waiting, {} of the pages".format(*after.held))
        if after.descriptors > start.descriptors:
            self.fail(f"{after.descriptors} descriptors, {start.descriptors} at start")
        if after.panics:
            self.fail(f"{after.panics:g} panics")

    async def rounds(self, server, one_round, warm, n):
        """A warm-up, a round, and if memory has grown by a fifth more of them: a leak grows in each of them."""
        await one_round(warm)
        start = await server.rest()
        await one_round(n)
        after = await server.rest(start)
        self.back(start, after)
        sizes = [start.rss, after.rss]
        while sizes[-1] > 1.2 * sizes[0]:
            if len(sizes) == 5:
                self.fail("memory grows: " + ", ".join(f"{s:.0f}" for s in sizes) + " MiB")
                break
            await one_round(n)
            sizes.append((await server.rest(start)).rss)
            if sizes[-1] < 1.05 * sizes[-2]:
                break
        self.say("RSS " + " -> ".join(f"{s:.0f}" for s in sizes) + " MiB", rss_mib=sizes)

    async def end(self):
        """All servers end well."""
        for server in self.servers:
            if server.process.poll() is None:
                if (status := await server.health()) != 200:
                    self.fail(f"/health says {status} at the end")
                try:
                    if code := await server.end():
                        self.fail(f"exit code {code}")
                except Fault as e:
                    self.fail(str(e))
            if any("panicked" in line for line in server.said):
                self.fail("a panic: " + "".join(server.said)[-300:])

    def kill(self):
        for server in self.servers:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


# The rows.

async def mixed(t):
    n = t.n(10_000, 64)
    rng = random.Random(1)
    server = await t.server("--streams", 64)
    cases = [case(i, rng) for i in range(max(64, n // 10))]
    expected = await t.alone(server, cases)

    async def one_round(n):
        async def one(i):
            k = rng.randrange(len(cases))
            await t.compare(server, cases[k], expected[k], rng.random() < 0.5)
        await in_parallel(64, n, one)

    async with Pulse(server) as pulse:
        await t.rounds(server, one_round, max(128, n // 5), n)
    t.amount = f"{n} requests, {len(cases)} kinds"
    t.texts()
    t.health(pulse)


async def leave(t):
    n = t.n(10_000, 48)
    rng = random.Random(2)
    server = await t.server("--streams", 8)
    stay = [case(i, rng) for i in range(12)]
    expected = await t.alone(server, stay)
    left = collections.Counter()

    async def one(i):
        how = ("streaming", "waiting", "queued")[i % 3]
        body = {"max_tokens": 450, "ignore_eos": True, "stream": how == "streaming" or i % 2 == 0, "temperature": 1,
                "prompt": [rng.randrange(300, 2000) for _ in range(rng.choice((3, 40)))]}
        reader, writer = await connect(server.port)
        try:
            writer.write(request("POST", PATHS["text"], body))
            if how == "streaming":
                # Its first words, at most for a while: it may still wait.
                for _ in range(rng.choice((1, 3, 9))):
                    await asyncio.wait_for(reader.read(600), 60)
            elif how == "waiting":
                await asyncio.sleep(rng.random() * 0.2)
            else:
                await writer.drain()
            left[how] += 1
        except OSError as e:
            t.fail(f"{how}: {e}")
        finally:
            # Half of them reset the connection, the others close it.
            writer.transport.abort() if i % 4 < 2 else writer.close()

    async def one_round(n):
        end = asyncio.Event()

        async def stays(k):
            while not end.is_set():
                at = rng.randrange(len(stay))
                await t.compare(server, stay[at], expected[at], k % 2 == 0)
        staying = [asyncio.ensure_future(stays(k)) for k in range(4)]
        await in_parallel(48, n, one)
        end.set()
        await asyncio.gather(*staying)

    async with Pulse(server) as pulse:
        await t.rounds(server, one_round, max(48, n // 5), n)
    t.amount = f"{n} disconnects"
    cancelled = (await server.metrics())["geb_requests_cancelled"]
    t.say("left " + ", ".join(f"{v} {k}" for k, v in left.items()) + f", cancelled {cancelled:g}", left=left, cancelled=cancelled)
    # One that leaves before it was read is never known; most are.
    if cancelled < sum(left.values()) / 3:
        t.fail(f"{cancelled:g} of {sum(left.values())} were cancelled")
    t.texts()
    t.health(pulse)


async def readers(t):
    n = 64 if t.args.scale >= 0.05 else 8
    rng = random.Random(3)
    server = await t.server("--streams", 96)
    cases = [case(i, rng) for i in range(16)]
    expected = await t.alone(server, cases)

    async def normal(seconds):
        """Answers per second of eight clients."""
        end, begun, count = time.monotonic() + seconds, time.monotonic(), 0

        async def client(k):
            nonlocal count
            i = k
            while time.monotonic() < end:
                await t.compare(server, cases[i % 16], expected[i % 16], k % 2 == 0)
                count += 1
                i += 1
        await asyncio.gather(*(client(k) for k in range(8)))
        return count / (time.monotonic() - begun)

    alone = await normal(4)
    start = await server.rest()
    before = await server.metrics()
    loop, sockets, stop = asyncio.get_running_loop(), [], asyncio.Event()
    body = {"messages": [{"role": "user", "content": "And"}], "max_tokens": 480, "ignore_eos": True, "stream": True,
            "logprobs": True, "top_logprobs": 20}
    begun = time.monotonic()

    async def reader():
        s = await narrow(server.port)
        sockets.append(s)
        await loop.sock_sendall(s, request("POST", PATHS["chat"], body))
        while not stop.is_set():
            try:
                if not await asyncio.wait_for(loop.sock_recv(s, 1), 60):
                    return
            except (OSError, asyncio.TimeoutError):
                return
            await asyncio.sleep(1)

    async with Pulse(server) as pulse:
        tasks = [asyncio.ensure_future(reader()) for _ in range(n)]
        # Until nothing more is computed for them.
        tokens = -1.0
        while tokens != (tokens := (await server.metrics())["geb_generation_tokens"]) and time.monotonic() - begun < 25:
            await asyncio.sleep(1)
        stalled = time.monotonic() - begun
        beside = await normal(4)
        # What is cut is closed: descriptors are back though nobody has left.
        cut = None
        while time.monotonic() - begun < 75 and cut is None:
            await asyncio.sleep(0.25)
            if server.descriptors() <= start.descriptors + 1:
                await asyncio.sleep(0.3)
                cut = time.monotonic() - begun if server.descriptors() <= start.descriptors + 1 else None
    open_ = server.descriptors() - start.descriptors
    stop.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for s in sockets:
        s.close()
    after = await server.rest(start)
    t.amount = f"{n} readers of 1 byte/s"
    t.back(start, after)
    m = await server.metrics()
    gone = m["geb_requests_cancelled"] - before["geb_requests_cancelled"]
    t.say(f"all cut after {cut:.0f} s" if cut else "not cut", cut_s=cut)
    t.say(f"stalled after {stalled:.0f} s, cancelled {gone:g}, others {beside / alone:.2f} x", cancelled=gone, others=beside / alone)
    if gone < n:
        t.fail(f"{gone:g} of {n} were cancelled")
    if cut is None:
        t.fail(f"after 75 s about {open_} readers are still served")
    else:
        t.slow(not 28 <= cut <= 45, f"cut after {cut:.0f} s")
    t.slow(beside < 0.9 * alone, f"others have {beside / alone:.2f} of what they had")
    t.texts()
    t.health(pulse)


async def slow(t):
    n = t.n(500, 10)
    rng = random.Random(4)
    half_head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Slow: "
    whole = request("POST", "/v1/completions", {"prompt": "In", "max_tokens": 1}, fields="X-Slow: 1\r\n")
    kinds = {"silent": b"", "head": half_head, "body": whole[:-20]}
    cases = [case(i, rng) for i in range(8)]
    times = {k: [] for k in kinds}
    told = {k: collections.Counter() for k in kinds}

    async def hold(kind, server):
        begun = time.monotonic()
        reader, writer = await connect(server.port)
        writer.write(kinds[kind])

        async def drip():
            while kind != "silent":
                await asyncio.sleep(5)
                writer.write(b" " if kind == "body" else b"x")
        task, got = asyncio.ensure_future(drip()), b""
        try:
            while piece := await asyncio.wait_for(reader.read(1 << 16), 75):
                got += piece
        except OSError:
            pass
        except asyncio.TimeoutError:
            t.fail(f"{kind}: not cut after 75 s")
            return
        finally:
            task.cancel()
            writer.close()
        times[kind].append(time.monotonic() - begun)
        statuses = [r.status for r in replies(got)]
        told[kind][statuses[0] if statuses else "closed"] += 1
        if statuses not in ([], [408]) or (statuses and kind == "silent"):
            t.fail(f"{kind}: answered {statuses}")

    async def one_kind(kind, server):
        end = asyncio.Event()
        expected = await t.alone(server, cases)

        async def normal():
            i = 0
            while not end.is_set():
                await t.compare(server, cases[i % 8], expected[i % 8], i % 2 == 0)
                i += 1
                await asyncio.sleep(0.2)
        others = asyncio.ensure_future(normal())
        holders = []
        for i in range(n):
            holders.append(asyncio.ensure_future(hold(kind, server)))
            if i % 50 == 49:
                await asyncio.sleep(0.05)
        await asyncio.gather(*holders)
        end.set()
        await others

    servers = {k: await t.server() for k in kinds}
    for server in servers.values():
        await t.alone(server, cases)
    starts = {k: await s.rest() for k, s in servers.items()}
    async with Pulse(*servers.values()) as pulse:
        await asyncio.gather(*(one_kind(k, s) for k, s in servers.items()))
    t.amount = f"{n} of each kind"
    for kind, server in servers.items():
        longest = max(times[kind], default=float("nan"))
        t.say(f"{kind}: " + ", ".join(f"{v} {k}" for k, v in told[kind].items()) + f", last {longest:.0f} s",
              **{kind: {"told": told[kind], "last_s": longest}})
        t.slow(not 28 <= longest <= 35, f"{kind}: last cut after {longest:.0f} s")
        after = await server.rest(starts[kind])
        t.back(starts[kind], after)
        t.say(f"RSS {starts[kind].rss:.0f} -> {after.rss:.0f} MiB", **{f"rss_mib_{kind}": [starts[kind].rss, after.rss]})
    t.texts()
    t.health(pulse)


def malformed_cases():
    """Name, bytes, statuses that are right; None: closed without a word."""
    body = '{"prompt":"a","max_tokens":1}'
    post = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    out = []
    # Floods of fields.
    for n, status in ((63, 200), (64, 200), (65, 431), (100, 431), (10_000, 431)):
        out.append((f"{n} fields", "GET /health HTTP/1.1\r\nHost: localhost\r\n" + "".join(
            f"X-{i}: 1\r\n" for i in range(2, n)) + "Connection: close\r\n\r\n", (status,)))
    for n, statuses in ((30_000, (200,)), (33_000, (431,)), (40_000, (431,)), (100_000, (431,)), (4 << 20, (431, None))):
        out.append((f"a field of {n} bytes", f"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {'v' * n}\r\n\r\n", statuses))
    for n in (33_000, 100_000):
        out.append((f"a target of {n} bytes", f"GET /health?{'q' * n} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", (414, 431)))
    out.append(("cookies", "GET /health HTTP/1.1\r\nHost: localhost\r\n" + f"Cookie: {'c' * 600}\r\n" * 60 + "Connection: close\r\n\r\n", (431,)))
    # Huge bodies and lengths that lie.
    for n, status in ((4 << 20, 200), ((4 << 20) + 1, 413), (16 << 20, 413)):
        out.append((f"a body of {n} bytes", post + f"Connection: close\r\nContent-Length: {n}\r\n\r\n" + body.ljust(n), (status,)))
    # The parser has no room for the last of these.
    for n, statuses in ((5 << 20, (413,)), (1 << 40, (413,)), ((1 << 63) - 1, (413,)), ((1 << 64) - 1, (400, 413, 431))):
        out.append((f"told {n} bytes", post + f"Connection: close\r\nContent-Length: {n}\r\n\r\n{body}", statuses))
    out.append(("less than told", post + f"Connection: close\r\nContent-Length: 100\r\n\r\n{body}", (400, 408, None)))
    out.append(("more than told", post + f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}GET / HTTP/1.1\r\n\r\n", (200,)))
    out.append(("chunks of 5 MiB", post + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + f"100000\r\n{'x' * (1 << 20)}\r\n" * 5 + "0\r\n\r\n", (413,)))
    # Depth.
    for n, status in ((31, 200), (33, 400), (1_000, 400), (10_000, 400), (1_000_000, 400)):
        for a, b in ("[]", ('{"a":', "}")):
            inner = a * (n - 1) + ("1" if a != "[" else "") + b * (n - 1)
            text = '{"prompt":"a","max_tokens":1,"metadata":' + inner + "}"
            out.append((f"depth {n} of {a}", post + f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}",
                        (413,) if len(text) > 4 << 20 else (status,)))
    out.append(("depth that does not end", post + "Connection: close\r\nContent-Length: 100000\r\n\r\n" + "[" * 100_000, (400,)))
    # Bad chunks.
    for bad in (f"x\r\n{body}\r\n0\r\n\r\n", f"-1\r\n{body}\r\n0\r\n\r\n", f"0x1d\r\n{body}\r\n0\r\n\r\n", f"1d\r\n{body}0\r\n\r\n",
                f"1c\r\n{body}\r\n0\r\n\r\n", f"1d\n{body}\n0\n\n", f"1d \r\r\n{body}\r\n0\r\n\r\n", f"ffffffffffffffff\r\n{body}",
                f"10000000000000000\r\n{body}", f"\r\n{body}\r\n0\r\n\r\n", f"1d;{'x' * 65536}\r\n{body}\r\n0\r\n\r\n",
                f"1d\r\n{body}\r\n0\r\n" + "X: 1\r\n" * 10_000 + "\r\n", f"1d\r\n{body}\r\n"):
        out.append((f"chunks {bad[:24]!r}", post + "Transfer-Encoding: chunked\r\n\r\n" + bad, (400, 408, 413, 431, None)))
    # Smuggling: nothing behind is a request.
    behind = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for fields in ("Content-Length: 29\r\nContent-Length: 30\r\n", "Content-Length: 29, 30\r\n", "Content-Length: 29, 29\r\n",
                   "Content-Length: +29\r\n", "Content-Length: -29\r\n", "Content-Length: 0x1d\r\n", "Content-Length: 29.0\r\n",
                   "Content-Length: 2 9\r\n", "Content-Length: \r\n", "Content-Length : 29\r\n", "Content-Length: 99999999999999999999\r\n",
                   "Transfer-Encoding: identity\r\n", "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: chunked, identity\r\n",
                   "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "Transfer-Encoding : chunked\r\n",
                   "Transfer-Encoding:\x0bchunked\r\n", "X: 1\r\n Content-Length: 29\r\n", "X: 1\r\n\tfolded\r\nContent-Length: 29\r\n",
                   " X: 1\r\nContent-Length: 29\r\n", "X\r\nContent-Length: 29\r\n", "X: a\0b\r\nContent-Length: 29\r\n",
                   "X: a\rb\r\nContent-Length: 29\r\n", "(X): 1\r\nContent-Length: 29\r\n"):
        out.append((f"smuggling {fields[:40]!r}", post + fields + "\r\n" + body + behind, (400, 413, 431, 501, None)))
    for fields in ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
                   "Transfer-Encoding: chunked\r\nContent-Length: x\r\n"):
        out.append((f"smuggling {fields[:40]!r}", post + fields + f"\r\n1d\r\n{body}\r\n0\r\n\r\n" + behind, (200, 400)))
    for line in ("GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n", "GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n", "GET /health\r\n\r\n",
                 "GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /he alth HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 "POST /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                 "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "\0" * 1000):
        out.append((f"line {line[:30]!r}", line + behind, (400, 403, 431, 501, 505, None)))
    for head, status in (("Host: localhost\r\nHost: localhost", 400), ("Host: localhost\r\nHost: evil.example", 400), ("X: 1", 400),
                         ("Host:", 403), ("Host: evil.example", 403), ("Host: localhost\r\nOrigin: https://evil.example", 403)):
        out.append((f"hosts {head!r}", f"GET /health HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n", (status,)))
    # No JSON, no such thing.
    for text in ("{", "[]", "null", body + "x", "", '{"prompt":NaN}', '{"prompt":"\\ud800"', '{"prompt":1e999}', '{"prompt":"a","max_tokens":-1}'):
        out.append((f"body {text[:24]!r}", post + f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}", (400,)))
    out.append(("type", f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 29\r\n\r\n{body}", (415,)))
    out.append(("coding", post + f"Connection: close\r\nContent-Encoding: gzip\r\nContent-Length: 29\r\n\r\n{body}", (415,)))
    out.append(("method", "PUT /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", (405,)))
    out.append(("path", "GET /v2/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", (404,)))
    return [(name, data.encode("latin-1"), statuses) for name, data, statuses in out]


async def malformed(t):
    cases = malformed_cases()
    times = t.n(20)
    rng = random.Random(5)
    server = await t.server()
    counts, took = collections.Counter(), []

    async def one(i):
        name, data, statuses = cases[i % len(cases)]
        begun = time.perf_counter()
        try:
            found = replies(await talk(server.port, data, 75, finish=5))
        except (Fault, OSError) as e:
            t.fail(f"{name}: {e}")
            return
        took.append(time.perf_counter() - begun)
        first = found[0].status if found else None
        counts["closed" if first is None else first] += 1
        if first not in statuses or len(found) > 1:
            t.fail(f"{name}: {[r.status for r in found]}, not {statuses}")
        elif first and first >= 400 and found[0].body:
            error = json.loads(found[0].body).get("error")
            if not (isinstance(error, dict) and {"message", "type", "param", "code"} <= set(error)):
                t.fail(f"{name}: {found[0].body[:100]!r}")

    async def one_round(n):
        order = [i % len(cases) for i in range(n)]
        rng.shuffle(order)
        await in_parallel(16, n, lambda k: one(order[k]))

    async with Pulse(server) as pulse:
        await t.rounds(server, one_round, len(cases), len(cases) * times)
    t.amount = f"{len(cases)} faults, {times} x"
    t.say("statuses " + ", ".join(f"{v} {k}" for k, v in sorted(counts.items(), key=str)), statuses={str(k): v for k, v in counts.items()})
    t.say(f"p50 {percentile(took, 0.5) * 1e3:.0f} ms", p50_ms=percentile(took, 0.5) * 1e3)
    t.health(pulse)


PARTS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b"\xc3\xa9", b"{", b"[[[[[[[[", b"}", b'"', b"\\u0000", b"\\ud800", b"-1",
         b"1e999", b"99999999999999999999", b"null", b"0\r\n\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
         b"Host: localhost\r\n", b"HTTP/1.0", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"]


def mutant(valid, rng):
    data = bytearray(rng.choice(valid))
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        end, act = min(len(data), at + rng.randrange(12)), rng.randrange(7)
        if act == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif act == 1:
            del data[at:end]
        elif act == 2:
            data[at:at] = data[at:end]
        elif act in (3, 4):
            data[at:min(end, at + rng.randrange(3))] = rng.choice(PARTS)
        elif act == 5:
            del data[at:]
        else:
            other = rng.choice(valid)
            data[at:] = other[rng.randrange(len(other)):]
    return bytes(data)


async def mutants(t):
    n = t.n(10_000, 64)
    rng = random.Random(6)
    server = await t.server()
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "In the"}]}]
    post = functools.partial(request, "POST")
    short = {"max_tokens": 2, "stream": True}
    valid = [
        request("GET", "/health"), request("GET", "/v1/models"), request("OPTIONS", PATHS["text"], fields="Origin: http://localhost\r\n"),
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nb\r\n{\"prompt\":\"\r\n13\r\nIn\",\"max_tokens\":1}\r\n0\r\n\r\n",
        post(PATHS["chat"], {"messages": said, "max_tokens": 2, "stop": ["a", "bc"], "seed": 3, "temperature": 0.5}),
        post(PATHS["chat"], {"messages": said, "logprobs": True, "top_logprobs": 2, "stream_options": {"include_usage": True}} | short),
        post(PATHS["chat"], {"messages": said, "max_tokens": 9, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": DAYS}}}),
        post(PATHS["text"], {"prompt": [[5, 6, 7], [300, 301]], "max_tokens": 1, "logprobs": 1, "echo": True, "n": 2}),
        post(PATHS["text"], {"prompt": "In", "regex": "[a-z]{2,5}", "max_tokens": 4}),
        post("/v1/responses", {"input": "In the", "max_output_tokens": 2, "stream": True}),
        post(PATHS["messages"], {"model": "geb-nano", "messages": said[1:]} | short), post(PATHS["ollama"], {"model": "geb-nano", "messages": said[:1], "options": {"num_predict": 2}}),
        post("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}), post("/tokenize", {"content": "In the", "with_pieces": True}),
        post("/detokenize", {"tokens": [1, 2, 300]}), post("/v1/logprobs", {"prompt": "In the beginning"}), post("/apply-template", {"messages": said}),
    ]
    counts = collections.Counter()
    known = {400, 401, 403, 404, 405, 408, 413, 414, 415, 431, 501, 505}
    for data in valid:
        found = replies(await talk(server.port, data))
        if len(found) != 1 or not (found[0].status < 300 or found[0].status == 405):
            t.fail(f"valid: {data[:60]!r}: {[(r.status, r.body[:100]) for r in found]}")

    async def one(i):
        data = mutant(valid, random.Random(i * 7919 + 1))
        if data.startswith(b"HEAD"):
            return
        try:
            got = await talk(server.port, data, 75, finish=0.3)
            try:
                statuses = [r.status for r in replies(got)]
            except Fault:
                # Nothing follows, we have said; an answer that went on may have been given up.
                statuses = [int(got[9:12])] if got.startswith(b"HTTP/1.") else None
        except (Fault, OSError) as e:
            t.fail(f"{e} for mutant {i} {data!r}")
            return
        if statuses is None or any(s >= 300 and s not in known for s in statuses):
            t.fail(f"{statuses} {got[:100]!r} for mutant {i} {data!r}")
        counts["closed" if not statuses else f"{statuses[0] // 100}xx"] += 1

    base = 0

    async def one_round(n):
        nonlocal base
        first, base = base, base + n
        await in_parallel(64, n, lambda i: one(first + i))

    async with Pulse(server) as pulse:
        await t.rounds(server, one_round, max(128, n // 5), n)
    t.amount = f"{n} mutants"
    t.say(", ".join(f"{v} {k}" for k, v in sorted(counts.items())), statuses=counts)
    t.health(pulse)


async def overload(t):
    streams, queue, times = 4, 16, t.n(10)
    rng = random.Random(7)
    server = await t.server("--streams", streams, "--queue", queue)
    cases = [case(i, rng) for i in range(32)]
    cases = [c._replace(body={k: v for k, v in c.body.items() if k != "n"}) for c in cases]
    expected = await t.alone(server, cases)
    counts, refused = collections.Counter(), []

    async def one(k):
        c, stream = cases[k], rng.random() < 0.5
        begun = time.perf_counter()
        try:
            reply = await ask(server.port, "POST", PATHS[c.kind], c.body | {"stream": stream})
            counts[reply.status] += 1
            if reply.status == (529 if c.kind == "messages" else 503):
                refused.append(time.perf_counter() - begun)
                error = json.loads(reply.body)["error"]
                if "retry-after" not in reply.headers or (c.kind != "ollama" and error["type"] != "overloaded_error"):
                    t.fail(f"refused with {reply.headers} {reply.body[:100]!r}")
            elif heard(c.kind, reply, stream) != expected[k]:
                t.fail(f"wrong answer to {c.kind} {c.body}")
            else:
                t.right += 1
        except (Fault, OSError, ValueError, KeyError, TypeError) as e:
            t.fail(f"{type(e).__name__} {e} for {c.kind} {c.body}")

    async def one_round(n):
        for _ in range(n):
            before = t.right
            await asyncio.gather(*(one(rng.randrange(len(cases))) for _ in range(10 * (streams + queue))))
            # When all come at once those that will run still wait.
            if t.right - before < queue and not t.faults:
                t.fail(f"{t.right - before} answers, though {queue} may wait")

    async with Pulse(server) as pulse:
        await t.rounds(server, one_round, max(1, times // 5), times)
    t.amount = f"{times} x {10 * (streams + queue)} at {streams} + {queue}"
    if not refused:
        t.fail("nobody was refused")
    p99 = percentile(refused, 0.99) * 1e3
    t.say("statuses " + ", ".join(f"{v} {k}" for k, v in sorted(counts.items())), statuses=counts)
    t.say(f"refused p99 {p99:.0f} ms", refused_p99_ms=p99)
    t.slow(p99 > 50, f"refused after {p99:.0f} ms")
    t.texts()
    t.health(pulse)


LONG = [Case("text", {"prompt": [300 + 7 * i, 400 + i, 500], "max_tokens": 300, "ignore_eos": True, "temperature": 1, "seed": i}, None)
        for i in range(16)]


async def begin(server, n):
    """So many streams that have begun; each is a task with all that comes."""
    begun = [asyncio.Event() for _ in range(n)]

    async def one(i):
        reader, writer = await connect(server.port)
        got = bytearray()
        try:
            writer.write(request("POST", PATHS["text"], LONG[i % 16].body | {"stream": True}))
            while piece := await asyncio.wait_for(reader.read(1 << 16), 60):
                got.extend(piece)
                if b"data:" in got:
                    begun[i].set()
        except OSError:
            pass
        except asyncio.TimeoutError:
            return None
        finally:
            begun[i].set()
            writer.close()
        return bytes(got)
    tasks = [asyncio.ensure_future(one(i)) for i in range(n)]
    await asyncio.gather(*(e.wait() for e in begun))
    return tasks


async def terminate(t):
    times, n = t.n(10), 64
    server = await t.server("--streams", 64)
    expected = await t.alone(server, LONG)
    took = []
    for _ in range(times):
        tasks = await begin(server, n)
        early = sum(task.done() for task in tasks)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        # It says so as long as it answers somebody.
        said = []
        while server.process.poll() is None and not all(task.done() for task in tasks):
            status = await server.health()
            said.append(status)
            if status == 503 and 503 not in said[:-1]:
                try:
                    reply = await ask(server.port, "POST", PATHS["text"], {"prompt": "a"})
                    if reply.status != 503 or "retry-after" not in reply.headers or json.loads(reply.body)["error"]["type"] != "unavailable_error":
                        t.fail(f"a new request: {reply.status} {reply.body[:100]!r}")
                except (Fault, OSError) as e:
                    if server.process.poll() is None and not all(task.done() for task in tasks):
                        t.fail(f"a new request: {e!r}")
            await asyncio.sleep(0.05)
        if early == n:
            t.fail("the streams were too short")
        elif said and 503 not in said:
            t.fail(f"/health said {said[:5]} while it ended")
        for i, got in enumerate(await asyncio.gather(*tasks)):
            try:
                if got is None or heard("text", replies(got)[0], True) != expected[i % 16]:
                    t.fail(f"wrong answer of stream {i}")
                else:
                    t.right += 1
            except (Fault, IndexError) as e:
                t.fail(f"stream {i} at the end: {e}")
        if code := await server.end():
            t.fail(f"exit code {code}")
        took.append(time.monotonic() - begun)
        server = await t.server("--streams", 64, port=server.port)
        await t.compare(server, LONG[0], expected[0], True)
    t.amount = f"{times} x {n} streams"
    t.say(f"ended in {max(took):.1f} s at most, again on the same port", ended_s=max(took))
    t.slow(max(took) > 31, f"ended in {max(took):.1f} s")
    t.texts()


async def kill(t):
    times, n = t.n(10), 64
    with tempfile.TemporaryDirectory() as folder:
        flags = "--streams", 64, "--cache-dir", folder, "--cache-disk", "64M"
        server = await t.server(*flags)
        rng = random.Random(8)
        # Beginnings that are worth keeping.
        common = [[rng.randrange(300, 2000) for _ in range(300)] for _ in range(4)]
        cases = [Case("text", {"prompt": common[i % 4] + [300 + i], "max_tokens": 20, "temperature": 0, "logprobs": 1}, None) for i in range(16)]
        expected, expected_long = await t.alone(server, cases), await t.alone(server, LONG)
        whole = cut = 0
        for _ in range(times):
            tasks = await begin(server, n)
            others = [asyncio.ensure_future(answer(server, c)) for c in cases]
            await asyncio.sleep(rng.random() * 0.3)
            if await server.end(signal.SIGKILL) != -signal.SIGKILL:
                t.fail(f"exit code {server.process.returncode} before it was killed")
            for i, got in enumerate(await asyncio.gather(*tasks)):
                if got is None:
                    t.fail(f"stream {i} was not told")
                    continue
                try:
                    whole += heard("text", replies(got)[0], True) == expected_long[i % 16]
                except (Fault, IndexError):
                    cut += 1
            await asyncio.gather(*others, return_exceptions=True)
            begun = time.monotonic()
            server = await t.server(*flags, port=server.port)
            t.slow(time.monotonic() - begun > 10, "a slow start")
            for i, c in enumerate(cases):
                await t.compare(server, c, expected[i], i % 2 == 0)
            await t.compare(server, LONG[0], expected_long[0], True)
        if not cut:
            t.fail("nothing was cut: the streams were too short")
        hits = (await server.metrics()).get("geb_prefix_cache_hits_total", 0)
        size = sum(f.stat().st_size for f in pathlib.Path(folder).rglob("*") if f.is_file())
        t.amount = f"{times} x {n} streams"
        t.say(f"whole {whole}, cut {cut}, tokens found {hits:g}, cache {size >> 10} KiB", whole=whole, cut=cut, hits=hits, cache=size)
        if size > 66 << 20:
            t.fail(f"{size} bytes in a cache of 64 MiB")
        t.texts()
        await t.end()


# No answer is right.
REFUSED = "refused"


def hostile():
    """Name, fields of a chat, and what is right of an answer: a check of its text, anything (None), or none at all."""
    out = []

    def schema(name, s, check=json.loads, strict=False):
        out.append((name, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": s, "strict": strict}}}, check))

    def regex(r, check=None):
        out.append((f"regex {r[:40]}", {"regex": r}, check))

    def lark(name, g):
        out.append((f"grammar {name}", {"grammar": g}, None))

    node = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}}, "required": ["v"]}
    schema("recursive", node)
    schema("always recursive", node | {"required": ["v", "next"], "additionalProperties": False})
    schema("only itself", {"$ref": "#"})
    schema("each other", {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})
    schema("trees", {"$defs": {"t": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/t"}, {"type": "null"}]}}}, "$ref": "#/$defs/t"})
    for ref in ("https://example.org/x.json", "file:///etc/passwd", "#/nowhere", "#/%ff", "http://127.0.0.1:1/", "#/$defs/" + "a/" * 500):
        schema(f"refers to {ref[:30]}", {"$ref": ref}, REFUSED)
    for n in (100, 1000, 5000):
        last = {f"a{n}": {"type": "null"}}
        for name, link in (("chain", lambda ref: ref), ("objects", lambda ref: {"type": "object", "properties": {"x": ref}, "required": ["x"]}),
                           ("lists", lambda ref: {"type": "array", "items": ref, "minItems": 1}), ("choices", lambda ref: {"anyOf": [ref, {"const": 1}]}),
                           ("both", lambda ref: {"allOf": [ref, {"type": ["null", "string"]}]})):
            defs = {f"a{i}": link({"$ref": f"#/$defs/a{i + 1}"}) for i in range(n)}
            schema(f"{name} of {n} references", {"$defs": defs | last, "$ref": "#/$defs/a0"})
        lark(f"chain of {n} rules", "start: r0\n" + "".join(f'r{i}: "a" r{i + 1}\n' for i in range(n)) + f'r{n}: "b"')
        lark(f"chain of {n} lexemes", "start: R0\n" + "".join(f'R{i}: "a" R{i + 1}\n' for i in range(n)) + f'R{n}: "b"')
        lark(f"{n} parentheses", "start: " + "(" * n + '"a"' + ")" * n)
        lark(f"{n} alternatives", "start: " + " | ".join(f'"a{i}"' for i in range(n)))
    big = {"type": "object", "properties": {f"key{i}": {"type": "string"} for i in range(1800)}}
    schema("60 KiB", big)
    schema("60 KiB, all required", big | {"required": list(big["properties"])})
    schema("more than 64 KiB", {"type": "object", "properties": {f"key{i}": {"type": "string"} for i in range(5000)}})
    schema("3 MiB", {"enum": ["x" * 1000 + str(i) for i in range(3000)]})
    schema("5,000 values", {"enum": [f"v{i}" for i in range(5000)]})
    schema("one long value", {"const": "y" * 50_000})
    deep = {"type": "string"}
    for _ in range(9):
        deep = {"type": "array", "items": deep, "minItems": 1}
    schema("nested", deep)
    for _ in range(60):
        deep = {"anyOf": [deep, {"type": "null"}]}
    schema("nested beyond the depth", deep)
    for key, kind in (("maxLength", "string"), ("minLength", "string")):
        for n in (65_536, 10_000_000, 1 << 62):
            schema(f"{key} {n}", {"type": kind, key: n})
    for n in (65_536, 1 << 40):
        schema(f"minItems {n}", {"type": "array", "items": {"type": "integer"}, "minItems": n})
        schema(f"maxItems {n}", {"type": "array", "items": {"type": "integer"}, "maxItems": n})
    for n in (-1, 0.5, "x", None, [], {}):
        schema(f"maxLength {n}", {"type": "string", "maxLength": n})
    schema("nothing fits", {"enum": []})
    schema("contradicts", {"allOf": [{"type": "string"}, {"type": "integer"}]})
    schema("from 5 to 1", {"type": "integer", "minimum": 5, "maximum": 1})
    schema("odd numbers", {"type": "number", "minimum": 1e308, "maximum": 1.1e308, "multipleOf": 1e-300})
    schema("multiples", {"type": "integer", "multipleOf": 999_999_999_937, "minimum": 1})
    schema("requires what it forbids", {"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False})
    for p in ("(a?){500}a{500}", "(a+)+$", "^(a|aa)*b$", "[", "(?=a)b", "\\1", "(?R)", "a{1000000}", "((a{100}){100}){100}", "\\p{Greek}{1,9}", "\ud83d\ude00*"):
        schema(f"pattern {p[:30]!r}", {"type": "string", "pattern": p})
    schema("many patterns", {"type": "object", "patternProperties": {f"^{'a?' * 30}{i}": {"type": "integer"} for i in range(50)}})
    schema("all combinations", {"allOf": [{"anyOf": [{"type": "object", "properties": {f"k{i}": {"const": j}}, "required": [f"k{i}"]} for j in range(4)]} for i in range(8)]})
    for s in ({"uniqueItems": True}, {"not": {}}, {"if": {}, "then": {}}, {"oneOf": [{}, {}]}, {"format": "no-such"}, {"type": "nothing"}, 5, "x", [], None):
        schema(f"strict {json.dumps(s)[:30]}", s, REFUSED, strict=True)
    for s in (True, False, {}, {"type": 5}, {"properties": 1}, {"required": "a"}, {"$defs": []}, {"x-guidance": {"max_size": -1}}):
        schema(f"odd {json.dumps(s)[:30]}", s)
    for r in ("(a?){500}a{500}", "(a?){4000}a{4000}", "(a|aa|aaa)*b", "((a*)*)*b", "a{1000000}", "(x{1,1000}){1,1000}", "(.*){100}z{100}",
              "[\\s\\S]{65536}", "a**", "(?i)(?s)(?x)[^\\W\\d_]+"):
        regex(r)
    for r in ("(", "[z-a]", "(?<=a)b", "(a)\\1", "\\", "ab\\", "*", "\\x{110000}", "\\u{d800}", "(" * 5000 + "a" + ")" * 5000):
        regex(r, REFUSED)
    for r in ("a/ | /b", "a\nb: /x/", "a\\/b", "a\\\\", "^ab$", "x.y", "ab|cd", "/", "//", '"', "#", "a{2}b{3}"):
        regex(r, functools.partial(re.fullmatch, r))
    regex("", lambda text: text == "")
    regex("a{300}", lambda text: text == "a" * 300)
    regex("|".join(f"w{i}" for i in range(2000)), lambda text: re.fullmatch(r"w\d+", text))
    lark("left recursion", 'start: start "a" | "a"')
    lark("no end", 'start: "a" start')
    lark("unknown", "start: x")
    lark("no start", 'x: "a"')
    lark("empty", "")
    lark("many rules", "start: " + " | ".join(f"r{i}" for i in range(1000)) + "\n" + "\n".join(f'r{i}: "a"~{i % 50 + 1} r{(i + 1) % 1000}?' for i in range(1000)))
    lark("import", "%import common.NOTHING\nstart: NOTHING")
    lark("repeats", 'start: ("a"~1..1000)~1..1000')
    lark("ambiguous", 'start: e\ne: e e | "a" | e "a" e | ""')
    return out


async def forms(t):
    rng = random.Random(9)
    server = await t.server("--streams", 32)
    n = t.n(1000, 24)
    cases = [case(i, rng, form=i % 3) for i in range(max(24, min(n // 5, 200)))]
    expected = await t.alone(server, cases)
    hostiles = hostile()
    counts, slowest, ended = collections.Counter(), (0, ""), set()

    async def normal(numbers):
        """Times of the answers to these, eight at once."""
        took = []

        async def client(k):
            for i in numbers:
                at = i % len(cases)
                took.append(await t.compare(server, cases[at], expected[at], k % 2 == 0))
        await asyncio.gather(*(client(k) for k in range(8)))
        return [x for x in took if x is not None]

    async def one(server, name, fields, check):
        nonlocal slowest
        body = {"messages": [{"role": "user", "content": "In"}], "max_tokens": 60, "temperature": 0, **fields}
        begun = time.perf_counter()
        try:
            reply = await ask(server.port, "POST", PATHS["chat"], body)
            found = json.loads(reply.body)
        except (Fault, OSError, ValueError) as e:
            t.fail(f"{name}: {type(e).__name__} {e}")
            return
        slowest = max(slowest, (time.perf_counter() - begun, name))
        if reply.status == 200:
            choice = found["choices"][0]
            text, end = choice["message"]["content"] or "", choice["finish_reason"]
            counts[f"200 {end}"] += 1
            if check == REFUSED:
                t.fail(f"{name}: answered {text!r}, not refused")
            elif end == "stop" and check is not None:
                try:
                    # A check says so or raises.
                    if check(text) in (None, False) and check is not json.loads:
                        t.fail(f"{name}: {text!r}")
                except ValueError:
                    t.fail(f"{name}: {text!r}")
            elif end not in ("stop", "length"):
                t.fail(f"{name}: {end}")
        elif reply.status in (400, 413):
            error = found["error"]
            complex_ = error["code"] == "constraint_too_complex"
            counts["too complex" if complex_ else reply.status] += 1
            # What is too deep is no field's fault: the body is not read.
            named = error["param"] or complex_ or "deep" in error["message"] or reply.status == 413
            if error["type"] != "invalid_request_error" or not error["message"] or not named:
                t.fail(f"{name}: refused with {error}")
        else:
            t.fail(f"{name}: status {reply.status}: {reply.body[:200]!r}")

    # Each alone first: one that ends the process is named, and left out of what follows.
    deadly, apart = collections.defaultdict(list), await t.server()
    for h in hostiles:
        known = len(t.faults)
        await one(apart, *h)
        if len(t.faults) > known:
            for _ in range(20):
                if apart.process.poll() is None:
                    await asyncio.sleep(0.05)
        if apart.process.poll() is not None:
            del t.faults[known:]
            said = re.sub(r" \(\d+\)", "", " ".join("".join(apart.said[1:]).split()))
            deadly[f"exit code {apart.process.returncode}, {said}"].append(f"{h[0]} ({len(json.dumps(h[1]))} bytes)")
            ended.add(h[0])
            apart.said.clear()
            apart = await t.server()
    for end, names in deadly.items():
        t.fail(f"the server has ended with {end}: after each of {', '.join(names)}")
    t.say(f"{len(ended)} deadly", deadly=sorted(ended))
    hostiles = [h for h in hostiles if h[0] not in ended]
    alone = await normal(iter(range(n)))
    beside = []

    async def one_round(m):
        more = True
        others = asyncio.ensure_future(normal(itertools.takewhile(lambda _: more, itertools.count())))
        await in_parallel(4, m, lambda i: one(server, *hostiles[i % len(hostiles)]))
        more = False
        beside.extend(await others)

    async with Pulse(server) as pulse:
        await t.rounds(server, one_round, 2 * len(hostiles), len(hostiles) * t.n(5))
    t.amount = f"{len(hostiles)} hostile, {t.n(5)} x; {n} answers"
    a, b = percentile(alone, 0.99), percentile(beside, 0.99)
    t.say(", ".join(f"{v} {k}" for k, v in sorted(counts.items(), key=str)), statuses={str(k): v for k, v in counts.items()})
    t.say(f"slowest {slowest[0]:.1f} s ({slowest[1]}), others p99 {a * 1e3:.0f} -> {b * 1e3:.0f} ms", slowest=slowest, others_p99_ms=[a * 1e3, b * 1e3])
    t.slow(slowest[0] > 3, f"{slowest[1]} took {slowest[0]:.1f} s")
    t.slow(b > 1.5 * a, f"others p99 {b / a:.1f} x")
    t.texts()
    t.health(pulse)


# Row, its seconds at scale 0 and what scale 1 adds.
ROWS = [(mixed, 120, 1500), (leave, 120, 1500), (readers, 240, 0), (slow, 180, 60), (malformed, 180, 600), (mutants, 150, 900),
        (overload, 90, 200), (terminate, 90, 400), (kill, 120, 400), (forms, 420, 1500)]


async def run(args, row, limit):
    t = Trial(args, row.__name__)
    begun = time.monotonic()

    async def whole():
        await row(t)
        await t.end()
    try:
        await asyncio.wait_for(whole(), limit)
    except asyncio.TimeoutError:
        t.fail(f"no end after {limit:.0f} s")
    except Exception as e:
        # The first thing that went wrong: a fault of the server, or of this script.
        at = traceback.extract_tb(e.__traceback__)[-1]
        t.fail(f"{type(e).__name__}: {e} ({at.name}, line {at.lineno})")
        ends = [s.process.returncode for s in t.servers if s.process.poll() not in (None, 0)]
        if ends:
            t.fail(f"servers have ended with {ends}: {''.join(t.servers[-1].said)[-300:]}")
    finally:
        t.kill()
    return t, time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geb", type=pathlib.Path, default=ROOT / "target/release/geb-run", help="geb-run")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full amounts (0.01: a quick look)")
    parser.add_argument("--only", default="", metavar="NAME,...", help=", ".join(r.__name__ for r, _, _ in ROWS))
    parser.add_argument("--strict-times", action="store_true", help="fail on times, too: on a machine that does nothing else")
    parser.add_argument("--json", action="store_true", help="print one list of objects at the end")
    args = parser.parse_args()
    args.geb = args.geb.resolve()
    names = set(filter(None, args.only.split(",")))
    if unknown := names - {r.__name__ for r, _, _ in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(8192, hard)) if hard > 0 else soft, hard))
    rows, failed = [], 0
    for row, least, more in ROWS:
        if names and row.__name__ not in names:
            continue
        t, seconds = asyncio.run(run(args, row, least + more * args.scale))
        failed += bool(t.faults)
        measured = {}
        for _, values in t.said:
            measured |= values
        rows.append({"name": t.name, "amount": t.amount, "passed": not t.faults, "seconds": seconds, **measured, "faults": t.faults})
        if not args.json:
            said = "; ".join(what for what, _ in t.said)
            print(f"{'failed' if t.faults else 'passed'}  {t.name:9} {seconds:6.1f} s  {t.amount}: {said}", flush=True)
            for fault, n in list(collections.Counter(t.faults).items())[:8]:
                print(f"        {n} x {fault[:1500]}", flush=True)
            if len(set(t.faults)) > 8:
                print(f"        and {len(set(t.faults)) - 8} more", flush=True)
    if args.json:
        print(json.dumps(rows))
    else:
        print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(failed > 0 or not rows)


if __name__ == "__main__":
    main()
