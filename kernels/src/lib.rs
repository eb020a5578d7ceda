//! Block formats and SIMD kernels of geb.
//!
//! What is here: the table of tensor types, encoding and decoding of blocks, and products of
//! quantized (or float) weights with activations, for every instruction set level. What is not:
//! files, models.
//!
//! ```
//! use geb_kernels::{Activations, Kernels, MatMut, Scratch, dtype::Dtype};
//!
//! let kernels = Kernels::best()?;
//! let (rows, cols) = (3, 64);
//! let mut weights = vec![0u8; rows * Dtype::Q8_0.row_bytes(cols).unwrap()];
//! kernels.quantize(Dtype::Q8_0, &vec![0.5; rows * cols], &mut weights);
//!
//! let mut acts = Activations::new();
//! acts.reshape(kernels, kernels.act_kind(Dtype::Q8_0), 1, cols);
//! acts.fill(kernels, &vec![1.0; cols]);
//!
//! let mut out = vec![0.0; rows];
//! let view = MatMut::new(&mut out, 1, rows, rows);
//! kernels.mat_mul(Dtype::Q8_0, &weights, cols, &acts, view, &mut Scratch::new());
//! assert!(out.iter().all(|v| (v - 32.0).abs() < 0.01));
//! # Ok::<(), String>(())
//! ```
//!
//! Three layers, each knowing only its own subject: `isa` (vector operations, no formats),
//! `format` (block layouts, no intrinsics), `ops` (one generic loop per operation). `dispatch`
//! stamps them together. Beside the products, `float` has norms, gates, rope and attention, and
//! `team` the threads of a forward pass.
//!
//! Unit tests look at single pieces; their build leaves the vector levels out, which take most of the
//! compile time. `tests/` runs every level.

#![cfg_attr(test, allow(dead_code, unused_imports, unused_macros))]

mod acts;
mod aligned;
mod dispatch;
pub mod dtype;
pub mod float;
mod format;
mod isa;
mod kernels;
pub mod level;
pub mod mat;
pub mod numbers;
mod ops;
mod peak;
pub mod reference;
mod sparse;
pub mod team;

pub use acts::{ActKind, ActShape, Activations, GROUP};
pub use format::search::{Effort, Search};
pub use format::snap::Grid;
pub use kernels::{Kernels, Scratch};
pub use level::Level;
pub use mat::MatMut;
pub use sparse::SparseMatrix;
