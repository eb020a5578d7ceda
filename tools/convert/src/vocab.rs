//! Tokenizer metadata of a checkpoint folder as GGUF keys.
//!
//! Decision order: a SentencePiece model; `tokenizer.json` with byte fallback (the same
//! algorithm under another format); `tokenizer.json` with byte-level BPE.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::family::spec::Family;
use super::folder::{Fields, Folder, bad, kind, short};
pub use super::tokens::{Kind, Token, Vocab};
use super::tokens::{Sources, looks_special, place};
use super::{bpe, hf, rwkv_vocab, spm, templates};
use geb::error::Result;
use geb::gguf::writer::MetaValue;
use geb::limits;
use geb::tokenizer::special::{FLAGS, is_stop_text};
use geb::tokenizer::{DOUBLE_SCORES, pieces};

/// Part of the key of [`Vocab::starts`], which GGUF has no key for.
const STARTS: &str = "start_token_ids";

/// The same of [`Vocab::stops`].
const STOPS: &str = "stop_token_ids";

/// Kinds of special tokens: name in configurations, GGUF key part (the spelling *seperator* is GGUF's).
const SPECIAL: &[(&str, &str)] = &[
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("sep", "seperator"),
    ("pad", "padding"),
    ("mask", "mask"),
];

/// Reads the JSON files of a folder.
fn sources(folder: &Folder, config: &Value) -> Result<Sources> {
    Ok(Sources {
        config: config.clone(),
        generation: folder.json("generation_config.json")?,
        tokenizer_config: folder.json("tokenizer_config.json")?,
        tokenizer: match folder.json("tokenizer.json")? {
            Some(json) => Some(json),
            None => bpe::from_parts(folder)?,
        },
        special_map: folder.json("special_tokens_map.json")?,
    })
}

/// Reads the tokenizer of a folder. `rows` is the number of rows of the embedding matrix, which
/// the token list is filled up to; `template` replaces the folder's chat template.
///
/// # Errors
/// [`geb::Error::Checkpoint`] for malformed files, [`geb::Error::Unsupported`] for tokenizers without a
/// GGUF form.
pub fn read(
    folder: &Folder,
    config: &Value,
    family: &Family,
    rows: usize,
    template: Option<&str>,
) -> Result<Vocab> {
    let sources = sources(folder, config)?;
    let mut vocab = Vocab {
        pre: "default",
        ..Vocab::default()
    };
    let model_file = spm::FILES.into_iter().find(|f| folder.has(f));
    if let Some(file) = model_file {
        spm::read(folder, file, &sources, &mut vocab)?;
    } else if let Some(file) = rwkv_vocab::file(folder)? {
        rwkv_vocab::read(folder, &file, &mut vocab)?;
    } else if sources.tokenizer.is_some() {
        bpe::read(&sources, &mut vocab)?;
    } else {
        let known = format!(
            "{}, rwkv_vocab*.txt, tokenizer.json or vocab.json",
            spm::FILES.join(", ")
        );
        return Err(bad(&folder.name(), "tokenizer", "absent", known));
    }
    appended_tokens(&mut vocab, family.appended, rows);
    let from_json = model_file.is_none() && vocab.model != "rwkv";
    added_tokens(&sources, &mut vocab, rows, from_json)?;
    vocab.flags_matter = matches!(family.architecture, "phi3" | "t5");
    fill(&mut vocab, rows)?;
    special_ids(&sources, &mut vocab, family)?;
    templates::read(folder, &sources, family, template, &mut vocab)?;
    Ok(vocab)
}

/// Tokens that a tokenizer class adds in code, when the embedding has rows for them.
fn appended_tokens(vocab: &mut Vocab, texts: &[&str], rows: usize) {
    if vocab.tokens.len() + texts.len() > rows && !texts.is_empty() {
        let n = texts.len();
        let note = format!("no rows left for the {n} special tokens of the tokenizer: not added");
        vocab.notes.push(note);
        return;
    }
    for &text in texts {
        if !vocab.tokens.iter().any(|t| t.text == text) {
            vocab.tokens.push(Token {
                text: text.into(),
                score: pieces::ADDED,
                kind: Kind::Control,
            });
        }
    }
}

