//! Families whose layers keep a state: RWKV 5 to 7 and Mamba. Their tensors do not all end in `.weight`, and
//! many small ones are stacked, turned or mapped, so each line of these tables is one output tensor.

use crate::made::How;

/// Names that one graph has in different checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// As in the tables: the authors' `.pth` files; all of Mamba.
    Native,
    /// Hugging Face folders of RWKV 5 and 6.
    Hub,
    /// Hugging Face folders of RWKV 7 (flash-linear-attention).
    Fla,
}

/// A dimension in symbols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Size {
    /// Vocabulary.
    V,
    /// Width.
    E,
    /// Feed-forward.
    F,
    /// Heads.
    H,
    /// State of a head's channel.
    N,
    /// Inner width of Mamba.
    D,
    /// Twice that.
    DD,
    /// Channels of the convolution.
    C,
    /// Its taps.
    T,
    /// Outputs of Mamba 2's first matrix.
    In,
    /// Outputs of Mamba 1's `x_proj`.
    X,
    /// Rank of the step size, or groups of the norm.
    R,
    Five,
    /// Any number.
    Any,
}

/// An output tensor: GGUF name, shape of each source (dimensions of 1 left out), sources, what is done.
/// The source `0` is zeros. `?` at the end: may be missing.
#[derive(Debug)]
pub(crate) struct Entry {
    pub gguf: &'static str,
    pub shape: &'static [Size],
    pub from: &'static [&'static str],
    pub make: Make,
}

/// How the sources become the tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Make {
    /// As it is.
    Rows,
    /// Divided where the residual stream of the reference is halved.
    Halved,
    /// A single small tensor.
    One(How),
    /// Vectors, stacked as `[E, 1, 1, count]`.
    Stack(How),
    /// Nothing but zeros.
    Zeros,
}

macro_rules! entries {
    ($($gguf:literal [$($dim:ident)+] $make:ident $(($how:ident))? = $($from:literal)+;)*) => {
        &[$(Entry {
            gguf: $gguf,
            shape: &[$(Size::$dim),+],
            from: &[$($from),+],
            make: Make::$make $((How::$how))?,
        }),*]
    };
}

/// Which of the graphs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// RWKV 5.2, written as RWKV 6.
    Rwkv5,
    Rwkv6,
    Rwkv7,
    Mamba,
    /// Mamba whose step size, B and C are normed.
    FalconMamba,
    Mamba2,
}

impl Kind {
    pub const fn is_mamba(self) -> bool {
        matches!(self, Kind::Mamba | Kind::FalconMamba | Kind::Mamba2)
    }
}

/// Entries before, in and after the layers.
#[derive(Debug)]
pub(crate) struct States {
    pub kind: Kind,
    pub first: &'static [Entry],
    pub layer: &'static [&'static [Entry]],
    pub last: &'static [Entry],
}

const RWKV_FIRST: &[Entry] = entries! {
    "token_embd.weight" [V E] Rows = "emb.weight";
    "token_embd_norm.weight" [E] Rows = "blocks.0.ln0.weight";
    "token_embd_norm.bias" [E] Rows = "blocks.0.ln0.bias";
};
const RWKV_LAST: &[Entry] = entries! {
    "output_norm.weight" [E] Rows = "ln_out.weight";
    "output_norm.bias" [E] Rows = "ln_out.bias";
    "output.weight" [V E] Rows = "head.weight";
};
const RWKV_COMMON: &[Entry] = entries! {
    "blk.{}.attn_norm.weight" [E] Rows = "blocks.{}.ln1.weight";
    "blk.{}.attn_norm.bias" [E] Rows = "blocks.{}.ln1.bias";
    "blk.{}.attn_norm_2.weight" [E] Rows = "blocks.{}.ln2.weight";
    "blk.{}.attn_norm_2.bias" [E] Rows = "blocks.{}.ln2.bias";
    "blk.{}.time_mix_receptance.weight" [E E] Rows = "blocks.{}.att.receptance.weight";
    "blk.{}.time_mix_key.weight" [E E] Rows = "blocks.{}.att.key.weight";
    "blk.{}.time_mix_value.weight" [E E] Rows = "blocks.{}.att.value.weight";
    "blk.{}.time_mix_output.weight" [E E] Halved = "blocks.{}.att.output.weight";
    "blk.{}.time_mix_ln.weight" [E] Rows = "blocks.{}.att.ln_x.weight";
    "blk.{}.time_mix_ln.bias" [E] Rows = "blocks.{}.att.ln_x.bias";
    "blk.{}.channel_mix_key.weight" [F E] Rows = "blocks.{}.ffn.key.weight";
    "blk.{}.channel_mix_value.weight" [E F] Halved = "blocks.{}.ffn.value.weight";
};
const RWKV_GATED: &[Entry] = entries! {
    "blk.{}.time_mix_gate.weight" [E E] Rows = "blocks.{}.att.gate.weight";
    "blk.{}.time_mix_first.weight" [H N] Rows = "blocks.{}.att.time_faaaa";
    "blk.{}.channel_mix_receptance.weight" [E E] Rows = "blocks.{}.ffn.receptance.weight";
};

