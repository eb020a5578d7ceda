//! Text to token ids and back, built from the metadata of a GGUF file.
//!
//! `algorithm` is what all algorithms are, `validate` reads and checks the keys, `vocab` holds the tokens, `special` finds special
//! tokens in text, `spm`, `unigram`, `ranks` and `bpe` (with `merges`) are the algorithms, `words`,
//! `normalize` and `pieces` what the first three share, `steps` the parts of a `tokenizer.json`, `pre` is
//! the table of ways to cut text, `work` bounds an encoding, `stream` turns ids into text. Algorithms see
//! ordinary text only: whether the text of a control token is one is decided here and never inside them.

mod algorithm;
mod bpe;
mod merges;
pub mod normalize;
#[cfg(test)]
mod oracle;
pub mod pieces;
pub mod pre;
mod ranks;
mod rwkv;
pub mod special;
mod spm;
pub mod steps;
mod stream;
mod unigram;
mod validate;
mod vocab;
mod words;
mod work;
#[cfg(test)]
mod worst;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use algorithm::{Prefix, SPACE_PREFIX};
pub use stream::StreamDecoder;
pub use vocab::{Kind, Vocab};

use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value};
use crate::limits;
use algorithm::{Engine, Text};
use special::{Found, Special};
use steps::Steps;
use validate::{Algorithm, SpecialIds};
use work::Work;

/// The `normalizer` of the source's `tokenizer.json`.
pub const NORMALIZER: &str = "tokenizer.geb.normalizer";
pub use bpe::{IGNORE_MERGES, byte_of};
pub use pieces::FUSE_UNKNOWN;
pub use ranks::BY_RANK;
pub use unigram::SCORES as DOUBLE_SCORES;
pub use words::PRE_TOKENIZER;

/// How to encode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Add the start and end tokens that the model asks for.
    pub add_special: bool,
    /// Recognise the texts of control tokens. Off for text that a user has written.
    pub parse_special: bool,
}

/// A vocabulary with its algorithm.
pub struct Tokenizer {
    vocab: Vocab,
    engine: Box<dyn Engine>,
    special: Special,
    ids: SpecialIds,
    stop: Vec<u32>,
    /// What happens to text before the algorithm.
    steps: Steps,
    cancel: Option<Arc<AtomicBool>>,
    /// What a text starts with, instead of the start token.
    starts: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    warnings: Vec<String>,
}

impl Tokenizer {
    /// Builds the tokenizer of a file.
    ///
    /// # Errors
    /// [`Error::Key`] names the first `tokenizer.*` key that breaks a rule,
    /// [`Error::Unsupported`] an algorithm or a way to cut text that is not known.
    pub fn from_gguf(file: &GgufFile) -> Result<Tokenizer> {
        let algorithm = validate::algorithm(file)?;
        let mut vocab = validate::vocab(file)?;
        let ids = validate::special_ids(file, algorithm, vocab.len())?;
        // Files without token types, or with wrong ones, call these normal; text must not
        // become one of them.
        let declared = [ids.bos, ids.eos, ids.eot, ids.eom].into_iter().flatten();
        for id in declared.chain(ids.stops.iter().copied()) {
            // RWKV's end of a turn is an empty line, which text may well hold.
            if vocab.kind(id) == Kind::Normal && algorithm != Algorithm::Rwkv {
                vocab.set_kind(id, Kind::Control);
            }
        }
        let mut warnings = Vec::new();
        let mut nfc = false;
        let (engine, bos_default): (Box<dyn Engine>, bool) = match algorithm {
            Algorithm::Spm if file.bool(BY_RANK)?.unwrap_or(false) => {
                (Box::new(ranks::Ranks::from_gguf(file, &vocab, &ids)?), true)
            }
            Algorithm::Spm => (Box::new(spm::Spm::from_gguf(file, &vocab, &ids)?), true),
            Algorithm::Unigram => {
                let unigram = unigram::Unigram::from_gguf(file, &vocab, &ids)?;
                (Box::new(unigram), false)
            }
            Algorithm::ByteBpe => {
                let (pre, warning) = bpe::pre_of(file)?;
                warnings.extend(warning);
                nfc = pre.nfc;
                (
                    Box::new(bpe::ByteBpe::from_gguf(file, &vocab, pre)?),
                    pre.add_bos,
                )
            }
            Algorithm::Rwkv => (Box::new(rwkv::Rwkv::new(&vocab)?), false),
        };
        let steps = match validate::json(file, NORMALIZER)? {
            Some(value) => Steps::parse(&value, normalize::charsmap(file)?)?,
            None => Steps::nfc(nfc),
        };
        let flags = special::flags(file, &vocab)?;
        let special = Special::new(&vocab, engine.inner(), flags, &steps)?;
        let stop = special::stop_ids(&vocab, &ids);
        if stop.is_empty() {
            return Err(validate::no_stop(&ids));
        }
        warnings.extend(ids.warnings());
        Ok(Tokenizer {
            add_bos: validate::add_token(file, &ids, "bos", bos_default)?,
            add_eos: validate::add_token(file, &ids, "eos", algorithm == Algorithm::Unigram)?,
            special,
            steps,
            cancel: None,
            starts: validate::starts(file, vocab.len())?,
            vocab,
            engine,
            ids,
            stop,
            warnings,
        })
    }

