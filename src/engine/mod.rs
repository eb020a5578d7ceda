//! What all who use a model share: threads, buffers, rotations; and a pass over the weights for any number of
//! sequences.
//!
//! ```text
//! Engine      model, kernels, pool of threads, pages of all sequences, buffers of a batch, logits
//! Sequence    tokens and what the layers remember of them: pages of keys and values, states, an encoder's
//!             text, adapters
//! step        spans of sequences -> one pass -> logits, span after span
//! ```
//! A sequence's logits are the same bits alone and among others: products do not depend on the rows beside
//! a row, attention and recurrence see one span each.

mod ahead;
mod begin;
mod choose;
mod disk;
mod heads;
mod key;
mod options;
mod pages;
mod plan;
mod prefix;
mod sequence;
mod step;
mod stored;
mod text;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use geb_kernels::Kernels;
use geb_kernels::float::KvType;

use crate::adapter::Adapter;
use crate::cache::PagePool;
use crate::error::{Error, Result};
use crate::model::adapters::Adapters;
use crate::model::forward::{Buffers, Pass, Places, SpanView};
use crate::model::observer::Observer;
use crate::model::resident::Residents;
use crate::model::rope::Ropes;
use crate::model::{Model, SparseChoice};
use crate::ram;
use crate::state::State;
use crate::threads::{self, SharedPool};
pub(crate) use ahead::Alone;
pub use choose::auto_is_f32;
#[cfg(test)]
pub(crate) use choose::check_ctx;
pub use disk::{DiskCache, DiskPages, DiskStats, Stored};
pub(crate) use heads::Heads;
pub use key::{Scope, SeqKey};
pub use options::{BATCH, DEFAULT_CTX, KvChoice, SessionOptions, VECTOR, Want};
use plan::Plan;
pub use prefix::PrefixStats;
use prefix::PrefixTree;
pub use sequence::Sequence;
pub(crate) use sequence::check_vectors;
pub use step::{Output, Span};

