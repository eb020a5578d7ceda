//! Keys and values of all sequences of an engine, in pages.
//!
//! ```text
//! group   the layers with an equal window
//! page    64 positions of all layers of a group: [layers][KV heads][keys, values], blocks of the kernels
//! pool    the pages of every group, in one allocation each, and by how many each page is used
//! table   of a sequence: for each group the page of each block of positions
//! ```
//! A page that several tables name is never written: who writes gets a copy. Pages behind a window are given
//! up as the sequence grows, which limits how far it can go back (`PageTable::keeps`).

mod layout;
mod own;
mod pool;
mod rows;
mod table;

pub use layout::{Layout, PagePlan, Part};
pub(crate) use own::OwnPages;
pub use pool::PagePool;
pub(crate) use rows::{KvView, put_rows};
pub use table::PageTable;
pub(crate) use table::{Full, Pages};
