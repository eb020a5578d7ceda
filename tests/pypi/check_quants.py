"""Compares converted files with PyPI `gguf`'s own quantizers.

    check_quants.py BASE.gguf OTHER.gguf...

BASE holds the weights as F32. For every tensor of OTHER the reader of `gguf` must see the same
shape, and its bytes must be those that `gguf.quants.quantize` makes of the F32 weights.
Prints one JSON line per file.
"""

import json
import sys

import numpy as np
from gguf import GGUFReader, quants


def main(base, others):
    weights = {t.name: t for t in GGUFReader(base).tensors}
    for path in others:
        reader = GGUFReader(path)
        types, different = {}, []
        for t in reader.tensors:
            source = weights[t.name]
            assert list(t.shape) == list(source.shape), t.name
            want = quants.quantize(np.ascontiguousarray(source.data, dtype=np.float32), t.tensor_type)
            got = np.ascontiguousarray(t.data)
            if not np.array_equal(want.view(np.uint8).ravel(), got.view(np.uint8).ravel()):
                different.append(t.name)
            types[t.tensor_type.name] = types.get(t.tensor_type.name, 0) + 1
        architecture = reader.get_field("general.architecture").contents()
        line = {"file": path, "types": types, "different": different, "architecture": architecture}
        line["tokens"] = len(reader.get_field("tokenizer.ggml.tokens").contents())
        print(json.dumps(line))


main(sys.argv[1], sys.argv[2:])
