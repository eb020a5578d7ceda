"""What PyPI `gguf` sees in GGUF files, as JSON; and files written by it.

    check_gguf.py read PATH...   one JSON line per file (a folder stands for its *.gguf)
    check_gguf.py write FOLDER   writes files for the reader under test, and what is in them

A value is stated as its type and the SHA-256 of its elements as text, so that large arrays
stay small here: integers in decimal, floats as the bits of their f64, strings as they are.
"""

import hashlib
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants


def text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack(">d", value).hex()
    return str(value)


def digest(values):
    return hashlib.sha256("\x1f".join(map(text, values)).encode()).hexdigest()


def read(path):
    reader = GGUFReader(path)
    keys = []
    for name, field in reader.fields.items():
        if name.startswith("GGUF."):  # made up by the reader from the header
            continue
        value = field.contents()
        values = value if isinstance(value, list) else [value]
        # The reader does not keep the element type of an empty array.
        element = int(field.types[1]) if len(field.types) > 1 else None
        keys.append([name, int(field.types[0]), element, len(values), digest(values)])
    tensors = [
        [t.name, int(t.tensor_type), [int(d) for d in t.shape], int(t.data_offset), int(t.n_bytes)]
        for t in reader.tensors
    ]
    return {"keys": keys, "tensors": tensors, "alignment": int(reader.alignment)}


def read_all(paths):
    files = []
    for path in map(Path, paths):
        files += sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    for path in files:
        try:
            found = read(path)
        except Exception as error:  # any refusal is an answer
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"file": path.name, **found}))


def write_vocabulary(path, rng):
    """Sizes of the largest published vocabularies. States the digests of the arrays: the
    reader of this package would take a minute to read them back."""
    tokens = [f"token{i}\u00e9" for i in range(262_144)]
    merges = [f"a{i % 1000} b{i // 1000}" for i in range(600_000)]
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    scores = rng.standard_normal(len(tokens)).astype(np.float32).tolist()
    writer.add_token_scores(scores)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(merges)
    writer.add_chat_template("{{ bos_token }}" + "{# filler #}\n" * 2_400)
    writer.add_bos_token_id(1)
    writer.add_tensor("token_embd.weight", rng.standard_normal((16, 64)).astype(np.float32))
    finish(writer)
    arrays = {"tokens": tokens, "merges": merges, "scores": scores}
    print(json.dumps({"file": path.name, "arrays": {k: digest(v) for k, v in arrays.items()}}))


def write_types(path, rng, alignment):
    """Every key type, and a tensor of every type that PyPI `gguf` can produce."""
    writer = GGUFWriter(path, "test")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for kind, value in [("uint8", 255), ("int8", -128), ("uint16", 65_535), ("int16", -32_768),
                        ("uint32", 2**32 - 1), ("int32", -(2**31)), ("uint64", 2**64 - 1),
                        ("int64", -(2**63)), ("float32", 0.1), ("float64", 0.1), ("bool", True)]:
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_string("test.string", "gr\u00fc\u00df dich \U0001f600")
    writer.add_array("test.strings", ["", "x", "\u00e9"])
    writer.add_array("test.ints", [-1, 2, 3])
    writer.add_array("test.floats", [0.5, -1.25])
    writer.add_array("test.bools", [True, False])
    for kind in GGMLQuantizationType:
        rows = rng.standard_normal((3, 512)).astype(np.float32)
        try:
            data = quants.quantize(rows, kind)
        except (NotImplementedError, KeyError):
            continue
        writer.add_tensor(f"tensor.{kind.name}", data, raw_dtype=kind)
    for dtype in (np.int8, np.int16, np.int32, np.int64, np.float64):
        writer.add_tensor(f"plain.{np.dtype(dtype).name}", np.arange(60, dtype=dtype).reshape(5, 4, 3))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    command, paths = sys.argv[1], sys.argv[2:]
    if command == "read":
        read_all(paths)
    elif command == "write":
        folder, rng = Path(paths[0]), np.random.default_rng(1)
        write_vocabulary(folder / "vocabulary.gguf", rng)
        for alignment in (32, 64):
            path = folder / f"types{alignment}.gguf"
            write_types(path, rng, alignment)
            read_all([path])
    else:
        sys.exit(f"unknown command {command}")


assert GGUFValueType.ARRAY == 9
main()
