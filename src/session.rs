//! A conversation with a model: KV cache, threads, and the tokens seen so far.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use geb_kernels::Kernels;
use geb_kernels::float::KvType;
use geb_kernels::level::Level;

use crate::adapter::Adapter;
use crate::cache::KvCache;
use crate::cpus::available_memory;
use crate::error::{Error, Result};
use crate::model::Model;
pub use crate::model::SparseChoice;
use crate::model::adapters::Adapters;
pub use crate::model::forward::Segment;
use crate::model::forward::{Buffers, Pass};
use crate::model::observer::Observer;
use crate::model::resident::{Residents, Streamed};
use crate::model::rope::Ropes;
use crate::state::State;
use crate::threads::{self, Pool};
use ahead::Heads;
pub use branch::Branch;
pub use choose::auto_is_f32;
use choose::{check_ctx, choose_kernels, choose_kv};
pub use memory::SessionMemory;
pub(crate) use saved::identity;
use text::Text;

/// Tokens of one batch: enough to fill the prefill tiles, few enough to stay in the caches.
pub const BATCH: usize = 512;
/// Context used when none is asked for and the model allows more.
pub const DEFAULT_CTX: usize = 4096;

/// Element type of the KV cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KvChoice {
    /// F32 for a model whose matrices are floats (a reference run), else F16.
    #[default]
    Auto,
    /// 4 bytes per element.
    F32,
    /// 2 bytes per element.
    F16,
    /// 8 bits and a scale per 32 elements of a head: 1.125 bytes per element.
    Q8_0,
}

/// What [`Session::tokens`] has for a position that a vector was given for.
pub const VECTOR: u32 = u32::MAX;

/// How to run a session.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// Threads; 0 takes [`threads::default_threads`].
    pub threads: usize,
    /// Positions of the context; `None` takes the trained length, at most [`DEFAULT_CTX`].
    pub ctx: Option<usize>,
    /// Let `ctx` exceed the trained length, up to [`limits::MAX_CONTEXT`]: rotations that were never
    /// trained. Not for models whose positions are a table.
    pub beyond: bool,
    /// KV cache type.
    pub kv: KvChoice,
    /// Instruction level; `None` takes the best of the host (or `GEB_ISA`).
    pub level: Option<Level>,
    /// Set to stop a forward pass at the next layer.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Matrices of which most weights are zero; changes speed and memory, never results.
    pub sparse: SparseChoice,
    /// Bytes that weights, cache and buffers may take: of a model with experts, those least recently
    /// used are given up.
    pub max_ram: Option<u64>,
    /// Keep what further heads of the model need ([`Session::look_ahead`]), where it has any.
    pub extra_heads: bool,
}

/// Which logits a forward pass returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// None: only the cache is filled.
    None,
    /// Those of the last token.
    Last,
    /// Those of every token.
    All,
}

/// A model, its cache and its threads.
pub struct Session {
    model: Arc<Model>,
    kernels: &'static Kernels,
    pool: Pool,
    cache: KvCache,
    state: State,
    ropes: Ropes,
    buffers: Buffers,
    /// Grows to the largest request; the last pass filled the first `wanted`.
    logits: Vec<f32>,
    wanted: usize,
    /// Tokens whose last layer is still in the buffers: the last batch of `forward`.
    batch: usize,
    tokens: Vec<u32>,
    ctx: usize,
    kv: KvType,
    sparse: SparseChoice,
    cancel: Option<Arc<AtomicBool>>,
    residents: Option<Residents>,
    adapters: Option<Adapters>,
    text: Option<Text>,
    heads: Option<Heads>,
}

/// What a session will be made of.
struct Sizes {
    kernels: &'static Kernels,
    ctx: usize,
    batch: usize,
    kv: KvType,
    heads: usize,
    /// Bytes of cache, states and buffers.
    needed: u64,
}

impl Sizes {
    fn of(model: &Model, options: &SessionOptions) -> Result<Sizes> {
        let c = model.config();
        let kernels = choose_kernels(options.level)?;
        // A state takes no more memory for more tokens.
        let default = match c.recurrent {
            Some(_) => c.context_length,
            None => c.context_length.min(DEFAULT_CTX),
        };
        let ctx = options.ctx.unwrap_or(default);
        check_ctx(c, ctx, options.beyond)?;
        let weights = model.weights();
        let kv = choose_kv(options.kv, weights, kernels)?;
        let batch = BATCH.min(ctx);
        let heads = if options.extra_heads {
            c.extra_heads
        } else {
            0
        };
        let needed = KvCache::bytes(c, 0..c.block_count, kv, [ctx, batch])
            + Heads::bytes(c, heads, kv, [ctx, batch])
            + State::bytes(c, &weights.layers)
            + Buffers::bytes(c, batch);
        if let Some(available) = available_memory().filter(|a| needed > *a) {
            return Err(Error::Memory {
                what: format!("context of {ctx} tokens"),
                needed,
                available,
            });
        }
        Ok(Sizes {
            kernels,
            ctx,
            batch,
            kv,
            heads,
            needed,
        })
    }
}

