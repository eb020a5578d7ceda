//! Working memory of products.

use crate::aligned::AlignedBuf;

/// Working memory of one thread: a decoded panel of weights. Grows once.
#[derive(Default)]
pub struct Scratch {
    pub(crate) panel: AlignedBuf,
    /// Expanded rows.
    pub(crate) rows: Vec<u8>,
}

impl Scratch {
    /// Empty scratch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held, for memory reports.
    pub fn memory_bytes(&self) -> usize {
        self.panel.bytes().len() + self.rows.capacity()
    }
}
