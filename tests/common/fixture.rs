//! GGUF vocabularies of the checkpoints in `tests/fixtures`, built here and not by the
//! converter: a second opinion on what the files mean.

use std::path::PathBuf;

use geb::gguf::GgufFile;
use geb::gguf::writer::{MetaValue, Plan, PlannedTensor, write_to};
use sentencepiece_model::SentencePieceModel;
use serde_json::Value;

/// ChatGLM2's text form, which the GEB fixtures use.
const GEB_TEMPLATE: &str = "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[Round ' ~ (loop.index0 // 2 + 1) ~ ']\\n\\n问：' + m['content'] + '\\n\\n答：' }}{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}{% endfor %}";

const GEB_SPECIALS: [&str; 10] = [
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<eod>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

pub fn path(case: &str, file: &str) -> PathBuf {
    PathBuf::from(crate::common::ROOT)
        .join("tests/fixtures")
        .join(case)
        .join(file)
}

pub fn json(case: &str, file: &str) -> Value {
    let text = std::fs::read_to_string(path(case, file)).expect("a file of the repository");
    serde_json::from_str(&text).expect("JSON")
}

#[derive(Default)]
struct Vocab {
    tokens: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<i32>,
}

impl Vocab {
    fn push(&mut self, text: &str, score: f32, kind: i32) {
        self.tokens.push(text.to_owned());
        self.scores.push(score);
        self.kinds.push(kind);
    }

    fn pad(&mut self, len: usize) {
        for id in self.tokens.len()..len {
            self.push(&format!("[PAD{id}]"), -10000.0, 5);
        }
    }
}

/// A file that holds the metadata and one tiny tensor.
pub fn file_of(metadata: Vec<(&str, MetaValue)>) -> geb::Result<GgufFile> {
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", "llama".to_owned());
    for (key, value) in metadata {
        plan.push_meta(key, value);
    }
    plan.tensors.push(PlannedTensor {
        name: "t".into(),
        dtype: geb::Dtype::F32,
        dims: vec![1],
    });
    let mut bytes = Vec::new();
    write_to(&mut bytes, &plan, &mut |_, out| {
        out.write_all(&[0; 4]).expect("memory");
        Ok(())
    })?;
    GgufFile::from_bytes(bytes)
}

/// The full-size vocabulary of GEB from its SentencePiece file.
#[allow(dead_code)] // one of the files that share this module
pub fn geb_vocabulary(model: &std::path::Path) -> GgufFile {
    let vocab = sentencepiece(model, 64_896);
    file_of(vec![
        ("tokenizer.ggml.model", MetaValue::Str("llama".into())),
        ("tokenizer.ggml.scores", MetaValue::F32s(vocab.scores)),
        ("tokenizer.ggml.tokens", MetaValue::Strs(vocab.tokens)),
        ("tokenizer.ggml.token_type", MetaValue::I32s(vocab.kinds)),
    ])
    .expect("a valid file")
}

fn sentencepiece(path: &std::path::Path, rows: usize) -> Vocab {
    let bytes = std::fs::read(path).expect("a SentencePiece file");
    let model = SentencePieceModel::from_slice(bytes).expect("a SentencePiece model");
    let mut vocab = Vocab::default();
    for piece in &model.pieces {
        vocab.push(piece.piece(), piece.score(), piece.r#type() as i32);
    }
    if path.ends_with("GEBtokenizer.model") {
        for text in GEB_SPECIALS {
            vocab.push(text, -1000.0, 3);
        }
    }
    vocab.pad(rows);
    vocab
}

/// Tokens of a `tokenizer.json`, and its merges as lines.
fn tokenizer_json(case: &str, rows: usize) -> (Vocab, Vec<String>) {
    let json = json(case, "hf/tokenizer.json");
    let mut tokens = vec![String::new(); rows];
    for (text, id) in json["model"]["vocab"].as_object().expect("a vocabulary") {
        tokens[id.as_u64().expect("an id") as usize] = text.clone();
    }
    let mut merges = Vec::new();
    let mut ranks = std::collections::HashMap::new();
    for (rank, merge) in json["model"]["merges"]
        .as_array()
        .expect("merges")
        .iter()
        .enumerate()
    {
        let (a, b) = (
            merge[0].as_str().expect("a part"),
            merge[1].as_str().expect("a part"),
        );
        merges.push(format!("{a} {b}"));
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    let special: Vec<(usize, &str)> = json["added_tokens"]
        .as_array()
        .expect("added tokens")
        .iter()
        .map(|t| {
            (
                t["id"].as_u64().expect("an id") as usize,
                t["content"].as_str().expect("a text"),
            )
        })
        .collect();
    let mut vocab = Vocab::default();
    for (id, token) in tokens.iter().enumerate() {
        let score = ranks.get(token).map_or(-1e6, |&r| -(r as f32));
        match special.iter().find(|(i, _)| *i == id) {
            Some((0, text)) if *text == "<unk>" => vocab.push(text, 0.0, 2),
            Some((_, text)) => vocab.push(text, 0.0, 3),
            None if token.is_empty() => vocab.push(&format!("[PAD{id}]"), -10000.0, 5),
            None if token.len() == 6 && token.starts_with("<0x") => vocab.push(token, 0.0, 6),
            None => vocab.push(token, score, 1),
        }
    }
    (vocab, merges)
}

/// The vocabulary and chat template of a case as a GGUF file.
pub fn gguf_of(case: &str) -> GgufFile {
    let rows = json(case, "expected.json")["vocab_rows"]
        .as_u64()
        .expect("a number") as usize;
    let config = json(case, "hf/tokenizer_config.json");
    let mut metadata: Vec<(&str, MetaValue)> = Vec::new();
    let spm = |vocab: &Vocab| {
        vec![
            ("tokenizer.ggml.model", MetaValue::Str("llama".into())),
            (
                "tokenizer.ggml.scores",
                MetaValue::F32s(vocab.scores.clone()),
            ),
        ]
    };
    let vocab = if case.starts_with("geb") {
        let vocab = sentencepiece(&path(case, "hf/GEBtokenizer.model"), rows);
        metadata.extend(spm(&vocab));
        metadata.push(("tokenizer.ggml.add_bos_token", MetaValue::Bool(false)));
        metadata.push((
            "tokenizer.chat_template",
            MetaValue::Str(GEB_TEMPLATE.into()),
        ));
        vocab
    } else if case == "llama3" {
        let (vocab, merges) = tokenizer_json(case, rows);
        let id = |text| {
            vocab
                .tokens
                .iter()
                .position(|t| t == text)
                .expect("a token") as u32
        };
        metadata.push(("tokenizer.ggml.model", MetaValue::Str("gpt2".into())));
        metadata.push(("tokenizer.ggml.pre", MetaValue::Str("llama-bpe".into())));
        metadata.push(("tokenizer.ggml.merges", MetaValue::Strs(merges)));
        metadata.push((
            "tokenizer.ggml.bos_token_id",
            MetaValue::U32(id("<|begin_of_text|>")),
        ));
        metadata.push((
            "tokenizer.ggml.eos_token_id",
            MetaValue::U32(id("<|eot_id|>")),
        ));
        vocab
    } else {
        let vocab = match case {
            "llama-bin" => tokenizer_json(case, rows).0,
            _ => sentencepiece(&path(case, "hf/tokenizer.model"), rows),
        };
        metadata.extend(spm(&vocab));
        vocab
    };
    if let Some(template) = config["chat_template"].as_str() {
        metadata.push(("tokenizer.chat_template", MetaValue::Str(template.into())));
    }
    metadata.push(("tokenizer.ggml.tokens", MetaValue::Strs(vocab.tokens)));
    metadata.push(("tokenizer.ggml.token_type", MetaValue::I32s(vocab.kinds)));
    file_of(metadata).expect("a valid file")
}
