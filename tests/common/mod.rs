//! Shared by the integration tests; each of them uses a part.
#![allow(dead_code)]

pub mod alloc;
pub mod cases;
pub mod changed;
pub mod gguf;
pub mod mutate;
pub mod nano;
pub mod tiny;
