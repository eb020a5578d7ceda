//! Architectures as data: each is one small file of answers to the questions below, and one
//! layer loop (`model/forward.rs`) serves them all. Nothing here contains a loop.

mod chatglm;
mod llama;
mod qwen2;

/// How the elements of a head are paired for rotation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RopePairing {
    /// `(2i, 2i+1)`: llama and chatglm files.
    Adjacent,
    /// `(i, i + r/2)`.
    Half,
}

/// An architecture: what differs between the graphs of the family.
#[derive(Debug)]
pub struct Arch {
    /// Value of `general.architecture`, also the prefix of its keys.
    pub name: &'static str,
    /// Pairing of the rotation.
    pub rope: RopePairing,
    /// Rotated share of a head when `rope.dimension_count` is absent: 1 / this.
    pub rope_divisor: usize,
}

/// All architectures this program runs.
pub const REGISTRY: &[&Arch] = &[&llama::ARCH, &chatglm::ARCH, &qwen2::ARCH];

impl Arch {
    /// Looks an architecture up by its GGUF name.
    pub fn by_name(name: &str) -> Option<&'static Arch> {
        REGISTRY.iter().copied().find(|a| a.name == name)
    }
}
