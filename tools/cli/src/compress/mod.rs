//! Texts compressed with the predictions of a model (arXiv 2404.03626 and many before): arithmetic coding
//! gives each token its share of the model's distribution, so a text takes as many bits as it surprises
//! the model, its cross-entropy.
//!
//! The reader must compute the same logits, bit for bit. They do not depend on threads or on batches
//! (`docs/architecture.md`, invariant 8), so the writer reads the text in batches, the reader token by token.
//! They may depend on the context, the type of the KV cache and the instruction level; these are in the
//! header. The sines, powers and logarithms of other systems may differ in the last bit: a text that does
//! not come out as it went in is refused by its hash, never delivered.
//!
//! Parts that the tokenizer does not give back byte for byte (what is not UTF-8, for one) take 8 bits
//! per byte.

mod coder;
mod header;

use std::ops::Range;

use coder::{Decoder, Encoder, Shares};
use geb::error::{Error, Result};
use geb::limits;
use geb::session::{Session, Want};
use geb::tokenizer::{Encode, Tokenizer};
pub use header::Header;
use header::bad;

/// Tokens evaluated at a time when writing.
const ROWS: usize = 128;
/// Most bytes of a part of text.
const PIECE: usize = 64 << 10;
/// Less text than this between bytes that are none goes with them.
const WORTH: usize = 16;

/// A text, compressed.
#[derive(Clone, Debug)]
pub struct Compressed {
    /// Header and content.
    pub file: Vec<u8>,
    /// Tokens that the model predicted.
    pub tokens: usize,
    /// What it should take for them: the sum of `-log2 p(token)`, by the shares that were coded.
    pub bits: f64,
    /// Bytes that were stored as they are.
    pub stored: usize,
}

/// What is done of what there is, in tokens when writing and in bytes when reading; `false` ends the work.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> bool;

/// A part of a text: its bytes, and tokens for those that have them.
struct Part {
    bytes: Range<usize>,
    ids: Option<Vec<u32>>,
}

/// Compresses `data`. Forgets what the session holds.
///
/// The file takes at most 0.001 bits per token more than [`Compressed::bits`], 33 bits per part of 64 KiB, and
/// a header of about 150 bytes.
///
/// # Errors
/// [`Error::Request`] for more than [`limits::MAX_TEXT_BYTES`], [`Error::Unsupported`] for a model that does
/// not predict, [`Error::Interrupted`], and what the session reports.
pub fn compress(
    session: &mut Session,
    tokenizer: &Tokenizer,
    data: &[u8],
    progress: Progress<'_>,
) -> Result<Compressed> {
    if data.len() > limits::MAX_TEXT_BYTES {
        return Err(Error::Request {
            what: "text".into(),
            value: format!("{} bytes", data.len()),
            allowed: format!("at most {} bytes", limits::MAX_TEXT_BYTES),
        });
    }
    let parts = parts(tokenizer, session.model().config().vocab, data)?;
    let total = parts.iter().flat_map(|p| &p.ids).map(Vec::len).sum();
    let mut predictor = Predictor::new(session, tokenizer)?;
    let (mut encoder, mut tokens, mut bits, mut stored) = (Encoder::new(), 0, 0.0, 0);
    for part in &parts {
        let kind = u32::from(part.ids.is_some());
        let count = part.ids.as_ref().map_or(part.bytes.len(), Vec::len);
        encoder.put(kind << 31, 1 << 31);
        encoder.put(count as u32, 1);
        let Some(ids) = &part.ids else {
            let bytes = &data[part.bytes.clone()];
            bytes
                .iter()
                .for_each(|b| encoder.put(u32::from(*b) << 24, 1 << 24));
            stored += bytes.len();
            continue;
        };
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let n = predictor.predict(session, rest)?;
            let (now, later) = rest.split_at(n);
            for (row, id) in now.iter().enumerate() {
                let shares = predictor.shares(session, row);
                let (start, width) = shares.of(*id as usize);
                bits += shares.bits(*id as usize);
                encoder.put(start, width);
            }
            predictor.read(now);
            tokens += n;
            rest = later;
            if !progress(tokens, total) {
                return Err(Error::Interrupted);
            }
        }
    }
    let header = Header::new(session, data, parts.len());
    Ok(Compressed {
        file: header.write(&encoder.finish()),
        tokens,
        bits,
        stored,
    })
}

