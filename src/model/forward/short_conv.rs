//! Gated convolutions over a few tokens (LFM2): what is mixed is gated before and after.

use super::convolution::Convolution;
use super::{Buffers, Pass, take};
use crate::model::weights::ShortConv;

/// `x = x * y`, number by number.
fn multiply(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x *= y);
}

impl Pass<'_, '_> {
    /// The mixer on the batch `b.h`, `[n, E]`, in place.
    pub(super) fn short_conv(&mut self, b: &mut Buffers, m: &ShortConv, l: usize, n: usize) {
        let e = self.model.config().embedding_length;
        let h = &mut b.h[..n * e];
        let mut rest = &mut b.mix[..];
        let [before, after, x, y] = [(); 4].map(|()| take(&mut rest, n * e));
        let [wb, wc, wx] = &m.input;
        let outs = [(wb, &mut *before), (wc, &mut *after), (wx, &mut *x)];
        self.project(&mut b.acts, h, n, outs);
        let row = |t: usize| t * e..(t + 1) * e;
        self.rows(x, e, |t, x| multiply(x, &before[row(t)]));
        let conv = Convolution {
            factors: &m.conv,
            bias: &[],
            channels: e,
            act: |v| v,
        };
        self.convolve(&conv, l, x, y);
        self.rows(y, e, |t, y| multiply(y, &after[row(t)]));
        self.project(&mut b.acts, y, n, [(&m.output, h)]);
    }
}
