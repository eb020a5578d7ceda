//! Mutants that every parser accepts: a valid file of which types, shapes, names, numbers and texts are
//! changed to what a program behind the parser may stumble over. Lengths, offsets and counts stay right.

use geb::Dtype;

use crate::common::gguf::{self as g, File, Key, Tensor, Text, Val};
use crate::common::mutate::Rng;

/// A mutant, with what somebody needs who looks for what went wrong.
pub struct Mutant {
    pub file: File,
    /// What was changed.
    pub what: Vec<String>,
    /// Whether keys of the tokenizer were.
    pub tokenizer: bool,
    /// Whether tensors were.
    pub tensors: bool,
}

/// Largest data of one tensor of a mutant.
const MAX_DATA: usize = 1 << 20;

/// Integers at limits of ours and of machines.
#[rustfmt::skip]
pub const NUMBERS: &[i128] = &[
    0, 1, 2, 3, 7, 16, 31, 33, 64, 100, 255, 256, 1024, 1025, 4096, 65_535, 65_536, 1 << 20,
    (1 << 20) + 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1, -1, -2, -(1 << 31), -(1 << 63),
];

#[rustfmt::skip]
pub const FLOATS: &[f32] = &[
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-38, 1e-6, 1e6, 1e12, 1e38, f32::MAX, f32::MIN,
    f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 4096.0, 3.5,
];

/// Texts that some reader of a text takes for something.
#[rustfmt::skip]
pub const TEXTS: &[&str] = &[
    "", " ", "a", "llama", "gpt2", "t5", "rwkv", "bert", "default", "qwen2", "llama-bpe", "linear",
    "yarn", "longrope", "none", "adapter", "imatrix", "<s>", "</s>", "<0x41>", "<0x-1>", "<0xZZ>",
    "\u{2581}", "\u{2581}\u{2581}\u{2581}\u{2581}", "Ġ", "Ġ Ġ", "a b c", "[PAD0]", "<|im_end|>",
    "[gMASK]", "\u{1b}[2J\u{1b}]0;x\u{7}", "\u{202e}gnp.exe", "\0\r\n\t", "(((((((((", "[a-",
    "x{99999}", "{{ messages }}", "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{{ raise_exception('no') }}", "{{ ''.join(messages) }}", "{% if %}", "{{ 1 // 0 }}",
    "{{ messages[99].role }}", "{% set x = x + 1 %}{{ x }}",
    "{{ bos_token * 1000 }}{{ eos_token }}", "99999999999999999999999999",
];

/// Ends of names that some graph knows.
#[rustfmt::skip]
const ROLES: &[&str] = &[
    "attn_norm.weight", "attn_norm.bias", "attn_norm_2.weight", "attn_q.weight", "attn_q.bias",
    "attn_k.weight", "attn_v.weight", "attn_qkv.weight", "attn_qkv.bias", "attn_output.weight",
    "attn_output.bias", "attn_q_norm.weight", "attn_k_norm.weight", "attn_rot_embd",
    "attn_gate_inp.weight", "post_attention_norm.weight", "post_ffw_norm.weight", "ffn_norm.weight",
    "ffn_gate.weight", "ffn_up.weight", "ffn_up.bias", "ffn_down.weight", "ffn_down.bias",
    "ffn_gate_inp.weight", "ffn_gate_exps.weight", "ffn_gate_up_exps.weight", "ffn_up_exps.weight",
    "ffn_down_exps.weight", "ffn_gate.0.weight", "ffn_up.0.weight", "ffn_down.0.weight",
    "ffn_gate_inp_shexp.weight", "ffn_gate_shexp.weight", "ssm_a", "ssm_conv1d.weight",
    "ssm_in.weight", "time_mix_w1.weight", "time_mix_lerp_fused.weight", "time_mix_lerp_w.weight",
    "channel_mix_key.weight", "rope_freqs.weight", "shortconv.conv.weight", "ssm_alpha.weight",
    "attn_gate.weight",
];

/// Names of whole models.
#[rustfmt::skip]
const GLOBAL: &[&str] = &[
    "token_embd.weight", "token_embd_norm.weight", "token_embd_norm.bias", "position_embd.weight",
    "output.weight", "output.bias", "output_norm.weight", "rope_freqs.weight",
    "rope_factors_long.weight", "rope_factors_short.weight", "dec.output_norm.weight",
    "enc.blk.0.attn_rel_b.weight", "mtp.0.attn_norm.weight", "mtp.1.ffn_up.weight",
    "mtp.18446744073709551615.ffn_up.weight", "blk.18446744073709551615.attn_q.weight",
    "blk..attn_q.weight", "\u{1b}[31m\u{202e}", "a",
];

