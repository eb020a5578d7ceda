//! The pages of one sequence, and by how many tables each page is named.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use geb_kernels::float::BLOCK;

use super::layout::{Layout, Part};

/// The number of no page.
pub(super) const NONE: u32 = u32::MAX;

/// By how many tables the pages of a group are named.
#[derive(Default)]
pub(super) struct Uses {
    pub(super) refs: Vec<u32>,
    pub(super) free: Vec<u32>,
}

impl Uses {
    /// A page that nobody uses, now used once.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.refs[page as usize] = 1;
        Some(page)
    }

    /// One user more.
    pub(super) fn share(&mut self, page: u32) {
        self.refs[page as usize] += 1;
    }

    /// One user less.
    pub(super) fn give_up(&mut self, page: u32) {
        let refs = &mut self.refs[page as usize];
        *refs -= 1;
        if *refs == 0 {
            self.free.push(page);
        }
    }

    /// Makes pages up to `count`.
    pub(super) fn grow(&mut self, count: usize) {
        let have = self.refs.len();
        // The lowest number is taken first.
        let new = (have as u32..count as u32).rev();
        self.free.splice(0..0, new);
        self.refs.resize(count.max(have), 0);
    }
}

/// The uses of the pages of every group; shared by the pool and the tables, which give up their pages when
/// they are dropped.
#[derive(Default)]
pub(super) struct Counts(Mutex<Vec<Uses>>);

