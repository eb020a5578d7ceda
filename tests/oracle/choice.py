#!/usr/bin/env python3
"""Answers multiple-choice questions with llama.cpp (PyPI `xllamacpp`) and compares with `geb-run eval choice`.

    python3 tests/oracle/choice.py GEB_RUN MODEL.gguf MMLU_DIR [--shots 5] [--questions 200] [--threads 2]
    python3 tests/oracle/choice.py GEB_RUN MODEL.gguf MMLU_DIR --endings --questions 40

Prompts are built here from the CSV files; llama.cpp cuts them into tokens itself. For letters one distribution
per question is asked for and the entries ` A` to ` D` are looked up by their text. `--endings` asks the same
questions for the likelihood of the answers' texts (several tokens each, one request per token).
Needs: pip install xllamacpp. A folder of questions: tests/oracle/mmlu_dev.py.
"""
import argparse, csv, glob, json, os, subprocess, tempfile
import xllamacpp as xlc

LETTERS = "ABCD"


def read(folder, split):
    out = {}
    for path in sorted(glob.glob(os.path.join(folder, split, f"*_{split}.csv"))):
        subject = os.path.basename(path)[: -len(f"_{split}.csv")]
        with open(path, encoding="utf-8", newline="") as f:
            out[subject] = list(csv.reader(f))
    return out


def block(row):
    return row[0].strip() + "".join(f"\n{l}. {a}" for l, a in zip(LETTERS, row[1:5])) + "\nAnswer:"


def prompts(folder, shots):
    """(subject, index, answer, prompt, the four answers)"""
    tests, devs = read(folder, "test"), read(folder, "dev") if shots else {}
    for subject, rows in tests.items():
        head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        for index, row in enumerate(rows):
            others = [r for r in devs.get(subject, [])[: shots + 1] if block(r) != block(row)][:shots]
            before = head + "".join(f"{block(r)} {r[5]}\n\n" for r in others)
            yield subject, index, LETTERS.index(row[5]), before + block(row), row[0].strip(), row[1:5]


class Peer:
    def __init__(self, model, ctx, threads):
        p = xlc.CommonParams()
        p.model.path = model
        p.n_ctx, p.n_parallel, p.cpuparams.n_threads, p.warmup = ctx, 1, threads, False
        self.server = xlc.Server(p)

    def top(self, prompt, n):
        """Distribution of the next token before sampling: [(id, text, log-probability)]"""
        # What is sampled does not matter, but the server reports nothing for half a character: the bias
        # (after the reported probabilities) makes it the token 28, an ordinary one.
        body = {"prompt": prompt, "max_tokens": 1, "n_probs": n, "cache_prompt": True, "temperature": 0.0,
                "samplers": [], "logit_bias": [[28, 1000.0]]}
        reply = self.server.handle_completions(body)
        entries = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return [(e["id"], e["token"], e["logprob"]) for e in entries]

    def letters(self, prompt):
        for n in (2000, 1 << 20):
            found = {text: lp for _, text, lp in reversed(self.top(prompt, n))}
            if all(f" {l}" in found for l in LETTERS):
                return [found[f" {l}"] for l in LETTERS]
        raise SystemExit("a letter is no token of this vocabulary")

    def ending(self, tokenize, context, ending):
        alone, ids = tokenize(context), tokenize(context + ending)
        start = next((i for i, (a, b) in enumerate(zip(alone, ids)) if a != b), len(alone))
        total = 0.0
        for i in range(max(start, 1), len(ids)):
            total += {e[0]: e[2] for e in self.top(ids[:i], 1 << 20)}[ids[i]]
        return total


def geb(a, extra):
    words = [a.geb, "eval", "choice", "-m", a.model, "--json", "--quiet", "--threads", str(a.threads), "--ctx", str(a.ctx)]
    return json.loads(subprocess.run(words + extra, check=True, stdout=subprocess.PIPE).stdout)["records"]


def margin(values):
    first, second = sorted(values)[::-1][:2]
    return first - second


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("geb"), ap.add_argument("model"), ap.add_argument("folder")
    ap.add_argument("--shots", type=int, default=5)
    ap.add_argument("--questions", type=int, default=200)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--ctx", type=int, default=4096)
    ap.add_argument("--endings", action="store_true")
    a = ap.parse_args()
    asked = list(prompts(a.folder, a.shots))[: a.questions]
    if a.endings:
        with tempfile.TemporaryDirectory() as d:
            with open(os.path.join(d, "all.jsonl"), "w", encoding="utf-8") as f:
                for _, _, answer, _, stem, answers in asked:
                    context = f"Question: {stem}\nAnswer:"
                    f.write(json.dumps({"context": context, "endings": answers, "answer": answer}) + "\n")
            ours = geb(a, ["--format", "jsonl", d])
    else:
        by_name = {(r["subject"], r["index"]): r for r in geb(a, ["--format", "mmlu", "--shots", str(a.shots), a.folder])}
        ours = [by_name[q[0], q[1]] for q in asked]

    def tokenize(text):
        words = [a.geb, "tokenize", "-m", a.model, "--json", "--no-special", "-"]
        return json.loads(subprocess.run(words, input=text, text=True, check=True, stdout=subprocess.PIPE).stdout)["ids"]

    peer = Peer(a.model, a.ctx, a.threads)
    same = same_norm = right = right_peer = 0
    largest, gaps, differ = 0.0, [], []
    for (subject, index, answer, prompt, stem, answers), r in zip(asked, ours):
        assert r["answer"] == answer, (subject, index)
        if a.endings:
            theirs = [peer.ending(tokenize, f"Question: {stem}\nAnswer:", f" {x}") for x in answers]
            norm = [t / len(x) for t, x in zip(theirs, answers)]
        else:
            theirs = norm = peer.letters(prompt)
        best, best_norm = theirs.index(max(theirs)), norm.index(max(norm))
        gap = max(abs(x - y) for x, y in zip(theirs, r["log_probs"]))
        gaps.append(gap)
        same += best == r["chosen"]
        same_norm += best_norm == r["chosen_norm"]
        right += r["chosen"] == answer
        right_peer += best == answer
        if best != r["chosen"] or best_norm != r["chosen_norm"]:
            differ.append({"subject": subject, "index": index, "ours": r["chosen"], "peer": best,
                           "margin_ours": round(margin(r["log_probs"]), 4), "margin_peer": round(margin(theirs), 4),
                           "largest_difference": round(gap, 4)})
    n = len(asked)
    print(json.dumps({"model": os.path.basename(a.model), "mode": "endings" if a.endings else f"{a.shots} shots",
                      "questions": n, "agreement": same / n, "agreement_norm": same_norm / n,
                      "accuracy": right / n, "accuracy_peer": right_peer / n,
                      "median_abs_dlogp": sorted(gaps)[n // 2], "max_abs_dlogp": max(gaps)}))
    for d in differ:
        print(json.dumps(d))


if __name__ == "__main__":
    main()
