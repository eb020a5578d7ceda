//! The engine and the cache on disk: what is handed over, what comes back.

use std::collections::BTreeSet;
use std::sync::Arc;

use geb_kernels::float::BLOCK;
use sha2::{Digest, Sha256};

use super::disk::{DiskCache, DiskPages, Kind, Stored};
use super::key::SeqKey;
use super::prefix::{Cursor, NodeId};
use super::{Engine, Sequence};
use crate::error::{Error, Result};
use crate::state::State;

impl Engine {
    /// From now on, what is kept for beginnings ([`Engine::begin`]) is written to this cache too: whole pages as
    /// they fill, and states where they are kept ([`Engine::keep_state`]). Pages that wait to be written, at most 16,
    /// are copies. What is returned reads for this engine, on any thread.
    ///
    /// # Errors
    /// [`Error::Io`] where the file of the model cannot be asked for its identity ([`Model::identity`]);
    /// [`Error::Unsupported`] for a model whose layers keep a state beside others that have attention.
    ///
    /// [`Model::identity`]: crate::model::Model::identity
    pub fn set_disk_cache(&mut self, cache: Arc<DiskCache>) -> Result<Arc<DiskPages>> {
        let c = self.model.config();
        let state = State::bytes(c, &self.model.weights().layers) as usize / 2;
        if state > 0 && !self.pages.layout().block_bytes().is_empty() {
            return Err(Error::Unsupported {
                what: "cache on disk of architecture",
                value: c.arch.name.into(),
                known: "those whose layers all have attention, or all keep a state".into(),
            });
        }
        let kind = Kind {
            model: self.model.identity()?,
            kv: self.kv.name(),
            level: self.kernels.level().name(),
            arithmetic: self.arithmetic(),
            parts: match state {
                0 => self.pages.layout().block_bytes(),
                bytes => vec![bytes],
            },
        };
        let (model, is_state) = (self.model.clone(), state > 0);
        let disk = Arc::new(DiskPages::new(cache, kind, model, self.kernels, is_state));
        self.prefixes.set_disk(disk.clone());
        Ok(disk)
    }

    /// What decides the bits of keys and values besides model, cache type and level: rotations, which depend on
    /// the context and on the system's sines, and the kernel that each type of matrix has on this machine.
    fn arithmetic(&mut self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.ropes.extend(BLOCK);
        self.ropes.hash(&mut hash);
        let dtypes = self.model.file().tensors().map(|t| t.dtype());
        let known = dtypes.filter(|d| self.kernels.supports(*d));
        let names: BTreeSet<String> = known
            .map(|d| format!("{d} {}\0", self.kernels.name(d)))
            .collect();
        names.iter().for_each(|name| hash.update(name));
        hash.finalize().into()
    }

    /// Puts what was on disk behind what is in memory, where [`Engine::begin`] finds it; returns how many tokens. As
    /// many as there are pages for: those least recently asked for are given up.
    ///
    /// # Errors
    /// [`Error::Request`] for what was read for an engine of another model, cache type or level; [`Error::Memory`].
    pub fn restore(&mut self, stored: &Stored) -> Result<usize> {
        let ours = self.prefixes.disk().filter(|d| d.is_of(&stored.kind));
        let Some(disk) = ours.cloned() else {
            return Err(Error::Request {
                what: "pages from disk".into(),
                value: "those of another engine".into(),
                allowed: "what was read for this model, cache type and level".into(),
            });
        };
        match disk.is_state() {
            true => self.restore_state(stored),
            false => self.restore_pages(stored),
        }
    }

    fn restore_pages(&mut self, stored: &Stored) -> Result<usize> {
        let (mut cursor, mut table) = (Cursor::new(stored.key), self.pages.table());
        // Named by the table, they are not given up for those behind them.
        self.prefixes
            .follow(&mut cursor, &mut table, &stored.tokens);
        let (blocks, _) = stored.tokens.as_chunks::<BLOCK>();
        let first = cursor.len();
        for (block, tokens) in blocks.iter().enumerate().skip(first) {
            let Some(parts) = block.checked_sub(stored.skipped).map(|i| &stored.parts[i]) else {
                // What was in memory when the disk was asked has been given up since.
                break;
            };
            let positions = block * BLOCK..(block + 1) * BLOCK;
            match self.pages_for_tree(&mut table, positions) {
                Ok(()) => self.pages.put_block(&table, block, parts),
                Err(Error::Pages { .. }) => break,
                Err(error) => return Err(error),
            }
            let pages = table.block(block);
            if !pages.is_some_and(|pages| self.prefixes.restore(&mut cursor, tokens, pages)) {
                break;
            }
        }
        // Where pages ran out, the last ones may be gone again.
        Ok(BLOCK * self.prefixes.left(&cursor).saturating_sub(first))
    }

    fn restore_state(&mut self, stored: &Stored) -> Result<usize> {
        let [bytes] = &stored.parts[..] else {
            return Ok(0);
        };
        let (values, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
        let mut state = State::new(self.model.config(), &self.model.weights().layers)?;
        state.set(&values, stored.tokens.len())?;
        let table = self.pages.table();
        self.prefixes.keep(stored.key, &stored.tokens, state, table);
        Ok(stored.tokens.len())
    }

    /// Hands over what the disk has not yet of these pages.
    pub(super) fn save(&mut self, path: &[NodeId]) {
        let Some(disk) = self.prefixes.disk().cloned() else {
            return;
        };
        for id in path {
            let Some((key, pages)) = self.prefixes.unsaved(*id) else {
                continue;
            };
            if disk.has_room() {
                let bytes = self.pages.block(pages);
                let ids = self.prefixes.beginning(*id);
                if disk.write(key, ids, bytes) {
                    self.prefixes.set_saved(*id);
                }
            }
        }
    }

    /// Hands over the state of a sequence.
    pub(super) fn save_state(&self, key: SeqKey, seq: &Sequence) {
        if let Some(disk) = self.prefixes.disk().filter(|d| d.has_room()) {
            let values = seq.state.values().iter();
            let bytes = values.flat_map(|v| v.to_le_bytes()).collect();
            disk.write(key, seq.tokens.clone(), bytes);
        }
    }
}
