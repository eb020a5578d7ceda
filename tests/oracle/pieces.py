"""Ids of many generated texts by the SentencePiece library, as one hash per model.

    python3 tests/oracle/pieces.py MODEL... [--texts 10000] [--print 3]

`src/convert/spm/tests.rs` generates the same texts, encodes them with the converted tokenizer and
compares the hash, so that neither texts nor ids need to be stored. `--print N` shows the first N
texts with their ids, to look at a difference.
"""

import argparse
import hashlib
import struct

import sentencepiece

WORDS = ["the", " of", "Model", " quantize", "today", "今天", "中国", "的", "语言模型", "don't", "Ünï", "naïve"]
MARKS = list("!?.,;:()[]{}<>/\\|@#$%^&*-_=+'\"~`") + ["，", "。", "！", "？", "《", "》", "“", "”", "…", "—", "ﬁ", "½", "²"]
SPACES = [" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u200b", "   "]


class Numbers:
    def __init__(self):
        self.state = 1

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        return (self.state >> 33) % n


def text(numbers):
    out = []
    for _ in range(1 + numbers.below(24)):
        kind, length = numbers.below(8), 1 + numbers.below(6)
        for _ in range(length if kind in (0, 1, 2, 6) else 1):
            if kind == 0:
                out.append(chr(97 + numbers.below(26)))
            elif kind == 1:
                out.append(chr(0x4E00 + numbers.below(0x51A6)))
            elif kind == 2:
                out.append(chr(48 + numbers.below(10)))
            elif kind == 3:
                out.append(MARKS[numbers.below(len(MARKS))])
            elif kind == 4:
                out.append(SPACES[numbers.below(len(SPACES))])
            elif kind == 5:
                code = 1 + numbers.below(0x10FFFF)
                out.append("\ufffd" if 0xD800 <= code < 0xE000 else chr(code))
            elif kind == 6:
                out.append(chr(0x80 + numbers.below(0x180)))
            else:
                out.append(WORDS[numbers.below(len(WORDS))])
    return "".join(out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--print", type=int, default=0)
    args = parser.parse_args()
    for path in args.models:
        model = sentencepiece.SentencePieceProcessor(model_file=path)
        numbers, digest, tokens = Numbers(), hashlib.sha256(), 0
        for i in range(args.texts):
            source = text(numbers)
            ids = model.encode(source, out_type=int)
            tokens += len(ids)
            digest.update(struct.pack(f"<{len(ids) + 1}I", *ids, 0xFFFFFFFF))
            if i < args.print:
                print(repr(source), ids)
        print(f"{path}: {args.texts} texts, {tokens} tokens, sha256 {digest.hexdigest()}")


if __name__ == "__main__":
    main()