impl Counts {
    pub(super) fn new(groups: usize) -> Counts {
        let uses = (0..groups).map(|_| Uses::default());
        Counts(Mutex::new(uses.collect()))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Uses>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No page of a group is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full {
    /// The group, by number.
    pub(super) group: usize,
    /// The page of it that was to be copied, if others name it too.
    pub(super) copied: Option<u32>,
}

/// The pages of one sequence: for each group one per block of positions. Dropping it gives them up.
pub struct PageTable {
    pub(super) pages: Vec<Vec<u32>>,
    counts: Arc<Counts>,
    layout: Arc<Layout>,
}

impl PageTable {
    /// Without pages.
    pub(super) fn new(counts: &Arc<Counts>, layout: &Arc<Layout>) -> PageTable {
        PageTable {
            pages: vec![Vec::new(); layout.groups.len()],
            counts: counts.clone(),
            layout: layout.clone(),
        }
    }

    /// Whether both are of one pool.
    pub(super) fn is_of(&self, counts: &Arc<Counts>) -> bool {
        Arc::ptr_eq(&self.counts, counts)
    }

    /// The same pages of the first `positions`, of the layers that every token goes through.
    pub(crate) fn share(&self, positions: usize) -> PageTable {
        let mut shared = Self::new(&self.counts, &self.layout);
        let mut uses = self.counts.lock();
        for g in self.layout.of_part(Part::Layers) {
            let held = self.pages[g].len().min(positions.div_ceil(BLOCK));
            shared.pages[g].extend_from_slice(&self.pages[g][..held]);
            let named = shared.pages[g].iter().filter(|p| **p != NONE);
            named.for_each(|p| uses[g].share(*p));
        }
        drop(uses);
        shared
    }

    /// Blocks of positions that it names pages of.
    pub(crate) fn blocks(&self) -> usize {
        self.pages.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Pages of a group that nobody names but these tables, which are of one pool.
    pub(crate) fn only_in(tables: &[&PageTable], group: usize) -> usize {
        let Some(first) = tables.first() else {
            return 0;
        };
        let mut named: HashMap<u32, u32> = HashMap::new();
        let pages = tables.iter().flat_map(|table| &table.pages[group]);
        for page in pages.filter(|p| **p != NONE) {
            *named.entry(*page).or_default() += 1;
        }
        let uses = first.counts.lock();
        let refs = |page: u32| uses[group].refs[page as usize];
        named.iter().filter(|(p, n)| refs(**p) == **n).count()
    }

    /// Gives up what lies behind the first `positions`.
    pub(crate) fn truncate(&mut self, positions: usize) {
        let keep = positions.div_ceil(BLOCK);
        if self.pages.iter().all(|pages| pages.len() <= keep) {
            return;
        }
        let mut uses = self.counts.lock();
        for (pages, uses) in self.pages.iter_mut().zip(uses.iter_mut()) {
            let gone = pages.drain(keep.min(pages.len())..);
            gone.filter(|p| *p != NONE).for_each(|p| uses.give_up(p));
        }
    }

    /// How many of the first `n` positions are left when the later ones are given up: all of them or, when
    /// pages behind a window are given up that the next token would see, none.
    pub(crate) fn keeps(&self, n: usize) -> usize {
        let holds = |g: usize| {
            let sees_from = (n + 1).saturating_sub(self.layout.groups[g].window);
            let mut seen = Layout::blocks(sees_from..n);
            seen.all(|b| self.pages[g].get(b).is_some_and(|p| *p != NONE))
        };
        match self.layout.of_part(Part::Layers).all(holds) {
            true => n,
            false => 0,
        }
    }
}

/// The pages of one block of positions, one of each group. Dropping it gives them up.
pub(crate) struct Pages {
    pub(super) pages: Vec<u32>,
    counts: Arc<Counts>,
}

impl Pages {
    /// Whether nobody else names one of them.
    pub(crate) fn alone(&self) -> bool {
        let uses = self.counts.lock();
        let mut named = self
            .pages
            .iter()
            .zip(uses.iter())
            .filter(|(p, _)| **p != NONE);
        named.all(|(p, uses)| uses.refs[*p as usize] == 1)
    }

    /// Whether nobody else names that of this group.
    pub(crate) fn alone_in(&self, group: usize) -> bool {
        self.others(group) == Some(0)
    }

    /// Whether what was lacking is there when these names go: a page that nobody else names, or the one that was
    /// to be copied, if then the table that writes it is left alone with it.
    pub(crate) fn frees(&self, full: Full) -> bool {
        let others = match full.copied == Some(self.pages[full.group]) {
            true => 1,
            false => 0,
        };
        self.others(full.group).is_some_and(|n| n <= others)
    }

    /// How many others name that of a group, if there is one.
    fn others(&self, group: usize) -> Option<u32> {
        let page = Some(self.pages[group]).filter(|p| *p != NONE)?;
        Some(self.counts.lock()[group].refs[page as usize] - 1)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let mut uses = self.counts.lock();
        let named = self
            .pages
            .iter()
            .zip(uses.iter_mut())
            .filter(|(p, _)| **p != NONE);
        named.for_each(|(p, uses)| uses.give_up(*p));
    }
}

impl PageTable {
    /// The pages of a block, named once more; `None` where one is given up.
    pub(crate) fn block(&self, block: usize) -> Option<Pages> {
        let mut pages = vec![NONE; self.pages.len()];
        for g in self.layout.of_part(Part::Layers) {
            pages[g] = *self.pages[g].get(block).filter(|p| **p != NONE)?;
        }
        let mut uses = self.counts.lock();
        let named = pages
            .iter()
            .zip(uses.iter_mut())
            .filter(|(p, _)| **p != NONE);
        named.for_each(|(p, uses)| uses.share(*p));
        drop(uses);
        Some(Pages {
            pages,
            counts: self.counts.clone(),
        })
    }

    /// Names these pages as those of the next block.
    pub(crate) fn push(&mut self, of: &Pages) {
        let mut uses = self.counts.lock();
        for g in self.layout.of_part(Part::Layers) {
            uses[g].share(of.pages[g]);
            self.pages[g].push(of.pages[g]);
        }
    }

    /// Names these pages, which hold the same, in the place of its own of a block.
    pub(crate) fn replace(&mut self, block: usize, of: &Pages) {
        let mut uses = self.counts.lock();
        for g in self.layout.of_part(Part::Layers) {
            let old = std::mem::replace(&mut self.pages[g][block], of.pages[g]);
            uses[g].share(of.pages[g]);
            uses[g].give_up(old);
        }
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        self.truncate(0);
    }
}
