//! T5 and flan-T5 (arXiv 1910.10683): an encoder and a decoder, scores without a scale and with a bias by
//! distance; ReLU, or a gate with GELU where the file has one.

use super::{Arch, Gate, Positions, Scalars, llama};

pub(super) const ARCH: Arch = Arch {
    name: "t5",
    positions: Positions::Buckets,
    gate: Gate::Gelu,
    plain: Some(Gate::Relu),
    encoder: true,
    scaled: false,
    scalars: Scalars::Tied,
    ..llama::ARCH
};
