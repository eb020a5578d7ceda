//! A recurrent state as bytes, to go on later without reading the text again.
//!
//! ```text
//! "GEBSTATE", version u32, model [32], tokens u64, floats u64, ids u32 each, values f32 each, SHA-256 [32]
//! ```
//! All little-endian. `model` is the SHA-256 of architecture, names, types, shapes and the first bytes of
//! every tensor; the last hash is of all before it.

use sha2::{Digest, Sha256};

use super::Session;
use crate::error::{Error, Result};
use crate::model::Model;

const MAGIC: &[u8; 8] = b"GEBSTATE";
const VERSION: u32 = 1;
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

impl Session {
    /// The tokens seen and the state after them, for [`Session::load_state`].
    ///
    /// # Errors
    /// [`Error::Request`] for a model that keeps keys and values: it has no state of fixed size.
    pub fn save_state(&self) -> Result<Vec<u8>> {
        self.check_recurrent()?;
        let values = self.seq.state.values();
        let mut out = Vec::with_capacity(HEADER + 4 * (self.seq.tokens.len() + values.len()) + 32);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&identity(&self.engine.model));
        for n in [self.seq.tokens.len(), values.len()] {
            out.extend_from_slice(&(n as u64).to_le_bytes());
        }
        out.extend(self.seq.tokens.iter().flat_map(|t| t.to_le_bytes()));
        out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let sum = Sha256::digest(&out);
        out.extend_from_slice(&sum);
        Ok(out)
    }

    /// Most bytes that a state for this session has.
    pub fn state_bytes(&self) -> u64 {
        let numbers = self.ctx() + self.seq.state.values().len();
        (HEADER + 4 * numbers + 32) as u64
    }

    /// Becomes the session that [`Session::save_state`] has written; going back behind it starts again.
    ///
    /// # Errors
    /// [`Error::Request`] for bytes that are no such state or were damaged, a state of another model, one
    /// longer than the context, and a model without a state. Nothing is changed then.
    pub fn load_state(&mut self, bytes: &[u8]) -> Result<()> {
        self.check_recurrent()?;
        let whole = bytes.len().checked_sub(32).map(|n| bytes.split_at(n));
        let Some((body, sum)) = whole.filter(|(body, _)| body.len() >= HEADER) else {
            return Err(bad("size", bytes.len(), "a whole file"));
        };
        let (magic, rest) = body.split_at(8);
        let (version, rest) = rest.split_at(4);
        let (model, rest) = rest.split_at(32);
        let (counts, rest) = rest.split_at(16);
        if magic != MAGIC || version != VERSION.to_le_bytes() {
            return Err(bad("kind of file", "unknown", "GEBSTATE, version 1"));
        }
        if Sha256::digest(body)[..] != *sum {
            return Err(bad("SHA-256", "another one", "that of the file's content"));
        }
        if model != identity(&self.engine.model) {
            return Err(bad("model", "another one", "the model of this session"));
        }
        let (counts, _) = counts.as_chunks::<8>();
        let [tokens, floats] = [0, 1].map(|i| counts.get(i).map_or(0, |c| u64::from_le_bytes(*c)));
        let size = tokens.checked_add(floats).and_then(|n| n.checked_mul(4));
        if size != Some(rest.len() as u64) {
            return Err(bad("size", bytes.len(), "as its counts say"));
        }
        let (ids, values) = rest.split_at(4 * tokens as usize);
        let ids: Vec<u32> = numbers(ids).map(u32::from_le_bytes).collect();
        let values: Vec<f32> = numbers(values).map(f32::from_le_bytes).collect();
        self.engine.check(&self.seq, &ids, 0)?;
        self.seq.state.set(&values, ids.len())?;
        self.seq.table.truncate(0);
        self.seq.cursor = None;
        self.seq.tokens = ids;
        (self.batch, self.engine.wanted) = (0, 0);
        Ok(())
    }

    fn check_recurrent(&self) -> Result<()> {
        match self.seq.state.is_empty() {
            false => Ok(()),
            true => Err(Error::Unsupported {
                what: "saved state of architecture",
                value: self.engine.model.config().arch.name.into(),
                known: "rwkv6, rwkv7, mamba, mamba2".into(),
            }),
        }
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.as_chunks::<4>().0.iter().copied()
}
