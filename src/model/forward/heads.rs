//! Further heads (arXiv 2404.19737): layers in the place of the last one, each fed with what goes into
//! that one (the trunk), then the same output norm and matrix. Head `i` guesses the token `i + 2` positions
//! behind.

use super::{Buffers, Pass, Places, Stack};
use crate::error::Result;

impl Pass<'_, '_> {
    /// Takes `trunk`, `[n, E]`, of the one span from position `at` on, into the layer of head `i`: keys and values
    /// of all are stored, and `out`, if there is one, is what the layer makes of the last, `[E]`.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`].
    pub(crate) fn head_layer(
        &mut self,
        b: &mut Buffers,
        i: usize,
        (at, trunk): (usize, &[f32]),
        out: Option<&mut [f32]>,
    ) -> Result<()> {
        self.check_cancel()?;
        let (c, weights) = (self.model.config(), self.model.weights());
        let (e, l) = (c.embedding_length, c.block_count + i);
        let n = trunk.len() / e;
        let stack = Stack {
            layers: &weights.heads,
            bias: weights.bias.as_ref(),
            cross: &[],
        };
        let layer = &weights.heads[i];
        self.places = Places::one(at);
        (self.spans[0].first, self.spans[0].rows) = (at, 0..n);
        b.x[..n * e].copy_from_slice(trunk);
        self.mixer(b, &stack, layer, (l, n));
        let Some(out) = out else { return Ok(()) };
        let last = (n - 1) * e..n * e;
        b.x.copy_within(last.clone(), 0);
        if c.parallel {
            b.side.copy_within(last, 0);
        }
        self.feed_forward(b, layer, (l, 1));
        out.copy_from_slice(&b.x[..e]);
        Ok(())
    }
}
