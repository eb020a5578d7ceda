//! Damage behind the parser: valid files with wrong types, shapes, names, numbers and texts go through
//! inspection, binding, tokenizing, a chat template, one generated token and a conversion. No panic, no
//! hang, no memory that only a number in the file asks for. `GEB_MUTANTS_BEHIND` sets their number;
//! `GEB_MUTANT=SEED` runs one and says what it is.

mod carry;
mod files;
mod folders;
mod mutant;

use std::path::Path;
use std::sync::Arc;

use crate::common::gguf::File;
use carry::{At, Reached, convert_it, converted, count, number, one_token, run_seeds, step};
use geb::chat::{ChatTemplate, Message};
use geb::gguf::GgufFile;
use geb::kernels::Kernels;
use geb::model::Model;
use geb::session::{Session, SessionOptions};
use geb::sparsity::{Zeros, marked};
use geb::tokenizer::{Encode, Tokenizer};
use geb::{Dtype, Result, scales};
use mutant::{Bases, Mutant};

const TEXT: &str =
    "Hello <s> w\u{f6}rld\n<0x41>  1234 <|im_end|> \u{6f22}\u{5b57} \u{1f642}\0[MASK]";

/// Checkpoints of which each architecture has one, and the type of the file made of it.
#[rustfmt::skip]
const CASES: &[(&str, Dtype)] = &[
    ("llama", Dtype::F32),
    ("llama3", Dtype::Q8_0),
    ("qwen2", Dtype::F16),
    ("qwen3", Dtype::Q4_0),
    ("gemma3", Dtype::BF16),
    ("phi3-longrope", Dtype::F32),
    ("mixtral", Dtype::F32),
    ("qwen3moe", Dtype::F32),
    ("olmoe", Dtype::F16),
    ("jetmoe", Dtype::F32),
    ("gpt2", Dtype::F32),
    ("gpt-neox", Dtype::F16),
    ("bloom", Dtype::F32),
    ("falcon", Dtype::F32),
    ("t5", Dtype::F32),
    ("rwkv6", Dtype::F32),
    ("rwkv7", Dtype::F32),
    ("mamba", Dtype::F32),
    ("mamba2", Dtype::F32),
    ("lfm2", Dtype::F32),
    ("qwen35", Dtype::F32),
    ("olmo2", Dtype::F32),
    ("chatglm3", Dtype::F16),
    ("minicpm", Dtype::F32),
    ("openelm", Dtype::F32),
];

fn bases() -> (Bases, Vec<Tokenizer>) {
    let mut files = Vec::new();
    let mut tokenizers = Vec::new();
    for (case, dtype) in CASES {
        let file = GgufFile::from_bytes(converted(case, *dtype)).expect("what was written");
        tokenizers.push(Tokenizer::from_gguf(&file).expect("a tokenizer"));
        files.push((case.to_string(), File::decode(&file)));
    }
    (Bases { files }, tokenizers)
}

/// What is known about a file without running it.
fn inspect(file: &GgufFile) -> Result<()> {
    let kernels = Kernels::best().expect("kernels");
    marked(file, &mut Vec::new());
    for t in file.tensors() {
        scales::scan(t.dtype(), t.bytes());
        Zeros::of(&t, kernels);
    }
    Ok(())
}

/// The whole way of a mutant. `own`: the tokenizer of its base.
fn carry(m: &Mutant, own: &Tokenizer, seed: u64, path: &Path, at: &At, r: &mut Reached) {
    let bytes = m.file.encode();
    let open = || GgufFile::from_bytes(bytes.clone());
    let Some(file) = step(at, r, "open", open) else {
        return;
    };
    let file = Arc::new(file);
    if m.tensors {
        step(at, r, "inspect", || inspect(&file));
    }
    let mut new = None;
    if m.tokenizer {
        new = step(at, r, "tokenizer", || Tokenizer::from_gguf(&file));
    }
    let tokenizer = if m.tokenizer { new.as_ref() } else { Some(own) };
    let mut ids = vec![0];
    if let Some(tokenizer) = tokenizer.filter(|_| m.tokenizer) {
        for special in [false, true] {
            let opts = Encode {
                add_special: special,
                parse_special: special,
            };
            if let Some(found) = step(at, r, "encode", || tokenizer.encode(TEXT, opts)) {
                tokenizer.decode(&found);
                tokenizer.decode_with_control(&found);
                ids = found;
            }
        }
        if let Some(Some(t)) = step(at, r, "template", || ChatTemplate::from_gguf(&file)) {
            let say = |role: &str| Message::new(role, TEXT);
            let talk = [say("system"), say("user"), say("assistant"), say("user")];
            step(at, r, "chat", || t.encode(tokenizer, &talk, true));
        }
    }
    if let Some(model) = step(at, r, "bind", || Model::load(file.clone())) {
        model.products_per_token();
        model.bytes_per_token();
        step(at, r, "plan", || {
            Session::fits(&model, &SessionOptions::default())
        });
        step(at, r, "generate", || one_token(&model, tokenizer, &ids));
    }
    if m.tensors && seed.is_multiple_of(3) || seed.is_multiple_of(16) {
        std::fs::write(path, &bytes).expect("a temporary file");
        if let Some(made) = step(at, r, "convert", || convert_it(path, seed)) {
            // What we write, we read.
            step(at, r, "read back", || GgufFile::from_bytes(made)).expect("our own file");
        }
    }
}

#[test]
fn models() {
    let (bases, tokenizers) = bases();
    let one = |seed: u64, path: &Path, at: &At, reached: &mut Reached| {
        let (base, mutant) = bases.mutant(seed);
        carry(&mutant, &tokenizers[base], seed, path, at, reached);
    };
    let describe = |seed: u64| {
        let (base, m) = bases.mutant(seed);
        format!(
            "seed {seed}: {}: {}",
            bases.files[base].0,
            m.what.join("; ")
        )
    };
    let reached = run_seeds("models", count(), &describe, &one);
    let count = count();
    if count > 1_000 && number("GEB_MUTANT").is_none() {
        let at = |name: &str| reached.get(name).copied().unwrap_or(0);
        // The parser must not stop them, and both ways must be common behind it.
        assert!(at("open") > count * 19 / 20, "{} opened", at("open"));
        for name in [
            "bind",
            "generate",
            "tokenizer",
            "encode",
            "chat",
            "convert",
            "inspect",
        ] {
            assert!(at(name) > count / 50, "{name}: {} of {count}", at(name));
        }
        assert!(at("bind") < count * 9 / 10, "{} bound", at("bind"));
    }
}
