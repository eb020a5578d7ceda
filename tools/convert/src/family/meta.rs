//! Llama as its authors store it: `params.json`, one `consolidated*.pth` and `tokenizer.model`. Queries and
//! keys are in the order of GGUF already. The models of arXiv 2404.19737 add `extra_heads.I`: layers
//! that stand in the place of the last one.

use serde_json::{Value, json};

use super::keys;
use super::spec::{Dim, Family, Hyper, Line, Rows, Table};
use super::tables::{self, LIKE_LLAMA};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::folder::bad;
use geb::error::Result;
use geb::limits;

const PARAMS: &str = "params.json";
/// Context of Llama 2, where the file does not say.
const CONTEXT: u64 = 4096;

pub(super) const LLAMA: Family = Family {
    classes: &["MetaLlama"],
    types: &[],
    permuted: false,
    more: keys::extra_heads,
    heads: "layers.{}",
    table: &Table {
        first: lines! { "token_embd" [Vocab, Width] = "tok_embeddings" All; },
        layer: &[lines! {
            "blk.{}.attn_norm" [Width] = "layers.{}.attention_norm" All;
            "blk.{}.attn_q" [Q, Width] = "layers.{}.attention.wq" All;
            "blk.{}.attn_k" [Kv, Width] = "layers.{}.attention.wk" All;
            "blk.{}.attn_v" [Kv, Width] = "layers.{}.attention.wv" All;
            "blk.{}.attn_output" [Width, Q] = "layers.{}.attention.wo" All;
            "blk.{}.ffn_norm" [Width] = "layers.{}.ffn_norm" All;
            "blk.{}.ffn_gate" [Ffn, Width] = "layers.{}.feed_forward.w1" All;
            "blk.{}.ffn_up" [Ffn, Width] = "layers.{}.feed_forward.w3" All;
            "blk.{}.ffn_down" [Width, Ffn] = "layers.{}.feed_forward.w2" All;
        }],
        last: lines! {
            "output_norm" [Width] = "norm" All;
            "output" [Vocab, Width] = "output" All;
        },
        skip: &["rope.freqs"],
        ..tables::LLAMA
    },
    ..LIKE_LLAMA
};

/// The configuration that `params.json` and the shapes of the tensors make. `n_layers` counts the layers of
/// further heads.
///
/// # Errors
/// [`geb::Error::Checkpoint`] for a number that is missing or out of range.
pub(crate) fn config(params: &Value, checkpoint: &Checkpoint) -> Result<Value> {
    let p = Config::new(PARAMS, params, "");
    let layers = p.need_uint(&["n_layers"], 1..=limits::MAX_LAYERS)?;
    let tokens = p.uint(&["n_future_tokens"], 1..=layers)?.unwrap_or(1);
    let heads = p.need_uint(&["n_heads"], 1..=limits::MAX_HEADS)?;
    let rows = |name: &str| {
        let found = checkpoint.find(name).map(|i| &checkpoint.tensors()[i]);
        let rows = found.map(|t| t.rows());
        rows.ok_or_else(|| bad(PARAMS, name, "absent", "a tensor of the checkpoint"))
    };
    let config = json!({
        "architectures": LLAMA.classes,
        "num_hidden_layers": layers - (tokens - 1),
        "n_future_tokens": tokens,
        "hidden_size": p.need_uint(&["dim"], 1..=limits::MAX_WIDTH)?,
        "num_attention_heads": heads,
        "num_key_value_heads": p.uint(&["n_kv_heads"], 1..=heads)?.unwrap_or(heads),
        "intermediate_size": rows("layers.0.feed_forward.w1.weight")?,
        "vocab_size": rows("tok_embeddings.weight")?,
        "max_position_embeddings": p.uint(&["max_seq_len"], 1..=limits::MAX_CONTEXT)?.unwrap_or(CONTEXT),
        "rms_norm_eps": p.float(&["norm_eps"], 0.0..=1.0)?,
        "rope_theta": p.float(&["rope_theta"], 1.0..=1e12)?,
    });
    // Shapes of tensors answer, or nothing is computed with it.
    p.note(&[
        "vocab_size",
        "multiple_of",
        "ffn_dim_multiplier",
        "max_batch_size",
    ]);
    p.check_unread(LLAMA.architecture)?;
    Ok(config)
}

/// Takes the names of the authors' form for a checkpoint that has them beside a `config.json`.
pub(crate) fn use_names(checkpoint: &Checkpoint, h: &mut Hyper) {
    let llama = h.family.architecture == "llama" && h.experts.is_none() && !h.family.open_layout;
    if llama && checkpoint.find("tok_embeddings.weight").is_some() {
        (h.family, h.table) = (&LLAMA, LLAMA.table);
    }
}
