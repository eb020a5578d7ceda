"""Ids of generated texts by the reference libraries, family by family, for `tests/oracle/vocabs.rs` to compare with ours.

    python3 tests/oracle/tokenizers_walk.py --quantize target/release/geb-quantize OUT FOLDER...
    GEB_VOCABS=OUT cargo test --test oracle -- --nocapture

A FOLDER holds `tokenizer.json` (encoded by the package `tokenizers`, special tokens included) or a SentencePiece model
(encoded by the package `sentencepiece`; its texts hold no special tokens). Each is converted with a model of one layer of
random weights around it: OUT/NAME.gguf. 2,000 texts are made from its own vocabulary: OUT/NAME.gguf.json, a list of texts
with ids.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import save_file


def weights(folder, rows, eos):
    """A Llama of one layer and width 32."""
    e, f = 32, 32
    r = np.random.default_rng(0)
    t = lambda *shape: (r.standard_normal(shape) * 0.02).astype(np.float32)
    p = "model.layers.0."
    tensors = {"model.embed_tokens.weight": t(rows, e), "model.norm.weight": t(e), p + "input_layernorm.weight": t(e),
               p + "post_attention_layernorm.weight": t(e), p + "mlp.gate_proj.weight": t(f, e), p + "mlp.up_proj.weight": t(f, e),
               p + "mlp.down_proj.weight": t(e, f)}
    for name in "qkvo":
        tensors[p + f"self_attn.{name}_proj.weight"] = t(e, e)
    save_file(tensors, os.path.join(folder, "model.safetensors"))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": e, "intermediate_size": f,
              "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": rows,
              "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
              "rope_theta": 10000.0, "eos_token_id": eos}
    json.dump(config, open(os.path.join(folder, "config.json"), "w"))


def texts(pieces, count, seed):
    """Runs, digits, spaces, composed and decomposed letters, any characters, and pieces of the vocabulary."""
    r = random.Random(seed)
    odd = ["é", "e\u0301", "Å", "A\u030a", "\u1112\u1161\u11ab", "한", "ﬁ", "½", "²", "İ", "ſ", "…", "'s", "'LL", "\u200b", "\ufeff"]
    out = []
    while len(out) < count:
        parts = []
        for _ in range(r.randint(1, 10)):
            kind = r.randrange(9)
            if kind < 3:
                parts.append(r.choice(pieces))
            elif kind == 3:
                parts.append("".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(1, 8))))
            elif kind == 4:
                parts.append("".join(r.choice("0123456789") for _ in range(r.randint(1, 8))))
            elif kind == 5:
                parts.append(r.choice(["a", " ", "\n", "=", "1", "的", "\t"]) * r.randint(1, 40))
            elif kind == 6:
                parts.append(r.choice([" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", " \n "]))
            elif kind == 7:
                parts.append(r.choice(odd))
            else:
                parts.append("".join(chr(r.choice([r.randint(0x80, 0x900), r.randint(0x4E00, 0x9FA5), r.randint(0x10000, 0x1FAFF)])) for _ in range(r.randint(1, 4))))
        text = "".join(parts)
        if "\0" not in text:
            out.append(text)
    return out


def reference(folder):
    """File, encoder, texts of pieces, number of rows, a special token to end texts with."""
    path = os.path.join(folder, "tokenizer.json")
    models = [f for f in sorted(os.listdir(folder)) if f.endswith(".model")]
    if models:
        import sentencepiece
        sp = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, models[0]))
        n = sp.get_piece_size()
        keep = [i for i in range(n) if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i))]
        return models[0], lambda t: sp.encode(t, out_type=int), [sp.id_to_piece(i).replace("▁", " ") for i in keep], n, 2
    import tokenizers
    t = tokenizers.Tokenizer.from_file(path)
    t.no_padding()
    t.no_truncation()
    added = [a.content for a in t.get_added_tokens_decoder().values()]
    vocab = t.get_vocab()
    pieces = [t.decode([i]) for i in sorted(vocab.values())]
    pieces = [p for p in pieces if p and "\ufffd" not in p] + added * max(1, len(vocab) // (8 * max(1, len(added))))
    return "tokenizer.json", lambda x: t.encode(x, add_special_tokens=False).ids, pieces, max(vocab.values()) + 1, max(t.get_added_tokens_decoder(), default=0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--quantize", default="target/release/geb-quantize")
    parser.add_argument("--texts", type=int, default=2_000)
    args = parser.parse_args()
    failed = 0
    for folder in args.folders:
        name = "-".join(folder.rstrip("/").split("/")[-3:])
        file, encode, pieces, rows, eos = reference(folder)
        with tempfile.TemporaryDirectory() as work:
            for f in os.listdir(folder):
                if f == file or f in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
                    shutil.copy(os.path.join(folder, f), os.path.join(work, f))
            own = [json.load(open(os.path.join(folder, "config.json"))).get("vocab_size", 0)] if os.path.exists(os.path.join(folder, "config.json")) else []
            weights(work, max([rows + 64] + own), eos)
            os.makedirs(args.out, exist_ok=True)
            out = os.path.join(args.out, name + ".gguf")
            done = subprocess.run([args.quantize, work, out, "--type", "f32", "--no-progress"], capture_output=True, text=True)
            if done.returncode:
                failed += 1
                print(f"{name} ({file}): NOT CONVERTED: {(done.stdout + done.stderr).strip()[-300:]}")
                continue
            list_ = texts(pieces, args.texts, 7)
            json.dump([[t, encode(t)] for t in list_], open(out + ".json", "w"))
            open(out + ".library", "w").write("tokenizers" if file == "tokenizer.json" else "sentencepiece")
            print(f"{name} ({file}): {len(list_)} texts", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