/// `added_tokens_decoder`, or `added_tokens` of `tokenizer.json`.
fn added_tokens(sources: &Sources, vocab: &mut Vocab, rows: usize, from_json: bool) -> Result<()> {
    const FILE: &str = "tokenizer_config.json";
    let config = sources.tokenizer_config.as_ref();
    let json = sources.tokenizer.as_ref();
    let Some(added) = config.and_then(|c| c.get("added_tokens_decoder")) else {
        // Folders of transformers 5 say it in `tokenizer.json` only, also beside a SentencePiece model.
        return match json.filter(|_| !from_json && vocab.model != "rwkv") {
            Some(json) => hf::added(json, vocab, false),
            None => Ok(()),
        };
    };
    let Some(added) = added.as_object() else {
        return Err(bad(FILE, "added_tokens_decoder", kind(added), "an object"));
    };
    let json = json
        .filter(|_| from_json)
        .and_then(|j| j.get("added_tokens"))
        .and_then(Value::as_array);
    let ids = json
        .into_iter()
        .flatten()
        .filter_map(|t| t.get("id")?.as_u64());
    let listed: HashSet<u64> = ids.collect();
    for (id, token) in added {
        let field = || {
            format!(
                "added_tokens_decoder.{}",
                id.chars().take(20).collect::<String>()
            )
        };
        let number: usize = id
            .parse()
            .map_err(|_| bad(FILE, field(), "not a number", "a token id"))?;
        let Some(text) = token.get("content").and_then(Value::as_str) else {
            return Err(bad(FILE, field(), short(token), "an object with content"));
        };
        if number >= rows {
            vocab.notes.push(format!(
                "added token {number} {text:?} has no row in the embedding: left out"
            ));
            continue;
        }
        let special = token
            .get("special")
            .and_then(Value::as_bool)
            .unwrap_or(false)
            || looks_special(text);
        place(vocab, number, text, special);
        // What `tokenizer.json` says about a token counts, where that is the tokenizer.
        if !listed.contains(&(number as u64)) {
            vocab.set_flags(number, hf::flags(token, from_json));
        }
    }
    Ok(())
}

/// Fills the list up to the rows of the embedding.
fn fill(vocab: &mut Vocab, rows: usize) -> Result<()> {
    let surplus = vocab.tokens.get(rows..).unwrap_or_default();
    if !surplus.is_empty()
        && surplus
            .iter()
            .all(|t| matches!(t.kind, Kind::Control | Kind::UserDefined))
    {
        vocab.notes.push(format!(
            "{} added tokens have no row in the embedding: left out",
            surplus.len()
        ));
        vocab.tokens.truncate(rows);
    }
    if vocab.tokens.len() > rows {
        let allowed = format!("at most {rows}, the rows of the embedding");
        return Err(bad("tokenizer", "token count", vocab.tokens.len(), allowed));
    }
    for id in vocab.tokens.len()..rows {
        vocab.tokens.push(Token {
            text: format!("[PAD{id}]"),
            score: -10000.0,
            kind: Kind::Unused,
        });
    }
    let long = vocab.tokens.iter().position(|t| {
        t.text.len() > limits::MAX_TOKEN_BYTES || t.text.contains('\0') && t.text.len() > 1
    });
    if let Some(id) = long {
        let allowed = format!("at most {} bytes", limits::MAX_TOKEN_BYTES);
        return Err(bad(
            "tokenizer",
            format!("token {id}"),
            "too long or holding a NUL",
            allowed,
        ));
    }
    unique(vocab)
}

/// Texts occur once; a repeated unused token is renamed.
fn unique(vocab: &mut Vocab) -> Result<()> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(vocab.tokens.len());
    for id in 0..vocab.tokens.len() {
        if let Some(&first) = seen.get(&vocab.tokens[id].text) {
            let later_is_spare = matches!(vocab.tokens[id].kind, Kind::Unused);
            if !later_is_spare {
                let text: String = vocab.tokens[id].text.chars().take(40).collect();
                return Err(bad(
                    "tokenizer",
                    format!("token {id}"),
                    format!("{text:?}, also token {first}"),
                    "texts that occur once",
                ));
            }
            vocab.tokens[id].text = format!("[UNUSED{id}]");
        }
        seen.insert(vocab.tokens[id].text.clone(), id);
    }
    Ok(())
}

