//! Ids of calls: a function of the caller's prefix and the place of the call, never random.

use sha2::{Digest, Sha256};

use super::table::IdStyle;

/// How the calls of a reply are numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallIds {
    /// What ids begin with; another one for every request, so that ids differ between replies.
    pub prefix: String,
    /// Calls that the conversation holds already.
    pub first: usize,
}

impl CallIds {
    /// The id of call `index` (from 0) of this reply.
    pub(in crate::chat) fn id(&self, style: IdStyle, index: usize, name: &str) -> String {
        let number = self.first + index;
        match style {
            IdStyle::Counted => format!("{}{number}", self.prefix),
            IdStyle::Nine => nine(&format!("{}{number}", self.prefix)),
            IdStyle::Kimi => format!("functions.{name}:{number}"),
        }
    }
}

/// Nine letters and digits that stand for a text.
pub(in crate::chat) fn nine(text: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let hash = Sha256::digest(text);
    let digit = |byte: &u8| char::from(DIGITS[usize::from(*byte) % DIGITS.len()]);
    hash.iter().take(9).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_function_of_prefix_and_place() {
        let ids = CallIds {
            prefix: "call_7_".into(),
            first: 2,
        };
        assert_eq!(ids.id(IdStyle::Counted, 1, "f"), "call_7_3");
        assert_eq!(ids.id(IdStyle::Kimi, 0, "f"), "functions.f:2");
        let id = ids.id(IdStyle::Nine, 0, "f");
        assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(id, ids.id(IdStyle::Nine, 0, "g"));
        assert_ne!(id, ids.id(IdStyle::Nine, 1, "f"));
    }
}
