//! Arcee's AFM: the llama graph with feed-forward layers that have no gate but the square of ReLU.

use super::{Arch, Gate, llama};

pub(super) const ARCH: Arch = Arch {
    name: "arcee",
    plain: Some(Gate::ReluSquared),
    ..llama::ARCH
};
