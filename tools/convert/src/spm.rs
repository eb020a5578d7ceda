//! SentencePiece models (BPE and unigram) as GGUF vocabularies, and a plain encoder over the source
//! pieces that the written tokenizer is compared with.

use std::collections::HashMap;

use sentencepiece_model::{ModelType, SentencePieceModel, Type};

use super::folder::{Folder, bad};
use super::tokens::{Kind, Sources, Token, Vocab, place};
use geb::error::{Error, Result};
use geb::limits;
use geb::tokenizer::normalize::Normalizer;
use geb::tokenizer::pieces::{ADDED, Inner};
use geb::tokenizer::special::Flags;
use geb::tokenizer::{self, Prefix};

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
    let prefix = sources.flag("add_prefix_space")?.unwrap_or(prefix);
    vocab.space_prefix = Some(prefix);
    // `legacy` (the default): a space also after every special token.
    if prefix && !unigram && sources.flag("legacy")? == Some(false) {
        vocab.own(tokenizer::SPACE_PREFIX, "first".to_owned().into());
        vocab.first_prefix = true;
    }
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
        vocab.set_flags(id, Flags::LSTRIP | Flags::RSTRIP);
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
pub(super) struct Plain {
    ids: HashMap<String, (u32, f32)>,
    bytes: HashMap<String, u32>,
    inner: Inner,
    normalizer: Normalizer,
    unigram: bool,
    unknown: u32,
}

impl Plain {
    pub fn open(folder: &Folder, file: &str, vocab: &Vocab) -> Result<Plain> {
        let model = load(folder, file)?;
        let unigram = is_unigram(&model);
        let (mut ids, mut bytes, mut inner) = (HashMap::new(), HashMap::new(), Vec::new());
        for (id, p) in (0u32..).zip(model.pieces()) {
            match p.r#type() {
                Type::Normal | Type::UserDefined => {
                    ids.entry(p.piece().to_owned()).or_insert((id, p.score()));
                }
                Type::Byte => {
                    bytes.insert(p.piece().to_owned(), id);
                }
                _ => {}
            }
            // Those that a configuration adds as tokens are no pieces of the text any more.
            let own = vocab
                .tokens
                .get(id as usize)
                .is_some_and(|t| t.score != ADDED);
            if p.r#type() == Type::UserDefined && own {
                inner.push((id, p.piece()));
            }
        }
        let high = model.pieces().iter().filter(|p| p.r#type() == Type::Normal);
        let high = high.map(|p| p.score()).fold(f32::NEG_INFINITY, f32::max);
        for (_, text) in inner.iter().filter(|_| unigram) {
            if let Some(entry) = ids.get_mut(*text) {
                entry.1 = text.len() as f32 * high - 0.1;
            }
        }
        let prefix = match (vocab.space_prefix, vocab.first_prefix) {
            (Some(false), _) => Prefix::Never,
            (_, true) => Prefix::FirstUnless,
            _ => Prefix::Always,
        };
        let inner = Inner::new(inner.into_iter())?;
        let normalizer = model.model().normalizer_spec.as_ref();
        let charsmap = normalizer.map_or(&[][..], |n| n.precompiled_charsmap());
        Ok(Plain {
            normalizer: Normalizer::new(charsmap, collapses(&model), prefix, inner.clone())?,
            ids,
            bytes,
            inner,
            unigram,
            unknown: model.trainer().map_or(0, |t| t.unk_id().max(0) as u32),
        })
    }

    /// Appends the ids of a text that begins the whole one, or follows a special token.
    pub fn encode(&self, text: &str, start: bool, out: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let text = self.normalizer.whole(text, start)?;
        let symbols = match self.unigram {
            true => self.best_cut(&text),
            false => self.merged(&text),
        };
        let first = out.len();
        for symbol in symbols {
            let byte = |b: u8| self.bytes.get(format!("<0x{b:02X}>").as_str()).copied();
            let as_bytes: Option<Vec<u32>> = symbol.bytes().map(byte).collect();
            match (self.ids.get(symbol), as_bytes) {
                (Some(&(id, _)), _) => out.push(id),
                (None, Some(bytes)) => out.extend(bytes),
                (None, None) if out[first..].last() == Some(&self.unknown) => {}
                (None, None) => out.push(self.unknown),
            }
        }
        Ok(())
    }

    /// BPE: again and again merge the adjacent pair whose union is the piece of the highest score
    /// (leftmost of equals).
    fn merged<'t>(&self, text: &'t str) -> Vec<&'t str> {
        // Symbol i is `text[at[i]..at[i + 1]]`; `whole[i]`: it is never joined.
        let (mut at, mut whole) = (vec![0], Vec::new());
        while let Some(c) = text[at[at.len() - 1]..].chars().next() {
            let from = at[at.len() - 1];
            let inner = self.inner.longest(&text[from..]);
            whole.push(inner.is_some());
            at.push(from + inner.unwrap_or(c.len_utf8()));
        }
        loop {
            let mut best: Option<(f32, usize)> = None;
            for (i, pair) in at
                .windows(3)
                .enumerate()
                .filter(|(i, _)| !whole[*i] && !whole[i + 1])
            {
                if let Some(&(_, score)) = self.ids.get(&text[pair[0]..pair[2]])
                    && best.is_none_or(|(b, _)| score > b)
                {
                    best = Some((score, i));
                }
            }
            let Some((_, i)) = best else { break };
            at.remove(i + 1);
            whole.remove(i + 1);
        }
        at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
    }

    /// Unigram: the cut of the largest sum of scores; a character alone may cost the lowest less ten.
    fn best_cut<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let unknown = self.ids.values().map(|v| v.1).fold(0.0, f32::min) - 10.0;
        let mut borders: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        borders.push(text.len());
        // Sum and first border of the last piece, for each border.
        let mut best = vec![(0.0f32, 0); borders.len()];
        for end in 1..borders.len() {
            best[end].0 = f32::NEG_INFINITY;
            for start in 0..end {
                let piece = self
                    .ids
                    .get(&text[borders[start]..borders[end]])
                    .map(|p| p.1);
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
}

#[cfg(test)]
mod tests;