    /// Lets `flag` end every later encoding with [`Error::Interrupted`].
    pub fn cancel_with(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// Encodes a text.
    ///
    /// # Errors
    /// [`Error::Request`] for a text over [`limits::MAX_PROMPT_BYTES`], one that a vocabulary
    /// without byte and unknown tokens cannot express, or one that takes more steps than
    /// [`limits::TOKENIZER_STEPS`] allows; [`Error::Interrupted`] when stopped.
    pub fn encode(&self, text: &str, opts: Encode) -> Result<Vec<u32>> {
        check_length(text, limits::MAX_PROMPT_BYTES)?;
        self.encode_text(text, opts)
    }

    /// As [`Tokenizer::encode`], for a whole file: texts up to [`limits::MAX_TEXT_BYTES`].
    pub fn encode_text(&self, text: &str, opts: Encode) -> Result<Vec<u32>> {
        check_length(text, limits::MAX_TEXT_BYTES)?;
        let mut out = Vec::new();
        if opts.add_special {
            out.extend_from_slice(&self.starts);
        }
        out.extend(self.ids.bos.filter(|_| opts.add_special && self.add_bos));
        let whole = 0..text.len();
        let parse = if opts.parse_special {
            std::slice::from_ref(&whole)
        } else {
            &[]
        };
        self.encode_found(text, parse, &mut out)?;
        out.extend(self.ids.eos.filter(|_| opts.add_special && self.add_eos));
        Ok(out)
    }

    /// Encodes a text in which control tokens are recognised only inside the byte ranges
    /// `parse` (in order). Text that is no special token is cut as one whole across the
    /// borders of these ranges, so ids equal those of the full text wherever the other
    /// parts hold no text of a control token.
    pub(crate) fn encode_parts(
        &self,
        text: &str,
        parse: &[Range<usize>],
        out: &mut Vec<u32>,
    ) -> Result<()> {
        check_length(text, limits::MAX_PROMPT_BYTES)?;
        self.encode_found(text, parse, out)
    }

    fn encode_found(&self, text: &str, parse: &[Range<usize>], out: &mut Vec<u32>) -> Result<()> {
        let mut work = Work::new(text.len(), self.cancel.as_deref());
        self.encode_with(text, parse, &mut work, out)
    }

    fn encode_with(
        &self,
        text: &str,
        parse: &[Range<usize>],
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut pos = 0;
        for found in self.special.find_all(text, parse, work)? {
            self.encode_plain(text, pos..found.range.start, parse, work, out)?;
            out.push(found.id);
            pos = found.range.end;
        }
        self.encode_plain(text, pos..text.len(), parse, work, out)
    }

    /// Encodes a part of `text` without tokens that are found before it is normalised.
    fn encode_plain(
        &self,
        text: &str,
        part: Range<usize>,
        parse: &[Range<usize>],
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let (text, kept) = self.steps.apply(&text[part.clone()], work)?;
        let start = part.start == 0 && kept;
        let mut pos = 0;
        if self.special.has_normal() {
            let parsed = parse
                .iter()
                .any(|p| p.start <= part.start && part.end <= p.end);
            for found in self.special.find_normal(&text, parsed, work)? {
                let piece = Text {
                    text: &text[pos..found.range.start],
                    start: start && pos == 0,
                };
                if !piece.text.is_empty() {
                    self.engine.encode(&self.vocab, piece, work, out)?;
                }
                out.push(found.id);
                pos = found.range.end;
            }
        }
        let piece = Text {
            text: &text[pos..],
            start: start && pos == 0,
        };
        if piece.text.is_empty() {
            return Ok(());
        }
        self.engine.encode(&self.vocab, piece, work, out)
    }

    /// Byte ranges of the control tokens in `text`.
    pub(crate) fn control_ranges(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let found = self.find_controls(text)?;
        Ok(found.into_iter().map(|f| f.range).collect())
    }

    /// The control tokens in a short text of ours: where, and their ids.
    pub(crate) fn control_tokens(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        let found = self.find_controls(text).unwrap_or_default();
        found.into_iter().map(|f| (f.range, f.id)).collect()
    }

    fn find_controls(&self, text: &str) -> Result<Vec<Found>> {
        let mut work = Work::new(text.len(), self.cancel.as_deref());
        let mut found = self.special.find_control(text, &mut work)?;
        found.retain(|f| self.vocab.kind(f.id) != Kind::UserDefined);
        Ok(found)
    }

    /// The bytes of one token; empty for ids out of range. Control tokens give their text.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let mut out = Vec::new();
        self.engine.append_bytes(&self.vocab, id, &mut out);
        out
    }

