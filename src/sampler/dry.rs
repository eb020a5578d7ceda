//! A penalty for going on with a repetition.
//!
//! DRY, "don't repeat yourself": p-e-w, pull request 5677 of text-generation-webui; with the window and the
//! breakers of pull request 9702 of llama.cpp.
//!
//! ```text
//! n(x) = length of the longest end of the text that stands in it before an earlier x, too
//! logit(x) -= multiplier * base^(n(x) - allowed length)            if n(x) >= allowed length
//! ```
//! The text are the last tokens, those of the prompt among them. What repeats lies behind the last breaker: a
//! token whose text completes one, alone or with those before it. Tokens that hold a whole breaker are never
//! punished.

use std::collections::BTreeMap;

use aho_corasick::AhoCorasick;

use super::filters::{LogitsFilter, logit};
use super::options::Dry;
use crate::error::{Error, Result};

/// The bytes of a token.
pub(super) type TokenBytes<'t> = Box<dyn Fn(u32) -> Vec<u8> + Send + 't>;

/// Where the last breaker in a text ends.
struct Breakers<'t> {
    bytes: TokenBytes<'t>,
    matcher: AhoCorasick,
    /// Bytes of the longest breaker.
    longest: usize,
    /// Tokens that were looked at, and how many of them reach to the end of the last breaker.
    seen: usize,
    end: usize,
    /// The last bytes of the text, fewer than the longest breaker has.
    tail: Vec<u8>,
}

impl<'t> Breakers<'t> {
    fn new(texts: &[String], bytes: TokenBytes<'t>) -> Result<Self> {
        let matcher = AhoCorasick::new(texts).map_err(|e| Error::Request {
            what: "dry sequence breakers".into(),
            value: e.to_string(),
            allowed: "fewer or shorter ones".into(),
        })?;
        Ok(Self {
            bytes,
            matcher,
            longest: texts.iter().map(String::len).max().unwrap_or(1),
            seen: 0,
            end: 0,
            tail: Vec::new(),
        })
    }

    /// Tokens of `history` up to the one that completes the last breaker. A history goes on where the last one
    /// ended.
    fn end(&mut self, history: &[u32]) -> usize {
        while let Some(id) = history.get(self.seen) {
            self.seen += 1;
            let before = self.tail.len();
            self.tail.extend((self.bytes)(*id));
            let mut found = self.matcher.find_overlapping_iter(&self.tail);
            if found.any(|f| f.end() > before) {
                self.end = self.seen;
            }
            let old = self.tail.len().saturating_sub(self.longest - 1);
            self.tail.drain(..old);
        }
        self.end
    }

    /// Whether a token holds a whole breaker.
    fn is_breaker(&self, id: u32) -> bool {
        self.matcher.is_match(&(self.bytes)(id))
    }
}

/// The filter: see the head of this file.
pub(super) struct DryPenalty<'t> {
    options: Dry,
    breakers: Option<Breakers<'t>>,
    /// For each distance, how many tokens before it equal the last ones of the text; kept to reuse the memory.
    equal: Vec<usize>,
}

impl<'t> DryPenalty<'t> {
    /// With breakers it needs `bytes`.
    ///
    /// # Errors
    /// [`Error::Request`] for breakers without it, or too many to search for.
    pub(super) fn new(options: Dry, bytes: Option<TokenBytes<'t>>) -> Result<Self> {
        let breakers = match (options.breakers.is_empty(), bytes) {
            (true, _) => None,
            (false, Some(bytes)) => Some(Breakers::new(&options.breakers, bytes)?),
            (false, None) => {
                return Err(Error::Request {
                    what: "dry sequence breakers".into(),
                    value: options.breakers.len().to_string(),
                    allowed: "none where the texts of tokens are not known".into(),
                });
            }
        };
        let equal = Vec::new();
        Ok(Self {
            options,
            breakers,
            equal,
        })
    }

    /// The longest repetition that each token would go on with, of those that are punished.
    fn repetitions(&mut self, history: &[u32]) -> BTreeMap<u32, usize> {
        let behind = match &mut self.breakers {
            Some(breakers) => history.len() - breakers.end(history),
            None => history.len(),
        };
        let mut longest = BTreeMap::new();
        let window = &history[history.len().saturating_sub(self.options.last_n)..];
        if behind < self.options.allowed_length {
            return longest;
        }
        equal_ends(window, &mut self.equal);
        for distance in 1..window.len() {
            let length = self.equal[distance].min(behind);
            if length >= self.options.allowed_length {
                let next = window[window.len() - distance];
                let known = longest.entry(next).or_insert(length);
                *known = length.max(*known);
            }
        }
        if let Some(breakers) = &self.breakers {
            longest.retain(|id, _| !breakers.is_breaker(*id));
        }
        longest
    }
}

/// `out[d]`: how many tokens at the end of `window` equal those that lie `d` before them. It is the Z function
/// of the reversed window, in linear time.
fn equal_ends(window: &[u32], out: &mut Vec<usize>) {
    let n = window.len();
    let from_end = |i: usize| window[n - 1 - i];
    out.clear();
    out.resize(n, n);
    // The known stretch that reaches furthest: it begins at `left`, and `right` is behind it.
    let (mut left, mut right) = (0, 0);
    for d in 1..n {
        let mut length = match d < right {
            true => out[d - left].min(right - d),
            false => 0,
        };
        while d + length < n && from_end(length) == from_end(d + length) {
            length += 1;
        }
        if d + length > right {
            (left, right) = (d, d + length);
        }
        out[d] = length;
    }
}

impl LogitsFilter for DryPenalty<'_> {
    fn apply(&mut self, logits: &mut [f32], history: &[u32]) -> Result<()> {
        for (id, length) in self.repetitions(history) {
            let logit = logit(logits, id, "recent token")?;
            if *logit == f32::NEG_INFINITY {
                continue;
            }
            let more = (length - self.options.allowed_length) as f64;
            let penalty =
                f64::from(self.options.multiplier) * f64::from(self.options.base).powf(more);
            // However large, it forbids nothing.
            *logit = (f64::from(*logit) - penalty).max(f64::from(f32::MIN)) as f32;
        }
        Ok(())
    }
}
