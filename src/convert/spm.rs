//! SentencePiece models as GGUF vocabularies, and a plain encoder over the source pieces that the
//! written tokenizer is compared with.

use std::collections::HashMap;

use sentencepiece_model::{ModelType, SentencePieceModel, Type};

use super::folder::{Folder, bad};
use super::vocab::{Kind, Sources, Token, Vocab, place};
use crate::error::{Error, Result};
use crate::limits;

/// Reads `file` into `vocab`.
pub(super) fn read(
    folder: &Folder,
    file: &str,
    sources: &Sources,
    vocab: &mut Vocab,
) -> Result<()> {
    let model = load(folder, file)?;
    vocab.model = "llama";
    for (id, piece) in model.pieces().iter().enumerate() {
        if !piece.score().is_finite() {
            return Err(bad(
                file,
                format!("piece {id}: score"),
                piece.score(),
                "a finite number",
            ));
        }
        let kind = match piece.r#type() {
            Type::Normal => Kind::Normal,
            Type::Unknown => Kind::Unknown,
            Type::Control => Kind::Control,
            Type::UserDefined => Kind::UserDefined,
            Type::Unused => Kind::Unused,
            Type::Byte => Kind::Byte,
        };
        vocab.tokens.push(Token {
            text: piece.piece().to_owned(),
            score: piece.score(),
            kind,
        });
    }
    let pieces = vocab.tokens.len();
    added_tokens(folder, vocab)?;
    let normalizer = model.model().normalizer_spec.as_ref();
    let prefix = normalizer.and_then(|n| n.add_dummy_prefix).unwrap_or(true);
    vocab.space_prefix = Some(sources.flag("add_prefix_space")?.unwrap_or(prefix));
    if normalizer.is_some_and(|n| !n.precompiled_charsmap().is_empty()) {
        vocab.notes.push(format!(
            "{file} normalizes text ({}); GGUF has no form for it: full-width and composed characters may encode otherwise",
            normalizer.map_or("", |n| n.name())
        ));
    }
    if normalizer.is_some_and(|n| n.remove_extra_whitespaces.unwrap_or(true)) {
        vocab.notes.push(format!(
            "{file} removes extra white space; GGUF readers do not"
        ));
    }
    if let Some(trainer) = model.trainer() {
        let ids = [
            ("bos", trainer.bos_id()),
            ("eos", trainer.eos_id()),
            ("unknown", trainer.unk_id()),
            ("padding", trainer.pad_id()),
        ];
        for (key, id) in ids {
            if let Some(id) = u32::try_from(id).ok().filter(|&id| (id as usize) < pieces) {
                vocab.special.push((key, id));
            }
        }
    }
    vocab.add_bos = sources.flag("add_bos_token")?;
    vocab.add_eos = sources.flag("add_eos_token")?;
    Ok(())
}

/// `added_tokens.json`: texts numbered after the pieces.
fn added_tokens(folder: &Folder, vocab: &mut Vocab) -> Result<()> {
    let pieces = vocab.tokens.len();
    if let Some(added) = folder.json("added_tokens.json")? {
        let mut list: Vec<(&String, Option<u64>)> = added
            .as_object()
            .into_iter()
            .flatten()
            .map(|(t, id)| (t, id.as_u64()))
            .collect();
        list.sort_by_key(|e| e.1);
        for (text, id) in list {
            let id = id.filter(|&id| id < limits::MAX_VOCAB as u64);
            let id = id
                .ok_or_else(|| bad("added_tokens.json", text, "not a token id", "a token id"))?
                as usize;
            if id >= pieces {
                place(vocab, id, text, false);
            }
        }
    }
    Ok(())
}

fn load(folder: &Folder, file: &str) -> Result<SentencePieceModel> {
    let bytes = folder
        .bytes(file)?
        .ok_or_else(|| bad(file, "file", "absent", "a SentencePiece model"))?;
    let model = SentencePieceModel::from_slice(&bytes)
        .map_err(|e| bad(file, "protobuf", e, "a SentencePiece model"))?;
    let n = model.pieces().len();
    if n == 0 || n > limits::MAX_VOCAB {
        return Err(bad(file, "pieces", n, format!("1..={}", limits::MAX_VOCAB)));
    }
    // Models without a trainer section are BPE or unigram by nobody's word: SentencePiece's default is unigram.
    let kind = model
        .trainer()
        .map_or(ModelType::Unigram, |t| t.model_type());
    if kind != ModelType::Bpe {
        return Err(Error::Unsupported {
            what: "SentencePiece model",
            value: kind.as_str_name().to_lowercase(),
            known: "bpe".into(),
        });
    }
    Ok(model)
}

/// Encodes text with the pieces of a SentencePiece BPE model by the definition: again and again
/// merge the adjacent pair whose union is the piece of the highest score (leftmost of equals).
/// Quadratic; for short probe texts. No special tokens.
pub(super) fn encode_plain(
    folder: &Folder,
    file: &str,
    prefix: bool,
    text: &str,
) -> Result<Vec<u32>> {
    let model = load(folder, file)?;
    let mut ids: HashMap<&str, (u32, f32)> = HashMap::new();
    let mut bytes: HashMap<String, u32> = HashMap::new();
    for (id, p) in model.pieces().iter().enumerate() {
        match p.r#type() {
            Type::Normal | Type::UserDefined => {
                ids.entry(p.piece()).or_insert((id as u32, p.score()));
            }
            Type::Byte => {
                bytes.insert(p.piece().to_owned(), id as u32);
            }
            _ => {}
        }
    }
    let mut text = text.replace(' ', "\u{2581}");
    if prefix {
        text.insert(0, '\u{2581}');
    }
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 0..symbols.len().saturating_sub(1) {
            let joined = format!("{}{}", symbols[i], symbols[i + 1]);
            if let Some(&(_, score)) = ids.get(joined.as_str())
                && best.is_none_or(|(b, _)| score > b)
            {
                best = Some((score, i));
            }
        }
        let Some((_, i)) = best else { break };
        let right = symbols.remove(i + 1);
        symbols[i].push_str(&right);
    }
    let unk = model.trainer().map_or(0, |t| t.unk_id().max(0) as u32);
    let mut out = Vec::new();
    for s in symbols {
        match ids.get(s.as_str()) {
            Some(&(id, _)) => out.push(id),
            None => out.extend(
                s.bytes()
                    .map(|b| bytes.get(&format!("<0x{b:02X}>")).copied().unwrap_or(unk)),
            ),
        }
    }
    Ok(out)
}
