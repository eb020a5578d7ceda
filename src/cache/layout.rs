//! Where the layers of a model lie in the pages of their groups.

use std::ops::Range;

use geb_kernels::float::{BLOCK, KvShape, KvType};

use crate::error::{Error, Result};
use crate::model::{Config, LayerSizes};

/// Which layers' pages are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The layers that every token goes through.
    Layers,
    /// Layers of further heads, which come after when they are asked.
    Heads,
}

/// Layers with an equal window.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) part: Part,
    /// Positions that a token sees, its own included.
    pub(super) window: usize,
    pub(super) page_bytes: usize,
}

/// Where a layer lies in each page of its group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) group: usize,
    /// First byte of its first head.
    pub(super) at: usize,
    pub(super) shape: KvShape,
    pub(super) heads: usize,
}

impl Place {
    /// Bytes of the layer in a page: `[KV heads][keys, values]`.
    pub(super) fn bytes(&self) -> usize {
        2 * self.heads * self.shape.block_bytes()
    }
}

/// Groups of layers and the shape of their pages.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(super) groups: Vec<Group>,
    pub(super) places: Vec<Place>,
}

impl Layout {
    /// The layers of a model and of the first `heads` of its further heads. Layers without keys and values
    /// take no part in it.
    pub fn new(c: &Config, heads: usize, kv: KvType) -> Layout {
        let of = |l: usize| match l < c.block_count {
            true => (Part::Layers, c.windows[l]),
            // They come after by any number of positions, so nothing is given up behind a window.
            false => (Part::Heads, usize::MAX),
        };
        let count = c.layers.len().min(c.block_count + heads);
        Self::of(&c.layers[..count], kv, of)
    }

    /// `count` layers of rows of floats that keep everything, sized as the decoder's.
    pub(crate) fn of_rows(c: &Config, count: usize) -> Layout {
        Self::of(&c.layers[..count], KvType::F32, |_| {
            (Part::Layers, usize::MAX)
        })
    }

    pub(crate) fn of(
        layers: &[LayerSizes],
        kv: KvType,
        group: impl Fn(usize) -> (Part, usize),
    ) -> Layout {
        let mut groups: Vec<Group> = Vec::new();
        let place = |(l, sizes): (usize, &LayerSizes)| {
            let (part, window) = group(l);
            let known = groups
                .iter()
                .position(|g| (g.part, g.window) == (part, window));
            let number = known.unwrap_or_else(|| {
                let page_bytes = 0;
                groups.push(Group {
                    part,
                    window,
                    page_bytes,
                });
                groups.len() - 1
            });
            let place = Place {
                group: number,
                at: groups[number].page_bytes,
                shape: KvShape::new(kv, sizes.head_size),
                heads: sizes.head_count_kv,
            };
            groups[number].page_bytes += place.bytes();
            place
        };
        let places = layers.iter().enumerate().map(place).collect();
        Layout { groups, places }
    }

    /// Groups by number.
    pub(super) fn of_part(&self, part: Part) -> impl Iterator<Item = usize> + '_ {
        let is = move |g: &usize| self.groups[*g].part == part && self.groups[*g].page_bytes > 0;
        (0..self.groups.len()).filter(is)
    }

    /// Bytes of so many pages of each group.
    fn page_bytes(&self, pages: &[usize]) -> u64 {
        let each = self.groups.iter().zip(pages);
        each.map(|(g, n)| (g.page_bytes * n) as u64).sum()
    }

    /// Bytes of a page of each group of layers that every token goes through.
    pub(crate) fn block_bytes(&self) -> Vec<usize> {
        let of = |g: usize| self.groups[g].page_bytes;
        self.of_part(Part::Layers).map(of).collect()
    }

    /// Bytes that a token at position `positions - 1` sees, all layers of the model together.
    pub(crate) fn seen_bytes(&self, positions: usize) -> u64 {
        let of = |g: usize| {
            let group = &self.groups[g];
            (group.page_bytes / BLOCK * positions.min(group.window)) as u64
        };
        self.of_part(Part::Layers).map(of).sum()
    }

    /// Blocks that hold these positions.
    pub(super) fn blocks(positions: Range<usize>) -> Range<usize> {
        positions.start / BLOCK..positions.end.div_ceil(BLOCK)
    }
}

/// How many pages of each group are made.
#[derive(Clone, Debug)]
pub struct PagePlan {
    pub(super) layout: Layout,
    /// Of each group.
    pub(super) pages: Vec<usize>,
    /// Of each group, for one sequence.
    one: Vec<usize>,
    streams: usize,
    /// Positions behind a window that a sequence can still go back to.
    pub(super) back: usize,
}

impl PagePlan {
    /// Pages for `streams` sequences of `ctx` positions each, written in batches of at most `batch`, by which
    /// a sequence can also go back.
    pub fn new(layout: Layout, ctx: usize, batch: usize, streams: usize) -> PagePlan {
        let all = ctx.div_ceil(BLOCK);
        let of = |g: &Group| match g.page_bytes {
            0 => 0,
            // The window and the batch begin anywhere in a page.
            _ => all.min(
                g.window
                    .saturating_add(batch)
                    .div_ceil(BLOCK)
                    .saturating_add(1),
            ),
        };
        let one: Vec<usize> = layout.groups.iter().map(of).collect();
        PagePlan {
            pages: one.iter().map(|n| n * streams).collect(),
            one,
            layout,
            streams,
            back: batch,
        }
    }

    /// As many of them as `bytes` hold: those that keep all positions become fewer, and so do those of windows
    /// when they are more than all sequences together could use. Where that does not fit, what one sequence takes.
    ///
    /// # Errors
    /// [`Error::Request`] for fewer bytes than one sequence takes.
    pub fn within(self, bytes: u64) -> Result<PagePlan> {
        let least = self.one.iter().copied().max().unwrap_or(0);
        let of = |n: usize| {
            self.one
                .iter()
                .map(|p| n.min(p * self.streams))
                .collect::<Vec<_>>()
        };
        let fits = |pages: &Vec<usize>| self.layout.page_bytes(pages) <= bytes;
        let fitting = (least..=least * self.streams).rev().map(of).find(fits);
        let fitting = fitting.or_else(|| Some(self.one.clone()).filter(fits));
        match fitting {
            Some(pages) => Ok(PagePlan { pages, ..self }),
            None => Err(Error::Request {
                what: "memory of the KV cache".into(),
                value: format!("{bytes} bytes"),
                allowed: format!(
                    "at least {}, one context",
                    self.layout.page_bytes(&self.one)
                ),
            }),
        }
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> u64 {
        self.layout.page_bytes(&self.pages)
    }
}
