//! The KV cache: keys and values of all positions, per layer `[KV heads, positions, head size]`.

use geb_kernels::float::{KvType, KvView};
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{Error, Result};
use crate::model::Config;

/// Storage of one kind.
enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

/// Keys and values of one session.
pub struct KvCache {
    keys: Store,
    values: Store,
    heads: usize,
    head_size: usize,
    positions: usize,
}

/// Zeroed memory straight from the system: pages are touched when a position is first written.
fn zeroed<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    let needed = (len * size_of::<T>()) as u64;
    let failed = |()| Error::Memory {
        what: "KV cache".into(),
        needed,
        available: 0,
    };
    bytemuck::allocation::try_zeroed_vec(len).map_err(failed)
}

impl Store {
    fn new(kv: KvType, len: usize) -> Result<Store> {
        Ok(match kv {
            KvType::F32 => Store::F32(zeroed(len)?),
            KvType::F16 => Store::F16(zeroed(len)?),
        })
    }

    fn view(&self, at: usize, len: usize) -> KvView<'_> {
        match self {
            Store::F32(v) => KvView::F32(&v[at..at + len]),
            Store::F16(v) => KvView::F16(&v[at..at + len]),
        }
    }

    fn put(&mut self, at: usize, row: &[f32]) {
        match self {
            Store::F32(v) => v[at..at + row.len()].copy_from_slice(row),
            Store::F16(v) => v[at..at + row.len()].convert_from_f32_slice(row),
        }
    }
}

impl KvCache {
    /// Bytes a cache of this shape takes.
    pub fn bytes(c: &Config, kv: KvType, positions: usize) -> u64 {
        let element = if kv == KvType::F32 { 4 } else { 2 };
        2 * element * (c.block_count * c.kv_width()) as u64 * positions as u64
    }

    /// An empty cache for `positions`, allocated once.
    pub fn new(c: &Config, kv: KvType, positions: usize) -> Result<KvCache> {
        let len = c.block_count * c.kv_width() * positions;
        Ok(KvCache {
            keys: Store::new(kv, len)?,
            values: Store::new(kv, len)?,
            heads: c.head_count_kv,
            head_size: c.head_size,
            positions,
        })
    }

    fn at(&self, layer: usize, head: usize, position: usize) -> usize {
        ((layer * self.heads + head) * self.positions + position) * self.head_size
    }

    /// Keys and values of one head of one layer.
    pub fn head(&self, layer: usize, head: usize) -> (KvView<'_>, KvView<'_>) {
        let (at, len) = (self.at(layer, head, 0), self.positions * self.head_size);
        (self.keys.view(at, len), self.values.view(at, len))
    }

    /// Stores one position of all heads: `k`, `v` are `[KV heads, head size]`.
    pub fn put(&mut self, layer: usize, position: usize, k: &[f32], v: &[f32]) {
        let d = self.head_size;
        for head in 0..self.heads {
            let at = self.at(layer, head, position);
            self.keys.put(at, &k[head * d..(head + 1) * d]);
            self.values.put(at, &v[head * d..(head + 1) * d]);
        }
    }
}