/// End tokens besides eos: two of them are eot and eom; those behind them GGUF has no key for.
fn stop_ids(special: &mut Vec<(&'static str, u32)>, stops: Vec<u32>) -> Vec<u32> {
    let mut unique: Vec<u32> = Vec::new();
    for id in stops {
        if !unique.contains(&id) {
            unique.push(id);
        }
    }
    special.extend(["eot", "eom"].into_iter().zip(unique.iter().copied()));
    unique.split_off(unique.len().min(2))
}

/// Whether anything ends an answer.
fn ends(vocab: &Vocab, special: &[(&'static str, u32)]) -> bool {
    let by_text = |t: &Token| t.kind == Kind::Control && is_stop_text(&t.text);
    // SentencePiece models have default ids.
    vocab.model != "gpt2"
        || special
            .iter()
            .any(|(name, _)| matches!(*name, "eos" | "eot" | "eom"))
        || vocab.tokens.iter().any(by_text)
}

/// Ids by the text of `tokenizer_config.json`, else from the configurations, else what the
/// tokenizer file itself said (already in `vocab.special`).
fn special_ids(sources: &Sources, vocab: &mut Vocab, family: &Family) -> Result<()> {
    let by_text: HashMap<&str, u32> = vocab
        .tokens
        .iter()
        .enumerate()
        .map(|(i, t)| (t.text.as_str(), i as u32))
        .collect();
    let config = Fields {
        file: "config.json",
        value: &sources.config,
    };
    let generation = sources.generation.as_ref().map(|value| Fields {
        file: "generation_config.json",
        value,
    });
    let mut special: Vec<(&'static str, u32)> = Vec::new();
    let mut stops: Vec<u32> = Vec::new();
    let mut left_out = Vec::new();
    for &(name, key) in SPECIAL {
        let field: &'static str = match name {
            "bos" => "bos_token_id",
            "eos" => "eos_token_id",
            "unk" => "unk_token_id",
            "sep" => "sep_token_id",
            "pad" => "pad_token_id",
            _ => "mask_token_id",
        };
        let mut listed = Vec::new();
        for fields in [Some(config), generation].into_iter().flatten() {
            let (ids, unfit) = fields.ids(field, vocab.tokens.len());
            listed.extend(ids);
            left_out.extend(unfit.into_iter().map(|value| (fields.file, field, value)));
        }
        let by_name = sources
            .special_text(name)
            .and_then(|t| by_text.get(t).copied());
        let own = vocab.special.iter().find(|s| s.0 == key).map(|s| s.1);
        let id = by_name.or(listed.first().copied()).or(own);
        special.extend(id.map(|id| (key, id)));
        if name == "eos" {
            stops = listed.into_iter().filter(|&l| Some(l) != id).collect();
        }
    }
    let own = vocab.special.iter().filter(|s| s.0 == "eot");
    special.extend(own.filter(|_| stops.is_empty()));
    let further = stop_ids(&mut special, stops);
    if !family.appended.is_empty() {
        // ChatGLM tokenizers pad with the unknown token.
        let unk = special.iter().find(|s| s.0 == "unknown").map(|s| s.1);
        if !special.iter().any(|s| s.0 == "padding") {
            special.extend(unk.map(|id| ("padding", id)));
        }
        vocab.add_bos = Some(vocab.add_bos.unwrap_or(false));
        vocab.add_eos = Some(vocab.add_eos.unwrap_or(false));
    }
    let starts = family.starts.iter().map(|t| by_text.get(t).copied());
    if let Some(starts @ [_, ..]) = starts.collect::<Option<Vec<u32>>>().as_deref() {
        vocab.starts = starts.to_vec();
    }
    vocab.stops = further;
    let below = format!("below {}, the number of tokens", vocab.tokens.len());
    let needed = |wanted: &str| left_out.iter().find(|(_, field, _)| *field == wanted);
    if !ends(vocab, &special)
        && let Some((file, field, value)) = needed("eos_token_id")
    {
        return Err(bad(file, *field, value, below));
    }
    if vocab.add_bos == Some(true)
        && !special.iter().any(|s| s.0 == "bos")
        && let Some((file, field, value)) = needed("bos_token_id")
    {
        return Err(bad(file, *field, value, below));
    }
    for (file, field, value) in left_out {
        vocab.notes.push(format!(
            "{file}: {field} is {value}, allowed: {below}; left out"
        ));
    }
    if vocab.add_bos == Some(true) && !special.iter().any(|s| s.0 == "bos") {
        return Err(bad(
            "tokenizer_config.json",
            "add_bos_token",
            "true without a bos token",
            "a bos token",
        ));
    }
    vocab.special = special;
    Ok(())
}

impl Vocab {
    /// The `tokenizer.*` keys.
    pub fn metadata(&self) -> Vec<(String, MetaValue)> {
        let mut out: Vec<(String, MetaValue)> = Vec::new();
        let mut key =
            |name: &str, value: MetaValue| out.push((format!("tokenizer.ggml.{name}"), value));
        key("model", self.model.into());
        key("pre", self.pre.into());
        key(
            "tokens",
            MetaValue::Strs(self.tokens.iter().map(|t| t.text.clone()).collect()),
        );
        if matches!(self.model, "llama" | "t5") {
            key(
                "scores",
                MetaValue::F32s(self.tokens.iter().map(|t| t.score).collect()),
            );
        }
        key(
            "token_type",
            MetaValue::I32s(self.tokens.iter().map(|t| t.kind as i32).collect()),
        );
        if !self.merges.is_empty() {
            key("merges", MetaValue::Strs(self.merges.clone()));
        }
        for &(name, id) in &self.special {
            key(&format!("{name}_token_id"), MetaValue::U32(id));
        }
        let flags = [
            ("add_bos_token", self.add_bos),
            ("add_eos_token", self.add_eos),
            ("add_space_prefix", self.space_prefix),
            ("remove_extra_whitespaces", self.collapse),
        ];
        for (name, value) in flags {
            if let Some(value) = value {
                key(name, MetaValue::Bool(value));
            }
        }
        if !self.charsmap.is_empty() {
            key(
                "precompiled_charsmap",
                MetaValue::U8s(self.charsmap.clone()),
            );
        }
        if !self.starts.is_empty() {
            key(STARTS, MetaValue::U32s(self.starts.clone()));
        }
        if !self.stops.is_empty() {
            key(STOPS, MetaValue::U32s(self.stops.clone()));
        }
        for (name, value) in &self.own {
            out.push(((*name).to_owned(), value.clone()));
        }
        // Where a runtime would take other flags from the architecture, also those that are none.
        let said = self.flags_matter && !self.flags.is_empty();
        if said || self.flags.iter().any(|&f| f != 0) {
            let mut flags = self.flags.clone();
            flags.resize(self.tokens.len(), 0);
            out.push((FLAGS.to_owned(), MetaValue::U8s(flags)));
        }
        if !self.doubles.is_empty() {
            let mut scores = self.doubles.clone();
            let single = self
                .tokens
                .iter()
                .skip(scores.len())
                .map(|t| f64::from(t.score));
            scores.extend(single.collect::<Vec<_>>());
            out.push((DOUBLE_SCORES.to_owned(), MetaValue::F64s(scores)));
        }
        let named: Vec<String> = self
            .templates
            .iter()
            .map(|t| t.0.clone())
            .filter(|n| n != "default")
            .collect();
        for (name, text) in &self.templates {
            let key = if name == "default" {
                "tokenizer.chat_template".into()
            } else {
                format!("tokenizer.chat_template.{name}")
            };
            out.push((key, MetaValue::Str(text.clone())));
        }
        if !named.is_empty() {
            out.push(("tokenizer.chat_templates".into(), MetaValue::Strs(named)));
        }
        out
    }
}
