//! What tells a model from every other one, also after a restart.

use sha2::{Digest, Sha256};

use super::Model;
use crate::error::{Error, Result};
use crate::gguf::checksums::TENSOR_HASHES;
use crate::gguf::{GgufFile, ValueType};

/// Bytes looked at of each tensor.
const SAMPLE: usize = 4096;

impl Model {
    /// SHA-256 of what the weights and their use depend on. Of each part of the file:
    ///
    /// - all bytes before the tensors: metadata, names, types and shapes, and the SHA-256 of every tensor where the
    ///   file holds them, as those of `geb-quantize` do;
    /// - the first 4,096 bytes of each tensor;
    /// - where it holds no hashes: all bytes if they are in memory, else the mapped file's length, time of the last
    ///   change and inode.
    ///
    /// Hashes that are there are believed, not computed (`geb-quantize verify` does). A copy of a file without them
    /// is another model.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn identity(&self) -> Result<[u8; 32]> {
        let mut hash = Sha256::new();
        for (part, path) in self.file.parts() {
            let data = part.data();
            let head = &data[..part.index().data_start.min(data.len())];
            add(&mut hash, head);
            for t in part.own_tensors() {
                let end = t.range.end.min(t.range.start + SAMPLE);
                add(&mut hash, &data[t.range.start..end]);
            }
            if has_hashes(part)? {
                continue;
            }
            match part.bytes().stamp().map_err(Error::io(path))? {
                Some(stamp) => stamp.iter().for_each(|n| hash.update(n.to_le_bytes())),
                None => add(&mut hash, data),
            }
        }
        Ok(hash.finalize().into())
    }
}

/// Adds some bytes, and how many they are.
fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Whether a part holds the hash of each of its tensors.
fn has_hashes(part: &GgufFile) -> Result<bool> {
    let list = part.array(TENSOR_HASHES, ValueType::Str)?;
    Ok(list.is_some_and(|list| list.len == part.own_tensors().len()))
}