    /// One token for display; bytes that are no complete character become U+FFFD.
    pub fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(id)).into_owned()
    }

    /// Number of tokens, fillers included.
    pub fn vocab_len(&self) -> usize {
        self.vocab.len()
    }

    /// Texts and kinds as stored in the file.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// The token that starts a text.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// The filler of batches.
    pub fn padding(&self) -> Option<u32> {
        self.ids.padding
    }

    /// Whether generation ends with this token: end of text, of turn or of message.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stop.binary_search(&id).is_ok()
    }

    /// All tokens that end generation, in increasing order.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// Whether a token marks structure and is left out of decoded text.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.kind(id) == Kind::Control
    }

    /// Whether [`Encode::add_special`] puts the start token in front.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether [`Encode::add_special`] puts the end token behind.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// What a user should know about this file, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

pub(crate) fn check_length(text: &str, limit: usize) -> Result<()> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(Error::Request {
        what: "prompt length".into(),
        value: format!("{} bytes", text.len()),
        allowed: format!("at most {limit} bytes"),
    })
}

/// Texts of the special tokens under the names that chat templates use.
pub(crate) fn special_texts(file: &GgufFile) -> Result<Vec<(&'static str, String)>> {
    let algorithm = validate::algorithm(file)?;
    let tokens = validate::tokens(file)?;
    let ids = validate::special_ids(file, algorithm, tokens.len)?;
    let wanted = [
        ("bos_token", ids.bos),
        ("eos_token", ids.eos),
        ("unk_token", ids.unknown),
        ("pad_token", ids.padding),
    ];
    let named = wanted
        .into_iter()
        .filter_map(|(name, id)| Some((name, id?)));
    let text = |id: u32| match tokens.iter().nth(id as usize) {
        Some(Value::Str(text)) => text.to_owned(),
        _ => String::new(),
    };
    Ok(named.map(|(name, id)| (name, text(id))).collect())
}
