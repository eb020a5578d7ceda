//! Tokens of a vocabulary, and the files that tell them.

use serde_json::Value;

use super::folder::Fields;
use geb::error::Result;
use geb::gguf::writer::MetaValue;
use geb::tokenizer::pieces;

/// `tokenizer.ggml.token_type` values of the GGUF specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// One entry of the token list.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Text as stored (`▁` or the byte alphabet for spaces).
    pub text: String,
    /// SentencePiece score; higher merges first.
    pub score: f32,
    /// What the token is for.
    pub kind: Kind,
}

/// A vocabulary before it becomes metadata.
#[derive(Clone, Debug, Default)]
pub struct Vocab {
    /// `tokenizer.ggml.model`: `llama`, `gpt2`, `t5` or `rwkv`.
    pub model: &'static str,
    /// `tokenizer.ggml.pre`.
    pub pre: &'static str,
    /// Token list, by id.
    pub tokens: Vec<Token>,
    /// BPE merges, `a b`.
    pub merges: Vec<String>,
    /// Special ids by GGUF key part (`bos`, `eos`, …).
    pub special: Vec<(&'static str, u32)>,
    /// What every text starts with, where it is more than one token.
    pub starts: Vec<u32>,
    /// What ends an answer besides eos, eot and eom.
    pub stops: Vec<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub space_prefix: Option<bool>,
    /// A space is put at the start only, not after special tokens.
    pub first_prefix: bool,
    /// `remove_extra_whitespaces`.
    pub collapse: Option<bool>,
    /// `precompiled_charsmap`; empty when text is not changed.
    pub charsmap: Vec<u8>,
    /// Chat templates: name (`default` is the main one) and source.
    pub templates: Vec<(String, String)>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Keys of this project: what GGUF has none for.
    pub own: Vec<(&'static str, MetaValue)>,
    /// How tokens are found in text, by id; shorter than the tokens, or empty.
    pub flags: Vec<u8>,
    /// Without [`Vocab::flags`] the architecture decides.
    pub flags_matter: bool,
    /// Scores that 32 bits do not hold; shorter than the tokens, or empty.
    pub doubles: Vec<f64>,
}

impl Vocab {
    /// Adds a key of this project.
    pub(super) fn own(&mut self, key: &'static str, value: MetaValue) {
        self.own.push((key, value));
    }

    /// Bits of `tokenizer.geb.added_tokens` for a token.
    pub(super) fn set_flags(&mut self, id: usize, flags: u8) {
        if self.flags.len() <= id {
            self.flags.resize(id + 1, 0);
        }
        self.flags[id] = flags;
    }

    /// Whether a token has this bit.
    pub(super) fn has_flag(&self, bit: u8) -> bool {
        self.flags.iter().any(|f| f & bit != 0)
    }
}

/// The JSON files that say something about the tokenizer.
pub(super) struct Sources {
    pub config: Value,
    pub generation: Option<Value>,
    pub tokenizer_config: Option<Value>,
    pub tokenizer: Option<Value>,
    pub special_map: Option<Value>,
}

impl Sources {
    /// A bool of `tokenizer_config.json`.
    pub fn flag(&self, name: &'static str) -> Result<Option<bool>> {
        match &self.tokenizer_config {
            Some(value) => Fields {
                file: "tokenizer_config.json",
                value,
            }
            .bool(name),
            None => Ok(None),
        }
    }

    /// Text of the special token `kind` (`bos`, …): a string or an object with `content`.
    pub fn special_text(&self, kind: &str) -> Option<&str> {
        let key = format!("{kind}_token");
        [&self.tokenizer_config, &self.special_map]
            .into_iter()
            .find_map(|v| {
                let v = v.as_ref()?.get(&key)?;
                v.as_str().or_else(|| v.get("content")?.as_str())
            })
    }
}

/// Puts an added token at its id.
pub(super) fn place(vocab: &mut Vocab, id: usize, text: &str, special: bool) {
    while vocab.tokens.len() <= id {
        let text = format!("[PAD{}]", vocab.tokens.len());
        vocab.tokens.push(Token {
            text,
            score: -10000.0,
            kind: Kind::Unused,
        });
    }
    let kind = if special {
        Kind::Control
    } else {
        Kind::UserDefined
    };
    let old = &vocab.tokens[id];
    // The unknown token and byte tokens keep their role.
    let role = matches!(old.kind, Kind::Unknown | Kind::Byte);
    // So do user-defined pieces of SentencePiece, where text after them does not begin anew.
    let piece = old.kind == Kind::UserDefined && old.score != pieces::ADDED;
    let piece = piece && !special && vocab.space_prefix == Some(false);
    let keep = (role || piece) && old.text == text;
    if !keep {
        vocab.tokens[id] = Token {
            text: text.into(),
            score: pieces::ADDED,
            kind,
        };
    }
}

/// Tokens that are control tokens whatever their file says.
pub(super) fn looks_special(text: &str) -> bool {
    let bars = |open: &str, close: &str| {
        text.len() > open.len() + close.len() && text.starts_with(open) && text.ends_with(close)
    };
    bars("<|", "|>")
        || bars("<｜", "｜>")
        || matches!(text, "<pad>" | "<mask>")
        || text.starts_with("<unused")
}