/// A model with threads and buffers, for any number of sequences.
pub struct Engine {
    pub(crate) model: Arc<Model>,
    pub(crate) kernels: &'static Kernels,
    pub(crate) pool: SharedPool,
    pub(crate) ropes: Ropes,
    pub(crate) buffers: Buffers,
    /// Bytes of buffers and logits as planned.
    pub(crate) scratch: u64,
    /// Grows to the largest request; the last pass filled the first `wanted`.
    pub(crate) logits: Vec<f32>,
    pub(crate) wanted: usize,
    pub(crate) ctx: usize,
    pub(crate) kv: KvType,
    pub(crate) sparse: SparseChoice,
    pub(crate) cancel: Option<Arc<AtomicBool>>,
    pub(crate) residents: Option<Residents>,
    /// Keys and values of all sequences.
    pub(crate) pages: PagePool,
    /// Whether there are never more of them.
    fixed: bool,
    prefixes: PrefixTree,
    /// Further heads of the model that sequences keep memory for.
    heads: usize,
}
impl Engine {
    /// Whether an engine can be made: all that [`Engine::new`] checks, and nothing allocated.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub fn fits(model: &Model, options: &SessionOptions) -> Result<()> {
        Plan::new(model, options).map(drop)
    }

    /// Bytes of the pages that would be planned for these options, and of the copies of states beside them.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub fn kv_bytes_for(model: &Model, options: &SessionOptions) -> Result<u64> {
        let plan = Plan::new(model, options)?;
        match plan.pages.bytes() {
            0 => Ok(0),
            pages => Ok(pages + plan.copies),
        }
    }

    /// Plans memory, checks it, allocates it: pages, buffers, logits.
    ///
    /// # Errors
    /// [`Error::Request`] for an option outside its range, [`Error::Memory`], [`Error::Threads`].
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Engine> {
        let plan = Plan::new(&model, options)?;
        let (kernels, ctx) = (plan.kernels, plan.ctx);
        let (c, weights) = (model.config(), model.weights());
        model.packed(options.sparse, kernels);
        let limited = |limit| Residents::new(&model, limit, plan.bytes());
        let residents = options.max_ram.map(limited).transpose()?;
        let pool = match (&options.pool, options.threads) {
            (Some(pool), _) => pool.clone(),
            (None, 0) => SharedPool::new(threads::default_threads())?,
            (None, n) => SharedPool::new(n)?,
        };
        let no_memory = |()| ram::refused("logits", 4 * plan.logits as u64);
        let logits = bytemuck::allocation::try_zeroed_vec(plan.logits).map_err(no_memory)?;
        Ok(Engine {
            kernels,
            pool,
            ropes: Ropes::new(c, weights, ctx),
            buffers: Buffers::new(&plan.buffers)?,
            scratch: plan.scratch(),
            logits,
            wanted: 0,
            ctx,
            kv: plan.kv,
            heads: plan.heads,
            pages: PagePool::new(plan.pages)?,
            fixed: options.kv_memory.is_some(),
            prefixes: PrefixTree::new(plan.copies),
            sparse: options.sparse,
            cancel: options.cancel.clone(),
            residents,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The kernels in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Positions of a sequence's context.
    pub fn ctx(&self) -> usize {
        self.ctx
    }

    /// Most rows of a step.
    pub fn batch(&self) -> usize {
        BATCH.min(self.ctx)
    }

    /// Bytes of a sequence besides its pages.
    pub(crate) fn state_bytes(&self) -> u64 {
        let c = self.model.config();
        Heads::bytes(c, self.heads, self.ctx) + State::bytes(c, &self.model.weights().layers)
    }

    /// An empty sequence. It takes pages as positions are written, and gives them back when it is dropped.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn sequence(&self) -> Result<Sequence> {
        let c = self.model.config();
        ram::check(|| "a sequence".into(), self.state_bytes())?;
        Ok(Sequence {
            table: self.pages.table(),
            heads: Heads::new(c, self.heads, self.ctx)?,
            state: State::new(c, &self.model.weights().layers)?,
            tokens: Vec::new(),
            text: None,
            adapters: None,
            cursor: None,
        })
    }
    /// Puts these adapters, each with its scale, in the place of those that a sequence uses, and forgets
    /// its tokens: what it holds was computed with other weights.
    ///
    /// # Errors
    /// As [`Session::set_adapters`](crate::session::Session::set_adapters); those in use stay.
    pub fn set_adapters(&self, seq: &mut Sequence, adapters: &[(&Adapter, f32)]) -> Result<()> {
        let new = Adapters::new(&self.model, self.kernels, adapters)?;
        seq.adapters = (!adapters.is_empty()).then_some(new);
        seq.truncate(0);
        Ok(())
    }
    /// Makes room for the logits of `rows` tokens.
    pub(crate) fn want(&mut self, rows: usize) -> Result<()> {
        let wanted = rows * self.model.config().vocab;
        let more = wanted.saturating_sub(self.logits.len());
        if more > 0 {
            ram::check(|| format!("logits of {rows} tokens"), 4 * wanted as u64)?;
        }
        let refused = |_| ram::refused(format!("logits of {rows} tokens"), 4 * wanted as u64);
        self.logits.try_reserve_exact(more).map_err(refused)?;
        self.logits.resize(self.logits.len() + more, 0.0);
        self.wanted = wanted;
        Ok(())
    }

    /// Whether `tokens` can be evaluated from position `first` on.
    pub(crate) fn check(&self, seq: &Sequence, tokens: &[u32], first: usize) -> Result<()> {
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
        if config.encoder.is_some() && seq.text.is_none() {
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
    pub(crate) fn check_ids(&self, tokens: &[u32]) -> Result<()> {
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
    pub(crate) fn check_room(&self, n: usize, first: usize) -> Result<()> {
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

    /// Calls `f` as the leader of the team with `self.logits[logits]`. `places`: first row and its position, of
    /// every span. `own`: pages that the spans lie in, if not those of the engine.
    pub(crate) fn lead(
        &mut self,
        own: Option<&mut PagePool>,
        spans: Vec<SpanView<'_>>,
        places: &[(usize, usize)],
        layers: usize,
        logits: Range<usize>,
        observer: Option<&mut dyn Observer>,
        f: impl FnOnce(&mut Pass<'_, '_>, &mut Buffers, &mut [f32]) -> Result<()> + Send,
    ) -> Result<()> {
        let packed = self.model.packed(self.sparse, self.kernels);
        let out = &mut self.logits[logits];
        let (model, kernels, ropes) = (&*self.model, self.kernels, &self.ropes);
        let (cancel, buffers) = (self.cancel.as_deref(), &mut self.buffers);
        let residents = self.residents.as_mut();
        let pages = own.unwrap_or(&mut self.pages);
        self.pool.run(|lead| {
            let mut pass = Pass {
                model,
                kernels,
                lead,
                ropes,
                spans,
                pages,
                places: Places::many(places),
                causal: true,
                layers,
                cancel,
                packed,
                observer: observer.map(|o| o as &mut dyn Observer),
                residents,
            };
            f(&mut pass, buffers, out)
        })
    }

    /// Refuses logits that are not finite; the first row is that of `position`.
    pub(crate) fn finite(&self, logits: Range<usize>, position: usize) -> Result<()> {
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
