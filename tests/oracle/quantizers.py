#!/usr/bin/env python3
"""Block encoders beside ggml's own: error and speed, type by type.

    quantizers.py LIBGGML.so QUANTIZE SOURCE... [--types Q4_K,...] [--efforts reference,best] [--speed]

LIBGGML.so exports ggml_quantize_chunk and the dequantize_row functions; QUANTIZE is the example of
geb-kernels (`cargo build --release -p geb-kernels --example quantize`); each SOURCE is a GGUF file
with F32 tensors or a safetensors file. Five matrices of each are taken, spread over the layers.

The error is sum(w (x - y)^2), y decoded by ggml for both encoders, without weights (w = 1) and
with two kinds of them: `few` are uniform with every fiftieth column a hundred times as important,
`real` are like squared activations (log-normal). The table has the error of ours divided by that of
ggml, given the same importance: mean and worst over the tensors; above 1 is worse, and
fails. With --speed: million weights per second of one thread, runs of both interleaved.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

IDS = dict(Q4_0=2, Q4_1=3, Q5_0=6, Q5_1=7, Q8_0=8, Q2_K=10, Q3_K=11, Q4_K=12, Q5_K=13, Q6_K=14, IQ4_NL=20, IQ4_XS=23,
           TQ1_0=34, TQ2_0=35, MXFP4=39)
BLOCKS = dict(Q4_0=(32, 18), Q4_1=(32, 20), Q5_0=(32, 22), Q5_1=(32, 24), Q8_0=(32, 34), Q2_K=(256, 84),
              Q3_K=(256, 110), Q4_K=(256, 144), Q5_K=(256, 176), Q6_K=(256, 210), IQ4_NL=(32, 18), IQ4_XS=(256, 136),
              TQ1_0=(256, 54), TQ2_0=(256, 66), MXFP4=(32, 17))
# Rows taken from a tensor, at most.
WEIGHTS = 1 << 17
FLOATS = ctypes.POINTER(ctypes.c_float)


class Ggml:
    """Encoder and decoder of a shared library."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(path, mode=os.RTLD_LAZY)
        chunk = self.lib.ggml_quantize_chunk
        chunk.restype = ctypes.c_size_t
        chunk.argtypes = [ctypes.c_int, FLOATS, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [FLOATS]

    def quantize(self, dtype, x, w):
        """The bytes, and the seconds it took."""
        block, size = BLOCKS[dtype]
        out = np.zeros(x.size // block * size, np.uint8)
        weights = w.ctypes.data_as(FLOATS) if w is not None else None
        self.lib.ggml_quantize_init(IDS[dtype])
        start = time.thread_time()
        n = self.lib.ggml_quantize_chunk(IDS[dtype], x.ctypes.data_as(FLOATS), out.ctypes.data, 0, x.shape[0],
                                         x.shape[1], weights)
        seconds = time.thread_time() - start
        assert n == out.size, f"{dtype}: {n} bytes, expected {out.size}"
        return out, seconds

    def dequantize(self, dtype, data, shape):
        out = np.empty(shape, np.float32)
        name = dtype if dtype.startswith(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")) else dtype.lower()
        name = name[0].lower() + name[1:]
        function = getattr(self.lib, f"dequantize_row_{name}")
        function.restype = None
        function(ctypes.c_void_p(data.ctypes.data), out.ctypes.data_as(FLOATS), ctypes.c_int64(out.size))
        return out


class Ours:
    """The example program."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def quantize(self, dtype, effort, x, w, repeats=1):
        """The bytes, and million weights per second."""
        x.tofile(self.path("x"))
        extra = []
        if w is not None:
            w.tofile(self.path("w"))
            extra = [self.path("w")]
        command = [self.program, dtype, effort, self.path("x"), self.path("out"), str(repeats), *extra]
        speed = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return np.fromfile(self.path("out"), np.uint8), speed


def tensors(path):
    """Five matrices (name, F32 rows) whose columns are whole blocks of 256."""
    if path.endswith(".gguf"):
        from gguf import GGUFReader

        found = {t.name: t.data for t in GGUFReader(path).tensors}
    else:
        from safetensors.numpy import load_file

        found = load_file(path)
    fit = {}
    for name, data in found.items():
        if data.ndim == 2 and data.size >= 1 << 15 and str(data.dtype) in ("float32", "float16"):
            # Rows that are no whole blocks are joined, as in the file.
            cols = data.shape[1] if data.shape[1] % 256 == 0 else 256
            data = np.asarray(data, np.float32).reshape(-1)
            data = data[: min(data.size, WEIGHTS) // cols * cols]
            fit[name] = np.ascontiguousarray(data.reshape(-1, cols))
    names = sorted(fit)
    # The steps between are no multiple of the matrices of a layer.
    return [(name, fit[name]) for name in (names[i * (len(names) - 1) // 4 - i % 4 * 2] for i in range(5))]


def importance(kind, cols, rng):
    if kind == "none":
        return None
    if kind == "few":
        w = rng.uniform(0.1, 1.0, cols)
        w[:: 50] *= 100
    else:
        w = np.exp(rng.normal(0.0, 1.5, cols))
    return w.astype(np.float32)


def error(x, y, w):
    d = (x.astype(np.float64) - y) ** 2
    return float((d * (1.0 if w is None else w.astype(np.float64))).sum())


def errors(args, ggml, ours):
    """Prints the table; whether no type is worse."""
    rng = np.random.default_rng(1)
    sources = [t for path in args.sources for t in tensors(path)]
    print("tensors: " + ", ".join(f"{name} {x.shape[0]}x{x.shape[1]}" for name, x in sources))
    weights = {k: [importance(k, x.shape[1], rng) for _, x in sources] for k in ("none", "few", "real")}
    print(f"{'type':8} {'effort':10}" + "".join(f" {k + ': mean':>12} {'worst':>8}" for k in weights))
    good = True
    for dtype in args.types:
        peer = {}
        for kind, ws in weights.items():
            for i, ((_, x), w) in enumerate(zip(sources, ws)):
                data, _ = ggml.quantize(dtype, x, w)
                peer[kind, i] = error(x, ggml.dequantize(dtype, data, x.shape), w)
        for effort in args.efforts:
            row = ""
            for kind, ws in weights.items():
                ratios = []
                for i, ((_, x), w) in enumerate(zip(sources, ws)):
                    data, _ = ours.quantize(dtype, effort, x, w)
                    mine = error(x, ggml.dequantize(dtype, data, x.shape), w)
                    # Both nothing: the tensor was of this type before.
                    ratios.append(mine / peer[kind, i] if peer[kind, i] > 0 else 1.0 + mine)
                good &= max(ratios) <= 1.000001
                row += f" {np.mean(ratios):12.4f} {max(ratios):8.4f}"
            print(f"{dtype:8} {effort:10}{row}", flush=True)
    return good


def speeds(args, ggml, ours):
    x = np.random.default_rng(2).normal(0, 0.02, (512, 2048)).astype(np.float32)
    w = importance("real", 2048, np.random.default_rng(3))
    print(f"{'type':8} {'effort':10} {'ours M/s':>9} {'ggml M/s':>9} {'ratio':>6}   with importance")
    for dtype in args.types:
        for effort in args.efforts:
            row = ""
            for weights in (None, w):
                mine, theirs = [], []
                for _ in range(3):
                    mine.append(ours.quantize(dtype, effort, x, weights, 3)[1])
                    theirs.append(x.size / ggml.quantize(dtype, x, weights)[1] / 1e6)
                mine, theirs = max(mine), max(theirs)
                row += f" {mine:9.1f} {theirs:9.1f} {mine / theirs:6.2f}  "
            print(f"{dtype:8} {effort:10}{row}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ggml", help="a shared library with ggml_quantize_chunk")
    parser.add_argument("program")
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--types", type=lambda s: s.split(","), default=list(IDS))
    parser.add_argument("--efforts", type=lambda s: s.split(","), default=["reference", "fast", "best"])
    parser.add_argument("--speed", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ggml, ours = Ggml(args.ggml), Ours(args.program, folder)
        good = errors(args, ggml, ours) if args.sources else True
        if args.speed:
            speeds(args, ggml, ours)
    sys.exit(not good)


if __name__ == "__main__":
    main()
