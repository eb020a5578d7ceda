//! What is known about the keys of `config.json`: the spellings of one fact, values that the reference
//! library leaves out, and keys that do not change what a model computes.

mod recent;

use recent::Usual;
use serde_json::Value;

pub(super) const LAYERS: &[&str] = &[
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_transformer_layers",
];
pub(super) const WIDTH: &[&str] = &[
    "hidden_size",
    "n_embd",
    "n_embed",
    "dim",
    "model_dim",
    "d_model",
];
pub(super) const FFN: &[&str] = &[
    "intermediate_size",
    "ffn_hidden_size",
    "hidden_dim",
    "n_inner",
    "d_ff",
    "block_ff_dim",
];
pub(super) const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads", "num_heads"];
pub(super) const KV_HEADS: &[&str] =
    &["num_key_value_heads", "multi_query_group_num", "n_kv_heads"];
pub(super) const HEAD_DIM: &[&str] = &["head_dim", "kv_channels", "d_kv"];
/// The first that is there counts: some are bounds of generation.
pub(super) const CONTEXT: &[&str] = &[
    "max_position_embeddings",
    "seq_length",
    "n_ctx",
    "n_positions",
    "max_length",
    "max_context_length",
];
/// The first that is there counts: a padded size is that of the matrix.
pub(super) const VOCAB: &[&str] = &["padded_vocab_size", "vocab_size"];
pub(super) const EPSILON: &[&str] = &[
    "rms_norm_eps",
    "norm_eps",
    "norm_epsilon",
    "layernorm_epsilon",
    "layer_norm_eps",
    "layer_norm_epsilon",
];
pub(super) const EXPERTS: &[&str] = &["num_local_experts", "num_experts", "moe_num_experts"];
pub(super) const EXPERTS_USED: &[&str] = &["num_experts_per_tok", "moe_top_k"];
/// Inside the maps of the rotation and outside.
pub(super) const ROPE_BASE: &[&str] = &["rope_theta", "rotary_emb_base", "rope_freq_constant"];
pub(super) const ROPE_LOCAL_BASE: &[&str] = &["rope_local_base_freq"];
pub(super) const ROPE_SHARE: &[&str] = &["partial_rotary_factor", "rotary_pct", "rope_pct"];
pub(super) const ROPE_ORIGINAL: &[&str] = &["original_max_position_embeddings"];
/// Maps of the rotation.
pub(super) const ROPE_MAPS: [&str; 2] = ["rope_parameters", "rope_scaling"];
/// Kinds of layers in `layer_types` and as keys of a map of the rotation.
pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

/// Where a configuration of several models keeps that of the text model.
pub(super) const TEXT_MODELS: &[&str] = &["text_config", "llm_config", "language_config"];

/// Keys of the text model that some have beside it too.
pub(super) const OUTSIDE: &[&str] = &[
    "rope_theta",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "rope_parameters",
    "rope_scaling",
    "sliding_window",
    "layer_types",
];

/// `model_type` of the text model that the reference library takes when a wrapper of this type does not say.
pub(super) const TEXT_TYPES: &[(&str, &str)] = &[
    ("gemma3", "gemma3_text"),
    ("llava", "llama"),
    ("llava_next", "llama"),
    ("llava_next_video", "llama"),
    ("llava_onevision", "qwen2"),
    ("video_llava", "llama"),
    ("vipllava", "llama"),
    ("mistral3", "mistral"),
    ("idefics2", "mistral"),
    ("idefics3", "llama"),
    ("smolvlm", "llama"),
    ("internvl", "qwen2"),
    ("qwen2_vl", "qwen2_vl_text"),
    ("qwen2_5_vl", "qwen2_5_vl_text"),
    ("qwen3_vl", "qwen3_vl_text"),
    ("qwen3_5", "qwen3_5_text"),
    ("qwen3_5_moe", "qwen3_5_moe_text"),
    ("lfm2_vl", "lfm2"),
];

