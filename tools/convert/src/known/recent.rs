//! What the classes of the dense families of 2024 and 2025 take for keys that are absent.

/// Values of a type's class in the reference library (`transformers` 5.24, `configuration_*.py`).
pub(super) type Usual = (&'static [&'static str], &'static [(&'static str, f64)]);

pub(super) const USUAL: &[Usual] = &[
    (
        &["gemma"],
        &[
            ("vocab_size", 256000.0),
            ("hidden_size", 3072.0),
            ("intermediate_size", 24576.0),
            ("num_hidden_layers", 28.0),
            ("num_attention_heads", 16.0),
            ("num_key_value_heads", 16.0),
            ("head_dim", 256.0),
            ("max_position_embeddings", 8192.0),
            ("rms_norm_eps", 1e-6),
        ],
    ),
    (
        &["gemma2"],
        &[
            ("vocab_size", 256000.0),
            ("hidden_size", 2304.0),
            ("intermediate_size", 9216.0),
            ("num_hidden_layers", 26.0),
            ("num_attention_heads", 8.0),
            ("num_key_value_heads", 4.0),
            ("head_dim", 256.0),
            ("max_position_embeddings", 8192.0),
            ("rms_norm_eps", 1e-6),
            ("sliding_window", 4096.0),
            ("query_pre_attn_scalar", 256.0),
            ("attn_logit_softcapping", 50.0),
            ("final_logit_softcapping", 30.0),
        ],
    ),
    (&["smollm3"], &[("rms_norm_eps", 1e-6), ("rope_theta", 2e6)]),
    (
        &["granite"],
        &[
            ("rms_norm_eps", 1e-6),
            ("attention_multiplier", 1.0),
            ("embedding_multiplier", 1.0),
            ("residual_multiplier", 1.0),
            ("logits_scaling", 1.0),
        ],
    ),
    (
        &["ministral3"],
        &[
            ("vocab_size", 131072.0),
            ("hidden_size", 4096.0),
            ("intermediate_size", 14336.0),
            ("num_hidden_layers", 34.0),
            ("num_attention_heads", 32.0),
            ("num_key_value_heads", 8.0),
            ("head_dim", 128.0),
            ("max_position_embeddings", 262144.0),
            ("rms_norm_eps", 1e-5),
        ],
    ),
    (&["glm4"], &[("rms_norm_eps", 1.5625e-7)]),
    (&["seed_oss"], &[("rms_norm_eps", 1e-6)]),
    (
        &["ernie4_5"],
        &[("rms_norm_eps", 1e-5), ("rope_theta", 5e5)],
    ),
    (&["hunyuan_v1_dense"], &[("rms_norm_eps", 1e-5)]),
    (
        &["exaone4"],
        &[("rms_norm_eps", 1e-5), ("sliding_window", 4096.0)],
    ),
    (
        &["cohere2"],
        &[
            ("layer_norm_eps", 1e-5),
            ("sliding_window", 4096.0),
            ("logit_scale", 0.0625),
        ],
    ),
    (&["arcee"], &[("rms_norm_eps", 1e-5)]),
    (&["starcoder2"], &[("norm_epsilon", 1e-5)]),
    (
        &["stablelm", "stablelm_epoch", "phi"],
        &[("layer_norm_eps", 1e-5)],
    ),
];
