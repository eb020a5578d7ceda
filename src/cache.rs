//! The KV cache: keys and values per layer and KV head, each a run of blocks (`KvShape`).
//!
//! A layer with a window keeps a ring: the window and the largest batch, so that a batch never
//! overwrites what its own tokens see. What a batch wrote over is gone, which limits
//! how far a session can go back ([`KvCache::keeps`]).

use std::ops::Range;

use geb_kernels::float::{BLOCK, KvHead, KvShape, KvType};

use crate::error::Result;
use crate::model::{Config, LayerSizes};
use crate::ram;

/// Alignment of the cache: a cache line, so that no vector load crosses one.
const ALIGN: usize = 64;

/// Keys and values of one session: `[layers][KV heads][keys, values]`.
pub struct KvCache {
    data: Vec<u8>,
    /// Bytes before the first aligned one.
    skip: usize,
    layers: Vec<LayerCache>,
    /// Number of the first of them.
    first: usize,
    /// One past the highest position ever written since the cache was empty.
    written: usize,
}

/// Where a layer lies.
struct LayerCache {
    /// First byte, counted from the aligned one.
    start: usize,
    shape: KvShape,
    heads: usize,
    window: usize,
}

impl LayerCache {
    fn bytes(&self) -> usize {
        2 * self.heads * self.shape.head_bytes()
    }
}

/// Keys and values of a head: `[positions, width]` each.
pub(crate) struct HeadRows<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    shape: KvShape,
}

impl<'a> HeadRows<'a> {
    fn row(&self, rows: &'a [f32], position: usize) -> &'a [f32] {
        let at = position % self.shape.positions() * self.shape.width();
        &rows[at..at + self.shape.head_size()]
    }

    /// Products of `q` with the keys of positions `seen`, where keys lie in blocks as the kernels want them.
    pub(crate) fn products(&self, q: &[f32], seen: Range<usize>) -> impl Iterator<Item = f32> {
        let (mut out, width) = (Vec::with_capacity(seen.len()), self.shape.width());
        for block in seen.start / BLOCK..seen.end.div_ceil(BLOCK) {
            let first = block * BLOCK;
            let keys = &self.keys[first % self.shape.positions() * width..][..BLOCK * width];
            let mut sums = [0f32; BLOCK];
            for (q, column) in q.iter().zip(keys.chunks_exact(BLOCK)) {
                for (sum, k) in sums.iter_mut().zip(column) {
                    *sum += q * k;
                }
            }
            let inside = seen.start.max(first) - first..seen.end.min(first + BLOCK) - first;
            out.extend_from_slice(&sums[inside]);
        }
        out.into_iter()
    }

    /// The key at a position.
    pub(crate) fn key(&self, position: usize) -> &'a [f32] {
        self.row(self.keys, position)
    }

    /// The value at a position.
    pub(crate) fn value(&self, position: usize) -> &'a [f32] {
        self.row(self.values, position)
    }
}

/// Zeroed memory straight from the system: pages are touched when a position is first written.
fn zeroed(len: usize) -> Result<Vec<u8>> {
    let failed = |()| ram::refused("KV cache", len as u64);
    bytemuck::allocation::try_zeroed_vec(len).map_err(failed)
}

/// The layers, one behind the other. A head holds the whole context, or a ring of the window and a
/// batch if that is less.
fn layers(c: &Config, of: &Range<usize>, kv: KvType, [ctx, batch]: [usize; 2]) -> Vec<LayerCache> {
    let mut start = 0;
    let one = |(sizes, &window): (&LayerSizes, &usize)| {
        let positions = ctx.min(window.saturating_add(batch));
        let layer = LayerCache {
            start,
            shape: KvShape::new(kv, sizes.head_size, positions),
            heads: sizes.head_count_kv,
            window,
        };
        start += layer.bytes();
        layer
    };
    let of = of.start..of.end.min(c.layers.len());
    let windows = &c.windows[of.start..];
    c.layers[of].iter().zip(windows).map(one).collect()
}

impl KvCache {
    /// Bytes that a cache of the layers `of` takes for `ctx` positions, written in batches of at most
    /// `batch`.
    pub fn bytes(c: &Config, of: Range<usize>, kv: KvType, sizes: [usize; 2]) -> u64 {
        let layers = layers(c, &of, kv, sizes);
        layers.iter().map(|l| l.bytes() as u64).sum()
    }

    /// An empty cache of the layers `of` for `[ctx, batch]`, as [`KvCache::bytes`]; allocated once.
    pub fn new(c: &Config, of: Range<usize>, kv: KvType, sizes: [usize; 2]) -> Result<KvCache> {
        let layers = layers(c, &of, kv, sizes);
        let data = zeroed(layers.iter().map(LayerCache::bytes).sum::<usize>() + ALIGN)?;
        Ok(KvCache {
            skip: data.as_ptr().align_offset(ALIGN).min(ALIGN),
            data,
            layers,
            first: of.start,
            written: 0,
        })
    }

    /// An empty cache of rows of floats, for `count` layers and a text of `positions`.
    pub(crate) fn of_rows(c: &Config, count: usize, positions: usize) -> Result<KvCache> {
        Self::new(c, 0..count, KvType::F32, [positions; 2])
    }

    fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer - self.first]
    }

    /// Type and layout of a head of one layer.
    pub fn shape(&self, layer: usize) -> KvShape {
        self.layer(layer).shape
    }

    /// Bytes that a token at position `positions - 1` sees, all layers together.
    pub fn seen_bytes(&self, positions: usize) -> u64 {
        let one = |l: &LayerCache| {
            let seen = positions.min(l.window).min(l.shape.positions());
            (l.bytes() / l.shape.positions() * seen) as u64
        };
        self.layers.iter().map(one).sum()
    }

    /// Keys and values of one head of one layer.
    pub fn head(&self, layer: usize, head: usize) -> KvHead<'_> {
        let layer = self.layer(layer);
        let bytes = layer.shape.head_bytes();
        let at = self.skip + layer.start + head * 2 * bytes;
        let (keys, values) = self.data[at..at + 2 * bytes].split_at(bytes);
        KvHead::new(layer.shape, keys, values)
    }

    /// A head of an F32 cache: values, and keys where they are stored as rows.
    pub(crate) fn rows(&self, layer: usize, head: usize) -> HeadRows<'_> {
        let layer = self.layer(layer);
        let bytes = layer.shape.head_bytes();
        let at = self.skip + layer.start + head * 2 * bytes;
        let (keys, values) = self.data[at..at + 2 * bytes].split_at(bytes);
        HeadRows {
            keys: bytemuck::cast_slice(keys),
            values: bytemuck::cast_slice(values),
            shape: layer.shape,
        }
    }

    /// All heads of one layer: `[KV heads][keys, values]`, [`KvShape::head_bytes`] each.
    pub fn layer_mut(&mut self, layer: usize) -> &mut [u8] {
        let layer = self.layer(layer);
        let (at, len) = (self.skip + layer.start, layer.bytes());
        &mut self.data[at..at + len]
    }

    /// To be called before the positions up to `end` are written.
    pub fn will_write(&mut self, end: usize) {
        self.written = self.written.max(end);
    }

    /// Positions written since the cache was empty.
    pub(crate) fn written(&self) -> usize {
        self.written
    }

    /// Writes keys and values of positions `first..first + n` into a cache of rows: for each side the
    /// first token's heads and the distance to the next token's.
    pub(crate) fn put_rows(
        &mut self,
        layer: usize,
        (first, n): (usize, usize),
        sides: [(&[f32], usize); 2],
    ) {
        self.will_write(first + n);
        let shape = self.layer(layer).shape;
        let (d, width) = (shape.head_size(), shape.width());
        let rows: &mut [f32] = bytemuck::cast_slice_mut(self.layer_mut(layer));
        let parts = rows.chunks_exact_mut(shape.positions() * width);
        for (i, part) in parts.enumerate() {
            let ((from, stride), head) = (sides[i % 2], i / 2);
            for t in 0..n {
                let to = (first + t) % shape.positions() * width;
                part[to..to + d].copy_from_slice(&from[t * stride + head * d..][..d]);
            }
        }
    }

    /// Where positions `span` of all layers lie, in whole blocks: of a ring, those that it holds.
    fn places(&self, span: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        self.layers.iter().flat_map(move |l| {
            let (head, blocks) = (l.shape.head_bytes(), l.shape.positions() / BLOCK);
            let end = span.end.div_ceil(BLOCK);
            let first = (span.start / BLOCK).max(end.saturating_sub(blocks));
            let (start, bytes) = (self.skip + l.start, head / blocks);
            (0..2 * l.heads).flat_map(move |run| {
                let at = move |b: usize| start + run * head + b % blocks * bytes;
                (first..end).map(move |b| at(b)..at(b) + bytes)
            })
        })
    }

    /// Bytes of [`KvCache::copy_out`].
    pub(crate) fn copy_bytes(&self, span: Range<usize>) -> u64 {
        self.places(span).map(|place| place.len() as u64).sum()
    }

    /// Keys and values of positions `span`, in whole blocks, for [`KvCache::copy_in`].
    pub(crate) fn copy_out(&self, span: Range<usize>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.copy_bytes(span.clone()) as usize);
        self.places(span)
            .for_each(|place| out.extend_from_slice(&self.data[place]));
        out
    }

    /// Writes back what [`KvCache::copy_out`] has copied; false, and nothing changed, if a ring has
    /// given up earlier positions that the next token sees, or if it is of another cache.
    pub(crate) fn copy_in(&mut self, span: Range<usize>, bytes: &[u8]) -> bool {
        let lost = |l: &LayerCache| {
            let sees_from = (span.end + 1).saturating_sub(l.window);
            sees_from < span.start && self.written > l.shape.positions() + sees_from
        };
        let fits = bytes.len() as u64 == self.copy_bytes(span.clone());
        if !fits || self.layers.iter().any(lost) {
            return false;
        }
        self.will_write(span.end);
        let places: Vec<_> = self.places(span).collect();
        let mut rest = bytes;
        for place in places {
            let (part, after) = rest.split_at(place.len());
            self.data[place].copy_from_slice(part);
            rest = after;
        }
        true
    }

    /// Whether a layer gives up positions before the context ends.
    pub(crate) fn has_ring(&self) -> bool {
        self.layers.iter().any(|l| l.window < l.shape.positions())
    }

    /// How many of the first `n` positions are left when the later ones are given up: all of them
    /// or, when a ring has lost some that the next token would see, none.
    ///
    /// Going back by as many positions as the largest batch has is always exact, counted from the
    /// highest position written since the cache was last empty.
    pub fn keeps(&mut self, n: usize) -> usize {
        let written = self.written;
        let lost = |l: &LayerCache| {
            let sees_from = (n + 1).saturating_sub(l.window);
            written.saturating_sub(l.shape.positions()) > sees_from
        };
        let kept = match n > 0 && self.layers.iter().any(lost) {
            true => 0,
            false => n,
        };
        if kept == 0 {
            self.written = 0;
        }
        kept
    }
}