/// What a configuration inside another one leaves out because it is the class's default.
const USUAL: &[Usual] = &[
    (
        &["llama"],
        &[
            ("vocab_size", 32000.0),
            ("hidden_size", 4096.0),
            ("intermediate_size", 11008.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("max_position_embeddings", 2048.0),
            ("rms_norm_eps", 1e-6),
        ],
    ),
    (
        &["mistral"],
        &[
            ("vocab_size", 32000.0),
            ("hidden_size", 4096.0),
            ("intermediate_size", 14336.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("num_key_value_heads", 8.0),
            ("max_position_embeddings", 131072.0),
            ("rms_norm_eps", 1e-6),
            ("sliding_window", 4096.0),
        ],
    ),
    (
        &["mixtral"],
        &[
            ("vocab_size", 32000.0),
            ("hidden_size", 4096.0),
            ("intermediate_size", 14336.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("num_key_value_heads", 8.0),
            ("max_position_embeddings", 131072.0),
            ("rms_norm_eps", 1e-5),
            ("num_local_experts", 8.0),
            ("num_experts_per_tok", 2.0),
            ("rope_theta", 1e6),
        ],
    ),
    (
        &["qwen2"],
        &[
            ("vocab_size", 151936.0),
            ("hidden_size", 4096.0),
            ("intermediate_size", 22016.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("num_key_value_heads", 32.0),
            ("max_position_embeddings", 32768.0),
            ("rms_norm_eps", 1e-6),
            ("sliding_window", 4096.0),
            ("max_window_layers", 28.0),
        ],
    ),
    (
        &["qwen3"],
        &[
            ("vocab_size", 151936.0),
            ("hidden_size", 4096.0),
            ("intermediate_size", 22016.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("num_key_value_heads", 32.0),
            ("head_dim", 128.0),
            ("max_position_embeddings", 32768.0),
            ("rms_norm_eps", 1e-6),
            ("sliding_window", 4096.0),
            ("max_window_layers", 28.0),
        ],
    ),
    (
        &["qwen2_vl_text", "qwen2_5_vl_text", "qwen2_vl", "qwen2_5_vl"],
        &[
            ("vocab_size", 152064.0),
            ("hidden_size", 8192.0),
            ("intermediate_size", 29568.0),
            ("num_hidden_layers", 80.0),
            ("num_attention_heads", 64.0),
            ("num_key_value_heads", 8.0),
            ("max_position_embeddings", 32768.0),
            ("rms_norm_eps", 1e-5),
            ("sliding_window", 4096.0),
            ("max_window_layers", 80.0),
            ("rope_theta", 1e6),
        ],
    ),
    (
        &["qwen3_vl_text", "qwen3_vl"],
        &[
            ("vocab_size", 151936.0),
            ("hidden_size", 4096.0),
            ("intermediate_size", 22016.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("num_key_value_heads", 32.0),
            ("head_dim", 128.0),
            ("max_position_embeddings", 128000.0),
            ("rms_norm_eps", 1e-6),
            ("rope_theta", 5e5),
        ],
    ),
    (
        &["qwen2_moe", "qwen3_moe"],
        &[
            ("rms_norm_eps", 1e-6),
            ("sliding_window", 4096.0),
            ("max_window_layers", 28.0),
        ],
    ),
    (
        &["gemma3_text", "gemma3"],
        &[
            ("vocab_size", 262208.0),
            ("hidden_size", 2304.0),
            ("intermediate_size", 9216.0),
            ("num_hidden_layers", 26.0),
            ("num_attention_heads", 8.0),
            ("num_key_value_heads", 4.0),
            ("head_dim", 256.0),
            ("max_position_embeddings", 131072.0),
            ("rms_norm_eps", 1e-6),
            ("sliding_window", 4096.0),
            ("query_pre_attn_scalar", 256.0),
            ("rope_theta", 1e6),
            ("rope_local_base_freq", 1e4),
        ],
    ),
    (
        &["phi3"],
        &[
            ("vocab_size", 32064.0),
            ("hidden_size", 3072.0),
            ("intermediate_size", 8192.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("max_position_embeddings", 4096.0),
            ("original_max_position_embeddings", 4096.0),
            ("rms_norm_eps", 1e-5),
        ],
    ),
    (
        &["olmo", "olmo2", "olmoe"],
        &[
            ("vocab_size", 50304.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("rms_norm_eps", 1e-5),
        ],
    ),
    (
        &["olmo3"],
        &[
            ("rms_norm_eps", 1e-5),
            ("sliding_window", 4096.0),
            ("rope_theta", 5e5),
        ],
    ),
    (&["glm"], &[("rms_norm_eps", 1.5625e-7)]),
    (&["lfm2"], &[("norm_eps", 1e-5), ("rope_theta", 1e6)]),
    (
        &[
            "qwen3_5_text",
            "qwen3_5",
            "qwen3_5_moe_text",
            "qwen3_5_moe",
            "qwen3_next",
        ],
        &[("rms_norm_eps", 1e-6)],
    ),
    (
        &["t5", "switch_transformers"],
        &[("layer_norm_epsilon", 1e-6)],
    ),
    (&["jetmoe"], &[("rms_norm_eps", 1e-6)]),
];

/// Sizes: a configuration that is not inside another one states them.
const SIZES: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "num_local_experts",
    "num_experts_per_tok",
    "original_max_position_embeddings",
];

/// Base of the rotation in classes that [`USUAL`] gives none.
const USUAL_BASE: f64 = 10_000.0;

/// Adds what the class of `kind` takes for keys that are absent; of a configuration that is not `nested` only
/// what is no size. `rotated`: the positions are told by a rotation.
pub(super) fn fill(config: &mut Value, kind: &str, nested: bool, rotated: bool) {
    let Some(map) = config.as_object_mut() else {
        return;
    };
    let mut all = USUAL.iter().chain(recent::USUAL);
    let usual = all.find(|u| u.0.contains(&kind));
    let usual = usual.map_or(&[][..], |u| u.1);
    let groups = [
        LAYERS, WIDTH, FFN, HEADS, KV_HEADS, HEAD_DIM, CONTEXT, VOCAB, EPSILON, ROPE_BASE,
    ];
    let mut add = |name: &str, value: f64| {
        let base = ROPE_BASE.contains(&name) || ROPE_LOCAL_BASE.contains(&name);
        // A map that has no base is not completed in silence.
        let elsewhere = base && map.get(ROPE_MAPS[0]).is_some_and(Value::is_object);
        let group = groups.iter().find(|g| g.contains(&name));
        // Null is what the class makes of it, but a base is needed.
        let has = |n: &str| map.get(n).is_some_and(|v| !base || !v.is_null());
        let there = match group {
            Some(group) => group.iter().any(|n| has(n)),
            None => has(name),
        };
        if !there && !elsewhere && (nested || !SIZES.contains(&name)) {
            let value = match value.fract() == 0.0 {
                true => Value::from(value as u64),
                false => Value::from(value),
            };
            map.insert(name.to_owned(), value);
        }
    };
    usual.iter().for_each(|&(name, value)| add(name, value));
    if rotated {
        add(ROPE_BASE[0], USUAL_BASE);
    }
}

/// Keys that say how a model was made, is stored, trained, generated with or run, whatever their value.
const HARMLESS: &[&str] = &[
    "activation_dropout",
    "add_bias_linear",
    "add_qkv_bias",
    "add_router_probs",
    "apply_query_key_layer_scaling",
    "architectures",
    "attention_bias",
    "attention_softmax_in_fp32",
    "attn_implementation",
    "attn_mode",
    "auto_map",
    "aux_loss_alpha",
    "bad_words_ids",
    "base_model",
    "batch_prioritized_routing",
    "begin_suppress_tokens",
    "bias",
    "bias_dropout_fusion",
    "cache_implementation",
    "capacity_factor",
    "chunk_size",
    "chunk_size_feed_forward",
    "compression_config",
    "context_length",
    "custom_pipelines",
    "d_inner",
    "decoder_sparse_step",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "dual_chunk_attention_config",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_sparse_step",
    "ep_size",
    "eval_capacity_factor",
    "expert_capacity",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "flash_attention",
    "flash_attn_cross_entropy",
    "fp32_residual_connection",
    "fuse_cross_entropy",
    "fuse_linear_cross_entropy",
    "fuse_norm",
    "fused_add_norm",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "language",
    "length_penalty",
    "license",
    "lm_head_bias",
    "masked_softmax_fusion",
    "max_batch_size",
    "max_new_tokens",
    "max_sequence_length",
    "min_length",
    "mlp_bias",
    "mlp_only_layers",
    "mm_tokens_per_image",
    "model_max_length",
    "model_type",
    "model_version",
    "mrope_interleaved",
    "mrope_section",
    "n_special",
    "name_or_path",
    "neftune_noise_alpha",
    "no_repeat_ngram_size",
    "norm_before_gate",
    "num_beam_groups",
    "num_beams",
    "num_gqa_groups",
    "num_labels",
    "num_return_sequences",
    "num_sparse_decoder_layers",
    "num_sparse_encoder_layers",
    "offset_alibi",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_router_logits",
    "output_scores",
    "pad_vocab_size_multiple",
    "predict_special_tokens",
    "prefix",
    "pretraining_pp",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "qkv_bias",
    "qkv_multipliers",
    "quantization",
    "quantization_config",
    "remove_invalid_values",
    "reorder_and_upcast_attn",
    "repetition_penalty",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "return_dict",
    "return_dict_in_generate",
    "rope_max_length",
    "router_dtype",
    "router_ignore_padding_tokens",
    "router_jitter_noise",
    "router_type",
    "scale_attention_softmax_in_fp32",
    "seed",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "slow_but_exact",
    "softmax_in_fp32",
    "special_tokens",
    "ssm_cfg",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    "tokenizer_class",
    "tokenizer_model_max_length",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "use_associative_scan",
    "use_bfloat16",
    "use_bias",
    "use_cache",
    "use_cache_kernel",
    "use_cache_quantization",
    "use_fast_path",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
    "use_l2warp",
    "use_mambapy",
    "use_mems",
    "vision_config",
    "weight_tying",
];
/// Beginnings of such keys.
const HARMLESS_STARTS: &[&str] = &["_", "summary_", "initializer", "init_", "unsloth"];
/// Ends of such keys.
const HARMLESS_ENDS: &[&str] = &[
    "_token_id",
    "_token_ids",
    "_token_index",
    "_token",
    "_dropout_prob",
    "_dropout",
    "_pdrop",
    "dropout_rate",
    "_loss_coef",
    "_initializer_range",
    "_init_std",
];

/// Keys that the graphs have in one position only, as JSON: elsewhere they are refused.
const FIXED: &[(&str, &[&str])] = &[
    ("add_cross_attention", &["false"]),
    ("attention_multiplier", &["1"]),
    ("causal", &["true"]),
    ("embedding_multiplier", &["1"]),
    ("full_attn_mod", &["1"]),
    ("glu", &["true"]),
    ("hidden_ratio", &["4"]),
    ("interpolate_factor", &["1"]),
    ("is_causal", &["true"]),
    ("logit_scale", &["1"]),
    ("logits_scaling", &["1"]),
    ("norm_bias", &["true"]),
    ("norm_first", &["true"]),
    ("normalization_layer_name", &["\"rms_norm\""]),
    ("num_selected_experts", &["1"]),
    ("num_nextn_predict_layers", &["0"]),
    ("original_rope", &["true"]),
    (
        "position_embedding_type",
        &["\"rope\"", "\"rotary\"", "\"absolute\""],
    ),
    ("residual_multiplier", &["1"]),
    ("rms_norm", &["true"]),
    ("rope_interleaved", &["false"]),
    ("rope_type", &["\"default\""]),
    (
        "time_step_limit",
        &["[0.0,null]", "[0.0,{\"__float__\":\"Infinity\"}]"],
    ),
    ("use_conv_bias", &["true"]),
    ("use_rope", &["true"]),
];

/// Whether nothing a model computes depends on this key having this value.
pub(super) fn harmless(name: &str, value: &Value) -> bool {
    if let Some(values) = fixed(name) {
        return value.is_null() || values.iter().any(|v| equal_text(value, v));
    }
    let empty = match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    empty
        || HARMLESS.contains(&name)
        || HARMLESS_STARTS.iter().any(|s| name.starts_with(s))
        || HARMLESS_ENDS.iter().any(|e| name.ends_with(e))
}

/// The values, as JSON, at which a key is known to change nothing.
pub(super) fn fixed(name: &str) -> Option<&'static [&'static str]> {
    FIXED.iter().find(|f| f.0 == name).map(|f| f.1)
}

fn equal_text(value: &Value, text: &str) -> bool {
    serde_json::from_str(text).is_ok_and(|other| equal(value, &other))
}

/// Equality in which 1 and 1.0 are the same number.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        _ => a == b,
    }
}
