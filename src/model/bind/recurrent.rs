//! Layers whose mixer keeps a state.

use super::Binder;
use crate::model::arch::MixerKind;
use crate::model::weights::{
    Branch, ChannelMix, DeltaNet, Ffn, Layer, Linear, LowRank, Mamba, Mixer, Norm, QMatrix, Rwkv6,
    Rwkv7, ShortConv,
};
use crate::model::{Config, Recurrent};

impl Binder<'_> {
    pub(super) fn recurrent_layer(&mut self, c: &Config, r: &Recurrent, n: usize) -> Layer {
        let name = |role: &str| format!("blk.{n}.{role}");
        let norm = self.norm(c, name("attn_norm"), true);
        let body = match c.arch.mixer {
            MixerKind::Rwkv7 => self.rwkv7(c, n),
            MixerKind::Mamba => self.mamba(c, r, n),
            MixerKind::Mamba2 => self.mamba2(c, r, n),
            _ => self.rwkv6(c, n),
        };
        let mixer = Branch {
            norm,
            body,
            post_norm: None,
        };
        let ffn = match mixer.body {
            Mixer::Mamba(_) => Branch {
                norm: Norm::None,
                body: Ffn::None,
                post_norm: None,
            },
            _ => Branch {
                norm: self.norm(c, name("attn_norm_2"), true),
                body: self.channel_mix(c, n),
                post_norm: None,
            },
        };
        Layer { mixer, ffn }
    }

    /// A matrix without bias.
    fn plain(&mut self, name: String, rows: usize, cols: usize) -> Linear {
        Linear {
            weight: self.matrix(format!("{name}.weight"), rows, cols),
            bias: None,
        }
    }

    /// `time_mix_{letter}1` `[rank, E]`, `time_mix_{letter}2` `[E, rank]` and their bias `…0`.
    fn low_rank(&mut self, names: [String; 2], bias: Option<String>, e: usize) -> LowRank {
        let [first, second] = names;
        let first = self.plain(first, 0, e);
        let mut second = self.plain(second, e, first.weight.rows);
        second.bias = bias.map(|name| self.vector(format!("{name}.weight"), e));
        [first, second]
    }

    /// A tensor of `N` matrices `[rows, cols]`, one after the other.
    fn slices<const N: usize>(&mut self, name: String, rows: usize, cols: usize) -> [Linear; N] {
        let info = self.file.tensor(&name).map(|t| t.info());
        let found = info.map(|i| (i.rows(), i.cols()));
        let mut whole = Self::placeholder();
        match info.filter(|_| found == Some((N * rows, cols))) {
            Some(info) => {
                whole = QMatrix {
                    dtype: info.dtype,
                    rows: N * rows,
                    cols,
                    range: info.range.clone(),
                };
                self.check_type(info);
            }
            None => self.problem(|| {
                format!("  {name}: {found:?} rows and columns, expected [{N} x {rows}, {cols}]")
            }),
        }
        self.used.insert(name);
        std::array::from_fn(|i| Linear {
            weight: whole.part(i * rows..(i + 1) * rows),
            bias: None,
        })
    }

    /// `N` vectors `[e]` that lie one after the other in `fused`, or each in a tensor of its own.
    fn lerps<const N: usize>(&mut self, n: usize, letters: [&str; N], e: usize) -> [Vec<f32>; N] {
        let name = |role: &str| format!("blk.{n}.time_mix_lerp_{role}.weight");
        if self.has(&name("fused")) || !self.has(&name(letters[0])) {
            let all = self.vector(name("fused"), N * e);
            let part = |i: usize| all.get(i * e..(i + 1) * e).unwrap_or_default().to_vec();
            return std::array::from_fn(part);
        }
        letters.map(|letter| self.vector(name(letter), e))
    }

    fn rwkv6(&mut self, c: &Config, n: usize) -> Mixer {
        let e = c.embedding_length;
        let name = |role: &str| format!("blk.{n}.time_mix_{role}");
        let w1 = name("w1.weight");
        let rank = self.file.tensor(&w1).map_or(0, |t| t.info().rows() / 5);
        let mixer = Rwkv6 {
            lerp_x: self.vector(name("lerp_x.weight"), e),
            lerp: self.lerps(n, ["w", "k", "v", "r", "g"], e),
            mix_in: self.slices(w1, rank, e),
            mix_out: self.slices(name("w2.weight"), e, rank),
            decay: self.low_rank(["decay_w1", "decay_w2"].map(name), Some(name("decay")), e),
            kvrg: ["key", "value", "receptance", "gate"].map(|r| self.linear(&name(r), e, e)),
            first: self.vector(name("first.weight"), e),
            norm: ["weight", "bias"].map(|k| self.vector(format!("{}.{k}", name("ln")), e)),
            output: self.linear(&name("output"), e, e),
        };
        self.scratch(6 * e + 5 * rank + mixer.decay[0].weight.rows);
        Mixer::Rwkv6(Box::new(mixer))
    }

    fn rwkv7(&mut self, c: &Config, n: usize) -> Mixer {
        let e = c.embedding_length;
        let name = |role: &str| format!("blk.{n}.time_mix_{role}");
        let pair = |letter: &str| ["1", "2"].map(|i| name(&format!("{letter}{i}")));
        let value = self.has(&name("v1.weight"));
        let value = value.then(|| self.low_rank(pair("v"), Some(name("v0")), e));
        if value.is_none() && n > 0 {
            self.problem(|| format!("  {}: missing", name("v1.weight")));
        }
        let mixer = Rwkv7 {
            lerp: self.lerps(n, ["r", "w", "k", "v", "a", "g"], e),
            rkv: ["receptance", "key", "value"].map(|r| self.linear(&name(r), e, e)),
            decay: self.low_rank(pair("w"), Some(name("w0")), e),
            rate: self.low_rank(pair("a"), Some(name("a0")), e),
            // Files hold something there for the first layer too, which means nothing.
            value: value.filter(|_| n > 0),
            gate: self.low_rank(pair("g"), None, e),
            k_k: self.vector(name("k_k.weight"), e),
            k_a: self.vector(name("k_a.weight"), e),
            r_k: self.vector(name("r_k.weight"), e),
            norm: ["weight", "bias"].map(|k| self.vector(format!("{}.{k}", name("ln")), e)),
            output: self.linear(&name("output"), e, e),
        };
        let ranks = [&mixer.decay, &mixer.rate, &mixer.gate];
        let ranks = ranks.into_iter().chain(&mixer.value);
        let rank = ranks.map(|p| p[0].weight.rows).max().unwrap_or(0);
        self.scratch(9 * e + rank);
        Mixer::Rwkv7(Box::new(mixer))
    }

    fn channel_mix(&mut self, c: &Config, n: usize) -> Ffn {
        let (e, f) = (c.embedding_length, c.layers[n].feed_forward_length);
        let name = |role: &str| format!("blk.{n}.channel_mix_{role}");
        let gated = c.arch.mixer == MixerKind::Rwkv6;
        let mix = ChannelMix {
            lerp: self.vector(name("lerp_k.weight"), e),
            key: self.linear(&name("key"), f, e),
            value: self.linear(&name("value"), e, f),
            receptance: gated.then(|| {
                let lerp = self.vector(name("lerp_r.weight"), e);
                (lerp, self.linear(&name("receptance"), e, e))
            }),
        };
        // Values of the first layer lie before the buffers of RWKV 7.
        self.scratch(3 * e + f);
        Ffn::ChannelMix(mix)
    }

    /// Factors of a convolution, `[taps, channels]`; stored the other way round.
    fn taps(&mut self, name: String, taps: usize, channels: usize) -> Vec<f32> {
        let stored = self.vector(name, channels * taps);
        let tap = |i: usize| stored.get(i % channels * taps + i / channels).copied();
        (0..stored.len()).filter_map(tap).collect()
    }

    /// The convolution: factors `[taps, channels]` and bias.
    fn convolution(&mut self, n: usize, r: &Recurrent, channels: usize) -> [Vec<f32>; 2] {
        let name = |kind: &str| format!("blk.{n}.ssm_conv1d.{kind}");
        let factors = self.taps(name("weight"), r.conv, channels);
        [factors, self.vector(name("bias"), channels)]
    }

    /// The rows of one matrix in several.
    fn split<const N: usize>(&mut self, name: &str, rows: [usize; N], cols: usize) -> [Linear; N] {
        let whole = self.linear(name, rows.iter().sum(), cols);
        let mut at = 0;
        rows.map(|rows| {
            let part = at..at + rows;
            at = part.end;
            Linear {
                weight: whole.weight.part(part.clone()),
                bias: whole.bias.as_ref().map(|b| {
                    let bias = b.get(part);
                    bias.unwrap_or_default().to_vec()
                }),
            }
        })
    }

    fn mamba(&mut self, c: &Config, r: &Recurrent, n: usize) -> Mixer {
        let (e, d, s) = (c.embedding_length, r.inner, r.state);
        let name = |role: &str| format!("blk.{n}.ssm_{role}");
        let [u, z] = self.split(&name("in"), [d, d], e);
        let [conv, conv_bias] = self.convolution(n, r, d);
        let mixer = Mamba {
            input: vec![z, u],
            conv,
            conv_bias,
            step: Some((
                self.split(&name("x"), [r.rank, s, s], d),
                self.linear(&name("dt"), d, r.rank),
            )),
            step_bias: Vec::new(),
            a: self.vector(name("a"), d * s),
            d: self.vector(name("d"), d),
            norm: Vec::new(),
            output: self.linear(&name("out"), e, d),
        };
        self.scratch(4 * d + r.rank + 2 * s);
        Mixer::Mamba(Box::new(mixer))
    }

    fn mamba2(&mut self, c: &Config, r: &Recurrent, n: usize) -> Mixer {
        let (e, d, h) = (c.embedding_length, r.inner, r.heads);
        let name = |role: &str| format!("blk.{n}.ssm_{role}");
        let channels = d + 2 * r.groups * r.state;
        let [conv, conv_bias] = self.convolution(n, r, channels);
        let mixer = Mamba {
            input: self.split(&name("in"), [d, channels, h], e).to_vec(),
            conv,
            conv_bias,
            step: None,
            step_bias: self.vector(name("dt.bias"), h),
            a: self.vector(name("a"), h),
            d: self.vector(name("d"), h),
            norm: self.vector(name("norm.weight"), d),
            output: self.linear(&name("out"), e, d),
        };
        self.scratch(2 * d + 2 * channels + h);
        Mixer::Mamba(Box::new(mixer))
    }

    pub(super) fn short_conv(&mut self, c: &Config, r: &Recurrent, n: usize) -> Mixer {
        let e = c.embedding_length;
        let name = |role: &str| format!("blk.{n}.shortconv.{role}");
        let mixer = ShortConv {
            input: self.split(&name("in_proj"), [e; 3], e),
            conv: self.taps(name("conv.weight"), r.conv, e),
            output: self.linear(&name("out_proj"), e, e),
        };
        self.scratch(4 * e);
        Mixer::ShortConv(Box::new(mixer))
    }

    pub(super) fn delta_net(&mut self, c: &Config, r: &Recurrent, n: usize) -> Mixer {
        let (e, d, h) = (c.embedding_length, r.inner, r.heads);
        let name = |role: &str| format!("blk.{n}.{role}");
        let channels = 2 * r.groups * r.state + d;
        let rates: &[_] = match self.has(&name("ssm_ba.weight")) {
            true => &[("ssm_ba", 2 * h)],
            false => &[("ssm_beta", h), ("ssm_alpha", h)],
        };
        let input = [("attn_qkv", channels), ("attn_gate", d)];
        let input = input.iter().chain(rates);
        let input = input.map(|(role, rows)| self.linear(&name(role), *rows, e));
        let mixer = DeltaNet {
            input: input.collect(),
            conv: self.taps(name("ssm_conv1d.weight"), r.conv, channels),
            step_bias: self.vector(name("ssm_dt.bias"), h),
            a: self.vector(name("ssm_a"), h),
            norm: self.vector(name("ssm_norm.weight"), d / h),
            output: self.linear(&name("ssm_out"), e, d),
        };
        self.scratch(2 * channels + 2 * d + 4 * h);
        Mixer::DeltaNet(Box::new(mixer))
    }
}
