"""Quantized Linears of every method, with the values NumPy makes of them.

    python tests/oracle/quantized.py            writes tests/fixtures/quantized/*.safetensors

A file holds the stored tensors of one matrix `m.x.weight`, `expected` in F32, and in its metadata the
configuration of its method. Codes and scales are random; the layouts are those of the programs that write them.
"""
import json
import pathlib
import struct

import ml_dtypes
import numpy as np

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "quantized"
N, M = 16, 64
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
         "int8": "I8", "uint8": "U8", "int32": "I32", "int64": "I64"}
F32, U32 = np.float32, np.uint32
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], F32)
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], F32)
FP4 = np.array([0, 0.0052083333, 0.6666667, 1, 0.3333333, 0.5, 0.1666667, 0.25], F32)
rng = np.random.default_rng(5)


def save(name, config, expected, **tensors):
    """Double underscores are dots."""
    tensors = {"m.x." + k.replace("__", ".").replace("\0", "__"): v for k, v in tensors.items()}
    tensors["expected"] = np.ascontiguousarray(expected, F32)
    head = {"__metadata__": {"config": json.dumps(config)}}
    data = b""
    for key, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        head[key] = {"dtype": NAMES[value.dtype.name], "shape": list(value.shape),
                     "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode()
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def codes(bits, *shape):
    return rng.integers(0, 2 ** bits, shape).astype(U32)


def scales(*shape, dtype=F32):
    return (rng.random(shape) * 0.1 + 0.01).astype(dtype)


def stream(q, bits, axis):
    """Codes one after the other in words of 32 bits, along an axis."""
    q = np.moveaxis(q, axis, -1)
    flat = ((q[..., None] >> np.arange(bits, dtype=U32)) & 1).reshape(*q.shape[:-1], -1)
    flat = np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, -flat.shape[-1] % 32)])
    words = (flat.reshape(*flat.shape[:-1], -1, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(-1)
    return np.ascontiguousarray(np.moveaxis(words.astype(U32), -1, axis)).view(np.int32)


def whole(q, bits):
    """As many codes as fit into each word of 32 bits, along the last axis."""
    per = 32 // bits
    q = np.pad(q, [(0, 0), (0, -q.shape[1] % per)]).reshape(len(q), -1, per)
    return (q << (np.arange(per, dtype=U32) * bits)).sum(-1, dtype=U32).view(np.int32)


def spread(s, n=N, m=M):
    """Scales for blocks as a matrix."""
    return np.kron(s.astype(F32), np.ones((-(-n // s.shape[0]), -(-m // s.shape[1])), F32))[:n, :m]


def f8(*shape, dtype=ml_dtypes.float8_e4m3fn):
    return rng.normal(0, 60, shape).astype(dtype)


def float8():
    w, s = f8(40, 72), scales(3, 5)
    block = np.repeat(np.repeat(s, 16, 0), 16, 1)[:40, :72]
    config = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16], "activation_scheme": "static"}
    save("fp8-block", config, w.astype(F32) * block, weight=w, weight_scale_inv=s, input_scale=scales(1))
    w, s = f8(N, M), scales()
    save("fp8-tensor", {"quant_method": "fp8", "weight_block_size": None}, w.astype(F32) * s,
         weight=w, weight_scale_inv=s, activation_scale=scales())
    w, s = f8(N, M), scales(N, 1)
    save("fp8-fbgemm", {"quant_method": "fbgemm_fp8"}, w.astype(F32) * s, weight=w, weight_scale=s,
         input_scale_ub=scales(1))
    w, s = f8(N, M), rng.integers(115, 130, (N, M // 32)).astype(np.uint8)
    save("fp8-mx", {"quant_method": "mxfp8"}, w.astype(F32) * spread(np.exp2(s.astype(F32) - 127)),
         weight=w, weight_scale_inv=s)
    w, s = f8(3, N, M), scales(3, 2, 4, dtype=ml_dtypes.bfloat16)
    block = np.stack([spread(e) for e in s])
    save("fp8-stack", {"quant_method": "fp8", "weight_block_size": [8, 16]}, w.astype(F32) * block,
         weight=w, weight_scale_inv=s)
    w = f8(N, M, dtype=ml_dtypes.float8_e5m2)
    save("fp8-plain", {}, w.astype(F32), weight=w)


def compressed():
    def config(form, **weights):
        group = {"targets": ["Linear"], "weights": weights}
        return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, "ignore": []}

    w, s = f8(N, M), scales(1)
    save("ct-float-tensor", config("float-quantized", num_bits=8, type="float", strategy="tensor"),
         w.astype(F32) * s, weight=w, weight_scale=s)
    w, s = f8(N, M), scales(N, 1, dtype=ml_dtypes.bfloat16)
    save("ct-float-channel", config("float-quantized", num_bits=8, type="float", strategy="channel"),
         w.astype(F32) * s.astype(F32), weight=w, weight_scale=s)
    w, s = f8(20, 40), scales(2, 3)
    block = np.repeat(np.repeat(s, 16, 0), 16, 1)[:20, :40]
    save("ct-float-block", config("float-quantized", num_bits=8, type="float", strategy="block",
                                  block_structure=[16, 16]), w.astype(F32) * block, weight=w, weight_scale=s)
    w, s, z = rng.integers(-128, 128, (N, M)).astype(np.int8), scales(N, 4), rng.integers(-9, 9, (N, 4)).astype(np.int8)
    save("ct-int-group", config("int-quantized", num_bits=8, type="int", strategy="group", group_size=16,
                                symmetric=False), (w - spread(z)) * spread(s), weight=w, weight_scale=s,
         weight_zero_point=z)
    z = z[:, :1]
    save("ct-int-channel", config("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=False),
         (w - z.astype(F32)) * s[:, :1], weight=w, weight_scale=s[:, :1], weight_zero_point=z)
    z = z[:1, 0]
    save("ct-int-tensor", config("naive-quantized", num_bits=8, type="int", strategy="tensor", symmetric=False),
         (w - z.astype(F32)) * s[0, 0], weight=w, weight_scale=s[0, :1], weight_zero_point=z)
    shape = np.array([N, M])
    for bits in (2, 3, 4, 8):
        q, s = codes(bits, N, M), scales(N, 2, dtype=ml_dtypes.bfloat16)
        value = (q.astype(F32) - 2 ** (bits - 1)) * spread(s)
        save(f"ct-pack{bits}", config("pack-quantized", num_bits=bits, type="int", strategy="group", group_size=32,
                                      symmetric=True), value, weight_packed=stream(q, bits, 1), weight_scale=s,
             weight_shape=shape)
    q, s = codes(3, N, M), scales(N, 1)
    save("ct-pack3-whole", config("pack-quantized", num_bits=3, type="int", strategy="channel", symmetric=True),
         (q.astype(F32) - 4) * s, weight_packed=whole(q, 3), weight_scale=s, weight_shape=shape)
    q, z, s = codes(4, 20, M), codes(4, 20, 4), scales(20, 4, dtype=np.float16)
    order = rng.permutation(np.repeat(np.arange(4), 16)).astype(np.int32)
    value = (q.astype(F32) - z.astype(F32)[:, order]) * s.astype(F32)[:, order]
    save("ct-pack4-zero-order", config("pack-quantized", num_bits=4, type="int", strategy="group", group_size=16,
                                       symmetric=False, actorder="group"), value, weight_packed=stream(q, 4, 1),
         weight_scale=s, weight_zero_point=stream(z, 4, 0), weight_g_idx=order, weight_shape=np.array([20, M]))
    q, s = codes(4, N, M), scales(N, 4, dtype=ml_dtypes.float8_e4m3fn)
    packed = (q[:, ::2] | q[:, 1::2] << 4).astype(np.uint8)
    g = np.array([37.5], F32)
    save("ct-nvfp4", config("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
         E2M1[q] * (spread(s) / g), weight_packed=packed, weight_scale=s, weight_global_scale=g,
         input_global_scale=g)
    s = rng.integers(120, 130, (N, 2)).astype(np.uint8)
    power = spread(np.exp2(s.astype(F32) - 127))
    save("ct-mxfp4", config("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32),
         E2M1[q] * power, weight_packed=packed, weight_scale=s)
    six = codes(6, N, M)
    table = np.array([m / 8 for m in range(8)] + [(1 + m / 8) * 2 ** e for e in range(3) for m in range(8)], F32)
    table = np.concatenate([table, -table])
    word = six[:, 0::4] | six[:, 1::4] << 6 | six[:, 2::4] << 12 | six[:, 3::4] << 18
    packed = np.stack([word, word >> 8, word >> 16], -1).astype(np.uint8).reshape(N, -1)
    save("ct-mxfp6", config("mxfp6-pack-quantized", num_bits=6, type="float", strategy="group", group_size=32),
         table[six] * power, weight_packed=packed, weight_scale=s)


def modelopt():
    def config(name, **more):
        return {"quant_method": "modelopt", "quant_algo": name, **more}

    q, s = codes(4, N, M), scales(N, 4, dtype=ml_dtypes.float8_e4m3fn)
    packed = (q[:, ::2] | q[:, 1::2] << 4).astype(np.uint8)
    two, columns = scales(), (rng.random(M) + 0.5).astype(ml_dtypes.bfloat16)
    value = E2M1[q] * (spread(s) * two)
    save("modelopt-nvfp4", config("NVFP4", group_size=16), value, weight=packed, weight_scale=s, weight_scale_2=two,
         input_scale=scales())
    save("modelopt-nvfp4-awq", config("NVFP4_AWQ", group_size=16), value * columns.astype(F32), weight=packed,
         weight_scale=s, weight_scale_2=two, input_scale=scales(), pre_quant_scale=columns)
    w, s = f8(N, M), scales()
    save("modelopt-fp8", config("FP8"), w.astype(F32) * s, weight=w, weight_scale=s, input_scale=scales())
    s = scales(N)
    save("modelopt-fp8-channel", config("FP8_PER_CHANNEL_PER_TOKEN"), w.astype(F32) * s[:, None], weight=w,
         weight_scale=s)
    w, s = f8(160, 8), scales(2, 1, 1, 1)
    save("modelopt-fp8-block", config("FP8_PB_WO"), w.astype(F32) * np.repeat(s[:, 0, 0], 128, 0)[:160], weight=w,
         weight_scale=s)
    q, s = rng.integers(-8, 8, (N, M)), scales(N, 2)
    packed = ((q[::2] & 15) | (q[1::2] & 15) << 4).astype(np.uint8)
    save("modelopt-int4-awq", config("W4A16_AWQ", group_size=32), q * spread(s) * columns.astype(F32), weight=packed,
         weight_scale=s, pre_quant_scale=columns)
    w, s = rng.integers(-128, 128, (N, M)).astype(np.int8), scales(N)
    save("modelopt-int8", config("W8A8_SQ_PER_CHANNEL"), w * s[:, None], weight=w, weight_scale=s)


def gptq():
    for bits, add, order, group in [(2, 1, False, 32), (3, 1, False, 32), (4, 1, False, 16), (8, 1, False, 32),
                                    (4, 0, False, 32), (4, 1, True, 16), (3, 0, True, 32), (4, 1, False, -1)]:
        n, groups = 32, 1 if group < 0 else M // group
        q, z, s = codes(bits, n, M), codes(bits, n, groups), scales(groups, n, dtype=np.float16)
        of = np.arange(M) // (M // groups)
        of = rng.permutation(of) if order else of
        value = (q.astype(F32) - (z.astype(F32)[:, of] + add)) * s.astype(F32).T[:, of]
        form = "gptq" if add else "gptq_v2"
        config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": False,
                  "checkpoint_format": form}
        name = f"{form.replace('_', '-')}-{bits}bit" + ("-order" if order else "") + ("-column" if group < 0 else "")
        save(name, config, value, qweight=stream(q.T, bits, 0), qzeros=stream(z.T, bits, 1), scales=s,
             g_idx=of.astype(np.int32))


def awq():
    n, order = 24, [0, 2, 4, 6, 1, 3, 5, 7]
    q, z, s = codes(4, M, n), codes(4, 2, n), scales(2, n, dtype=np.float16)
    of = np.arange(M) // 32
    value = ((q.astype(F32) - z.astype(F32)[of]) * s.astype(F32)[of]).T
    mixed = [x.reshape(len(x), -1, 8)[:, :, order].reshape(len(x), -1) for x in (q, z)]
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}
    save("awq-gemm", {**config, "version": "gemm"}, value, qweight=stream(mixed[0], 4, 1),
         qzeros=stream(mixed[1], 4, 1), scales=s)
    wide = np.zeros((n, 32), U32)
    wide[:, :2] = z.T
    full = np.zeros((n, 32), np.float16)
    full[:, :2] = s.T
    save("awq-gemv", {**config, "version": "gemv"}, value, qweight=stream(q.T, 4, 1), qzeros=stream(wide, 4, 1),
         scales=full)


def bitsandbytes():
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}

    def state(kind, **more):
        text = json.dumps({"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [N, 40], **more})
        return np.frombuffer(text.encode(), np.uint8)

    q = codes(4, N * 40)
    packed = (q[::2] << 4 | q[1::2]).astype(np.uint8)[:, None]
    fp4 = np.concatenate([FP4, -FP4])
    for kind, table in (("nf4", NF4), ("fp4", fp4)):
        s = scales(N * 40 // 64)
        value = (table[q] * np.repeat(s, 64)).reshape(N, 40)
        parts = {"weight": packed, "weight__absmax": s, "weight__quant_map": table}
        save_state(f"bnb-{kind}", {**config, "bnb_4bit_quant_type": kind}, value, parts, kind, state(kind))
    nested, outer = np.sort(rng.normal(0, 0.5, 256)).astype(F32), scales(3)
    c = rng.integers(0, 256, N * 40 // 64).astype(np.uint8)
    s = (nested[c] * np.repeat(outer, 4)[:len(c)] + F32(0.3)).astype(F32)
    parts = {"weight": packed, "weight__absmax": c, "weight__quant_map": NF4, "weight__nested_absmax": outer,
             "weight__nested_quant_map": nested}
    save_state("bnb-nf4-double", {**config, "bnb_4bit_use_double_quant": True}, (NF4[q] * np.repeat(s, 64)).reshape(N, 40),
               parts, "nf4", state("nf4", nested_blocksize=4, nested_dtype="float32", nested_offset=0.3))
    w, s = rng.integers(-127, 128, (N, M)).astype(np.int8), scales(N)
    save("bnb-int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}, w * s[:, None] / F32(127), weight=w, SCB=s,
         weight_format=np.array(0, np.uint8))


def save_state(name, config, value, parts, kind, state):
    save(name, config, value, **parts, **{f"weight.quant_state.bitsandbytes\0{kind}": state})


def others():
    q, s = codes(4, 3, N, M), rng.integers(118, 130, (3, N, 2)).astype(np.uint8)
    packed = (q[..., ::2] | q[..., 1::2] << 4).astype(np.uint8).reshape(3, N, 2, 16)
    value = E2M1[q] * np.repeat(np.exp2(s.astype(F32) - 127), 32, -1)
    save("mxfp4", {"quant_method": "mxfp4"}, value, weight_blocks=packed, weight_scales=s)
    t = rng.integers(0, 3, (N, M))
    packed = sum(t[i * N // 4:(i + 1) * N // 4] << 2 * i for i in range(4)).astype(np.uint8)
    s = scales(1, dtype=ml_dtypes.bfloat16)
    save("bitnet", {"quant_method": "bitnet"}, (t - 1) / s.astype(F32), weight=packed, weight_scale=s)
    save("bitnet-auto", {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
         (t - 1) * s.astype(F32), weight=packed, weight_scale=s)


for part in (float8, compressed, modelopt, gptq, awq, bitsandbytes, others):
    part()