/// Gives back what [`compress`] was given. The session must be of the same model, context, cache type and
/// level ([`Header`] tells); it forgets what it holds.
///
/// # Errors
/// [`Error::Compressed`] for a file that is damaged, cut off, or was written on a machine that computes
/// other logits; [`Error::Request`] for another model or session; [`Error::Interrupted`], and what the
/// session reports.
pub fn decompress(
    session: &mut Session,
    tokenizer: &Tokenizer,
    file: &[u8],
    progress: Progress<'_>,
) -> Result<Vec<u8>> {
    let (header, payload) = Header::read(file)?;
    header.check(session)?;
    let mut predictor = Predictor::new(session, tokenizer)?;
    let (mut decoder, mut out) = (Decoder::new(payload), Vec::new());
    for _ in 0..header.parts {
        let kind = decoder.place() >> 31;
        decoder.take(kind << 31, 1 << 31);
        let count = decoder.place();
        decoder.take(count, 1);
        let left = header.bytes - out.len();
        // A token may stand for no byte, but no text has many of these.
        if count as usize > left.saturating_add(WORTH) {
            return Err(bad("length of a part", count, format!("at most {left}")));
        }
        if kind == 0 {
            for _ in 0..count {
                let byte = decoder.place() >> 24;
                decoder.take(byte << 24, 1 << 24);
                out.push(byte as u8);
            }
        } else {
            let mut ids = Vec::new();
            for done in 0..count {
                predictor.predict(session, &[])?;
                let shares = predictor.shares(session, 0);
                let (id, start, width) = shares.at(decoder.place());
                decoder.take(start, width);
                ids.push(id as u32);
                predictor.read(&[id as u32]);
                // Parts of text are about as long as their tokens are many.
                let share = (done as usize + 1) * left.min(PIECE) / count as usize;
                if !progress(out.len() + share, header.bytes) {
                    return Err(Error::Interrupted);
                }
            }
            out.extend_from_slice(tokenizer.decode(&ids).as_bytes());
        }
        if out.len() > header.bytes {
            return Err(header.strayed());
        }
    }
    header.finish(out)
}

/// Cuts `data` into text that the tokenizer gives back and bytes that it does not.
fn parts(tokenizer: &Tokenizer, vocab: usize, data: &[u8]) -> Result<Vec<Part>> {
    let (mut parts, mut at) = (Vec::new(), 0);
    let store = |parts: &mut Vec<Part>, bytes: Range<usize>| match parts.last_mut() {
        _ if bytes.is_empty() => {}
        Some(last) if last.ids.is_none() => last.bytes.end = bytes.end,
        _ => parts.push(Part { bytes, ids: None }),
    };
    for chunk in data.utf8_chunks() {
        let mut text = chunk.valid();
        let whole = text.len() == data.len();
        while !text.is_empty() {
            let mut end = text.len().min(PIECE);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let (piece, rest) = text.split_at(end);
            let bytes = at..at + end;
            let ids = match whole || piece.len() >= WORTH {
                true => tokens(tokenizer, vocab, piece),
                false => None,
            };
            match ids {
                Some(ids) => parts.push(Part {
                    bytes,
                    ids: Some(ids),
                }),
                None => store(&mut parts, bytes),
            }
            (text, at) = (rest, at + end);
        }
        store(&mut parts, at..at + chunk.invalid().len());
        at += chunk.invalid().len();
    }
    Ok(parts)
}

/// The tokens of a text, if it comes back from them as it was.
fn tokens(tokenizer: &Tokenizer, vocab: usize, text: &str) -> Option<Vec<u32>> {
    let ids = tokenizer.encode_text(text, Encode::default()).ok()?;
    let fits = ids.len() <= text.len() + WORTH && ids.iter().all(|id| (*id as usize) < vocab);
    (fits && tokenizer.decode(&ids) == text).then_some(ids)
}

/// What the session has seen and is to see next, by the same rules when writing and when reading.
struct Predictor {
    /// What stands before a text.
    start: u32,
    /// The text so far.
    text: Vec<u32>,
    shares: Shares,
}

impl Predictor {
    fn new(session: &mut Session, tokenizer: &Tokenizer) -> Result<Predictor> {
        let c = session.model().config();
        if c.encoder.is_some() {
            return Err(Error::Unsupported {
                what: "compression",
                value: format!("architecture {}", c.arch.name),
                known: "models without an encoder".into(),
            });
        }
        let ctx = session.ctx();
        if ctx < 4 {
            return Err(Error::Request {
                what: "context".into(),
                value: ctx.to_string(),
                allowed: "at least 4 for compression".into(),
            });
        }
        session.reset();
        Ok(Predictor {
            start: tokenizer.bos().or(tokenizer.eos()).unwrap_or(0),
            text: Vec::new(),
            shares: Shares::new(),
        })
    }

    /// Evaluates what is known, so that the session's logits predict the next tokens: one, or as many
    /// as are known of `next`, at most [`ROWS`]. A full context begins anew with its last half.
    fn predict(&mut self, session: &mut Session, next: &[u32]) -> Result<usize> {
        let (ctx, known) = (session.ctx(), self.text.len());
        if session.pos() == ctx {
            session.reset();
            let again = &self.text[known - ctx / 2..known - 1];
            let again: Vec<u32> = [self.start].iter().chain(again).copied().collect();
            session.forward(&again, Want::None)?;
        }
        let n = next.len().clamp(1, ROWS).min(ctx - session.pos());
        let mut inputs = vec![self.text.last().copied().unwrap_or(self.start)];
        inputs.extend(next.iter().take(n - 1));
        session.forward(&inputs, Want::All)?;
        Ok(n)
    }

    /// The shares that the session's logits give the tokens of row `row`.
    fn shares(&mut self, session: &Session, row: usize) -> &Shares {
        let vocab = session.model().config().vocab;
        self.shares
            .set(&session.logits()[row * vocab..(row + 1) * vocab]);
        &self.shares
    }

    /// These tokens follow.
    fn read(&mut self, ids: &[u32]) {
        self.text.extend_from_slice(ids);
    }
}