/// Keys behind the name of the architecture.
#[rustfmt::skip]
const SUFFIXES: &[&str] = &[
    "block_count", "context_length", "embedding_length", "feed_forward_length",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon",
    "attention.scale", "attention.causal", "attention.clamp_kqv", "attention.max_alibi_bias",
    "attention.sliding_window", "attention.sliding_window_pattern",
    "attention.relative_buckets_count", "decoder_block_count", "decoder_start_token_id",
    "embedding_scale", "residual_scale", "logit_scale", "final_logit_softcapping",
    "output_norm_epsilon", "use_parallel_residual", "mtp_head_count", "expert_count",
    "expert_used_count", "expert_feed_forward_length", "expert_shared_feed_forward_length",
    "expert_gating_func", "expert_weights_norm", "expert_weights_scale", "rope.dimension_count",
    "rope.freq_base", "rope.freq_base_swa", "rope.scaling.type", "rope.scaling.factor",
    "rope.scale_linear", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rescale_every_n_layers",
    "wkv.head_size", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank",
    "ssm.group_count", "ssm.dt_b_c_rms", "shortconv.l_cache", "full_attention_interval",
    "attention.recurrent_layers", "nextn_predict_layers",
];

/// Keys of whole files.
#[rustfmt::skip]
const KEYS: &[&str] = &[
    "general.architecture", "general.type", "general.name", "general.file_type",
    "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id", "tokenizer.ggml.mask_token_id",
    "tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.start_token_ids", "tokenizer.chat_template", "tokenizer.chat_template.default",
    "tokenizer.chat_templates", "geb.tensors.sha256", "geb.tensors.zero_percent",
    "geb.split.sha256", "adapter.type", "adapter.lora.alpha", "adapter.alora.invocation_tokens",
    "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size", "geb.imatrix.readers",
    "geb.imatrix.covariances",
];

/// Files to start from, with the name of their architecture.
pub struct Bases {
    pub files: Vec<(String, File)>,
}

impl Bases {
    /// Mutant number `seed`, and the number of its base.
    pub fn mutant(&self, seed: u64) -> (usize, Mutant) {
        let base = seed as usize % self.files.len();
        let mut m = Mutant {
            file: self.files[base].1.clone(),
            what: Vec::new(),
            tokenizer: false,
            tensors: false,
        };
        let mut rng = Rng::new(seed);
        for _ in 0..1 + rng.below(8) / 4 + rng.below(16) / 15 {
            match rng.below(16) {
                0..6 if !m.file.tensors.is_empty() => m.tensor(&mut rng, self),
                6 | 7 => m.graft(&mut rng, self),
                _ => m.key(&mut rng),
            }
        }
        (base, m)
    }
}

/// Bytes of `dims` as `ty`, if they are whole blocks and not too many.
fn data_len(dims: &[u64], ty: Dtype) -> Option<usize> {
    let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    let row = dims.first().copied().unwrap_or(1);
    let bytes = elements.checked_mul(ty.block_bytes() as u64)? / ty.block_len() as u64;
    let fits = row.is_multiple_of(ty.block_len() as u64) && bytes as usize <= MAX_DATA;
    (fits && elements > 0).then_some(bytes as usize)
}

/// Gives a tensor a shape and a type, and as much data; no if it cannot be.
fn reshape(t: &mut Tensor, dims: Vec<u64>, ty: Dtype) -> bool {
    let Some(len) = data_len(&dims, ty) else {
        return false;
    };
    let old = std::mem::take(&mut t.data);
    let fill = old.iter().copied().cycle();
    t.data = match old.len() {
        0 => vec![0; len],
        n if n >= len => old[..len].to_vec(),
        _ => fill.take(len).collect(),
    };
    (t.dims, t.ty) = (dims, ty.id());
    true
}

fn dtype(t: &Tensor) -> Dtype {
    Dtype::from_id(t.ty).expect("a mutant is a valid file")
}

fn number(n: i128, ty: u32) -> Vec<u8> {
    let bytes = n.to_le_bytes();
    let width = match ty {
        g::U8 | g::I8 => 1,
        g::U16 | g::I16 => 2,
        g::U32 | g::I32 => 4,
        _ => 8,
    };
    bytes[..width].to_vec()
}

fn width(ty: u32) -> usize {
    match ty {
        g::U8 | g::I8 | g::BOOL => 1,
        g::U16 | g::I16 => 2,
        g::U32 | g::I32 | g::F32 => 4,
        _ => 8,
    }
}

