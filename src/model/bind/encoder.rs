//! Models with an encoder: `enc.blk.*`, `dec.blk.*` and what ties them.

use super::{Binder, Place};
use crate::model::config::{Config, EncoderSizes};
use crate::model::weights::{Attention, Bias, Branch, Cross, Encoder, Layer, Mixer, Qkv};

impl Binder<'_> {
    /// The encoder, the layers of the decoder and the bias of their attention.
    pub(super) fn encoder(
        &mut self,
        c: &Config,
        sizes: EncoderSizes,
    ) -> (Encoder, Vec<Layer>, Bias) {
        let heads = c.layers[0].head_count;
        let bias = |b: &mut Self, stem: &str| {
            let name = format!("{stem}.blk.0.attn_rel_b.weight");
            let values = b.vector(name, sizes.buckets * heads);
            if values.is_empty() {
                // Missing or misshapen: reported, and the file refused.
                return Bias::Slopes(Vec::new());
            }
            Bias::buckets(&values, sizes.buckets, sizes.reach, stem == "enc")
        };
        let (enc_bias, dec_bias) = (bias(self, "enc"), bias(self, "dec"));
        let encoder = Encoder {
            layers: (0..sizes.block_count)
                .map(|n| self.stacked(c, &Place::new("enc.blk", n, 0)))
                .collect(),
            norm: self.norm(c, "enc.output_norm".into(), true),
            bias: enc_bias,
            cross: (0..c.block_count).map(|n| self.cross(c, n)).collect(),
        };
        let layers = (0..c.block_count)
            .map(|n| self.stacked(c, &Place::new("dec.blk", n, 0)))
            .collect();
        (encoder, layers, dec_bias)
    }

    /// A layer of either.
    fn stacked(&mut self, c: &Config, at: &Place) -> Layer {
        let (e, sizes) = (c.embedding_length, c.layers[at.n]);
        let (q, kv) = (sizes.q_width(), sizes.kv_width());
        let name = |role: &str| at.name(role);
        let attention = Attention {
            qkv: Qkv::Split([
                self.linear(&name("attn_q"), q, e),
                self.linear(&name("attn_k"), kv, e),
                self.linear(&name("attn_v"), kv, e),
            ]),
            qk_norm: None,
            output: self.linear(&name("attn_o"), e, q),
        };
        Layer {
            mixer: Branch {
                norm: self.norm(c, name("attn_norm"), true),
                body: Mixer::Attention(attention),
                post_norm: None,
            },
            ffn: Branch {
                norm: self.norm(c, name("ffn_norm"), true),
                body: self.feed_forward(c, at),
                post_norm: None,
            },
        }
    }

    fn cross(&mut self, c: &Config, n: usize) -> Branch<Cross> {
        let (e, sizes) = (c.embedding_length, c.layers[0]);
        let (q, kv) = (sizes.q_width(), sizes.kv_width());
        let name = |role: &str| format!("dec.blk.{n}.cross_attn_{role}");
        Branch {
            norm: self.norm(c, name("norm"), true),
            body: Cross {
                q: self.linear(&name("q"), q, e),
                kv: [
                    self.linear(&name("k"), kv, e),
                    self.linear(&name("v"), kv, e),
                ],
                output: self.linear(&name("o"), e, q),
            },
            post_norm: None,
        }
    }
}