/// RWKV 5 mixes `x μ + previous (1 - μ)`, RWKV 6 `x + (previous - x) λ`; what 6 adds is zero.
pub(crate) const RWKV5: States = States {
    kind: Kind::Rwkv5,
    first: RWKV_FIRST,
    layer: &[
        RWKV_COMMON,
        RWKV_GATED,
        entries! {
            "blk.{}.time_mix_lerp_x.weight" [E] Zeros = "0";
            "blk.{}.time_mix_lerp_fused.weight" [E] Stack(Rest) = "0" "blocks.{}.att.time_mix_k"
                "blocks.{}.att.time_mix_v" "blocks.{}.att.time_mix_r" "blocks.{}.att.time_mix_g";
            "blk.{}.time_mix_w1.weight" [Five E] Zeros = "0";
            "blk.{}.time_mix_w2.weight" [Five E Any] Zeros = "0";
            "blk.{}.time_mix_decay.weight" [H N] One(Same) = "blocks.{}.att.time_decay";
            "blk.{}.time_mix_decay_w1.weight" [Any E] Zeros = "0";
            "blk.{}.time_mix_decay_w2.weight" [E Any] Zeros = "0";
            "blk.{}.channel_mix_lerp_k.weight" [E] One(Rest) = "blocks.{}.ffn.time_mix_k";
            "blk.{}.channel_mix_lerp_r.weight" [E] One(Rest) = "blocks.{}.ffn.time_mix_r";
        },
    ],
    last: RWKV_LAST,
};

pub(crate) const RWKV6: States = States {
    kind: Kind::Rwkv6,
    first: RWKV_FIRST,
    layer: &[
        RWKV_COMMON,
        RWKV_GATED,
        entries! {
            "blk.{}.time_mix_lerp_x.weight" [E] One(Same) = "blocks.{}.att.time_maa_x";
            "blk.{}.time_mix_lerp_fused.weight" [E] Stack(Same) = "blocks.{}.att.time_maa_w"
                "blocks.{}.att.time_maa_k" "blocks.{}.att.time_maa_v" "blocks.{}.att.time_maa_r"
                "blocks.{}.att.time_maa_g";
            "blk.{}.time_mix_w1.weight" [E Any] One(Turned) = "blocks.{}.att.time_maa_w1";
            "blk.{}.time_mix_w2.weight" [Five Any E] One(Turned) = "blocks.{}.att.time_maa_w2";
            "blk.{}.time_mix_decay.weight" [E] One(Same) = "blocks.{}.att.time_decay";
            "blk.{}.time_mix_decay_w1.weight" [E Any] One(Turned) = "blocks.{}.att.time_decay_w1";
            "blk.{}.time_mix_decay_w2.weight" [Any E] One(Turned) = "blocks.{}.att.time_decay_w2";
            "blk.{}.channel_mix_lerp_k.weight" [E] One(Same) = "blocks.{}.ffn.time_maa_k";
            "blk.{}.channel_mix_lerp_r.weight" [E] One(Same) = "blocks.{}.ffn.time_maa_r";
        },
    ],
    last: RWKV_LAST,
};

