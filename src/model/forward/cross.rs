//! The encoder's text: read once, looked at by every layer of the decoder.

use super::{Buffers, Pass};
use crate::cache::OwnPages;
use crate::error::Result;
use crate::model::weights::Cross;

impl Pass<'_, '_> {
    /// Runs the one span through the encoder; writes what the decoder's layers look at into `text`.
    /// The pass is not causal, and its pages are rows for the encoder's layers.
    pub(crate) fn encode(&mut self, b: &mut Buffers, text: &mut OwnPages) -> Result<()> {
        let c = self.model.config();
        let (n, e) = (self.spans[0].rows.len(), c.embedding_length);
        self.embed(b);
        self.run_layers(b, n)?;
        let Some(encoder) = &self.model.weights().encoder else {
            return Ok(());
        };
        let h = &mut b.h[..n * e];
        self.norm(&b.x[..n * e], &encoder.norm, h);
        for (l, branch) in encoder.cross.iter().enumerate() {
            let width = c.layers[l].kv_width();
            let (k, v) = b.qkv[..2 * n * width].split_at_mut(n * width);
            let [to_k, to_v] = &branch.body.kv;
            self.project(&mut b.acts, h, n, [(to_k, &mut *k), (to_v, &mut *v)]);
            text.put(l, [(k, width), (v, width)]);
        }
        Ok(())
    }

    /// What `b.h` says of each token, `[n, E]`, becomes what it finds in the encoder's text.
    pub(super) fn cross(&mut self, b: &mut Buffers, a: &Cross, l: usize, n: usize) {
        let c = self.model.config();
        let (e, width) = (c.embedding_length, c.layers[l].q_width());
        let (h, q) = (&mut b.h[..n * e], &mut b.qkv[..n * width]);
        self.project(&mut b.acts, h, n, [(&a.q, &mut *q)]);
        let attn = &mut b.attn[..n * width];
        self.attend_biased(l, (q, width), attn, None);
        self.project(&mut b.acts, attn, n, [(&a.output, &mut *h)]);
    }
}
