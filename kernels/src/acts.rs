//! The right-hand side of a product: activations, quantized and packed for the kernels.

use crate::aligned::AlignedBuf;
use crate::layout::ActShape;

/// Activations of a batch, reusable without allocation once it has been as large as needed.
#[derive(Default)]
pub struct Activations {
    shape: Option<ActShape>,
    buf: AlignedBuf,
}

impl Activations {
    /// An empty set; call [`reshape`](Self::reshape) before use.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes another shape. Contents are undefined until every tile has been filled.
    pub(crate) fn set_shape(&mut self, shape: ActShape) {
        self.buf.reserve(shape.tiles() * shape.tile_bytes);
        self.shape = Some(shape);
    }

    /// The current shape.
    ///
    /// # Panics
    /// Before the first [`reshape`](Self::reshape).
    pub fn shape(&self) -> ActShape {
        self.shape.expect("activations used before reshape")
    }

    /// Tokens per tile (the last tile may have fewer).
    pub fn tile_tokens(&self) -> usize {
        self.shape().tile_tokens
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.shape().tiles()
    }

    /// Bytes per tile; tiles are consecutive.
    pub fn tile_bytes(&self) -> usize {
        self.shape().tile_bytes
    }

    /// All tiles, to be filled with [`Kernels::fill_tile`](crate::Kernels::fill_tile), from several threads if wanted.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.tiles() * self.tile_bytes();
        &mut self.buf.bytes_mut()[..len]
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf.bytes()[..self.tiles() * self.tile_bytes()]
    }

    /// Bytes held, for memory reports.
    pub fn memory_bytes(&self) -> usize {
        self.buf.bytes().len()
    }
}
