//! Names around the names of a text model.

/// What programs put before the names of a text model's tensors: wrappers of training, the model inside a
/// model for several kinds of input, the part without the output matrix.
const BEFORE: &[&str] = &[
    "module.",
    "base_model.",
    "model.",
    "thinker.",
    "language_model.",
    "text_model.",
    "llm.",
    "transformer.",
    "gpt_neox.",
    "backbone.",
    "rwkv.",
];
/// What wrappers of training put anywhere.
const INSIDE: &[&str] = &[
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
];

/// A name without what stands before it. `lm_head.weight` of a model inside another is `lm_head.weight`.
pub(super) fn core(name: &str) -> String {
    let mut whole = name.to_owned();
    for word in INSIDE {
        if whole.contains(word) {
            whole = whole.replace(word, "");
        }
    }
    let mut core = whole.as_str();
    while let Some(rest) = BEFORE.iter().find_map(|word| core.strip_prefix(word)) {
        core = rest;
    }
    core.to_owned()
}
