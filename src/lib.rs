//! Run language models on CPUs, from one quantized GGUF file.
//!
//! Module map: [`gguf`] is the container; [`tokenizer`], [`chat`] and [`sampler`] are text; [`model`] and
//! [`session`] run it. SIMD lives in `geb-kernels`; `geb-convert` turns checkpoints into files, `geb-eval`
//! says how good a model is.

#![deny(unsafe_code)]

pub mod adapter;
pub mod cache;
pub mod calibrate;
pub mod chat;
pub mod cpus;
pub mod embed;
pub mod engine;
pub mod error;
pub mod files;
pub mod generate;
pub mod gguf;
pub mod kinds;
pub mod limits;
pub mod logits;

pub mod mmap;
pub mod model;
pub mod ram;
pub mod sampler;
pub mod scales;
pub mod scheduler;
pub mod session;
pub mod shown;
pub mod sparsity;
pub mod speculate;
pub mod state;
pub mod threads;
pub mod tokenizer;

pub use error::{Error, Result};
pub use geb_kernels as kernels;
pub use geb_kernels::dtype::Dtype;
