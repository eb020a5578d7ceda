//! Block formats and SIMD kernels of geb.

pub mod dtype;
