//! SentencePiece models (BPE and unigram) as GGUF vocabularies, and a plain encoder over the source
//! pieces that the written tokenizer is compared with.

use std::collections::HashMap;

use sentencepiece_model::{ModelType, SentencePieceModel, Type};

use super::folder::{Folder, bad};
use super::vocab::{Kind, Sources, Token, Vocab, place};
use crate::error::{Error, Result};
use crate::limits;
use crate::tokenizer::normalize::Normalizer;

/// Names of the model in the folders of the families.
pub(super) const FILES: [&str; 3] = ["tokenizer.model", "GEBtokenizer.model", "spiece.model"];

/// Reads `file` into `vocab`.
pub(super) fn read(
    folder: &Folder,
    file: &str,
    sources: &Sources,
    vocab: &mut Vocab,
) -> Result<()> {
    let model = load(folder, file)?;
    let unigram = is_unigram(&model);
    vocab.model = if unigram { "t5" } else { "llama" };
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
    extra_ids(sources, vocab)?;
    added_tokens(folder, vocab)?;
    let normalizer = model.model().normalizer_spec.as_ref();
    let prefix = normalizer.and_then(|n| n.add_dummy_prefix).unwrap_or(true);
    vocab.space_prefix = Some(sources.flag("add_prefix_space")?.unwrap_or(prefix));
    vocab.charsmap = normalizer
        .map_or(&[][..], |n| n.precompiled_charsmap())
        .to_vec();
    vocab.collapse = Some(collapses(&model)).filter(|&c| c || unigram);
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
    vocab.add_bos = sources.flag("add_bos_token")?.or(unigram.then_some(false));
    vocab.add_eos = sources.flag("add_eos_token")?.or(unigram.then_some(true));
    Ok(())
}

/// T5's sentinels, which its tokenizer class puts after the pieces, the highest number first.
fn extra_ids(sources: &Sources, vocab: &mut Vocab) -> Result<()> {
    const FILE: &str = "tokenizer_config.json";
    let config = sources.tokenizer_config.as_ref();
    let Some(count) = config.and_then(|c| c.get("extra_ids")) else {
        return Ok(());
    };
    let allowed = limits::MAX_SPECIAL_TOKENS as u64;
    let Some(count) = count.as_u64().filter(|&n| n <= allowed) else {
        return Err(bad(FILE, "extra_ids", count, format!("0..={allowed}")));
    };
    for number in (0..count).rev() {
        let id = vocab.tokens.len();
        place(vocab, id, &format!("<extra_id_{number}>"), true);
    }
    Ok(())
}

fn collapses(model: &SentencePieceModel) -> bool {
    let normalizer = model.model().normalizer_spec.as_ref();
    normalizer.is_some_and(|n| n.remove_extra_whitespaces.unwrap_or(true))
}

/// Models without a trainer section are unigram, which is SentencePiece's default.
fn is_unigram(model: &SentencePieceModel) -> bool {
    let kind = model.trainer().map(|t| t.model_type());
    kind.is_none_or(|k| k == ModelType::Unigram)
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
    let kind = model.trainer().map(|t| t.model_type());
    if let Some(kind @ (ModelType::Word | ModelType::Char)) = kind {
        return Err(Error::Unsupported {
            what: "SentencePiece model",
            value: kind.as_str_name().to_lowercase(),
            known: "bpe, unigram".into(),
        });
    }
    let suffix = model
        .trainer()
        .is_some_and(|t| t.treat_whitespace_as_suffix());
    let normalizer = model.model().normalizer_spec.as_ref();
    if suffix || normalizer.is_some_and(|n| n.escape_whitespaces == Some(false)) {
        return Err(Error::Unsupported {
            what: "white space of a SentencePiece model",
            value: "as a suffix, or not escaped".into(),
            known: "U+2581 in front of words".into(),
        });
    }
    Ok(model)
}

/// Encodes text with the pieces of a SentencePiece model by the definition. Quadratic; for short
/// probe texts. No special tokens.
pub(super) fn encode_plain(
    folder: &Folder,
    file: &str,
    prefix: bool,
    text: &str,
) -> Result<Vec<u32>> {
    let model = load(folder, file)?;
    let mut ids: HashMap<&str, (u32, f32)> = HashMap::new();
    let mut bytes: HashMap<&str, u32> = HashMap::new();
    for (id, p) in (0u32..).zip(model.pieces()) {
        match p.r#type() {
            Type::Normal | Type::UserDefined => {
                ids.entry(p.piece()).or_insert((id, p.score()));
            }
            Type::Byte => {
                bytes.insert(p.piece(), id);
            }
            _ => {}
        }
    }
    let normalizer = model.model().normalizer_spec.as_ref();
    let charsmap = normalizer.map_or(&[][..], |n| n.precompiled_charsmap());
    let text = Normalizer::new(charsmap, collapses(&model), prefix)?.apply(text)?;
    let symbols = match is_unigram(&model) {
        true => best_cut(&ids, &text),
        false => merged(&ids, &text),
    };
    let unknown = model.trainer().map_or(0, |t| t.unk_id().max(0) as u32);
    let mut out = Vec::new();
    for symbol in symbols {
        let byte = |b: u8| bytes.get(format!("<0x{b:02X}>").as_str()).copied();
        let as_bytes: Option<Vec<u32>> = symbol.bytes().map(byte).collect();
        match (ids.get(symbol), as_bytes) {
            (Some(&(id, _)), _) => out.push(id),
            (None, Some(bytes)) => out.extend(bytes),
            (None, None) if out.last() == Some(&unknown) => {}
            (None, None) => out.push(unknown),
        }
    }
    Ok(out)
}

/// BPE: again and again merge the adjacent pair whose union is the piece of the highest score
/// (leftmost of equals).
fn merged<'t>(ids: &HashMap<&str, (u32, f32)>, text: &'t str) -> Vec<&'t str> {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    // Symbol i is `text[at[i]..at[i + 1]]`.
    let mut at: Vec<usize> = std::iter::once(0).chain(ends).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for (i, pair) in at.windows(3).enumerate() {
            if let Some(&(_, score)) = ids.get(&text[pair[0]..pair[2]])
                && best.is_none_or(|(b, _)| score > b)
            {
                best = Some((score, i));
            }
        }
        let Some((_, i)) = best else { break };
        at.remove(i + 1);
    }
    at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Unigram: the cut of the largest sum of scores; a character alone may cost the lowest less ten.
fn best_cut<'t>(ids: &HashMap<&str, (u32, f32)>, text: &'t str) -> Vec<&'t str> {
    let unknown = ids.values().map(|v| v.1).fold(0.0, f32::min) - 10.0;
    let mut borders: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    borders.push(text.len());
    // Sum and first border of the last piece, for each border.
    let mut best = vec![(0.0f32, 0); borders.len()];
    for end in 1..borders.len() {
        best[end].0 = f32::NEG_INFINITY;
        for start in 0..end {
            let piece = ids.get(&text[borders[start]..borders[end]]).map(|p| p.1);
            let Some(score) = piece.or((start + 1 == end).then_some(unknown)) else {
                continue;
            };
            let sum = f64::from(score) + f64::from(best[start].0);
            if sum > f64::from(best[end].0) {
                best[end] = (sum as f32, start);
            }
        }
    }
    let (mut out, mut end) = (Vec::new(), borders.len() - 1);
    while end > 0 {
        let start = best[end].1;
        out.push(&text[borders[start]..borders[end]]);
        end = start;
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests;
