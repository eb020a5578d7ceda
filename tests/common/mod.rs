//! Shared by the tests; each program uses a part.
#![allow(dead_code)]

pub mod alloc;
pub mod cases;
pub mod changed;
pub mod chat;
pub mod dice;
pub mod fixture;
pub mod gguf;
pub mod mutate;
pub mod nano;
pub mod needs;
pub mod tiny;
pub mod torch;

/// The top of the checkout.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A file of the built-in model.
pub fn asset(name: &str) -> std::path::PathBuf {
    std::path::Path::new(ROOT)
        .join("assets/geb-nano")
        .join(name)
}
