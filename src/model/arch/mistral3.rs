//! Ministral 3 and Devstral 2: the llama graph with queries that grow with the position, by a scale that the
//! file says.

use super::{Arch, llama};

pub(super) const ARCH: Arch = Arch {
    name: "mistral3",
    ..llama::ARCH
};
