//! What an engine will be made of, and its bytes: what the plan says is what is allocated.

use geb_kernels::Kernels;
use geb_kernels::float::KvType;

use super::choose::{check_ctx, choose_kernels, choose_kv};
use super::heads::Heads;
use super::options::{BATCH, DEFAULT_CTX, SessionOptions};
use crate::cache::{Layout, PagePlan};
use crate::error::Result;
use crate::model::forward::BufferSizes;
use crate::model::{LayerSizes, Model};
use crate::ram;
use crate::state::State;

/// Copies of a recurrent state that are kept when no memory is given for them.
const COPIES: u64 = 8;

/// Sizes of an engine.
pub(super) struct Plan {
    pub(super) kernels: &'static Kernels,
    /// Positions of a sequence.
    pub(super) ctx: usize,
    pub(super) kv: KvType,
    /// Further heads that sequences keep memory for.
    pub(super) heads: usize,
    /// Sequences that memory is planned for.
    pub(super) streams: usize,
    pub(super) pages: PagePlan,
    /// Bytes that copies of states may take.
    pub(super) copies: u64,
    /// Bytes of a sequence besides its pages.
    pub(super) state: u64,
    pub(super) buffers: BufferSizes,
    /// Numbers of the logits of one row of every sequence.
    pub(super) logits: usize,
}

impl Plan {
    /// The sizes that the options ask for, of a model.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for an option outside its range,
    /// [`Error::Memory`](crate::Error::Memory).
    pub(super) fn new(model: &Model, options: &SessionOptions) -> Result<Plan> {
        let c = model.config();
        let kernels = choose_kernels(options.level)?;
        // A state takes no more memory for more tokens.
        let default = match c.widest(LayerSizes::kv_width) {
            0 => c.context_length,
            _ => c.context_length.min(DEFAULT_CTX),
        };
        let ctx = match options.ctx {
            Some(0) => c.context_length,
            asked => asked.unwrap_or(default),
        };
        check_ctx(c, ctx, options.beyond)?;
        let weights = model.weights();
        let kv = choose_kv(options.kv, weights, kernels)?;
        let heads = match options.extra_heads {
            true => c.extra_heads,
            false => 0,
        };
        let (batch, streams) = (BATCH.min(ctx), options.streams.max(1));
        let state = State::bytes(c, &weights.layers);
        let pages = PagePlan::new(Layout::new(c, heads, kv), ctx, batch, streams);
        let (pages, copies) = shares(pages, options.kv_memory, COPIES * state)?;
        let plan = Plan {
            kernels,
            ctx,
            kv,
            heads,
            streams,
            pages,
            copies,
            state: Heads::bytes(c, heads, ctx) + state,
            buffers: BufferSizes::new(c, batch),
            logits: streams * c.vocab,
        };
        ram::check(|| format!("context of {ctx} tokens"), plan.bytes())?;
        Ok(plan)
    }

    /// Bytes of everything: pages, states, buffers, logits.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.bytes() + self.streams as u64 * self.state + self.scratch()
    }

    /// Bytes of buffers and logits.
    pub(super) fn scratch(&self) -> u64 {
        self.buffers.bytes() + 4 * self.logits as u64
    }
}

/// Pages, and bytes of copies of states, of the memory that is given for both. Where it is not enough for both and
/// one context, there are no copies.
fn shares(pages: PagePlan, given: Option<u64>, usual: u64) -> Result<(PagePlan, u64)> {
    match given {
        None => Ok((pages, usual)),
        Some(bytes) if pages.bytes() == 0 => Ok((pages.within(bytes)?, bytes)),
        Some(bytes) => match pages.clone().within(bytes.saturating_sub(usual)) {
            Ok(pages) => Ok((pages, usual)),
            Err(_) => Ok((pages.within(bytes)?, 0)),
        },
    }
}
