//! The pages of all sequences.

use std::ops::Range;
use std::sync::Arc;

use geb_kernels::float::{BLOCK, KvHead, KvShape};

use super::layout::{Layout, PagePlan, Part, Place};
use super::table::{Counts, Full, NONE, PageTable, Pages};
use crate::error::Result;
use crate::ram;

/// Alignment of pages: a cache line, so that no vector load crosses one.
const ALIGN: usize = 64;

/// The pages of one group.
struct Slab {
    data: Vec<u8>,
    /// Bytes before the first aligned one.
    skip: usize,
    page_bytes: usize,
}

impl Slab {
    /// Zeroed memory straight from the system: it is touched when a position is first written.
    fn new(page_bytes: usize, pages: usize) -> Result<Slab> {
        let len = page_bytes * pages + ALIGN;
        let refused = |()| ram::refused("KV cache", len as u64);
        let data: Vec<u8> = bytemuck::allocation::try_zeroed_vec(len).map_err(refused)?;
        Ok(Slab {
            skip: data.as_ptr().align_offset(ALIGN).min(ALIGN),
            data,
            page_bytes,
        })
    }

    fn bytes(&self) -> &[u8] {
        &self.data[self.skip..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.skip..]
    }

    fn page(&self, page: u32) -> Range<usize> {
        let at = page as usize * self.page_bytes;
        at..at + self.page_bytes
    }
}

/// Pages of an engine: as many as were planned, and more when `PagePool::grow` is asked.
pub struct PagePool {
    layout: Arc<Layout>,
    slabs: Vec<Slab>,
    counts: Arc<Counts>,
    /// Positions behind a window that a sequence can still go back to.
    pub(crate) back: usize,
}

