//! A recurrent state as bytes, to go on later without reading the text again.
//!
//! ```text
//! "GEBSTATE", version u32, model [32], tokens u64, floats u64, ids u32 each, values f32 each, pages, SHA-256 [32]
//! pages   of models whose other layers have attention: SHA-256 [32] of cache type and instruction level, then
//!         keys and values of each 64 positions; the version is 2 then
//! ```
//! All little-endian. `model` is the SHA-256 of architecture, names, types, shapes and the first bytes of
//! every tensor; the last hash is of all before it.

use geb_kernels::float::BLOCK;
use sha2::{Digest, Sha256};

use super::Session;
use crate::cache::Part;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::arch::{Arch, MixerKind, REGISTRY};

const MAGIC: &[u8; 8] = b"GEBSTATE";
const VERSION: u32 = 1;
/// With pages.
const VERSION_PAGES: u32 = 2;
/// Magic, version, model, counts.
const HEADER: usize = 8 + 4 + 32 + 8 + 8;
/// Bytes of each tensor that tell models of one shape apart.
const SAMPLE: usize = 4096;

fn bad(what: &str, value: impl ToString, allowed: &str) -> Error {
    Error::Request {
        what: format!("saved state: {what}"),
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

/// What tells a model from others.
pub fn identity(model: &Model) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(model.config().arch.name);
    for t in model.file().tensors() {
        let info = t.info();
        hash.update(format!("\0{} {} {:?}\0", info.name, info.dtype, info.dims));
        hash.update(&t.bytes()[..t.bytes().len().min(SAMPLE)]);
    }
    hash.finalize().into()
}

/// A file that was checked.
struct Saved {
    ids: Vec<u32>,
    values: Vec<f32>,
    /// Keys and values, block after block.
    pages: Vec<u8>,
}

impl Session {
    /// The tokens seen and the state after them, for [`Session::load_state`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model whose layers all have attention: it keeps no state.
    pub fn save_state(&self) -> Result<Vec<u8>> {
        self.check_recurrent()?;
        let (ids, values) = (&self.seq.tokens, self.seq.state.values());
        let mut out = Vec::with_capacity(HEADER + 4 * (ids.len() + values.len()) + 32);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.version().to_le_bytes());
        out.extend_from_slice(&identity(&self.engine.model));
        for n in [ids.len(), values.len()] {
            out.extend_from_slice(&(n as u64).to_le_bytes());
        }
        out.extend(ids.iter().flat_map(|t| t.to_le_bytes()));
        out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        if self.block_bytes() > 0 {
            out.extend_from_slice(&self.form());
            for block in 0..ids.len().div_ceil(BLOCK) {
                let pages = self.seq.table.block(block);
                let pages = pages.ok_or_else(|| bad("pages", "given up", "no windows"))?;
                out.extend(self.engine.pages.block(&pages));
            }
        }
        let sum = Sha256::digest(&out);
        out.extend_from_slice(&sum);
        Ok(out)
    }

    /// Most bytes that a state for this session has.
    pub fn state_bytes(&self) -> u64 {
        let numbers = self.ctx() + self.seq.state.values().len();
        let pages = match self.block_bytes() {
            0 => 0,
            block => 32 + block * self.ctx().div_ceil(BLOCK),
        };
        (HEADER + 4 * numbers + pages + 32) as u64
    }

    /// Bytes of keys and values of a block of positions.
    fn block_bytes(&self) -> usize {
        self.engine.pages.layout().block_bytes().iter().sum()
    }

    fn version(&self) -> u32 {
        match self.block_bytes() {
            0 => VERSION,
            _ => VERSION_PAGES,
        }
    }

    /// What decides how keys and values lie in pages.
    fn form(&self) -> [u8; 32] {
        let level = self.engine.kernels.level().name();
        Sha256::digest(format!("{} {level}", self.engine.kv.name())).into()
    }

    /// Becomes the session that [`Session::save_state`] has written; going back behind it starts again.
    ///
    /// # Errors
    /// [`Error::Request`] for bytes that are no such state or were damaged, a state of another model, of another
    /// cache type or instruction level where layers have attention, one longer than the context, and a model
    /// without a state: nothing is changed then. [`Error::Pages`], [`Error::Memory`]: the session is empty.
    pub fn load_state(&mut self, bytes: &[u8]) -> Result<()> {
        let saved = self.read(bytes)?;
        self.engine.check(&self.seq, &saved.ids, 0)?;
        self.seq.state.set(&saved.values, saved.ids.len())?;
        self.seq.table.truncate(0);
        self.seq.tokens.clear();
        self.seq.cursor = None;
        (self.batch, self.engine.wanted) = (0, 0);
        let block = self.block_bytes();
        if block > 0 {
            let (engine, table) = (&mut self.engine, &mut self.seq.table);
            if let Err(error) = engine.pages_for(table, Part::Layers, 0..saved.ids.len()) {
                self.seq.truncate(0);
                return Err(error);
            }
            for (i, bytes) in saved.pages.chunks_exact(block).enumerate() {
                engine.pages.put_block(table, i, bytes);
            }
        }
        self.seq.tokens = saved.ids;
        Ok(())
    }

    /// What is in the bytes of a state, as far as it can be one of this session.
    fn read(&self, bytes: &[u8]) -> Result<Saved> {
        self.check_recurrent()?;
        let whole = bytes.len().checked_sub(32).map(|n| bytes.split_at(n));
        let Some((body, sum)) = whole.filter(|(body, _)| body.len() >= HEADER) else {
            return Err(bad("size", bytes.len(), "a whole file"));
        };
        let (magic, rest) = body.split_at(8);
        let (version, rest) = rest.split_at(4);
        let (model, rest) = rest.split_at(32);
        let (counts, rest) = rest.split_at(16);
        if magic != MAGIC
            || ![VERSION, VERSION_PAGES]
                .iter()
                .any(|v| version == v.to_le_bytes())
        {
            return Err(bad("kind of file", "unknown", "GEBSTATE, version 1 or 2"));
        }
        if Sha256::digest(body)[..] != *sum {
            return Err(bad("SHA-256", "another one", "that of the file's content"));
        }
        if model != identity(&self.engine.model) || version != self.version().to_le_bytes() {
            return Err(bad("model", "another one", "the model of this session"));
        }
        let (counts, _) = counts.as_chunks::<8>();
        let [tokens, floats] = [0, 1].map(|i| counts.get(i).map_or(0, |c| u64::from_le_bytes(*c)));
        let size = tokens.checked_add(floats).and_then(|n| n.checked_mul(4));
        let size = size.and_then(|n| n.checked_add(self.pages_bytes(tokens)?));
        if size != Some(rest.len() as u64) {
            return Err(bad("size", bytes.len(), "as its counts say"));
        }
        let (ids, rest) = rest.split_at(4 * tokens as usize);
        let (values, rest) = rest.split_at(4 * floats as usize);
        let form = rest.split_at_checked(32).filter(|_| self.block_bytes() > 0);
        if form.is_some_and(|(form, _)| form != self.form()) {
            let what = "cache type or instruction level";
            return Err(bad(what, "another one", "those of this session"));
        }
        Ok(Saved {
            ids: numbers(ids).map(u32::from_le_bytes).collect(),
            values: numbers(values).map(f32::from_le_bytes).collect(),
            pages: form.map_or(Vec::new(), |(_, pages)| pages.to_vec()),
        })
    }

    /// Bytes of the pages of so many tokens in a file.
    fn pages_bytes(&self, tokens: u64) -> Option<u64> {
        match self.block_bytes() as u64 {
            0 => Some(0),
            block => tokens
                .div_ceil(BLOCK as u64)
                .checked_mul(block)?
                .checked_add(32),
        }
    }

    fn check_recurrent(&self) -> Result<()> {
        match self.seq.state.is_empty() {
            false => Ok(()),
            true => Err(Error::Unsupported {
                what: "saved state of architecture",
                value: self.engine.model.config().arch.name.into(),
                known: with_state().join(", "),
            }),
        }
    }
}

/// Architectures with layers that keep a state.
fn with_state() -> Vec<&'static str> {
    let keeps = |a: &&&Arch| a.mixer != MixerKind::Attention;
    REGISTRY.iter().filter(keeps).map(|a| a.name).collect()
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.as_chunks::<4>().0.iter().copied()
}
