//! What an engine will be made of, and its bytes: what the plan says is what is allocated.

use geb_kernels::Kernels;
use geb_kernels::float::KvType;

use super::choose::{check_ctx, choose_kernels, choose_kv};
use super::heads::Heads;
use super::options::{BATCH, DEFAULT_CTX, SessionOptions};
use crate::cache::{Layout, PagePlan};
use crate::error::Result;
use crate::model::Model;
use crate::model::forward::BufferSizes;
use crate::ram;
use crate::state::State;

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
        let heads = match options.extra_heads {
            true => c.extra_heads,
            false => 0,
        };
        let (batch, streams) = (BATCH.min(ctx), options.streams.max(1));
        let pages = PagePlan::new(Layout::new(c, heads, kv), ctx, batch, streams);
        let plan = Plan {
            kernels,
            ctx,
            kv,
            heads,
            streams,
            pages: match options.kv_memory {
                Some(bytes) => pages.within(bytes)?,
                None => pages,
            },
            state: Heads::bytes(c, heads, ctx) + State::bytes(c, &weights.layers),
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