pub(crate) const RWKV7: States = States {
    kind: Kind::Rwkv7,
    first: RWKV_FIRST,
    layer: &[
        RWKV_COMMON,
        entries! {
            "blk.{}.time_mix_lerp_fused.weight" [E] Stack(Same) = "blocks.{}.att.x_r"
                "blocks.{}.att.x_w" "blocks.{}.att.x_k" "blocks.{}.att.x_v" "blocks.{}.att.x_a"
                "blocks.{}.att.x_g";
            "blk.{}.time_mix_w0.weight" [E] One(Same) = "blocks.{}.att.w0";
            "blk.{}.time_mix_w1.weight" [E Any] One(Turned) = "blocks.{}.att.w1";
            "blk.{}.time_mix_w2.weight" [Any E] One(Turned) = "blocks.{}.att.w2";
            "blk.{}.time_mix_a0.weight" [E] One(Same) = "blocks.{}.att.a0";
            "blk.{}.time_mix_a1.weight" [E Any] One(Turned) = "blocks.{}.att.a1";
            "blk.{}.time_mix_a2.weight" [Any E] One(Turned) = "blocks.{}.att.a2";
            "blk.{}.time_mix_v0.weight" [E] One(Same) = "blocks.{}.att.v0";
            "blk.{}.time_mix_v1.weight" [E Any] One(Turned) = "blocks.{}.att.v1";
            "blk.{}.time_mix_v2.weight" [Any E] One(Turned) = "blocks.{}.att.v2";
            "blk.{}.time_mix_g1.weight" [E Any] One(Turned) = "blocks.{}.att.g1";
            "blk.{}.time_mix_g2.weight" [Any E] One(Turned) = "blocks.{}.att.g2";
            "blk.{}.time_mix_k_k.weight" [E] One(Same) = "blocks.{}.att.k_k";
            "blk.{}.time_mix_k_a.weight" [E] One(Same) = "blocks.{}.att.k_a";
            "blk.{}.time_mix_r_k.weight" [H N] One(Same) = "blocks.{}.att.r_k";
            "blk.{}.channel_mix_lerp_k.weight" [E] One(Same) = "blocks.{}.ffn.x_k";
        },
    ],
    last: RWKV_LAST,
};

const MAMBA_FIRST: &[Entry] = entries! {
    "token_embd.weight" [V E] Rows = "backbone.embeddings.weight";
};
const MAMBA_LAST: &[Entry] = entries! {
    "output_norm.weight" [E] Rows = "backbone.norm_f.weight";
    "output.weight?" [V E] Rows = "lm_head.weight";
};

pub(crate) const MAMBA: States = States {
    kind: Kind::Mamba,
    first: MAMBA_FIRST,
    layer: &[entries! {
        "blk.{}.attn_norm.weight" [E] Rows = "backbone.layers.{}.norm.weight";
        "blk.{}.ssm_in.weight" [DD E] Rows = "backbone.layers.{}.mixer.in_proj.weight";
        "blk.{}.ssm_in.bias?" [DD] Rows = "backbone.layers.{}.mixer.in_proj.bias";
        "blk.{}.ssm_conv1d.weight" [C T] Rows = "backbone.layers.{}.mixer.conv1d.weight";
        "blk.{}.ssm_conv1d.bias" [C] Rows = "backbone.layers.{}.mixer.conv1d.bias";
        "blk.{}.ssm_x.weight" [X D] Rows = "backbone.layers.{}.mixer.x_proj.weight";
        "blk.{}.ssm_dt.weight" [D R] Rows = "backbone.layers.{}.mixer.dt_proj.weight";
        "blk.{}.ssm_dt.bias" [D] Rows = "backbone.layers.{}.mixer.dt_proj.bias";
        "blk.{}.ssm_a" [D N] One(NegExp) = "backbone.layers.{}.mixer.A_log";
        "blk.{}.ssm_d" [D] Rows = "backbone.layers.{}.mixer.D";
        "blk.{}.ssm_out.weight" [E D] Rows = "backbone.layers.{}.mixer.out_proj.weight";
        "blk.{}.ssm_out.bias?" [E] Rows = "backbone.layers.{}.mixer.out_proj.bias";
    }],
    last: MAMBA_LAST,
};