impl PagePool {
    /// The pages of a plan.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub fn new(plan: PagePlan) -> Result<PagePool> {
        let PagePlan {
            layout,
            pages,
            back,
            ..
        } = plan;
        let counts = Counts::new(layout.groups.len());
        let slabs = layout.groups.iter().zip(&pages);
        let slabs = slabs
            .map(|(g, n)| Slab::new(g.page_bytes, *n))
            .collect::<Result<_>>()?;
        for (uses, n) in counts.lock().iter_mut().zip(&pages) {
            uses.grow(*n);
        }
        Ok(PagePool {
            layout: Arc::new(layout),
            slabs,
            counts: Arc::new(counts),
            back,
        })
    }

    /// Where layers lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// An empty table.
    pub fn table(&self) -> PageTable {
        PageTable::new(&self.counts, &self.layout)
    }

    /// Whether it is a table of this pool.
    pub(crate) fn made(&self, table: &PageTable) -> bool {
        table.is_of(&self.counts)
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> u64 {
        let counts = self.counts.lock();
        let of = |(g, uses): (usize, &super::table::Uses)| {
            (uses.refs.len() * self.layout.groups[g].page_bytes) as u64
        };
        counts.iter().enumerate().map(of).sum()
    }

    /// Positions of all sequences together that the pages hold.
    pub fn positions(&self) -> usize {
        BLOCK * self.free().1
    }

    /// Pages that nobody uses, and all; of the group that has the smallest share left.
    pub fn free(&self) -> (usize, usize) {
        let counts = self.counts.lock();
        let of = |g: usize| (counts[g].free.len(), counts[g].refs.len());
        let share = |(free, all): &(usize, usize)| *free as f64 / (*all).max(1) as f64;
        let groups = self.layout.of_part(Part::Layers).map(of);
        groups
            .min_by(|a, b| share(a).total_cmp(&share(b)))
            .unwrap_or((0, 0))
    }

    /// Pages that these tables name, each counted once, and all; of the group of which the largest share is named.
    pub(crate) fn named(&self, tables: &[&PageTable]) -> (usize, usize) {
        let counts = self.counts.lock();
        let of = |g: usize| {
            let mut named = vec![false; counts[g].refs.len()];
            let pages = tables.iter().flat_map(|table| &table.pages[g]);
            pages
                .filter(|p| **p != NONE)
                .for_each(|p| named[*p as usize] = true);
            (named.iter().filter(|n| **n).count(), named.len())
        };
        let share = |(named, all): &(usize, usize)| *named as f64 / (*all).max(1) as f64;
        let groups = self.layout.of_part(Part::Layers).map(of);
        groups
            .max_by(|a, b| share(a).total_cmp(&share(b)))
            .unwrap_or((0, 0))
    }

    /// Makes the pages of `positions`, the next ones of a sequence, its own; gives up those behind windows.
    ///
    /// # Errors
    /// [`Full`]; what it has got until then stays in the table.
    pub(crate) fn prepare(
        &mut self,
        table: &mut PageTable,
        part: Part,
        positions: Range<usize>,
    ) -> Result<(), Full> {
        let blocks = Layout::blocks(positions.clone());
        let mut counts = self.counts.lock();
        for group in self.layout.of_part(part) {
            let window = self.layout.groups[group].window;
            let (pages, uses) = (&mut table.pages[group], &mut counts[group]);
            let behind = positions
                .end
                .saturating_sub(window.saturating_add(self.back))
                / BLOCK;
            // What is given up lies side by side.
            for page in pages
                .iter_mut()
                .take(behind)
                .rev()
                .take_while(|p| **p != NONE)
            {
                uses.give_up(std::mem::replace(page, NONE));
            }
            pages.resize(blocks.end.max(pages.len()), NONE);
            for page in &mut pages[blocks.clone()] {
                let old = *page;
                if old != NONE && uses.refs[old as usize] == 1 {
                    continue;
                }
                let copied = Some(old).filter(|p| *p != NONE);
                *page = uses.take().ok_or(Full { group, copied })?;
                if old != NONE {
                    let slab = &mut self.slabs[group];
                    let (from, to) = (slab.page(old), slab.page(*page).start);
                    slab.bytes_mut().copy_within(from, to);
                    uses.give_up(old);
                }
            }
        }
        Ok(())
    }

    /// Pages of each group that [`PagePool::prepare`] would take, less those that it would give up.
    pub(crate) fn lacks(&self, table: &PageTable, positions: Range<usize>) -> Vec<isize> {
        let counts = self.counts.lock();
        let mut lacks = vec![0; self.slabs.len()];
        for group in self.layout.of_part(Part::Layers) {
            let window = self.layout.groups[group].window;
            let (pages, uses) = (&table.pages[group], &counts[group]);
            let own = |page: &u32| *page != NONE && uses.refs[*page as usize] == 1;
            let behind = positions
                .end
                .saturating_sub(window.saturating_add(self.back))
                / BLOCK;
            let gone = pages.iter().take(behind).filter(|p| own(p)).count();
            let taken = Layout::blocks(positions.clone());
            let taken = taken.filter(|b| !pages.get(*b).is_some_and(own)).count();
            lacks[group] = taken as isize - gone as isize;
        }
        lacks
    }

    /// Whether so many pages of each group are free.
    pub(crate) fn has(&self, pages: &[isize]) -> bool {
        let counts = self.counts.lock();
        let mut of = counts.iter().zip(pages);
        of.all(|(uses, n)| *n <= uses.free.len() as isize)
    }

    /// More pages of the group that is full, by half of what there are and at least `least`.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory); nothing is changed then.
    pub(crate) fn grow(&mut self, full: Full, least: usize) -> Result<()> {
        let Full { group, .. } = full;
        let counts = self.counts.clone();
        let uses = &mut counts.lock()[group];
        let have = uses.refs.len();
        let count = have + (have / 2).max(least).max(1);
        let bytes = count * self.slabs[group].page_bytes;
        ram::check(
            || format!("KV cache of {} positions", count * BLOCK),
            bytes as u64,
        )?;
        let mut slab = Slab::new(self.slabs[group].page_bytes, count)?;
        let used = (0..have as u32).filter(|p| uses.refs[*p as usize] > 0);
        for page in used {
            let page = slab.page(page);
            slab.bytes_mut()[page.clone()].copy_from_slice(&self.slabs[group].bytes()[page]);
        }
        self.slabs[group] = slab;
        uses.grow(count);
        Ok(())
    }

    /// What pages of one block hold, those of all groups one behind the other ([`Layout::block_bytes`]).
    pub(crate) fn block(&self, pages: &Pages) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.layout.block_bytes().iter().sum());
        for group in self.layout.of_part(Part::Layers) {
            let slab = &self.slabs[group];
            out.extend_from_slice(&slab.bytes()[slab.page(pages.pages[group])]);
        }
        out
    }

    /// Puts what [`PagePool::block`] gave into the pages of a block, which [`PagePool::prepare`] has made the table's
    /// own.
    pub(crate) fn put_block(&mut self, table: &PageTable, block: usize, mut bytes: &[u8]) {
        for group in self.layout.of_part(Part::Layers) {
            let slab = &mut self.slabs[group];
            let (page, later) = bytes.split_at(slab.page_bytes);
            let range = slab.page(table.pages[group][block]);
            slab.bytes_mut()[range].copy_from_slice(page);
            bytes = later;
        }
    }

    /// Type and head size of one layer.
    pub fn shape(&self, layer: usize) -> KvShape {
        self.layout.places[layer].shape
    }

    pub(super) fn place(&self, layer: usize) -> &Place {
        &self.layout.places[layer]
    }

    /// All pages of the group of a layer.
    pub(super) fn slab(&self, layer: usize) -> (&[u8], usize) {
        let slab = &self.slabs[self.place(layer).group];
        (slab.bytes(), slab.page_bytes)
    }

    /// The pages of a table in the group of a layer.
    pub(super) fn pages<'t>(&self, table: &'t PageTable, layer: usize) -> &'t [u32] {
        &table.pages[self.place(layer).group]
    }

    /// Keys and values of one head of one layer.
    pub fn head<'a>(&'a self, table: &'a PageTable, layer: usize, head: usize) -> KvHead<'a> {
        let place = self.place(layer);
        let (slab, page_bytes) = self.slab(layer);
        let at = place.at + 2 * head * place.shape.block_bytes();
        KvHead::new(place.shape, slab, self.pages(table, layer), page_bytes, at)
    }

    /// What a pass writes of one layer, `[KV heads][keys, values]` of a block of positions each: for all
    /// `spans`, tables with the positions that they gain, in the order of the pages in memory. With each:
    /// which span, and the first of its positions in the block.
    ///
    /// # Panics
    /// If two spans write to one page, which [`PagePool::prepare`] has not allowed.
    pub(crate) fn written<'a>(
        &'a mut self,
        layer: usize,
        spans: &[(&PageTable, Range<usize>)],
    ) -> Vec<Written<'a>> {
        let Place { group, at, .. } = *self.place(layer);
        let (bytes, page_bytes) = (self.place(layer).bytes(), self.slabs[group].page_bytes);
        let mut blocks = Vec::new();
        for (span, (table, positions)) in spans.iter().enumerate() {
            for block in Layout::blocks(positions.clone()) {
                let first = positions.start.max(block * BLOCK);
                let positions = first..positions.end.min((block + 1) * BLOCK);
                blocks.push((table.pages[group][block], span, positions));
            }
        }
        blocks.sort_unstable_by_key(|b| b.0);
        let (mut rest, mut start) = (self.slabs[group].bytes_mut(), 0);
        let mut all = Vec::with_capacity(blocks.len());
        for (page, span, positions) in blocks {
            let from = page as usize * page_bytes + at;
            let (_, later) = rest.split_at_mut(from - start);
            let (layer, later) = later.split_at_mut(bytes);
            (rest, start) = (later, from + bytes);
            all.push(Written {
                span,
                positions,
                layer,
            });
        }
        all
    }
}

/// A block of positions of one layer that a span writes.
pub(crate) struct Written<'a> {
    /// Number of the span.
    pub(crate) span: usize,
    /// The positions, all of one block.
    pub(crate) positions: Range<usize>,
    /// `[KV heads][keys, values]`.
    pub(crate) layer: &'a mut [u8],
}
