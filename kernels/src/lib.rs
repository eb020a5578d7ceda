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
//! Layers, each of which knows only those before it: `numeric` and `layout` (conversions, shapes), `isa`
//! (vector operations, no formats), `format` (block layouts, no intrinsics), `ops` and `float` (one
//! generic loop per operation), `table` (what a level has), `dispatch` (stamps them together), `api` (the
//! safe interface). Beside the products, `float` has norms, gates, rope and attention, and `team` the
//! threads of a forward pass.
//!
//! Unit tests look at single pieces; their build leaves the vector levels out, which take most of the
//! compile time. `tests/` runs every level.

#![cfg_attr(test, allow(dead_code, unused_imports, unused_macros))]

mod acts;
mod aligned;
mod api;
mod dispatch;
pub mod dtype;
#[cfg(target_arch = "x86_64")]
mod extension;
pub mod float;
mod format;
mod isa;
mod layout;
pub mod level;
pub mod mat;
pub mod numbers;
mod numeric;
mod ops;
mod panel;
pub mod reference;
mod scratch;
mod sparse;
mod table;
pub mod team;

pub use acts::Activations;
pub use format::search::{Effort, Search};
pub use format::single::Grid;
pub use layout::{ActKind, ActShape, GROUP};
pub use level::Level;
pub use mat::MatMut;
pub use scratch::Scratch;
pub use sparse::SparseMatrix;
pub use table::Kernels;
