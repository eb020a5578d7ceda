//! The architectures that there are.

use super::{
    Arch, arcee, bloom, chatglm, cohere2, ernie4_5, exaone4, falcon, gemma, gemma2, gemma3, glm4,
    gpt2, gptneo, gptneox, granite, hunyuan_dense, jetmoe, lfm2, llama, mamba, mamba2, minicpm,
    mistral3, olmo, olmo2, olmoe, openelm, phi2, phi3, qwen2, qwen2moe, qwen3, qwen3moe, qwen3next,
    qwen35, qwen35moe, rwkv6, rwkv7, seed_oss, smollm3, stablelm, starcoder2, t5,
};

/// All architectures this program runs.
pub const REGISTRY: &[&Arch] = &[
    &llama::ARCH,
    &chatglm::ARCH,
    &qwen2::ARCH,
    &qwen3::ARCH,
    &phi3::ARCH,
    &gemma::ARCH,
    &gemma2::ARCH,
    &gemma3::ARCH,
    &minicpm::ARCH,
    &smollm3::ARCH,
    &granite::ARCH,
    &mistral3::ARCH,
    &glm4::ARCH,
    &seed_oss::ARCH,
    &ernie4_5::ARCH,
    &hunyuan_dense::ARCH,
    &exaone4::ARCH,
    &cohere2::ARCH,
    &arcee::ARCH,
    &starcoder2::ARCH,
    &stablelm::ARCH,
    &phi2::ARCH,
    &olmo::ARCH,
    &olmo2::ARCH,
    &openelm::ARCH,
    &gpt2::ARCH,
    &gptneo::ARCH,
    &gptneox::ARCH,
    &bloom::ARCH,
    &falcon::ARCH,
    &t5::ARCH,
    &olmoe::ARCH,
    &qwen2moe::ARCH,
    &qwen3moe::ARCH,
    &jetmoe::ARCH,
    &rwkv6::ARCH,
    &rwkv7::ARCH,
    &mamba::ARCH,
    &mamba2::ARCH,
    &lfm2::ARCH,
    &qwen35::ARCH,
    &qwen35moe::ARCH,
    &qwen3next::ARCH,
];

impl Arch {
    /// Looks an architecture up by its GGUF name.
    pub fn by_name(name: &str) -> Option<&'static Arch> {
        REGISTRY.iter().copied().find(|a| a.name == name)
    }
}
