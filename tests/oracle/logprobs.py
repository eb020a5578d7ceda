#!/usr/bin/env python3
"""Compares log-probabilities of `geb-run logits` with llama.cpp (PyPI `xllamacpp`) on the same file.

    python3 tests/oracle/logprobs.py GEB_RUN MODEL.gguf TEXT [--positions 200] [--skip CHARS] [--threads 2]
                                     [--exact MODEL-f32.gguf] [--top1] [--answers]

For each position: the next-token distribution of both, top-1 agreement and |difference| of the
log-probability of the text's own next token. --exact names the same weights decoded to F32
(`geb-quantize --type f32 --allow-requantize`): run without rounded activations, they tell which of the two
strays. --top1 asks the peer for its best tokens only, which is much faster, and prints agreements alone.
--answers reads TEXT as prompts, one per line, lets `geb-run generate --temp 0` answer each, and compares at the
answers' positions alone: what a user sees. Needs: pip install xllamacpp numpy safetensors.
"""
import argparse, json, subprocess, tempfile, os
import numpy as np
import xllamacpp as xlc
from safetensors.numpy import load_file


def ours(geb, model, ids):
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "logits.safetensors")
        subprocess.run([geb, "logits", "-m", model, "--tokens", ",".join(map(str, ids)), "--out", path], check=True)
        x = load_file(path)["logits"].astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def answered(geb, model, prompts, positions):
    """(token ids, index of the first generated one) of greedy answers, `positions` generated tokens in all."""
    each = -(-positions // len(prompts))
    for prompt in prompts:
        run = [geb, "generate", "-m", model, "--temp", "0", "-n", str(min(each, positions)), "--json", "-p", prompt]
        answer = json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
        positions -= len(answer["ids"])
        yield answer["prompt_ids"] + answer["ids"], len(answer["prompt_ids"])


def tokens(geb, model, text):
    run = [geb, "tokenize", "-m", model, "--json", "--plain", "-"]
    return json.loads(subprocess.run(run, input=text, text=True, check=True, stdout=subprocess.PIPE).stdout)["ids"]


def theirs(model, ids, first, threads, vocab, plain, wanted):
    # Probabilities are those before sampling. What is sampled is forced to the token `plain`, because
    # the server reports none for an end token or for half a character.
    p = xlc.CommonParams()
    p.model.path = model
    p.n_ctx, p.n_parallel, p.cpuparams.n_threads = len(ids) + 16, 1, threads
    p.warmup = False
    server = xlc.Server(p)
    rows = []
    for i in range(first, len(ids) + 1):
        body = {"prompt": ids[:i], "max_tokens": 1, "n_probs": wanted, "cache_prompt": True, "temperature": 0.0,
                "samplers": [], "logit_bias": [[plain, 1000.0]]}
        reply = server.handle_completions(body)
        row = np.full(vocab, -np.inf)
        for e in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            row[e["id"]] = e["logprob"]
        rows.append(row)
    return np.array(rows)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("geb"), ap.add_argument("model"), ap.add_argument("text")
    ap.add_argument("--positions", type=int, default=200)
    ap.add_argument("--skip", type=int, default=0)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--exact")
    ap.add_argument("--top1", action="store_true")
    ap.add_argument("--answers", action="store_true")
    a = ap.parse_args()
    text = open(a.text, encoding="utf-8").read()
    if a.answers:
        sequences = list(answered(a.geb, a.model, text.splitlines(), a.positions))
    else:
        sequences = [(tokens(a.geb, a.model, text[a.skip:a.skip + 4 * a.positions])[: a.positions + 1], 1)]
    plain = tokens(a.geb, a.model, "the")[0]
    us, them, exact, nxt = [], [], [], []
    for ids, first in sequences:
        us.append(ours(a.geb, a.model, ids)[first - 1:-1])
        vocab = us[-1].shape[1]
        them.append(theirs(a.model, ids[:-1], first, a.threads, vocab, plain, 8 if a.top1 else vocab))
        if a.exact:
            exact.append(ours(a.geb, a.exact, ids)[first - 1:-1])
        nxt += ids[first:]
    us, them, nxt = np.concatenate(us), np.concatenate(them), np.array(nxt)
    rows = np.arange(len(nxt))
    top1 = (us.argmax(1) == them.argmax(1)).mean()
    line = {"text": os.path.basename(a.text), "positions": len(nxt), "top1_agreement": float(top1)}
    if a.answers:
        line["own_choice"] = float((us.argmax(1) == nxt).mean())
    names = {"geb": us, "peer": them}
    exact = np.concatenate(exact) if a.exact else None
    for name, x in names.items() if a.exact else ():
        line[f"top1_{name}_exact"] = float((x.argmax(1) == exact.argmax(1)).mean())
    if a.top1:
        return print(json.dumps(line))
    dp = np.abs(us[rows, nxt] - them[rows, nxt])
    kl = (np.exp(them) * np.where(np.isfinite(them), them - us, 0)).sum(1)
    line |= {"mean_abs_dlogp_next": float(dp.mean()), "max_abs_dlogp_next": float(dp.max()),
             "mean_kl": float(kl.mean()), "missing_in_peer": int((~np.isfinite(them)).sum())}
    for name, x in names.items() if a.exact else ():
        line[f"kl_{name}_exact"] = float((np.exp(exact) * np.where(np.isfinite(x), exact - x, 0)).sum(1).mean())
    print(json.dumps(line))


if __name__ == "__main__":
    main()
