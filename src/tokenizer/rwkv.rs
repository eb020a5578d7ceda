//! RWKV's tokenizer: at each byte of the text the longest token that fits.
//!
//! Tokens are bytes, in the file as the inside of a Python bytes literal (`\x00`, `\n`, `\\`).

use super::validate::{TOKENS, key_error, short};
use super::vocab::{Kind, Vocab};
use super::work::Work;
use super::{Engine, Prefix, Text};
use crate::error::{Error, Result};
use crate::limits;

/// The tokens as bytes, in order, for a search that narrows byte by byte.
pub(super) struct Rwkv {
    /// Bytes by id; empty for tokens that text cannot become.
    bytes: Vec<Box<[u8]>>,
    /// Ids of the others, in the order of their bytes.
    sorted: Vec<u32>,
}

impl Rwkv {
    pub fn new(vocab: &Vocab) -> Result<Rwkv> {
        let mut bytes = Vec::with_capacity(vocab.len());
        for (id, text, kind) in vocab.iter() {
            let normal = kind == Kind::Normal && !text.is_empty();
            let token = if normal {
                unescape(text)
            } else {
                Some(Vec::new())
            };
            let token = token.filter(|t| t.len() <= limits::MAX_SEARCHED_TOKEN_BYTES);
            let token = token.ok_or_else(|| {
                let allowed = format!(
                    "the inside of a bytes literal of at most {} bytes",
                    limits::MAX_SEARCHED_TOKEN_BYTES
                );
                key_error(TOKENS, format!("{} for token {id}", short(text)), allowed)
            })?;
            bytes.push(token.into_boxed_slice());
        }
        let mut sorted: Vec<u32> = (0..bytes.len() as u32).collect();
        sorted.retain(|&id| !bytes[id as usize].is_empty());
        // The first of equal tokens comes last and wins.
        sorted.sort_by(|&a, &b| {
            let bytes = bytes[a as usize].cmp(&bytes[b as usize]);
            bytes.then(b.cmp(&a))
        });
        Ok(Rwkv { bytes, sorted })
    }

    fn of(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], |b| b)
    }

    /// The longest token that `text` begins with.
    fn longest(&self, text: &[u8], work: &mut Work<'_>) -> Result<Option<u32>> {
        let (mut range, mut best) = (&self.sorted[..], None);
        for (depth, byte) in text.iter().enumerate() {
            work.spend(1)?;
            // All in `range` begin with the `depth` bytes before; shorter ones come first.
            let at = |id: &u32| self.of(*id).get(depth).copied();
            let start = range.partition_point(|id| at(id) < Some(*byte));
            let end = range.partition_point(|id| at(id) <= Some(*byte));
            range = &range[start..end];
            if range.is_empty() {
                break;
            }
            let exact = range.partition_point(|id| self.of(*id).len() == depth + 1);
            if exact > 0 {
                best = Some(range[exact - 1]);
            }
        }
        Ok(best)
    }
}

impl Engine for Rwkv {
    fn encode(
        &self,
        _: &Vocab,
        text: Text<'_>,
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut rest = text.text.as_bytes();
        while !rest.is_empty() {
            let id = self.longest(rest, work)?.ok_or_else(|| Error::Request {
                what: "text".into(),
                value: format!("byte {:#04x}", rest[0]),
                allowed: "bytes that the vocabulary has".into(),
            })?;
            out.push(id);
            rest = &rest[self.of(id).len()..];
        }
        Ok(())
    }

    fn append_bytes(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        match self.of(id) {
            [] => out.extend_from_slice(vocab.bytes(id)),
            bytes => out.extend_from_slice(bytes),
        }
    }

    fn prefix(&self) -> Prefix {
        Prefix::Never
    }
}

/// The bytes that a literal stands for.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match rest.next()? {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                let [high, low] = digits.map(|d| char::from(d).to_digit(16));
                (high? << 4 | low?) as u8
            }
            other => other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_python() {
        assert_eq!(
            unescape(r"a\x00\\\'\t\n\r b"),
            Some(b"a\0\\'\t\n\r b".to_vec())
        );
        assert_eq!(unescape("é"), Some("é".as_bytes().to_vec()));
        for broken in ["\\", "\\x", "\\x1", "\\xg0"] {
            assert_eq!(unescape(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_longest_token_wins_and_broken_prefixes_do_not() {
        let mut vocab = Vocab::with_capacity(8, 64);
        for text in ["<s>", "a", "b", "c", "abc", "ab", "abcde", "bc", "ab"] {
            vocab.push(text);
        }
        vocab.set_kind(0, Kind::Control);
        let engine = Rwkv::new(&vocab).expect("valid");
        let encode = |text: &str| {
            let mut out = Vec::new();
            {
                let start = Text { text, start: true };
                let mut work = Work::new(text.len(), None);
                let done = engine.encode(&vocab, start, &mut work, &mut out);
                done.map(|()| out)
            }
        };
        assert_eq!(encode("abcd").ok(), None);
        assert_eq!(encode("abcdeabcab").ok(), Some(vec![6, 4, 5]));
        assert_eq!(encode("bbcc").ok(), Some(vec![2, 7, 3]));
        assert!(encode("<s>").is_err());
    }
}
