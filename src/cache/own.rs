//! Pages that belong to one text alone.

use super::layout::{Layout, PagePlan, Part};
use super::pool::PagePool;
use super::rows::{KvView, put_rows};
use super::table::PageTable;
use crate::error::Result;
use crate::model::Config;
use crate::ram;

/// Keys and values of a text that is read once, as rows of floats.
pub(crate) struct OwnPages {
    pub(crate) pool: PagePool,
    pub(crate) table: PageTable,
    positions: usize,
}

impl OwnPages {
    /// Room for `count` layers and a text of `positions`.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(crate) fn of_rows(c: &Config, count: usize, positions: usize) -> Result<OwnPages> {
        let plan = PagePlan::new(Layout::of_rows(c, count), positions, positions, 1);
        let mut pool = PagePool::new(plan)?;
        let mut table = pool.table();
        match pool.prepare(&mut table, Part::Layers, 0..positions) {
            Ok(()) => Ok(OwnPages {
                pool,
                table,
                positions,
            }),
            Err(_) => Err(ram::refused("text of the encoder", pool.bytes())),
        }
    }

    /// Positions of the text.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// What the layers look at.
    pub(crate) fn view(&self) -> KvView<'_> {
        self.pool.view(&self.table)
    }

    /// Writes a layer: for each side the first token's heads and the distance to the next token's.
    pub(crate) fn put(&mut self, layer: usize, sides: [(&[f32], usize); 2]) {
        put_rows(&mut self.pool, &self.table, layer, 0..self.positions, sides);
    }
}
