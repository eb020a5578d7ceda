//! Token texts in one arena, with a lookup table over the tokens that text may become.

use std::ops::Range;

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A piece of ordinary text.
    Normal = 1,
    /// Stands for text that no piece covers.
    Unknown = 2,
    /// Marks structure (start, end, roles); never produced from user text.
    Control = 3,
    /// Always recognised, also in user text.
    UserDefined = 4,
    /// Filler, or a piece that is taken apart again after merging.
    Unused = 5,
    /// One raw byte, `<0xNN>`.
    Byte = 6,
}

impl Kind {
    /// The kind with this number in the file.
    pub fn from_id(id: i32) -> Option<Kind> {
        Some(match id {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => return None,
        })
    }
}

/// All tokens: text and kind by id. Texts lie one after the other in one string.
pub struct Vocab {
    text: String,
    /// `ends[i]` is where token `i` ends in `text`; it starts where token `i - 1` ends.
    ends: Vec<u32>,
    kinds: Vec<Kind>,
}

impl Vocab {
    /// An empty vocabulary with room for `len` tokens.
    pub(super) fn with_capacity(len: usize, text_bytes: usize) -> Vocab {
        Vocab {
            text: String::with_capacity(text_bytes),
            ends: Vec::with_capacity(len),
            kinds: Vec::with_capacity(len),
        }
    }

    /// Appends a token. The caller has bounded the sum of the lengths to 32 bits.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len() as u32);
        self.kinds.push(Kind::Normal);
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Text of a token as stored; empty for ids out of range.
    pub fn text(&self, id: u32) -> &str {
        &self.text[self.range(id)]
    }

    /// The same as bytes.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        &self.text.as_bytes()[self.range(id)]
    }

    fn range(&self, id: u32) -> Range<usize> {
        let i = id as usize;
        let Some(&end) = self.ends.get(i) else {
            return 0..0;
        };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        start as usize..end as usize
    }

    /// Kind of a token; `Unused` for ids out of range.
    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// All ids with text and kind, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        (0..self.len() as u32).map(|id| (id, self.text(id), self.kind(id)))
    }
}

/// Table from text to id over some tokens of a [`Vocab`].
///
/// It stores ids only; texts are compared in the arena. The hash is keyed with
/// random numbers, so a file cannot be made to collide.
pub(super) struct Lookup {
    ids: HashTable<u32>,
    hasher: RandomState,
}

impl Lookup {
    /// A table with room for `capacity` tokens.
    pub fn with_capacity(capacity: usize) -> Lookup {
        Lookup {
            ids: HashTable::with_capacity(capacity),
            hasher: RandomState::new(),
        }
    }

    /// Adds a token unless its text is there already; then returns the id that was there first.
    pub fn insert(&mut self, vocab: &Vocab, id: u32) -> Result<(), u32> {
        let hash = |id: &u32| self.hasher.hash_one(vocab.bytes(*id));
        let text = vocab.bytes(id);
        match self
            .ids
            .entry(hash(&id), |&other| vocab.bytes(other) == text, hash)
        {
            Entry::Occupied(first) => Err(*first.get()),
            Entry::Vacant(free) => {
                free.insert(id);
                Ok(())
            }
        }
    }

    /// The id of a text.
    pub fn get(&self, vocab: &Vocab, text: &str) -> Option<u32> {
        self.get_bytes(vocab, text.as_bytes())
    }

    /// The id of a text given as bytes.
    pub fn get_bytes(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.ids.find(hash, |&id| vocab.bytes(id) == text).copied()
    }
}