const INTEGERS: &[u32] = &[g::U8, g::I8, g::U16, g::I16, g::U32, g::I32, g::U64, g::I64];

/// A scalar of any type.
fn scalar(ty: u32, rng: &mut Rng) -> Vec<u8> {
    match ty {
        g::F32 => rng.pick(FLOATS).to_le_bytes().into(),
        g::F64 => match rng.below(8) {
            0 => 1e300f64.to_le_bytes().into(),
            _ => f64::from(rng.pick(FLOATS)).to_le_bytes().into(),
        },
        g::BOOL => vec![rng.below(2) as u8],
        _ => number(rng.pick(NUMBERS), ty),
    }
}

fn text(rng: &mut Rng) -> Text {
    let bytes = match rng.below(40) {
        0 => vec![b'x'; 70_000],
        1 => "\u{1f642}".repeat(300).into_bytes(),
        2 => "{% if 1 %}".repeat(200).into_bytes(),
        3 => "ab ".repeat(5_000).into_bytes(),
        4 => {
            let code = rng.below(0x11_0000) as u32;
            char::from_u32(code).unwrap_or('x').to_string().into()
        }
        _ => rng.pick(TEXTS).into(),
    };
    Text { len: None, bytes }
}

/// A value of any type.
pub fn value(rng: &mut Rng) -> (u32, Val) {
    match rng.below(10) {
        0..4 => {
            let ty = rng.pick(INTEGERS);
            (ty, Val::Raw(scalar(ty, rng)))
        }
        4 | 5 => {
            let ty = rng.pick(&[g::F32, g::F64, g::BOOL]);
            (ty, Val::Raw(scalar(ty, rng)))
        }
        6 | 7 => (g::STR, Val::Str(text(rng))),
        _ => (g::ARRAY, array(rng)),
    }
}

fn array(rng: &mut Rng) -> Val {
    let n = rng.pick(&[0, 1, 2, 3, 17, 400, 2000]);
    let elem = rng.pick(&[
        g::U8,
        g::I8,
        g::U16,
        g::U32,
        g::I32,
        g::F32,
        g::BOOL,
        g::STR,
        g::U64,
        g::I64,
        g::F64,
    ]);
    let items = match elem {
        g::STR => (0..n.min(400))
            .map(|_| Val::Str(rng.pick(TEXTS).into()))
            .collect(),
        _ => (0..n).map(|_| Val::Raw(scalar(elem, rng))).collect(),
    };
    Val::Array {
        elem,
        count: None,
        items,
    }
}

impl Mutant {
    fn say(&mut self, what: String) {
        self.what.push(what);
    }

