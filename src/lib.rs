//! Run language models on CPUs, from one quantized GGUF file.
//!
//! From a file to the first word:
//!
//! ```
//! # use geb_convert::{Options, convert};
//! # let folder = tempfile::tempdir()?;
//! # let model = folder.path().join("model.gguf");
//! # convert("assets/geb-nano/hf".as_ref(), &model, &Options::default(), &mut ())?;
//! use geb::generate::GenerateOptions;
//! use geb::{Assistant, scheduler::Request};
//! use std::ops::ControlFlow;
//!
//! let mut assistant = Assistant::open(&model, &Default::default())?;
//! let prompt = assistant.text("In the beginning")?;
//! let options = GenerateOptions { max_tokens: 8, ..Default::default() };
//! let mut show = |text: &str| {
//!     print!("{text}");
//!     ControlFlow::Continue(())
//! };
//! let answer = assistant.answer(&prompt, &options, &mut show)?;
//!
//! // Many at once: each gets the text that it gets alone.
//! let scheduler = assistant.schedule(Default::default())?;
//! let request = Request { prompt, options, ..Default::default() };
//! let again: String = scheduler.submit(request)?.text()?;
//! assert_eq!(again, answer.text);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Module map: [`assistant`] is what a program starts with, [`scheduler`] what a server does; [`engine`] runs any
//! number of sequences, [`generate`] turns their logits into text. [`gguf`] is the container; [`tokenizer`], [`chat`], [`constraint`] and [`sampler`] are text; [`model`] and
//! [`session`] run it. SIMD lives in `geb-kernels`; `geb-convert` turns checkpoints into files, `geb-eval`
//! says how good a model is.

#![deny(unsafe_code)]

pub mod adapter;
pub mod assistant;
pub mod cache;
pub mod calibrate;
pub mod chat;
pub mod constraint;
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

pub use assistant::Assistant;
pub use error::{Error, Result};
pub use geb_kernels as kernels;
pub use geb_kernels::dtype::Dtype;
