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
mod choose;
mod disk;
mod heads;
mod key;
mod prefix;
mod sequence;
mod stored;
mod text;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use geb_kernels::Kernels;
use geb_kernels::float::{BLOCK, KvType};
use geb_kernels::level::Level;

use crate::adapter::Adapter;
use crate::cache::{Layout, PagePool, PageTable, Part};
use crate::error::{Error, Result};
use crate::model::adapters::Adapters;
use crate::model::forward::{Buffers, Pass, Places, Segment, SpanView};
use crate::model::observer::Observer;
use crate::model::resident::Residents;
use crate::model::rope::Ropes;
use crate::model::{Model, SparseChoice};
use crate::ram;
use crate::state::State;
use crate::threads::{self, Pool};
pub(crate) use ahead::Alone;
pub use choose::auto_is_f32;
pub(crate) use choose::check_ctx;
use choose::{choose_kernels, choose_kv};
pub use disk::{DiskCache, DiskPages, DiskStats, Stored};
pub(crate) use heads::Heads;
pub use key::{Scope, SeqKey};
pub use prefix::PrefixStats;
use prefix::PrefixTree;
pub use sequence::Sequence;
pub(crate) use sequence::check_vectors;

/// Tokens of one batch: enough to fill the prefill tiles, few enough to stay in the caches.
pub const BATCH: usize = 512;
/// Copies of a recurrent state that are kept when no memory is given for them.
const COPIES: u64 = 8;
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

/// How to run a model.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// Threads; 0 takes [`threads::default_threads`].
    pub threads: usize,
    /// Positions of the context; `None` takes the trained length, at most [`DEFAULT_CTX`], 0 all of it.
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
    /// Sequences that pages of the KV cache are planned for; 0 is one. More can be made: the cache grows
    /// as far as there is memory, unless [`kv_memory`](Self::kv_memory) is given.
    pub streams: usize,
    /// Bytes of the pages of all sequences, which then never grow: a sequence that finds none left gets
    /// [`Error::Pages`].
    pub kv_memory: Option<u64>,
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

/// A model with threads and buffers, for any number of sequences.
pub struct Engine {
    pub(crate) model: Arc<Model>,
    pub(crate) kernels: &'static Kernels,
    pub(crate) pool: Pool,
    pub(crate) ropes: Ropes,
    pub(crate) buffers: Buffers,
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

/// What an engine will be made of.
struct Sizes {
    kernels: &'static Kernels,
    ctx: usize,
    batch: usize,
    kv: KvType,
    heads: usize,
    streams: usize,
    layout: Layout,
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
        let ctx = match options.ctx {
            Some(0) => c.context_length,
            asked => asked.unwrap_or(default),
        };
        check_ctx(c, ctx, options.beyond)?;
        let weights = model.weights();
        let kv = choose_kv(options.kv, weights, kernels)?;
        let batch = BATCH.min(ctx);
        let heads = if options.extra_heads {
            c.extra_heads
        } else {
            0
        };
        let (layout, streams) = (Layout::new(c, heads, kv), options.streams.max(1));
        let most = streams as u64 * layout.bytes(Part::Layers, ctx, batch);
        let one = layout.bytes(Part::Heads, ctx, batch)
            + Heads::bytes(c, heads, ctx)
            + State::bytes(c, &weights.layers);
        let needed = options.kv_memory.map_or(most, |bytes| bytes.min(most))
            + streams as u64 * one
            + Buffers::bytes(c, batch);
        ram::check(|| format!("context of {ctx} tokens"), needed)?;
        Ok(Sizes {
            kernels,
            ctx,
            batch,
            kv,
            heads,
            streams,
            layout,
            needed,
        })
    }

    /// The pages.
    fn pages(&self, kv_memory: Option<u64>) -> Result<PagePool> {
        let (layout, sizes) = (self.layout.clone(), (self.ctx, self.batch));
        match kv_memory {
            Some(bytes) => PagePool::of_bytes(layout, sizes, self.streams, bytes),
            None => PagePool::new(layout, self.ctx, self.batch, self.streams),
        }
    }
}

