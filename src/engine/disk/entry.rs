//! One file of the cache on disk.
//!
//! ```text
//! "GEBKVPGE", version u32, writer, model [32], cache type, level, arithmetic [32], key [32]
//! parts u64, bytes u64 each, ids u64, id u32 each, the parts' bytes, SHA-256 [32] of all before it
//! ```
//! All little-endian; a text is its length as u64 and its bytes. Nothing of it is read as a length or a count:
//! who looks for a beginning knows every byte before the parts, and a file with any other is not what was
//! looked for.

use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::engine::key::SeqKey;
use crate::gguf::checksums::hex;

const MAGIC: &[u8; 8] = b"GEBKVPGE";
/// Changes with the format, and with any change of the program after which equal inputs have other bits.
const VERSION: u32 = 1;
/// The end of a file's name.
pub(super) const SUFFIX: &str = ".gebkv";
/// Bytes of the hash at the end.
const HASH: usize = 32;

/// What all files have in common that one engine can use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kind {
    /// Identity of the model.
    pub(crate) model: [u8; 32],
    /// Name of the cache type.
    pub(crate) kv: &'static str,
    /// Name of the instruction level, whose kernels decide how keys and values lie.
    pub(crate) level: &'static str,
    /// Hash of what else decides their bits: rotations and kernels of products.
    pub(crate) arithmetic: [u8; 32],
    /// Bytes of each part: of a page in each group of layers, or of a recurrent state.
    pub(crate) parts: Vec<usize>,
}

/// The name of what was computed for some tokens: SHA-256 of the key and the ids.
pub(super) type Name = [u8; 32];

/// Names of `ids[..n]` for growing `n`.
pub(super) struct Names<'a> {
    hash: Sha256,
    ids: &'a [u32],
    at: usize,
}

impl<'a> Names<'a> {
    pub(super) fn new(key: &SeqKey, ids: &'a [u32]) -> Names<'a> {
        let mut hash = Sha256::new();
        hash.update(key.0);
        Names { hash, ids, at: 0 }
    }

    /// The name of the first `n` ids, at least as many as were asked for before.
    pub(super) fn of(&mut self, n: usize) -> Name {
        for id in &self.ids[self.at..n] {
            self.hash.update(id.to_le_bytes());
        }
        self.at = n;
        self.hash.clone().finalize().into()
    }
}

/// The name of all of `ids`.
pub(super) fn name(key: &SeqKey, ids: &[u32]) -> Name {
    Names::new(key, ids).of(ids.len())
}

/// The file of a name, in a folder of one kind.
pub(super) fn path(folder: &Path, name: &Name) -> PathBuf {
    folder.join(hex(name) + SUFFIX)
}

impl Kind {
    /// The folder of its files below that of the cache.
    pub(super) fn folder(&self) -> PathBuf {
        Path::new(&hex(&self.model)).join(format!("{}-{}", self.kv, self.level))
    }

    /// Bytes of all parts.
    pub(super) fn payload(&self) -> usize {
        self.parts.iter().sum()
    }

    /// Bytes of the file for so many ids.
    pub(super) fn size(&self, ids: usize) -> usize {
        self.header(&SeqKey([0; 32]), &[]).len() + 4 * ids + self.payload() + HASH
    }

    /// All before the parts.
    fn header(&self, key: &SeqKey, ids: &[u32]) -> Vec<u8> {
        let writer = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        let writer = format!("geb {} {}-{}", writer.0, writer.1, std::env::consts::OS);
        let mut out = Vec::with_capacity(512 + 4 * ids.len());
        let count = |out: &mut Vec<u8>, n: usize| out.extend((n as u64).to_le_bytes());
        let text = |out: &mut Vec<u8>, s: &str| {
            count(out, s.len());
            out.extend(s.as_bytes());
        };
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        text(&mut out, &writer);
        out.extend(self.model);
        text(&mut out, self.kv);
        text(&mut out, self.level);
        out.extend(self.arithmetic);
        out.extend(key.0);
        count(&mut out, self.parts.len());
        self.parts.iter().for_each(|n| count(&mut out, *n));
        count(&mut out, ids.len());
        out.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        out
    }

    /// The file of what was computed for `ids`.
    pub(super) fn encode(&self, key: &SeqKey, ids: &[u32], parts: &[u8]) -> Vec<u8> {
        let mut out = self.header(key, ids);
        out.reserve_exact(parts.len() + HASH);
        out.extend(parts);
        let hash = Sha256::digest(&out);
        out.extend(hash);
        out
    }

    /// Where the parts lie in a file that is whole and of this kind, key and ids; `None` for any other.
    pub(super) fn decode(&self, key: &SeqKey, ids: &[u32], file: &[u8]) -> Option<Range<usize>> {
        let header = self.header(key, ids);
        let (body, hash) = file.split_at_checked(file.len().checked_sub(HASH)?)?;
        let whole = body.len() == header.len() + self.payload()
            && body.starts_with(&header)
            && Sha256::digest(body)[..] == *hash;
        whole.then_some(header.len()..body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> Kind {
        Kind {
            model: [7; 32],
            kv: "f16",
            level: "avx2",
            arithmetic: [9; 32],
            parts: vec![100, 28],
        }
    }

    #[test]
    fn every_changed_byte_and_every_length_is_refused() {
        let (kind, key, ids) = (kind(), SeqKey([3; 32]), [1, 2, 3, 70_000]);
        let parts: Vec<u8> = (0..128).collect();
        let file = kind.encode(&key, &ids, &parts);
        assert_eq!(file.len(), kind.size(ids.len()));
        let range = kind.decode(&key, &ids, &file).expect("whole");
        assert_eq!(file[range], parts);
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut other = file.clone();
                other[at] ^= 1 << bit;
                assert_eq!(kind.decode(&key, &ids, &other), None, "byte {at}");
            }
            assert_eq!(kind.decode(&key, &ids, &file[..at]), None, "length {at}");
        }
        let longer = [&file[..], &[0]].concat();
        assert_eq!(kind.decode(&key, &ids, &longer), None);
    }

    #[test]
    fn a_file_of_any_other_field_is_refused() {
        let (this, key, ids) = (kind(), SeqKey([3; 32]), [1, 2, 3]);
        let parts = [5; 128];
        let others = [
            Kind {
                model: [8; 32],
                ..kind()
            },
            Kind {
                kv: "f32",
                ..kind()
            },
            Kind {
                level: "scalar",
                ..kind()
            },
            Kind {
                arithmetic: [8; 32],
                ..kind()
            },
            Kind {
                parts: vec![28, 100],
                ..kind()
            },
            Kind {
                parts: vec![128],
                ..kind()
            },
        ];
        for other in others {
            let file = other.encode(&key, &ids, &parts);
            assert_eq!(this.decode(&key, &ids, &file), None, "{other:?}");
        }
        let file = this.encode(&key, &ids, &parts);
        assert!(this.decode(&key, &ids, &file).is_some());
        assert_eq!(this.decode(&SeqKey([4; 32]), &ids, &file), None);
        assert_eq!(this.decode(&key, &[1, 2, 4], &file), None);
        assert_eq!(this.decode(&key, &[1, 2], &file), None);
    }

    #[test]
    fn names_grow_with_the_ids() {
        let (key, ids) = (SeqKey([3; 32]), [5, 6, 7, 8]);
        let mut names = Names::new(&key, &ids);
        for n in [0, 1, 1, 3, 4] {
            assert_eq!(names.of(n), name(&key, &ids[..n]));
        }
        assert_ne!(name(&key, &ids), name(&SeqKey([4; 32]), &ids));
    }
}