pub(crate) const FALCON_MAMBA: States = States {
    kind: Kind::FalconMamba,
    ..MAMBA
};

pub(crate) const MAMBA2: States = States {
    kind: Kind::Mamba2,
    first: MAMBA_FIRST,
    layer: &[entries! {
        "blk.{}.attn_norm.weight" [E] Rows = "backbone.layers.{}.norm.weight";
        "blk.{}.ssm_in.weight" [In E] Rows = "backbone.layers.{}.mixer.in_proj.weight";
        "blk.{}.ssm_in.bias?" [In] Rows = "backbone.layers.{}.mixer.in_proj.bias";
        "blk.{}.ssm_conv1d.weight" [C T] Rows = "backbone.layers.{}.mixer.conv1d.weight";
        "blk.{}.ssm_conv1d.bias" [C] Rows = "backbone.layers.{}.mixer.conv1d.bias";
        "blk.{}.ssm_dt.bias" [H] Rows = "backbone.layers.{}.mixer.dt_bias";
        "blk.{}.ssm_a" [H] One(NegExp) = "backbone.layers.{}.mixer.A_log";
        "blk.{}.ssm_d" [H] One(Same) = "backbone.layers.{}.mixer.D";
        "blk.{}.ssm_norm.weight" [D] One(Same) = "backbone.layers.{}.mixer.norm.weight";
        "blk.{}.ssm_out.weight" [E D] Rows = "backbone.layers.{}.mixer.out_proj.weight";
        "blk.{}.ssm_out.bias?" [E] Rows = "backbone.layers.{}.mixer.out_proj.bias";
    }],
    last: MAMBA_LAST,
};

/// What replaces what in a native name, in this order.
const HUB: &[(&str, &str)] = &[
    ("emb.weight", "embeddings.weight"),
    (".ln0.", ".pre_ln."),
    (".att.", ".attention."),
    (".ffn.", ".feed_forward."),
    ("time_mix_k", "time_mix_key"),
    ("time_mix_v", "time_mix_value"),
    ("time_mix_r", "time_mix_receptance"),
    ("time_mix_g", "time_mix_gate"),
];
const FLA: &[(&str, &str)] = &[
    ("emb.weight", "model.embeddings.weight"),
    ("ln_out.", "model.norm."),
    ("head.", "lm_head."),
    ("blocks.", "model.layers."),
    (".ln0.", ".pre_norm."),
    (".ln1.", ".attn_norm."),
    (".ln2.", ".ffn_norm."),
    (".att.ln_x.", ".attn.g_norm."),
    (".att.receptance.", ".attn.r_proj."),
    (".att.key.", ".attn.k_proj."),
    (".att.value.", ".attn.v_proj."),
    (".att.output.", ".attn.o_proj."),
    (".att.", ".attn."),
];

/// The name of a native tensor in a dialect.
pub(crate) fn spell(dialect: Dialect, native: &str) -> String {
    let mut name = native.to_owned();
    match dialect {
        Dialect::Native => {}
        Dialect::Hub => {
            for (from, to) in HUB {
                name = name.replace(from, to);
            }
            if !name.starts_with("head") {
                name.insert_str(0, "rwkv.");
            }
        }
        Dialect::Fla => {
            for (from, to) in FLA {
                name = name.replace(from, to);
            }
            // attn.w1: attn.w_lora.lora.0.weight
            if let Some((stem, leaf)) = name.rsplit_once('.')
                && let [letter, digit @ b'0'..=b'2'] = *leaf.as_bytes()
            {
                let end = match digit {
                    b'0' => "2.bias",
                    b'1' => "0.weight",
                    _ => "2.weight",
                };
                name = format!("{stem}.{}_lora.lora.{end}", char::from(letter));
            }
        }
    }
    name
}
