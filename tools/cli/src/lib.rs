//! What `geb-run` and `geb-quantize` share: how they start and end, and what people type who come from
//! other programs.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod compress;
pub mod errors;
pub mod foreign;
pub mod remote;
pub mod shield;