impl Session {
    /// Whether a session can be made: all that [`Session::new`] checks, and nothing allocated.
    ///
    /// # Errors
    /// Those of [`Session::new`].
    pub fn fits(model: &Model, options: &SessionOptions) -> Result<()> {
        Sizes::of(model, options).map(drop)
    }

    /// Chooses kernels, checks memory, allocates cache and buffers.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Session> {
        let sizes = Sizes::of(&model, options)?;
        let Sizes {
            kernels,
            ctx,
            batch,
            kv,
            heads,
            needed,
        } = sizes;
        let (c, weights) = (model.config(), model.weights());
        let own = 0..c.block_count;
        model.packed(options.sparse, kernels);
        let limited = |limit| Residents::new(&model, limit, needed);
        let residents = options.max_ram.map(limited).transpose()?;
        let threads = if options.threads == 0 {
            threads::default_threads()
        } else {
            options.threads
        };
        Ok(Session {
            kernels,
            pool: Pool::new(threads)?,
            cache: KvCache::new(c, own, kv, [ctx, batch])?,
            heads: Heads::new(c, heads, kv, [ctx, batch])?,
            state: State::new(c, &weights.layers)?,
            ropes: Ropes::new(c, weights, ctx),
            buffers: Buffers::new(c, batch),
            logits: Vec::new(),
            wanted: 0,
            batch: 0,
            tokens: Vec::new(),
            ctx,
            kv,
            sparse: options.sparse,
            cancel: options.cancel.clone(),
            residents,
            text: None,
            adapters: None,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Puts these adapters, each with its scale, in the place of those in use; none of them: the model as
    /// it is. The weights stay as they are, so this is quick. Forgets everything: what the cache holds
    /// was computed with other weights.
    ///
    /// # Errors
    /// [`Error::Request`] for a scale that is no finite number, [`Error::Tensors`] for an adapter that
    /// was read for another model ([`Model::adapter`]); those in use stay.
    pub fn set_adapters(&mut self, adapters: &[(&Adapter, f32)]) -> Result<()> {
        let new = Adapters::new(&self.model, self.kernels, adapters)?;
        self.adapters = (!adapters.is_empty()).then_some(new);
        self.reset();
        Ok(())
    }

    /// Positions of the context.
    pub fn ctx(&self) -> usize {
        self.ctx
    }

    /// Tokens in the cache so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens in the cache.
    pub fn pos(&self) -> usize {
        self.tokens.len()
    }

    /// Keeps the first `n` tokens, so that a new prompt with the same beginning starts there.
    ///
    /// Going back by up to [`BATCH`] tokens, counted from the most ever held since the last reset,
    /// keeps exactly `n`. A model with a sliding window may have given up the positions that an
    /// older state needs: then nothing is kept. A model that keeps a recurrent state goes back to where
    /// the last call with several tokens began, or to the beginning. [`Session::pos`] tells.
    pub fn truncate(&mut self, n: usize) {
        let n = n.min(self.tokens.len());
        self.batch = 0;
        let n = self.state.keeps(self.tokens.len(), n);
        self.tokens.truncate(self.cache.keeps(n));
        if let Some(heads) = &mut self.heads {
            heads.truncate(self.tokens.len());
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    /// Length of the common beginning of the cache and `tokens`.
    pub fn common_prefix(&self, tokens: &[u32]) -> usize {
        self.tokens
            .iter()
            .zip(tokens)
            .take_while(|(a, b)| a == b)
            .count()
    }

    /// What became of the experts under [`SessionOptions::max_ram`].
    pub fn streamed(&self) -> Option<Streamed> {
        self.residents.as_ref().map(Residents::sums)
    }

    /// The kernels in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of the KV cache that a token at position `positions - 1` sees, all layers together.
    pub fn kv_bytes_seen(&self, positions: usize) -> u64 {
        self.cache.seen_bytes(positions) + 4 * self.state.values().len() as u64
    }

    /// Element type of the KV cache.
    pub fn kv_type(&self) -> KvType {
        self.kv
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
        self.check(tokens, self.tokens.len())?;
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
        let c = self.model.config();
        let (vocab, layers, e) = (c.vocab, c.block_count, c.embedding_length);
        let total = segments.iter().map(|s| s.len(e)).sum();
        self.want(match want {
            Want::None => 0,
            Want::Last => 1.min(total),
            Want::All => total,
        });
        if total > 1 {
            self.state.mark(self.tokens.len());
        }
        let mut done = 0;
        let batch = BATCH.min(self.ctx);
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
            let observer = observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
            self.pass(part, self.tokens.len(), layers, logits, observer)?;
            match part {
                Segment::Tokens(ids) => self.tokens.extend_from_slice(ids),
                Segment::Vectors(_) => self.tokens.extend(std::iter::repeat_n(VECTOR, n)),
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
        let first = self.tokens.len() - self.batch;
        self.want(rows.len());
        let logits = 0..self.wanted;
        self.team(first, 0, logits, None, |pass, buffers, out| {
            pass.head(buffers, rows.start, out);
            Ok(())
        })?;
        self.finite(0..self.wanted, first + rows.start)?;
        Ok(self.logits())
    }

    /// The logits of the last pass, as it returned them.
    pub fn logits(&self) -> &[f32] {
        &self.logits[..self.wanted]
    }

    /// Makes room for the logits of `rows` tokens.
    fn want(&mut self, rows: usize) {
        self.wanted = rows * self.model.config().vocab;
        if self.logits.len() < self.wanted {
            self.logits.resize(self.wanted, 0.0);
        }
    }

    /// Whether `tokens` can be evaluated from position `first` on.
    fn check(&self, tokens: &[u32], first: usize) -> Result<()> {
        let config = self.model.config();
        if !config.causal {
            return Err(Error::Unsupported {
                what: "use of a model whose tokens see those after them",
                value: format!(
                    "prediction ({}.attention.causal is false)",
                    config.arch.name
                ),
                known: "embeddings (geb-run embed)".into(),
            });
        }
        if config.encoder.is_some() && self.text.is_none() {
            return Err(Error::Request {
                what: "text of the encoder".into(),
                value: "absent".into(),
                allowed: "one that was read (Session::encode)".into(),
            });
        }
        self.check_ids(tokens)?;
        self.check_room(tokens.len(), first)
    }

    /// Whether all ids are in the vocabulary.
    fn check_ids(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.config().vocab;
        match tokens.iter().find(|t| **t as usize >= vocab) {
            None => Ok(()),
            Some(t) => Err(Error::Request {
                what: "token id".into(),
                value: t.to_string(),
                allowed: format!("0..{vocab}"),
            }),
        }
    }

    /// Whether `n` more positions fit behind `first`.
    fn check_room(&self, n: usize, first: usize) -> Result<()> {
        let room = self.ctx.saturating_sub(first);
        if n <= room {
            return Ok(());
        }
        Err(Error::Request {
            what: "prompt".into(),
            value: format!("{n} tokens after {first}"),
            allowed: format!("at most {room}, the rest of the context of {}", self.ctx),
        })
    }

    /// One batch at position `first` through the first `layers` layers.
    fn pass(
        &mut self,
        input: Segment<'_>,
        first: usize,
        layers: usize,
        logits: Range<usize>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        let end = first + input.len(self.model.config().embedding_length);
        self.ropes.extend(end);
        self.batch = 0;
        let rows = logits.len() / self.model.config().vocab;
        let done = self
            .team(
                first,
                layers,
                logits.clone(),
                observer,
                |pass, buffers, out| pass.run(buffers, input, out),
            )
            .and_then(|()| self.finite(logits, end - rows));
        if done.is_err() && !self.state.is_empty() {
            // Some layers have seen the batch.
            let seen = self.state.restore();
            self.tokens.truncate(seen);
        }
        done
    }

    /// Calls `f` as the leader of the team with `self.logits[logits]`.
    fn team(
        &mut self,
        first: usize,
        layers: usize,
        logits: Range<usize>,
        observer: Option<&mut dyn Observer>,
        f: impl FnOnce(&mut Pass<'_, '_>, &mut Buffers, &mut [f32]) -> Result<()> + Send,
    ) -> Result<()> {
        let Session {
            model,
            kernels,
            pool,
            cache,
            state,
            ropes,
            buffers,
            cancel,
            residents,
            text,
            adapters,
            sparse,
            heads,
            ..
        } = self;
        let packed = model.packed(*sparse, kernels);
        let out = &mut self.logits[logits];
        pool.run(|lead| {
            let cancel = cancel.as_deref();
            let mut pass = Pass {
                model,
                kernels,
                lead,
                cache,
                state,
                ropes,
                first,
                causal: true,
                text: text.as_ref().map(|t| &t.cache),
                layers,
                cancel,
                packed,
                observer: observer.map(|o| o as &mut dyn Observer),
                residents: residents.as_mut(),
                adapters: adapters.as_mut(),
                trunk: heads.as_mut().map(Heads::trunk),
            };
            f(&mut pass, buffers, out)
        })
    }

    /// Refuses logits that are not finite; the first row is that of `position`.
    fn finite(&self, logits: Range<usize>, position: usize) -> Result<()> {
        let out = &self.logits[logits];
        let Some(i) = out.iter().position(|v| !v.is_finite()) else {
            return Ok(());
        };
        let vocab = self.model.config().vocab;
        Err(Error::NonFinite {
            what: format!("logits of position {}", position + i / vocab),
            index: (i % vocab) as u64,
            value: out[i],
        })
    }
}

mod ahead;
mod branch;
mod choose;
mod look;
mod memory;
mod saved;
mod states;
#[cfg(test)]
mod tests;
mod text;
