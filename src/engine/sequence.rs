//! A sequence of tokens and what the layers remember of them.

use std::ops::Range;
use std::sync::Arc;

use super::prefix::Cursor;
use super::{Heads, VECTOR};
use crate::cache::{OwnPages, PageTable};
use crate::error::{Error, Result};
use crate::model::adapters::Adapters;
use crate::model::forward::{Segment, SpanView};
use crate::state::State;

/// What an encoder has read.
pub(crate) struct Text {
    pub(super) tokens: Vec<u32>,
    /// Keys and values for the layers of the decoder.
    pub(super) pages: OwnPages,
}

/// Tokens, and what the layers remember of them. [`Engine::sequence`](super::Engine::sequence) makes an empty one.
pub struct Sequence {
    pub(crate) table: PageTable,
    pub(crate) state: State,
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: Option<Arc<Text>>,
    pub(crate) adapters: Option<Adapters>,
    pub(crate) heads: Option<Heads>,
    /// Where it is among the beginnings that others may find, if it is there ([`Engine::begin`]).
    pub(crate) cursor: Option<Cursor>,
}

impl Sequence {
    /// Whether what it reads can be found by others as soon as it is read: pages, and no state.
    pub fn is_shared(&self) -> bool {
        self.cursor.is_some() && self.heads.is_none() && self.state.is_empty()
    }

    /// The tokens so far; [`VECTOR`] where a vector was given.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The text that the encoder has read last; empty without one.
    pub fn text(&self) -> &[u32] {
        self.text.as_ref().map_or(&[], |t| &t.tokens)
    }

    /// Keeps the first `n` tokens or, where what they need is given up already, fewer: see
    /// [`Session::truncate`](crate::session::Session::truncate).
    pub fn truncate(&mut self, n: usize) {
        let n = n.min(self.tokens.len());
        let n = self.state.keeps(self.tokens.len(), n);
        self.keep(n);
    }

    /// Gives up what is not of the first `n` tokens, to which the state has gone back; all where their pages are
    /// given up already.
    fn keep(&mut self, n: usize) {
        let seen = n;
        let n = self.table.keeps(n);
        if n < seen {
            self.state.keeps(seen, n);
        }
        self.tokens.truncate(n);
        self.table.truncate(n);
        if let Some(heads) = &mut self.heads {
            heads.truncate(n);
        }
        if let Some(cursor) = &mut self.cursor {
            cursor.truncate(n);
        }
    }

    /// It as a span of a pass: `input` behind its last token, in these rows of the batch; the logits of the
    /// rows `wanted`, counted from its first, are asked for.
    pub(crate) fn span<'a>(
        &'a mut self,
        input: Segment<'a>,
        rows: Range<usize>,
        wanted: Range<usize>,
    ) -> SpanView<'a> {
        SpanView {
            input,
            part: rows.clone(),
            first: self.tokens.len(),
            wanted,
            rows,
            table: &self.table,
            state: &mut self.state,
            text: self.text.as_ref().map(|t| &t.pages),
            adapters: self.adapters.as_mut(),
            trunk: self.heads.as_mut().map(Heads::trunk),
        }
    }

    /// The layers have seen `n` tokens more.
    pub(super) fn append(&mut self, input: Segment<'_>, n: usize) {
        match input {
            Segment::Tokens(ids) => self.tokens.extend_from_slice(ids),
            Segment::Vectors(_) => self.tokens.extend(std::iter::repeat_n(VECTOR, n)),
        }
    }

    /// A pass failed: some layers may have seen the batch. Keys and values behind the last token are written
    /// again; a recurrent state goes back to where it can, and what else the sequence holds with it.
    pub(crate) fn go_back(&mut self) {
        if !self.state.is_empty() {
            let seen = self.state.restore();
            self.keep(seen);
            self.cursor = None;
        }
    }
}

/// Whole finite vectors of width `e`.
pub(crate) fn check_vectors(x: &[f32], e: usize) -> Result<()> {
    let bad = |what: &str, value: String, allowed: String| {
        Err(Error::Request {
            what: what.into(),
            value,
            allowed,
        })
    };
    if !x.len().is_multiple_of(e) {
        return bad(
            "numbers of input vectors",
            x.len().to_string(),
            format!("a multiple of {e}"),
        );
    }
    match x.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => bad(
            &format!("element {i} of the input vectors"),
            x[i].to_string(),
            "a finite number".into(),
        ),
    }
}
