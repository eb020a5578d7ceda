//! The vocabulary of a model as llguidance wants it.

use std::sync::Arc;

use geb::tokenizer::{Encode, Tokenizer};
use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// A tokenizer and the tree of its tokens' bytes.
pub(crate) struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl Vocabulary {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Vocabulary {
        let words: Vec<Vec<u8>> = (0..tokenizer.vocab_len() as u32)
            .map(|id| bytes(&tokenizer, id))
            .collect();
        let stops = tokenizer.stop_ids();
        // Without an end token the text ends where the grammar does.
        let end = stops.first().copied().unwrap_or(u32::MAX);
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
        let trie = match stops.is_empty() {
            true => trie,
            false => trie.with_eos_tokens(stops),
        };
        Vocabulary { tokenizer, trie }
    }
}

/// What a token says: control tokens stand behind a byte that no text has, so that no text is taken for one.
fn bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let text = tokenizer.token_bytes(id);
    match tokenizer.is_control(id) || tokenizer.is_stop(id) {
        true if text.is_empty() => Vec::new(),
        true => [&[TokTrie::SPECIAL_TOKEN_MARKER], &text[..]].concat(),
        false => text,
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        let plain = Encode::default();
        self.trie.tokenize_with_greedy_fallback(text, |text| {
            // A tokenizer that adds a space, or normalises, says something else.
            match self.tokenizer.encode_text(text, plain) {
                Ok(ids) if self.trie.decode_raw(&ids) == text.as_bytes() => ids,
                _ => self.trie.greedy_tokenize(text.as_bytes()),
            }
        })
    }
}
