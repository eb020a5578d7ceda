//! Experts of a file larger than memory: which are resident, and which go when others are needed.
//!
//! ```text
//! router of a layer -> experts of its wave: known? newest now. Unknown? the oldest go until it fits,
//! the system is told to read it (MADV_WILLNEED), and it is the newest
//! ```
//! The list is what was asked of the system, not what it did: a page that it took early is read
//! again when it is touched. Results do not depend on it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::Model;
use super::weights::Linear;
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::mmap::Advice;

/// What was done so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Streamed {
    /// Bytes of experts that may be resident.
    pub budget: u64,
    /// Bytes of experts that are.
    pub held: u64,
    /// Bytes asked for that were resident.
    pub found: u64,
    /// Bytes asked for that had to be read.
    pub read: u64,
}

/// The resident matrices of experts, least recently used first.
pub(crate) struct Residents {
    sums: Streamed,
    clock: u64,
    /// Start of the matrix by the time of its last use.
    ages: BTreeMap<u64, usize>,
    /// End and time of last use, by the start of a matrix.
    held: HashMap<usize, (usize, u64)>,
}

fn matrices(model: &Model) -> impl Iterator<Item = Vec<&[Linear]>> {
    let inputs = model.weights().layers.iter().flat_map(|l| l.inputs());
    inputs.filter(|groups| groups.len() > 1)
}

fn len(weights: &[Linear]) -> u64 {
    weights.iter().map(|w| w.weight.range.len() as u64).sum()
}

impl Residents {
    /// Room for experts when weights, and `others` bytes of cache and buffers, may take `limit`.
    ///
    /// # Errors
    /// [`Error::Request`] when the other weights and the experts of a token in one layer do not fit,
    /// or the file is not mapped.
    pub fn new(model: &Model, limit: u64, others: u64) -> Result<Residents> {
        let refuse = |value: String, allowed: String| {
            Err(Error::Request {
                what: "max_ram".into(),
                value,
                allowed,
            })
        };
        let file = model.file();
        if !file.parts().all(|p| p.0.bytes().is_mapped()) {
            return refuse(mb(limit), "a limit for a mapped file only".into());
        }
        let all: u64 = file.tensors().map(|t| t.bytes().len() as u64).sum();
        let experts: u64 = matrices(model).flatten().map(len).sum();
        let used = model.config().experts.as_ref().map_or(0, |r| r.used as u64);
        // The matrices of an expert follow each other: those of one layer are at most all in a row.
        let layers = model.weights().layers.iter().map(|l| {
            let inputs = l.inputs().into_iter().filter(|groups| groups.len() > 1);
            inputs
                .map(|groups| groups.iter().map(|g| len(g)).max())
                .map(|b| b.unwrap_or(0))
                .sum::<u64>()
        });
        let layer = used * layers.max().unwrap_or(0);
        let needed = all - experts + others + layer;
        if needed > limit {
            let parts = format!(
                "{} of weights that every token uses, {} of cache and buffers, {} of the {used} experts \
                 of a token in one layer",
                mb(all - experts),
                mb(others),
                mb(layer)
            );
            return refuse(mb(limit), format!("at least {} ({parts})", mb(needed)));
        }
        Ok(Residents {
            sums: Streamed {
                budget: limit - (all - experts) - others,
                ..Streamed::default()
            },
            clock: 0,
            ages: BTreeMap::new(),
            held: HashMap::new(),
        })
    }

    /// What was done so far.
    pub fn sums(&self) -> Streamed {
        self.sums
    }

    /// Makes the bytes of a matrix the newest; has them read if they are not resident.
    pub fn touch(&mut self, file: &GgufFile, range: &Range<usize>) {
        self.clock += 1;
        let bytes = range.len() as u64;
        if let Some((_, age)) = self.held.get_mut(&range.start) {
            self.ages.remove(age);
            *age = self.clock;
            self.sums.found += bytes;
        } else {
            while self.sums.held + bytes > self.sums.budget && self.drop_oldest(file) {}
            file.advise(range, Advice::Needed);
            self.held.insert(range.start, (range.end, self.clock));
            self.sums.held += bytes;
            self.sums.read += bytes;
        }
        self.ages.insert(self.clock, range.start);
    }

    fn drop_oldest(&mut self, file: &GgufFile) -> bool {
        let Some((_, start)) = self.ages.pop_first() else {
            return false;
        };
        if let Some((end, _)) = self.held.remove(&start) {
            file.advise(&(start..end), Advice::Dropped);
            self.sums.held -= (end - start) as u64;
        }
        true
    }
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
