#!/usr/bin/env python3
"""Random PEFT adapters (LoRA, DoRA) of every matrix: merged by NumPy, by `geb-quantize merge`, and run beside weights.

    python3 tests/oracle/adapters.py GEB_RUN GEB_QUANTIZE HF_FOLDER [--rank 8] [--tokens 64] [--seed 1] [--peer]

Prints, per adapter: the largest difference between the merged tensors of NumPy and of geb-quantize; and for each type of
the base, the mean KL divergence of base + adapter from the F32 model merged by NumPy, beside that of the type alone.
--peer adds llama.cpp (PyPI xllamacpp) with the same GGUF adapter on the same F32 base (LoRA only).
Needs: pip install numpy safetensors gguf.
"""
import argparse, glob, json, os, shutil, subprocess, tempfile
import numpy as np
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file


def run(*words):
    subprocess.run([str(w) for w in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weights(folder):
    out = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        out.update(load_file(path))
    return out


def adapter(base, rank, seed, dora, folder):
    """A PEFT folder, and the weights it stands for: W + s B A, with m: m (W + s B A) / |W + s B A|."""
    rng, tensors, merged, alpha = np.random.default_rng(seed), {}, dict(base), 2.0 * rank
    for name, w in base.items():
        if w.ndim != 2 or "embed" in name:
            continue
        w = w.astype(np.float64)
        a = rng.uniform(-1, 1, (rank, w.shape[1])).astype(np.float32)
        b = (rng.uniform(-1, 1, (w.shape[0], rank)) * w.std() * 0.3 / rank**0.5).astype(np.float32)
        new = w + alpha / rank * b.astype(np.float64) @ a.astype(np.float64)
        stem = "base_model.model." + name.removesuffix(".weight")
        tensors[stem + ".lora_A.weight"], tensors[stem + ".lora_B.weight"] = a, b
        if dora:
            m = (np.linalg.norm(w, axis=1) * rng.uniform(0.7, 1.3, w.shape[0])).astype(np.float32)
            tensors[stem + ".lora_magnitude_vector"] = m
            new *= (m / np.linalg.norm(new, axis=1))[:, None]
        merged[name] = new.astype(np.float32)
    os.makedirs(folder)
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"))
    json.dump({"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_dora": dora, "bias": "none"},
              open(os.path.join(folder, "adapter_config.json"), "w"))
    return merged


def checkpoint(source, weights, folder):
    skip = shutil.ignore_patterns("*.safetensors", "*.index.json")
    shutil.copytree(source, folder, ignore=skip)
    save_file(weights, os.path.join(folder, "model.safetensors"))


def logprobs(geb, model, ids, extra, folder):
    out = os.path.join(folder, "logits.safetensors")
    run(geb, "logits", "-m", model, "--tokens", ",".join(map(str, ids)), "--out", out, *extra)
    x = load_file(out)["logits"].astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def kl(p, q):
    return float((np.exp(p) * (p - q)).sum(1).mean()), float((p.argmax(1) == q.argmax(1)).mean())


def peer(model, lora, ids):
    import xllamacpp as xlc
    p = xlc.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.warmup = model, len(ids) + 16, 1, False
    info = xlc.CommonAdapterLoraInfo()
    info.path, info.scale = lora, 1.0
    p.lora_adapters = [info]
    server, rows = xlc.Server(p), []
    for i in range(1, len(ids) + 1):
        reply = server.handle_completions({"prompt": ids[:i], "max_tokens": 1, "n_probs": 5, "temperature": 0.0,
                                           "samplers": [], "logit_bias": [[ids[0], 1000.0]]})
        rows.append([(e["id"], e["logprob"]) for e in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]])
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("geb_run"), ap.add_argument("geb_quantize"), ap.add_argument("source")
    ap.add_argument("--rank", type=int, default=8), ap.add_argument("--tokens", type=int, default=64)
    ap.add_argument("--seed", type=int, default=1), ap.add_argument("--peer", action="store_true")
    a = ap.parse_args()
    base = weights(a.source)
    with tempfile.TemporaryDirectory() as d:
        at = lambda name: os.path.join(d, name)
        types = ["f32", "q8_0", "q4_0"]
        for t in types:
            run(a.geb_quantize, a.source, at(t), "--type", t)
        vocab = next(t for t in GGUFReader(at("f32")).tensors if t.name == "token_embd.weight").shape[1]
        ids = [int(i * 7919 % vocab) for i in range(a.tokens)]
        plain = logprobs(a.geb_run, at("f32"), ids, [], d)
        for kind in ["lora", "dora"]:
            merged = adapter(base, a.rank, a.seed, kind == "dora", at(kind))
            checkpoint(a.source, merged, at(kind + "-numpy"))
            run(a.geb_quantize, at(kind + "-numpy"), at(kind + "-numpy.gguf"), "--type", "f32")
            run(a.geb_quantize, "adapter", at(kind), at(kind + ".gguf"), "--base", a.source)
            run(a.geb_quantize, "merge", a.source, at(kind + ".gguf"), at(kind + "-merged.gguf"), "--type", "f32")
            ours = {t.name: t.data for t in GGUFReader(at(kind + "-merged.gguf")).tensors}
            diffs = [np.abs(t.data - ours[t.name]).max() for t in GGUFReader(at(kind + "-numpy.gguf")).tensors]
            want = logprobs(a.geb_run, at(kind + "-numpy.gguf"), ids, [], d)
            line = {"adapter": kind, "change_kl": kl(want, plain)[0], "merge_max_difference": float(max(diffs))}
            for t in types:
                alone = kl(plain, logprobs(a.geb_run, at(t), ids, [], d))
                beside = kl(want, logprobs(a.geb_run, at(t), ids, ["--lora", at(kind + ".gguf")], d))
                line[t] = {"kl": beside[0], "top1": beside[1], "kl_of_type_alone": alone[0]}
            if a.peer and kind == "lora":
                us = logprobs(a.geb_run, at("f32"), ids, ["--lora", at("lora.gguf")], d)
                rows = peer(at("f32"), at("lora.gguf"), ids)
                line["llama.cpp"] = {"max_abs_dlogp": max(abs(us[i, t] - p) for i, r in enumerate(rows) for t, p in r[:1]),
                                     "top1": float(np.mean([us[i].argmax() == r[0][0] for i, r in enumerate(rows)]))}
            print(json.dumps(line))


if __name__ == "__main__":
    main()