/// Tokens that a step appends to a sequence.
pub struct Span<'a> {
    /// The sequence.
    pub seq: &'a mut Sequence,
    /// What is appended: one token of a decode, or a piece of a prompt.
    pub input: Segment<'a>,
    /// Which logits are asked for.
    pub want: Want,
}

impl Span<'_> {
    /// Rows whose logits are asked for, counted from its first; `e`: width of the model.
    fn wanted(&self, e: usize) -> Range<usize> {
        let n = self.input.len(e);
        match self.want {
            Want::None => n..n,
            Want::Last => n - 1..n,
            Want::All => 0..n,
        }
    }
}

/// What a step found.
pub struct Output<'a> {
    /// Logits, `[rows, vocab]`, span after span.
    pub logits: &'a [f32],
    /// Rows of each span; empty for a span that failed.
    pub rows: Vec<Range<usize>>,
    /// Spans that failed, by number: their sequences are as before, the others went on.
    pub failed: Vec<(usize, Error)>,
}

impl Output<'_> {
    /// Logits of a span: `[rows, vocab]`.
    pub fn of(&self, span: usize, vocab: usize) -> &[f32] {
        &self.logits[self.rows[span].start * vocab..self.rows[span].end * vocab]
    }
}

impl Engine {
    /// Whether an engine can be made: all that [`Engine::new`] checks, and nothing allocated.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub fn fits(model: &Model, options: &SessionOptions) -> Result<()> {
        Sizes::of(model, options).map(drop)
    }

    /// Chooses kernels, checks memory for one sequence, allocates buffers.
    ///
    /// # Errors
    /// [`Error::Request`] for an option outside its range, [`Error::Memory`], [`Error::Threads`].
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Engine> {
        let sizes = Sizes::of(&model, options)?;
        let pages = sizes.pages(options.kv_memory)?;
        let Sizes {
            kernels,
            ctx,
            batch,
            kv,
            heads,
            needed,
            ..
        } = sizes;
        let state = State::bytes(model.config(), &model.weights().layers);
        let (c, weights) = (model.config(), model.weights());
        model.packed(options.sparse, kernels);
        let limited = |limit| Residents::new(&model, limit, needed);
        let residents = options.max_ram.map(limited).transpose()?;
        let threads = if options.threads == 0 {
            threads::default_threads()
        } else {
            options.threads
        };
        Ok(Engine {
            kernels,
            pool: Pool::new(threads)?,
            ropes: Ropes::new(c, weights, ctx),
            buffers: Buffers::new(c, batch)?,
            logits: Vec::new(),
            wanted: 0,
            ctx,
            kv,
            pages,
            fixed: options.kv_memory.is_some(),
            prefixes: PrefixTree::new(options.kv_memory.unwrap_or(COPIES * state)),
            heads,
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

    /// Bytes of a sequence of a whole context, pages included.
    pub fn sequence_bytes(&self) -> u64 {
        let (layout, batch) = (self.pages.layout(), self.batch());
        let pages = [Part::Layers, Part::Heads].map(|part| layout.bytes(part, self.ctx, batch));
        pages.iter().sum::<u64>() + self.state_bytes()
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

    /// A sequence with the first `at` tokens of another one and what the layers remember of them, bit for bit.
    /// Pages are shared until one of the two writes them; a recurrent state is copied.
    ///
    /// # Errors
    /// [`Error::Request`] for a sequence of another engine, more tokens than it has, fewer than a recurrent
    /// state can go back to, or positions whose window was given up; [`Error::Memory`].
    pub fn fork(&self, seq: &Sequence, at: usize) -> Result<Sequence> {
        self.check_made(seq)?;
        let held = seq.tokens.len();
        let lost = |allowed: &str| Error::Request {
            what: "tokens of a fork".into(),
            value: format!("the first {at} of {held}"),
            allowed: allowed.into(),
        };
        if at > held {
            return Err(lost("at most as many as there are"));
        }
        ram::check(|| "a sequence".into(), self.state_bytes())?;
        let state = seq.state.fork(held, at)?;
        let state =
            state.ok_or_else(|| lost("all, or as many as the recurrent state goes back to"))?;
        if seq.table.keeps(at) < at {
            return Err(lost("as many as the pages behind a window go back to"));
        }
        Ok(Sequence {
            table: seq.table.share(at),
            heads: seq.heads.as_ref().map(|h| h.fork(at)).transpose()?,
            state,
            tokens: seq.tokens[..at].to_vec(),
            text: seq.text.clone(),
            adapters: seq.adapters.as_ref().map(Adapters::fork),
            cursor: seq.cursor.as_ref().map(|c| c.fork(at)),
        })
    }

    /// Makes pages for these positions of a sequence its own.
    ///
    /// # Errors
    /// [`Error::Pages`], [`Error::Memory`].
    pub(crate) fn pages_for(
        &mut self,
        table: &mut PageTable,
        part: Part,
        positions: Range<usize>,
    ) -> Result<()> {
        while let Err(full) = self.pages.prepare(table, part, positions.clone()) {
            if self.prefixes.evict() {
                continue;
            }
            if self.fixed {
                return Err(Error::Pages {
                    needed: positions.len(),
                    positions: self.pages.positions(),
                });
            }
            self.pages.grow(full, positions.len().div_ceil(BLOCK))?;
        }
        Ok(())
    }

    /// Whether the pages suffice for `rows` more tokens of each of these sequences: those that are free, and
    /// those that only the tree of beginnings names.
    pub fn has_room(&self, spans: &[(&Sequence, usize)]) -> bool {
        let mut lacks = Vec::new();
        for (seq, rows) in spans {
            let end = seq.tokens.len() + rows;
            let each = self.pages.lacks(&seq.table, seq.tokens.len()..end);
            lacks.resize(each.len(), 0);
            lacks.iter_mut().zip(each).for_each(|(sum, n)| *sum += n);
        }
        !self.fixed || self.pages.has(&lacks) || {
            let more = self.prefixes.evictable() as isize;
            lacks.iter_mut().for_each(|n| *n -= more);
            self.pages.has(&lacks)
        }
    }

    /// Pages that nobody uses, and all; of the group of layers that has the smallest share left.
    pub fn free_pages(&self) -> (usize, usize) {
        self.pages.free()
    }

    /// Bytes of the pages of all sequences.
    pub fn kv_bytes(&self) -> u64 {
        self.pages.bytes()
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

    /// Appends to every span's sequence in one pass over the weights: prompts and decodes in any
    /// mixture. Each gets the bits that it would get alone.
    ///
    /// A span that cannot run (a token outside the vocabulary, no room in its context, logits that are
    /// not finite) fails alone; its sequence keeps what it held, one with a recurrent state what it can go
    /// back to.
    ///
    /// # Errors
    /// [`Error::Request`] for more rows than [`Engine::batch`] and for a sequence of another engine (nothing is
    /// changed); [`Error::Interrupted`] when cancelled: no sequence has grown.
    pub fn step(&mut self, spans: &mut [Span<'_>]) -> Result<Output<'_>> {
        self.check_step(spans)?;
        let c = self.model.config();
        let (e, vocab) = (c.embedding_length, c.vocab);
        let mut errors = Vec::with_capacity(spans.len());
        for span in spans.iter_mut() {
            let (first, n) = (span.seq.tokens.len(), span.input.len(e));
            let ready = self
                .check_span(span)
                .and_then(|()| self.pages_for(&mut span.seq.table, Part::Layers, first..first + n));
            errors.push(ready.err());
        }
        let mut end = 0;
        let mut rows = Vec::with_capacity(spans.len());
        for (span, error) in spans.iter().zip(&errors) {
            let wanted = if error.is_none() {
                span.wanted(e).len()
            } else {
                0
            };
            rows.push(end..end + wanted);
            end += wanted;
        }
        self.want(end)?;
        let done = self.pass(spans, &errors);
        for (i, span) in spans.iter_mut().enumerate() {
            if errors[i].is_some() {
                continue;
            }
            let n = span.input.len(e);
            let first = span.seq.tokens.len() + n - rows[i].len();
            let logits = rows[i].start * vocab..rows[i].end * vocab;
            match (&done, self.finite(logits, first)) {
                (Ok(()), Ok(())) => {
                    span.seq.append(span.input, n);
                    self.remember(span.seq);
                }
                (Ok(()), Err(error)) => {
                    span.seq.go_back();
                    rows[i] = 0..0;
                    errors[i] = Some(error);
                }
                (Err(_), _) => span.seq.go_back(),
            }
        }
        done?;
        let failed = errors.into_iter().enumerate();
        Ok(Output {
            logits: &self.logits[..self.wanted],
            rows,
            failed: failed.filter_map(|(i, e)| Some((i, e?))).collect(),
        })
    }

    /// One pass over the spans without errors, which writes the logits that they want.
    fn pass(&mut self, spans: &mut [Span<'_>], errors: &[Option<Error>]) -> Result<()> {
        let c = self.model.config();
        let (e, layers) = (c.embedding_length, c.block_count);
        let (mut views, mut places) = (Vec::new(), Vec::new());
        let (mut row, mut end) = (0, 0);
        for (span, error) in spans.iter_mut().zip(errors) {
            if error.is_some() {
                continue;
            }
            let (n, first) = (span.input.len(e), span.seq.tokens.len());
            if n > 1 {
                span.seq.state.mark(first);
            }
            places.push((row, first));
            end = end.max(first + n);
            let wanted = span.wanted(e);
            views.push(span.seq.span(span.input, row..row + n, wanted));
            row += n;
        }
        if views.is_empty() {
            return Ok(());
        }
        self.ropes.extend(end);
        let logits = 0..self.wanted;
        self.lead(views, &places, layers, logits, None, |pass, b, out| {
            pass.run(b, out)
        })
    }

    /// Whether a step of these spans can begin.
    fn check_step(&self, spans: &[Span<'_>]) -> Result<()> {
        let e = self.model.config().embedding_length;
        let total: usize = spans.iter().map(|s| s.input.len(e)).sum();
        if total > self.batch() {
            return Err(Error::Request {
                what: "rows of a step".into(),
                value: total.to_string(),
                allowed: format!("at most {}", self.batch()),
            });
        }
        spans.iter().try_for_each(|s| self.check_made(s.seq))
    }

    /// Refuses a sequence of another engine.
    fn check_made(&self, seq: &Sequence) -> Result<()> {
        match self.pages.made(&seq.table) {
            true => Ok(()),
            false => Err(Error::Request {
                what: "sequence".into(),
                value: "one of another engine".into(),
                allowed: "sequences that this engine made".into(),
            }),
        }
    }

    /// Whether a span can be evaluated.
    fn check_span(&self, span: &Span<'_>) -> Result<()> {
        let e = self.model.config().embedding_length;
        let first = span.seq.tokens.len();
        match span.input {
            Segment::Tokens(ids) => self.check(span.seq, ids, first)?,
            Segment::Vectors(x) => {
                check_vectors(x, e)?;
                self.check(span.seq, &[], first)?;
                self.check_room(span.input.len(e), first)?;
            }
        }
        match span.input.len(e) {
            0 => Err(Error::Request {
                what: "tokens of a span".into(),
                value: "0".into(),
                allowed: "one or more".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Makes room for the logits of `rows` tokens.
    pub(crate) fn want(&mut self, rows: usize) -> Result<()> {
        let wanted = rows * self.model.config().vocab;
        let more = wanted.saturating_sub(self.logits.len());
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
    /// every span.
    pub(crate) fn lead(
        &mut self,
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
        let (residents, pages) = (self.residents.as_mut(), &mut self.pages);
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
