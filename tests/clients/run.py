#!/usr/bin/env python3
"""Asks `geb-run serve` with the clients that people use, unmodified, each in an environment of its own.

    python3 tests/clients/run.py --geb target/release/geb-run            those of the gate
    python3 tests/clients/run.py --geb target/release/geb-run --all      and those of the night
    python3 tests/clients/run.py --geb target/release/geb-run ollama     by name

The built-in model is quantized by the `geb-quantize` beside `--geb` and served. Prints a line for each client and a
closing one; fails if a client fails. What cannot be installed here is skipped, and fails where `CI` is `true`.
"""
import argparse, os, pathlib, re, shutil, subprocess, sys, threading, time, venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"

# Name, packages, script, and whether the gate runs it.
CLIENTS = [
    ("openai", ["openai==3.57.0"], "with_openai.py", True),
    ("openai-2", ["openai==2.54.0"], "with_openai.py", True),
    ("openai-js", ["openai@6.49.0"], "with_openai.mjs", True),
    ("anthropic", ["anthropic==2.14.0"], "with_anthropic.py", True),
    ("anthropic-js", ["@anthropic-ai/sdk@1.14.0"], "with_anthropic.mjs", False),
    ("ollama", ["ollama==0.6.3"], "with_ollama.py", True),
    ("ollama-js", ["ollama@0.6.4"], "with_ollama.mjs", False),
    ("lm-eval", ["lm-eval[api]==0.4.13"], "with_lm_eval.py", True),
    ("litellm", ["litellm==1.110.2"], "with_litellm.py", False),
    ("langchain-openai", ["langchain-openai==1.7.4"], "with_langchain.py", False),
    ("pydantic-ai", ["pydantic-ai-slim[openai]==2.31.1"], "with_pydantic_ai.py", False),
    ("instructor", ["instructor==1.17.0"], "with_instructor.py", False),
]


class Missing(Exception):
    """Something that this machine does not have."""


def install(folder, packages, script):
    """The command that runs the script with these packages, which are installed in this folder once."""
    marker, wanted = folder / "installed", " ".join(packages)
    is_js = script.endswith(".mjs")
    if not (marker.exists() and marker.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if is_js:
            if not shutil.which("npm"):
                raise Missing("npm")
            (folder / "package.json").write_text('{"private": true}')
            command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
        else:
            venv.create(folder, with_pip=True)
            command = [folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *packages]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Missing(f"{wanted}: {done.stdout.strip()[-300:]}")
        marker.write_text(wanted)
    if not is_js:
        return [folder / "bin" / "python", HERE / script]
    # Modules are looked for beside the file.
    copy = folder / script
    shutil.copy(HERE / script, copy)
    return ["node", copy]


class Server:
    """A server of the built-in model on a free port."""

    def __init__(self, geb, quantize, folder):
        self.model = folder / "geb-nano.gguf"
        subprocess.run([quantize, ROOT / "assets/geb-nano/hf", self.model, "--type", "q8_0"], check=True, capture_output=True)
        template = folder / "template.jinja"
        template.write_text(TEMPLATE)
        self.process = subprocess.Popen(
            [geb, "serve", "-m", self.model, "--chat-template", template, "--port", "0", "--log", "off"],
            stderr=subprocess.PIPE, text=True)
        self.said, self.url = [], None
        threading.Thread(target=self.listen, daemon=True).start()
        end = time.monotonic() + 60
        while self.url is None:
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit("the server did not start: " + "".join(self.said))
            time.sleep(0.05)

    def listen(self):
        for line in self.process.stderr:
            self.said.append(line)
            found = re.search(r"http://\S+", line)
            if found and self.url is None:
                self.url = found.group()

    def end(self):
        self.process.terminate()
        return self.process.wait(60)


def run(name, packages, script, server, args):
    """Outcome and what there is to say."""
    try:
        command = install(args.packages / name, packages, script)
    except Missing as e:
        return ("failed" if os.environ.get("CI") == "true" else "skipped"), f"needs {e}"
    # Nothing of the user's own settings, and nothing from outside.
    env = {k: v for k, v in os.environ.items() if not re.search("OPENAI|ANTHROPIC|OLLAMA|PROXY|PYTHON", k, re.I)}
    env |= {"GEB_URL": server.url, "GEB_NAME": server.model.stem, "GEB_FILE": str(server.model), "GEB_RUN": str(args.geb),
            "PYTHONDONTWRITEBYTECODE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1", "NO_PROXY": "*"}
    try:
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return "failed", "no end after 600 s"
    if server.process.poll() is not None:
        return "failed", "the server has ended: " + "".join(server.said)[-2000:]
    lines = done.stdout.strip().splitlines() or [""]
    return ("failed", "\n" + "\n".join(lines[-40:])) if done.returncode else ("passed", lines[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geb", type=pathlib.Path, required=True, help="geb-run")
    parser.add_argument("--quantize", type=pathlib.Path, help="geb-quantize, if it is not beside it")
    parser.add_argument("--packages", type=pathlib.Path, default=ROOT / "target" / "clients", help="where clients are installed")
    parser.add_argument("--all", action="store_true", help="those of the night, too")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(c[0] for c in CLIENTS))
    args = parser.parse_args()
    args.geb, args.packages = args.geb.resolve(), args.packages.resolve()
    unknown = set(args.names) - {c[0] for c in CLIENTS}
    if unknown:
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    folder = ROOT / "target" / "clients" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    quantize = (args.quantize or args.geb.with_name("geb-quantize")).resolve()
    server = Server(args.geb, quantize, folder)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    try:
        for name, packages, script, gate in CLIENTS:
            if not (name in args.names if args.names else gate or args.all):
                continue
            start = time.monotonic()
            outcome, said = run(name, packages, script, server, args)
            counts[outcome] += 1
            print(f"{outcome:8} {name:17} {time.monotonic() - start:5.1f} s  {said}", flush=True)
    finally:
        code = server.end()
    if code:
        counts["failed"] += 1
        print(f"failed   the server ended with {code}: {''.join(server.said)[-2000:]}")
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    sys.exit(counts["failed"] > 0 or not counts["passed"])


if __name__ == "__main__":
    main()
