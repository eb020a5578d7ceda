//! GPT-Neo and MindLLM-1.3B (arXiv 2310.15777): GPT-2 with a window in every other layer. GGUF has no
//! name for it; ours. `attention.scale` is 1 and the windows are stated in the file.

use super::{Arch, gpt2};

pub(super) const ARCH: Arch = Arch {
    name: "gptneo",
    ..gpt2::ARCH
};
