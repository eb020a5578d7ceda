#!/usr/bin/env python3
"""Recomputes KL divergence, top-1, top-5 and perplexity of a pair of models from raw logits, in NumPy F64.

    python3 tests/oracle/kld.py GEB_RUN BASE.gguf MODEL.gguf TEXT [--windows 4] [--ctx 512]
                                [--llama-perplexity PROGRAM]

The logits come from `geb-run logits`; what `geb-run eval perplexity --base --count half` says of the same
windows must agree to 1e-5 of each number. With --llama-perplexity the same windows go through llama.cpp as
well: it rounds activations and stored logits differently, so it is an independent estimate, printed beside.
Text: at most 1 MiB. Needs: pip install numpy safetensors.
"""
import argparse, json, os, re, subprocess, sys, tempfile
import numpy as np
from safetensors.numpy import load_file


def run(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def log_probs(geb, model, window, ctx):
    """[tokens, vocabulary], F64."""
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "l.safetensors")
        run(geb, "logits", "-m", model, "--tokens", ",".join(map(str, window)), "--ctx", str(ctx), "--out", path, "-q")
        x = load_file(path)["logits"].astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def top(row, k):
    return np.argsort(-row, kind="stable")[:k]


def recompute(a, ids):
    """Lines of (nll of base, nll of model, KL, same top-1, share of top-5), one per counted token."""
    lines = []
    for w in range(a.windows):
        window = np.array(ids[w * a.ctx:(w + 1) * a.ctx])
        half = a.ctx // 2
        p, q = (log_probs(a.geb, m, window, a.ctx)[half - 1:-1] for m in (a.base, a.model))
        kl = (np.exp(p) * (p - q)).sum(1)
        for i, target in enumerate(window[half:]):
            tp, tq = top(p[i], 5), top(q[i], 5)
            same5 = len(set(tp) & set(tq)) / 5
            lines.append((-p[i, target], -q[i, target], kl[i], tp[0] == tq[0], same5))
    return np.array(lines, dtype=np.float64)


def summary(x, windows):
    b, c, kl = x[:, 0], x[:, 1], x[:, 2]
    delta = np.exp(-c) - np.exp(-b)
    paired = (c - b).reshape(windows, -1).mean(1)
    return {
        "base perplexity": np.exp(b.mean()), "perplexity": np.exp(c.mean()),
        "ratio": np.exp(paired.mean()), "ratio error": np.exp(paired.mean()) * paired.std(ddof=1) / windows ** 0.5,
        "KL mean": kl.mean(), "KL error": kl.reshape(windows, -1).mean(1).std(ddof=1) / windows ** 0.5,
        "KL median": np.quantile(kl, 0.5), "KL 99 %": np.quantile(kl, 0.99), "KL max": kl.max(),
        "top-1": x[:, 3].mean(), "top-5": x[:, 4].mean(),
        "delta p mean": delta.mean(), "delta p rms": (delta ** 2).mean() ** 0.5, "delta p 95 %": np.quantile(delta, 0.95),
    }


def said(a):
    r = json.loads(run(a.geb, "eval", "perplexity", "-m", a.model, "--base", a.base, "-f", a.text, "--ctx", str(a.ctx),
                       "--windows", str(a.windows), "--count", "half", "--json", "-q"))
    base, model = r["models"]
    d = model["against_base"]
    return {
        "base perplexity": base["perplexity"]["value"], "perplexity": model["perplexity"]["value"],
        "ratio": d["perplexity_ratio"]["value"], "ratio error": d["perplexity_ratio"]["error"],
        "KL mean": d["kl"]["mean"]["value"], "KL error": d["kl"]["mean"]["error"],
        "KL median": d["kl"]["median"]["value"], "KL 99 %": d["kl"]["q99"]["value"], "KL max": d["kl"]["max"],
        "top-1": d["top1"]["value"], "top-5": d["top5"]["value"],
        "delta p mean": d["delta_p"]["mean"]["value"], "delta p rms": d["delta_p"]["rms"]["value"],
        "delta p 95 %": d["delta_p"]["q95"]["value"],
    }


def llama(a):
    """Mean KL and share of the same most probable token, as llama-perplexity prints them."""
    with tempfile.TemporaryDirectory() as d:
        common = [a.llama_perplexity, "-f", a.text, "-c", str(a.ctx), "--chunks", str(a.windows), "-t", "2",
                  "--kl-divergence-base", os.path.join(d, "base")]
        quiet = {"stderr": subprocess.STDOUT}
        run(*common, "-m", a.base, **quiet)
        text = run(*common, "-m", a.model, "--kl-divergence", **quiet)
    number = lambda name: re.search(name + r"\s*:\s*([-\d.]+)\s*±\s*([-\d.]+)", text).groups()
    return {"KL mean": number("Mean *KLD"), "top-1 (%)": number("Same top p")}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("geb", "base", "model", "text"):
        ap.add_argument(name)
    ap.add_argument("--windows", type=int, default=4)
    ap.add_argument("--ctx", type=int, default=512)
    ap.add_argument("--llama-perplexity")
    a = ap.parse_args()
    text = open(a.text, encoding="utf-8").read()
    ids = json.loads(run(a.geb, "tokenize", "-m", a.model, "--json", "--plain", "-", input=text))["ids"]
    if len(ids) < a.windows * a.ctx:
        sys.exit(f"{len(ids)} tokens, {a.windows} windows of {a.ctx} wanted")
    want, got, bad = summary(recompute(a, ids), a.windows), said(a), 0
    for name, value in want.items():
        off = abs(got[name] - value) / max(abs(value), 1e-3 if name.startswith("delta") else 1e-12)
        bad += off > 1e-5
        print(f"{name:16} NumPy {value:.9f}   geb {got[name]:.9f}   relative difference {off:.1e}")
    if a.llama_perplexity:
        for name, (value, error) in llama(a).items():
            print(f"{name:16} llama.cpp {value} ± {error}")
    sys.exit(f"{bad} numbers differ by more than 1e-5" if bad else 0)


if __name__ == "__main__":
    main()
