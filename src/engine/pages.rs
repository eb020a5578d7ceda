//! Pages of sequences: shared by forks, made as positions are written.

use std::ops::Range;

use geb_kernels::float::BLOCK;

use super::prefix::PrefixTree;
use super::{Engine, Sequence};
use crate::cache::{Full, PageTable, Part};
use crate::error::{Error, Result};
use crate::model::adapters::Adapters;
use crate::ram;

impl Engine {
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

    /// Makes pages for these positions of a sequence its own. A name that the tree has never stands in the way of
    /// who writes.
    ///
    /// # Errors
    /// [`Error::Pages`], [`Error::Memory`].
    pub(crate) fn pages_for(
        &mut self,
        table: &mut PageTable,
        part: Part,
        positions: Range<usize>,
    ) -> Result<()> {
        self.pages_by(table, part, positions, PrefixTree::evict_for)
    }

    /// As [`Engine::pages_for`], for the tree's own sake: it gives up what only it names.
    ///
    /// # Errors
    /// [`Error::Pages`], [`Error::Memory`].
    pub(super) fn pages_for_tree(
        &mut self,
        table: &mut PageTable,
        positions: Range<usize>,
    ) -> Result<()> {
        self.pages_by(table, Part::Layers, positions, |tree, _| tree.evict())
    }

    fn pages_by(
        &mut self,
        table: &mut PageTable,
        part: Part,
        positions: Range<usize>,
        evict: impl Fn(&mut PrefixTree, Full) -> bool,
    ) -> Result<()> {
        while let Err(full) = self.pages.prepare(table, part, positions.clone()) {
            if evict(&mut self.prefixes, full) {
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
            let short = lacks.iter_mut().enumerate().filter(|(_, n)| **n > 0);
            short.for_each(|(group, n)| *n -= self.prefixes.evictable(group) as isize);
            self.pages.has(&lacks)
        }
    }

    /// Pages that nobody uses, and all; of the group of layers that has the smallest share left.
    pub fn free_pages(&self) -> (usize, usize) {
        self.pages.free()
    }

    /// Pages that these sequences hold, each counted once, and all; of the group of layers of which they hold the
    /// largest share. What only the tree of beginnings names is as good as free.
    pub fn pages_held<'s>(&self, seqs: impl Iterator<Item = &'s Sequence>) -> (usize, usize) {
        let tables: Vec<_> = seqs.map(|seq| &seq.table).collect();
        self.pages.named(&tables)
    }

    /// Bytes of keys, values and state of all layers that a token at position `positions - 1` of a sequence sees.
    pub fn kv_bytes_seen(&self, seq: &Sequence, positions: usize) -> u64 {
        self.pages.layout().seen_bytes(positions) + 4 * seq.state.values().len() as u64
    }

    /// Bytes of the pages of all sequences.
    pub fn kv_bytes(&self) -> u64 {
        self.pages.bytes()
    }
}