    /// Something about a tensor.
    fn tensor(&mut self, rng: &mut Rng, bases: &Bases) {
        self.tensors = true;
        let n = self.file.tensors.len();
        let i = rng.below(n);
        let name = String::from_utf8_lossy(&self.file.tensors[i].name.bytes).into_owned();
        match rng.below(12) {
            0 | 1 => self.retype(i, rng),
            2..5 => self.shape(i, rng),
            5 => {
                let pick = rng.below(5);
                self.say(format!("{name}: data {pick}"));
                let data = &mut self.file.tensors[i].data;
                match pick {
                    0 => data.fill(0),
                    1 => data.fill(0xff),
                    2 => data.fill(0x7f),
                    3 => data.iter_mut().for_each(|b| *b = rng.next() as u8),
                    _ => {
                        let at = rng.below(data.len());
                        for (b, v) in data[at..].iter_mut().zip(f32::NAN.to_le_bytes()) {
                            *b = v;
                        }
                    }
                }
            }
            6 => {
                self.say(format!("{name}: removed"));
                self.file.tensors.remove(i);
            }
            7 => {
                let new = self.name(rng);
                self.say(format!("{name}: called {new:?}"));
                self.rename(i, &new);
            }
            8 => {
                let new = self.name(rng);
                let mut copy = self.file.tensors[i].clone();
                copy.name = new.as_str().into();
                self.say(format!("{name}: also as {new:?}"));
                if !self.has(&new) {
                    self.file.tensors.push(copy);
                }
            }
            9 => {
                let j = rng.below(n);
                self.say(format!("{name}: name swapped with that of tensor {j}"));
                let other = self.file.tensors[j].name.clone();
                let own = std::mem::replace(&mut self.file.tensors[i].name, other);
                self.file.tensors[j].name = own;
            }
            10 => {
                let j = rng.below(n);
                self.say(format!("{name}: place swapped with tensor {j}"));
                self.file.tensors.swap(i, j);
            }
            _ => {
                let other = &bases.files[rng.below(bases.files.len())].1;
                if let Some(t) = other.tensors.get(rng.below(other.tensors.len())) {
                    let new = String::from_utf8_lossy(&t.name.bytes).into_owned();
                    self.say(format!("{new}: from another file"));
                    self.file.tensors.retain(|o| o.name.bytes != t.name.bytes);
                    self.file.tensors.push(t.clone());
                }
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        let mut all = self.file.tensors.iter();
        all.any(|t| t.name.bytes == name.as_bytes())
    }

    fn rename(&mut self, i: usize, new: &str) {
        if !self.has(new) {
            self.file.tensors[i].name = new.into();
        }
    }

    fn name(&self, rng: &mut Rng) -> String {
        match rng.below(4) {
            0 => rng.pick(GLOBAL).to_owned(),
            _ => {
                let stem =
                    rng.pick(&["blk.0", "blk.0", "blk.1", "enc.blk.0", "dec.blk.0", "mtp.0"]);
                format!("{stem}.{}", rng.pick(ROLES))
            }
        }
    }

    /// Another type, of one tensor or of all that end alike.
    fn retype(&mut self, i: usize, rng: &mut Rng) {
        let ty = rng.pick(Dtype::ALL);
        let name = String::from_utf8_lossy(&self.file.tensors[i].name.bytes).into_owned();
        let end = match rng.below(4) {
            0 => name.rsplit_once('.').map_or("", |n| n.1).to_owned(),
            _ => name.clone(),
        };
        self.say(format!("tensors …{end}: {ty}"));
        for t in &mut self.file.tensors {
            if t.name.bytes.ends_with(end.as_bytes()) {
                let mut dims = t.dims.clone();
                if !reshape(t, dims.clone(), ty) {
                    dims[0] = dims[0].next_multiple_of(ty.block_len() as u64);
                    reshape(t, dims, ty);
                }
            }
        }
    }

    fn shape(&mut self, i: usize, rng: &mut Rng) {
        let t = &mut self.file.tensors[i];
        let ty = dtype(t);
        let mut dims = t.dims.clone();
        let block = ty.block_len() as u64;
        match rng.below(9) {
            0 => dims.reverse(),
            1 => dims = vec![dims.iter().product()],
            2 => dims.push(1),
            3 => dims.insert(0, block),
            4 => dims[0] = block,
            5 => {
                dims = vec![block * rng.pick(&[1, 2, 64, 1 << 10])];
                dims.resize(1 + rng.below(4), 1);
            }
            6 => {
                let d = rng.below(dims.len());
                dims[d] = rng.pick(&[1, 2, 3, 5, 31, 32, 33, 64, 127, 256, 4096, 65_536]);
            }
            7 => {
                let d = rng.below(dims.len());
                dims[d] = match rng.below(4) {
                    0 => dims[d] + 1,
                    1 => dims[d].saturating_sub(1).max(1),
                    2 => dims[d] * 2,
                    _ => (dims[d] / 2).max(1),
                };
            }
            _ => {
                let d = rng.below(dims.len());
                dims.swap(0, d);
            }
        }
        dims.truncate(4);
        let said = format!(
            "{}: shape {:?} -> {dims:?}",
            String::from_utf8_lossy(&t.name.bytes),
            t.dims
        );
        if reshape(t, dims, ty) {
            self.say(said);
        }
    }

    /// A key or a tensor that other files have.
    fn graft(&mut self, rng: &mut Rng, bases: &Bases) {
        let (_, other) = &bases.files[rng.below(bases.files.len())];
        let key = &other.keys[rng.below(other.keys.len())];
        let name = String::from_utf8_lossy(&key.name.bytes).into_owned();
        // Under the name of this file's architecture.
        let arch = architecture(other).unwrap_or_default();
        let own = architecture(&self.file).unwrap_or_default();
        let name = match name.strip_prefix(&format!("{arch}.")) {
            Some(rest) => format!("{own}.{rest}"),
            None => name,
        };
        self.say(format!("{name}: as in another file"));
        self.set(&name, key.ty, key.val.clone());
    }

    fn set(&mut self, name: &str, ty: u32, val: Val) {
        self.tokenizer |= name.starts_with("tokenizer.") || name == "general.architecture";
        if name != "general.alignment" && !name.starts_with("split.") {
            self.file = std::mem::take(&mut self.file).with(name, ty, val);
        }
    }

    /// Something about a key.
    fn key(&mut self, rng: &mut Rng) {
        let own = architecture(&self.file).unwrap_or_default();
        let fresh = rng.below(3) == 0 || self.file.keys.is_empty();
        if fresh {
            let name = match rng.below(3) {
                0 => rng.pick(KEYS).to_owned(),
                _ => format!("{own}.{}", rng.pick(SUFFIXES)),
            };
            let (ty, val) = value(rng);
            self.say(format!("{name} = {}", shown(ty, &val)));
            return self.set(&name, ty, val);
        }
        let i = rng.below(self.file.keys.len());
        let Key { name, ty, val } = self.file.keys[i].clone();
        let name = String::from_utf8_lossy(&name.bytes).into_owned();
        match rng.below(8) {
            0 => {
                self.say(format!("{name}: removed"));
                self.tokenizer |= name.starts_with("tokenizer.");
                self.file.keys.remove(i);
            }
            1 => {
                let (ty, val) = value(rng);
                self.say(format!("{name} = {}", shown(ty, &val)));
                self.set(&name, ty, val);
            }
            _ => {
                let val = same_type(ty, val, rng);
                self.say(format!("{name} = {}", shown(ty, &val)));
                self.set(&name, ty, val);
            }
        }
    }
}

/// Another value of the same type.
fn same_type(ty: u32, val: Val, rng: &mut Rng) -> Val {
    match val {
        Val::Str(_) => Val::Str(text(rng)),
        Val::Raw(bytes) if INTEGERS.contains(&ty) && rng.below(3) == 0 => {
            // Near the right one.
            let mut le = [0; 16];
            le[..bytes.len()].copy_from_slice(&bytes);
            let old = i128::from_le_bytes(le);
            let new = match rng.below(5) {
                0 => old + 1,
                1 => old - 1,
                2 => old * 2,
                3 => old / 2,
                _ => old * 1000,
            };
            Val::Raw(number(new, ty))
        }
        Val::Raw(_) => Val::Raw(scalar(ty, rng)),
        Val::Array { elem, items, .. } if elem == g::STR => {
            let items = strings(items, rng);
            let count = None;
            Val::Array { elem, count, items }
        }
        Val::Array { elem, count, items } => {
            let mut raw: Vec<u8> = items
                .iter()
                .flat_map(|v| match v {
                    Val::Raw(b) => b.clone(),
                    _ => Vec::new(),
                })
                .collect();
            let (w, n) = (width(elem), count.unwrap_or(items.len() as u64) as usize);
            match rng.below(5) {
                0 => raw.truncate(raw.len().saturating_sub(w)),
                1 => raw.extend(scalar(elem, rng)),
                2 => raw.clear(),
                _ => {
                    for _ in 0..1 + rng.below(3) {
                        if n > 0 {
                            let at = rng.below(n) * w;
                            raw[at..at + w].copy_from_slice(&scalar(elem, rng));
                        }
                    }
                }
            }
            let (count, items) = (Some((raw.len() / w) as u64), vec![Val::Raw(raw)]);
            Val::Array { elem, count, items }
        }
    }
}

/// A list of texts with something changed.
fn strings(mut items: Vec<Val>, rng: &mut Rng) -> Vec<Val> {
    let n = items.len();
    match rng.below(8) {
        0 => _ = items.pop(),
        1 => items.push(Val::Str(text(rng))),
        2 => items.clear(),
        3 => items.reverse(),
        4 if n > 0 => {
            let (a, b) = (rng.below(n), rng.below(n));
            items.swap(a, b);
        }
        5 if n > 0 => {
            let (a, b) = (rng.below(n), rng.below(n));
            items[a] = items[b].clone();
        }
        _ => {
            for _ in 0..1 + rng.below(4) {
                if n > 0 {
                    let at = rng.below(n);
                    items[at] = Val::Str(text(rng));
                }
            }
        }
    }
    items
}

/// `general.architecture`.
pub fn architecture(file: &File) -> Option<String> {
    let key = file
        .keys
        .iter()
        .find(|k| k.name.bytes == b"general.architecture")?;
    match &key.val {
        Val::Str(t) => Some(String::from_utf8_lossy(&t.bytes).into_owned()),
        _ => None,
    }
}

/// The beginning of a value.
fn shown(ty: u32, val: &Val) -> String {
    let text: String = match val {
        Val::Raw(b) => format!("type {ty} {b:?}"),
        Val::Str(t) => format!("{:?}", String::from_utf8_lossy(&t.bytes)),
        Val::Array { elem, count, items } => {
            format!(
                "{:?} of type {elem}: {items:?}",
                count.unwrap_or(items.len() as u64)
            )
        }
    };
    text.chars().take(100).collect()
}
