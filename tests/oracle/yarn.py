"""Angles per position and the factor of cosine and sine of YaRN, by transformers: tests/fixtures/yarn.json.

    python tests/oracle/yarn.py > tests/fixtures/yarn.json

The formula needs nothing of PyTorch but a range, a clamp and powers: NumPy in float32 stands in.
"""
import json, logging, sys
import numpy as np
import transformers
import transformers.modeling_rope_utils as rope


class Tensor(np.ndarray):
    def to(self, device=None, dtype=None):
        return self.astype(dtype or self.dtype).view(Tensor)


class torch:
    float = float32 = np.float64
    int64 = np.int64

    @staticmethod
    def arange(*a, dtype=np.int64):
        return np.arange(*a, dtype=dtype).view(Tensor)

    @staticmethod
    def clamp(x, low, high):
        return np.clip(x, low, high)


rope.torch = torch
logging.disable(logging.WARNING)
base = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 4096}
cases = [
    {}, {"factor": 40.0}, {"factor": 1.0}, {"attention_factor": 1.0}, {"attention_factor": 1.3},
    {"beta_fast": 16.0, "beta_slow": 2.0}, {"beta_fast": 0, "beta_slow": None},
    {"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale": 0.707, "mscale_all_dim": 1.2, "factor": 40.0},
    {"mscale": 0.5}, {"mscale_all_dim": 0.5}, {"mscale": 1.0, "mscale_all_dim": 0.0},
    {"truncate": False}, {"truncate": False, "factor": 32.0, "rope_theta": 150000.0},
    {"partial_rotary_factor": 0.5}, {"rope_theta": 1e6, "original_max_position_embeddings": 32768},
    {"original_max_position_embeddings": 32, "factor": 8.0},
    {"original_max_position_embeddings": 16, "beta_slow": 8.0},
    {"original_max_position_embeddings": None}, {"factor": None},
]
out = []
for case in cases:
    parameters = {k: v for k, v in {**base, **case}.items() if v is not None or k == "factor"}
    config = transformers.Qwen2Config(hidden_size=256, num_attention_heads=4, max_position_embeddings=16384, rope_parameters=dict(parameters))
    freqs, factor = rope._compute_yarn_parameters(config)
    parameters = {k: v for k, v in parameters.items() if v is not None}
    out.append({"rope_parameters": parameters, "angles": [float(f) for f in freqs], "factor": float(factor)})
print("[" + ",\n".join(json.dumps(o) for o in out) + "]")
