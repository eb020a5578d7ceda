//! The questions about the layout of GEB that are not published.

/// The three layout questions of GEB-1.3B whose answers are not published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GebLayout {
    /// Rows of `key_value` are [kv heads, k then v, head size]; otherwise all k, then all v.
    pub kv_interleaved: bool,
    /// All of a head is rotated; otherwise its first half.
    pub rope_full: bool,
    /// Pairs (i, i + r/2); otherwise (2i, 2i+1).
    pub rope_half_split: bool,
    /// The first half of `dense_h_to_4h` is the gate; otherwise the second.
    pub gate_first: bool,
}

impl Default for GebLayout {
    /// The most probable answers.
    fn default() -> Self {
        GebLayout {
            kv_interleaved: true,
            rope_full: true,
            rope_half_split: true,
            gate_first: true,
        }
    }
}

impl GebLayout {
    /// All sixteen layouts, the most probable one first.
    pub fn all() -> impl Iterator<Item = GebLayout> {
        (0..16).map(|i| GebLayout {
            kv_interleaved: i & 8 == 0,
            gate_first: i & 4 == 0,
            rope_full: i & 1 == 0,
            rope_half_split: i & 2 == 0,
        })
    }

    /// Value of `--geb-kv`.
    pub fn kv_name(&self) -> &'static str {
        if self.kv_interleaved {
            "interleaved"
        } else {
            "blocked"
        }
    }

    /// Value of `--geb-rope`.
    pub fn rope_name(&self) -> &'static str {
        match (self.rope_full, self.rope_half_split) {
            (true, true) => "full-half",
            (true, false) => "full-interleaved",
            (false, true) => "part-half",
            (false, false) => "part-interleaved",
        }
    }

    /// Value of `--geb-mlp`.
    pub fn mlp_name(&self) -> &'static str {
        if self.gate_first {
            "gate-up"
        } else {
            "up-gate"
        }
    }

    /// GGUF architecture: `llama` rotates whole heads, `chatglm` a part of each.
    pub fn architecture(&self) -> &'static str {
        if self.rope_full { "llama" } else { "chatglm" }
    }

    /// `rope.dimension_count` for heads of `head_dim`.
    pub fn rope_dims(&self, head_dim: usize) -> usize {
        if self.rope_full {
            head_dim
        } else {
            head_dim / 2
        }
    }
}
