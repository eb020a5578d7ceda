//! Right-hand sides of products, packed for each kind of product that reads them.

use geb_kernels::team::Leader;
use geb_kernels::{ActKind, Activations, Kernels};

/// Up to this many rows a pass over rows stays on the leader.
pub(in crate::model) const SERIAL_ROWS: usize = 4;

/// Kinds of activations, each with its own buffer.
pub(super) const KINDS: [ActKind; 3] = [ActKind::F32, ActKind::Bf16, ActKind::Q8];

/// The same rows packed for each kind of product.
pub(super) type Acts = [Activations; KINDS.len()];

/// Where the activations of a kind are.
pub(super) fn slot(kind: ActKind) -> usize {
    KINDS.iter().position(|k| *k == kind).unwrap_or(0)
}

/// Packs (and quantizes) the right-hand side of a product, `x`: `[n, cols]`.
pub(in crate::model) fn pack(
    (kernels, lead): (&'static Kernels, &mut Leader<'_>),
    acts: &mut Activations,
    kind: ActKind,
    x: &[f32],
    (n, cols): (usize, usize),
) {
    acts.reshape(kernels, kind, n, cols);
    let (shape, bytes) = (acts.shape(), acts.tile_bytes());
    if n <= SERIAL_ROWS {
        for (i, tile) in acts.bytes_mut().chunks_mut(bytes).enumerate() {
            kernels.fill_tile(shape, i, x, tile);
        }
    } else {
        lead.chunks_mut(acts.bytes_mut(), bytes, |i, tile, _| {
            kernels.fill_tile(shape, i, x, tile)
        });
    }
}
