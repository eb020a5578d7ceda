"""Configurations as three versions of transformers write them, for tests/spellings.rs.

    pip install transformers==VERSION     # once each: 4.40.2, 4.57.3, 5.24.0
    python tests/oracle/configs.py one > VERSION.json
    python tests/oracle/configs.py all 4.40.2.json 4.57.3.json 5.24.0.json > tests/fixtures/spellings.json

A family that a version does not know keeps its fixture's configuration, spelled as that version spells:
`torch_dtype` before 4.56, `dtype` from then on; 5.x puts everything about the rotation into `rope_parameters`.
"""
import json, os, sys

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")


def old(config):
    """A configuration of 5.x with one map of the rotation, spelled as those before it."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or any(isinstance(v, dict) for v in rope.values()):
        return config
    config, rope = dict(config), dict(rope)
    del config["rope_parameters"]
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            config[key] = rope.pop(key)
    if rope.get("rope_type") != "default":
        config["rope_scaling"] = rope
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    return config


def sources():
    """Case -> configuration: those of the fixtures, and families without a fixture of their own."""
    out = {}
    for case in sorted(os.listdir(FIXTURES)):
        path = f"{FIXTURES}/{case}/hf/config.json"
        if os.path.exists(path):
            out[case] = old(json.load(open(path)))
    swa = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 16.0}
    out["olmo3"] = {**out["olmo2"], **swa, "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3"}
    out["olmo3-yarn"] = {**out["olmo3"], "rope_scaling": yarn}
    out["gemma3-linear"] = {**out["gemma3"], "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    out["glm-quarter"] = {**out["glm"], "partial_rotary_factor": 0.25}
    f = {k: v[:9] for k, v in out["phi3-longrope"]["rope_scaling"].items() if k != "type"}
    out["phi3-partial"] = {**out["phi3-longrope"], "partial_rotary_factor": 0.75, "rope_scaling": {"type": "longrope", **f}}
    out["qwen2-yarn"] = {**out["qwen2"], "rope_scaling": {**yarn, "attention_factor": 1.25, "type": "yarn"}}
    out["qwen2-window"] = {**out["qwen2"], "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1,
                           "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
    out["qwen2moe"] = {**out["qwen3moe"], "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe",
                       "shared_expert_intermediate_size": 96, "norm_topk_prob": False, "head_dim": None}
    out["switch"] = {**out["t5-relu"], "architectures": ["SwitchTransformersForConditionalGeneration"],
                     "model_type": "switch_transformers", "num_experts": 4, "expert_capacity": 8,
                     "tie_word_embeddings": True}
    out["falcon-mamba"] = {**out["mamba"], "architectures": ["FalconMambaForCausalLM"], "model_type": "falcon_mamba",
                           "mixer_rms_eps": 1e-6, "tie_word_embeddings": True}
    return out


def spelled(config, version):
    """The configuration as a version spells it that does not know the family."""
    new = dict(config, transformers_version=version)
    if version.startswith("4.40"):
        return new
    if "torch_dtype" in new:
        new["dtype"] = new.pop("torch_dtype")
    if version.startswith("5") and "rope_theta" in new:
        rope = {"rope_theta": new.pop("rope_theta"), "rope_type": "default"}
        rope.update(new.pop("rope_scaling", None) or {})
        new["rope_parameters"] = rope
    return new


def one():
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    version, out = transformers.__version__, {}
    for case, config in sources().items():
        try:
            known = CONFIG_MAPPING[config["model_type"]].from_dict(json.loads(json.dumps(config)))
            known.transformers_version = version
            out[case] = json.loads(known.to_json_string())
            out[case]["architectures"] = config.get("architectures")
        except Exception as e:
            print(f"{case}: {type(e).__name__} {str(e)[:100]}", file=sys.stderr)
            out[case] = spelled(config, version)
        # Class defaults of None say nothing that absence does not.
        out[case] = {k: v for k, v in out[case].items() if v is not None or k in config or k == "sliding_window"}
    json.dump({version: out}, sys.stdout)


def merged(paths):
    """One version that writes what the one before wrote says so with its name."""
    all = {}
    for path in paths:
        all.update(json.load(open(path)))
    print("{")
    cases = sorted(next(iter(all.values())))
    for case in cases:
        print(f" {json.dumps(case)}: {{")
        versions = sorted(all)
        for version in versions:
            end = "," if version != versions[-1] else ""
            text = json.dumps(all[version][case], sort_keys=True).replace("Infinity", "null")
            text = text.replace('{"__float__": "null"}', '{"__float__": "Infinity"}')
            print(f"  {json.dumps(version)}: {text}{end}")
        print(" }" + ("," if case != cases[-1] else ""))
    print("}")


if __name__ == "__main__":
    one() if sys.argv[1] == "one" else merged(sys.argv[2:])
