//! A conversation with a model: KV cache, threads, and the tokens seen so far.

use std::ops::Range;
use std::sync::Arc;

use geb_kernels::Kernels;
use geb_kernels::float::KvType;

use crate::adapter::Adapter;
use crate::engine::Alone;
pub use crate::engine::{
    BATCH, DEFAULT_CTX, Engine, KvChoice, Sequence, SessionOptions, VECTOR, Want, auto_is_f32,
};
use crate::error::{Error, Result};
use crate::model::Model;
pub use crate::model::SparseChoice;
pub use crate::model::forward::Segment;
use crate::model::observer::Observer;
use crate::model::resident::{Residents, Streamed};
pub use branch::Branch;
pub use memory::SessionMemory;
pub use saved::identity;

/// One conversation: an [`Engine`] with one [`Sequence`].
pub struct Session {
    engine: Engine,
    seq: Sequence,
    /// Tokens whose last layer is still in the buffers: the last batch of `forward`.
    batch: usize,
}

impl Session {
    /// Whether a session can be made: all that [`Session::new`] checks, and nothing allocated.
    ///
    /// # Errors
    /// Those of [`Session::new`].
    pub fn fits(model: &Model, options: &SessionOptions) -> Result<()> {
        Engine::fits(model, options)
    }

    /// Chooses kernels, checks memory, allocates cache and buffers.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Session> {
        let engine = Engine::new(model, options)?;
        Ok(Session {
            seq: engine.sequence()?,
            engine,
            batch: 0,
        })
    }

    /// The engine and the one sequence.
    pub fn parts(&mut self) -> (&mut Engine, &mut Sequence) {
        self.batch = 0;
        (&mut self.engine, &mut self.seq)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.engine.model
    }

    /// Puts these adapters, each with its scale, in the place of those in use; none of them: the model as
    /// it is. The weights stay as they are, so this is quick. Forgets everything: what the cache holds
    /// was computed with other weights.
    ///
    /// # Errors
    /// [`Error::Request`] for a scale that is no finite number, [`Error::Tensors`] for an adapter that
    /// was read for another model ([`Model::adapter`]); those in use stay.
    pub fn set_adapters(&mut self, adapters: &[(&Adapter, f32)]) -> Result<()> {
        self.engine.set_adapters(&mut self.seq, adapters)?;
        self.batch = 0;
        Ok(())
    }

    /// The text that the encoder has read last; empty without one.
    pub fn text(&self) -> &[u32] {
        self.seq.text()
    }

    /// As [`Engine::encode`].
    ///
    /// # Errors
    /// As [`Engine::encode`].
    pub fn encode(&mut self, tokens: &[u32]) -> Result<()> {
        self.batch = 0;
        self.engine.encode(&mut self.seq, tokens)
    }

    /// Positions of the context.
    pub fn ctx(&self) -> usize {
        self.engine.ctx
    }

    /// Tokens in the cache so far.
    pub fn tokens(&self) -> &[u32] {
        &self.seq.tokens
    }

    /// Number of tokens in the cache.
    pub fn pos(&self) -> usize {
        self.seq.tokens.len()
    }

    /// Keeps the first `n` tokens, so that a new prompt with the same beginning starts there.
    ///
    /// Going back by up to [`BATCH`] tokens, counted from the most ever held since the last reset,
    /// keeps exactly `n`. A model with a sliding window may have given up the positions that an
    /// older state needs: then nothing is kept. A model that keeps a recurrent state goes back to where
    /// the last call with several tokens began, or to the beginning. [`Session::pos`] tells.
    pub fn truncate(&mut self, n: usize) {
        self.batch = 0;
        self.seq.truncate(n);
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    /// Length of the common beginning of the cache and `tokens`.
    pub fn common_prefix(&self, tokens: &[u32]) -> usize {
        self.seq
            .tokens
            .iter()
            .zip(tokens)
            .take_while(|(a, b)| a == b)
            .count()
    }

    /// What became of the experts under [`SessionOptions::max_ram`].
    pub fn streamed(&self) -> Option<Streamed> {
        self.engine.residents.as_ref().map(Residents::sums)
    }

    /// The kernels in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.engine.kernels
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.engine.pool.threads()
    }

    /// Bytes of the KV cache that a token at position `positions - 1` sees, all layers together.
    pub fn kv_bytes_seen(&self, positions: usize) -> u64 {
        self.engine.kv_bytes_seen(&self.seq, positions)
    }

    /// Element type of the KV cache.
    pub fn kv_type(&self) -> KvType {
        self.engine.kv
    }

    /// Appends `tokens` and returns the logits asked for: `[vocab]` for [`Want::Last`],
    /// `[tokens, vocab]` for [`Want::All`].
    ///
    /// # Errors
    /// [`Error::Request`] for a token outside the vocabulary or a context that would overflow (nothing
    /// is changed), [`Error::Interrupted`] when cancelled and [`Error::NonFinite`] for NaN logits
    /// (the cache then ends before the batch that failed, a recurrent state where it can go back to).
    pub fn forward(&mut self, tokens: &[u32], want: Want) -> Result<&[f32]> {
        self.forward_with(tokens, want, &mut |_, _| {})
    }

    /// As [`Session::forward`]; `progress(done, total)` is called after each batch.
    pub fn forward_with(
        &mut self,
        tokens: &[u32],
        want: Want,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<&[f32]> {
        self.engine
            .check(&self.seq, tokens, self.seq.tokens.len())?;
        self.feed(&[Segment::Tokens(tokens)], want, None, progress)
    }

    /// Appends what was checked, in batches.
    fn feed(
        &mut self,
        segments: &[Segment<'_>],
        want: Want,
        mut observer: Option<&mut dyn Observer>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<&[f32]> {
        let c = self.engine.model.config();
        let (vocab, layers, e) = (c.vocab, c.block_count, c.embedding_length);
        let total = segments.iter().map(|s| s.len(e)).sum();
        self.engine.want(match want {
            Want::None => 0,
            Want::Last => 1.min(total),
            Want::All => total,
        })?;
        if total > 1 {
            self.seq.state.mark(self.seq.tokens.len());
        }
        let mut done = 0;
        let batch = BATCH.min(self.engine.ctx);
        for (segment, at) in segments.iter().flat_map(|s| {
            let starts = (0..s.len(e)).step_by(batch);
            starts.map(move |at| (s, at))
        }) {
            let part = segment.part(e, at..segment.len(e).min(at + batch));
            let n = part.len(e);
            let rows = match want {
                Want::All => done..done + n,
                Want::Last if done + n == total => 0..1,
                _ => 0..0,
            };
            let logits = rows.start * vocab..rows.end * vocab;
            let alone = Alone {
                input: part,
                wanted: n - rows.len()..n,
                first: self.seq.tokens.len(),
                layers,
                observer: observer.as_mut().map(|o| &mut **o as &mut dyn Observer),
            };
            self.pass(alone, logits)?;
            match part {
                Segment::Tokens(ids) => self.seq.tokens.extend_from_slice(ids),
                Segment::Vectors(_) => self.seq.tokens.extend(std::iter::repeat_n(VECTOR, n)),
            }
            self.batch = n;
            done += n;
            progress(done, total);
        }
        Ok(self.logits())
    }

    /// Logits `[rows, vocab]` of tokens `rows` of the last batch of [`Session::forward`]: those of the
    /// last call, at most [`BATCH`] and the context. A caller that looks at many positions asks for
    /// [`Want::None`] and then for a few rows at a time, so that it never holds all logits.
    ///
    /// # Errors
    /// [`Error::Request`] for rows that the last batch has not, [`Error::NonFinite`] for NaN logits.
    pub fn head(&mut self, rows: Range<usize>) -> Result<&[f32]> {
        if rows.start > rows.end || rows.end > self.batch {
            return Err(Error::Request {
                what: "rows of the last batch".into(),
                value: format!("{rows:?}"),
                allowed: format!("within 0..{}", self.batch),
            });
        }
        let first = self.seq.tokens.len() - self.batch;
        self.engine.want(rows.len())?;
        let logits = 0..self.engine.wanted;
        let batch = self.batch;
        let seq = &mut self.seq;
        let again = Alone::again(first);
        self.engine
            .lead_alone(seq, again, logits, |pass, buffers, out| {
                (pass.spans[0].rows, pass.spans[0].wanted) = (0..batch, rows.clone());
                pass.head(buffers, out);
                Ok(())
            })?;
        self.engine
            .finite(0..self.engine.wanted, first + rows.start)?;
        Ok(self.logits())
    }

    /// The logits of the last pass, as it returned them.
    pub fn logits(&self) -> &[f32] {
        &self.engine.logits[..self.engine.wanted]
    }

    /// One batch of the sequence alone.
    fn pass(&mut self, alone: Alone<'_>, logits: Range<usize>) -> Result<()> {
        self.batch = 0;
        self.engine.pass_alone(&mut self.seq, alone, logits)
    }
}

mod ahead;
mod branch;
mod look;
mod memory;
mod saved;
mod states;
#[cfg(test)]
mod tests;
