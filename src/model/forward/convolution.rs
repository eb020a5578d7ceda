//! Causal convolutions of each channel with its last inputs, which a state keeps.

use super::Pass;

/// A convolution.
pub(super) struct Convolution<'a> {
    /// `[taps, channels]`, the last one for the current token.
    pub(super) factors: &'a [f32],
    /// `[channels]`, or none.
    pub(super) bias: &'a [f32],
    pub(super) channels: usize,
    /// What becomes of the sum.
    pub(super) act: fn(f32) -> f32,
}

impl Convolution<'_> {
    /// Floats of a state that hold the last inputs.
    pub(super) fn past(&self) -> usize {
        self.factors.len() - self.channels
    }
}

impl Pass<'_, '_> {
    /// `x = act(conv(u))`, both `[n, channels]`, of each span; its last inputs are kept for the next batch, at the
    /// beginning of the state of layer `l`.
    pub(super) fn convolve(&mut self, conv: &Convolution<'_>, l: usize, u: &[f32], x: &mut [f32]) {
        let channels = conv.channels;
        let kept = conv.past() / channels;
        for i in 0..self.spans.len() {
            let span = &mut self.spans[i];
            let rows = span.rows.clone();
            let u = &u[rows.start * channels..rows.end * channels];
            let past = &mut span.state.mixer_mut(l)[..kept * channels];
            let before = past.to_vec();
            // Row `i` of the inputs, counted from the oldest kept one.
            let row = |i: usize| match i.checked_sub(kept) {
                Some(t) => &u[t * channels..(t + 1) * channels],
                None => &before[i * channels..(i + 1) * channels],
            };
            for (i, past) in past.chunks_exact_mut(channels).enumerate() {
                past.copy_from_slice(row(rows.len() + i));
            }
            let x = &mut x[rows.start * channels..rows.end * channels];
            self.rows(x, channels, |t, x| {
                match conv.bias.is_empty() {
                    true => x.fill(0.0),
                    false => x.copy_from_slice(conv.bias),
                }
                for (tap, factors) in conv.factors.chunks_exact(channels).enumerate() {
                    for ((x, f), u) in x.iter_mut().zip(factors).zip(row(t + tap)) {
                        *x += f * u;
                    }
                }
                x.iter_mut().for_each(|v| *v = (conv.act)(*v));
            });
        }
    }
}
