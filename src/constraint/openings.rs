//! Texts in a stream of bytes: where the first of them ends.

/// Looks for texts in what is pushed.
#[derive(Debug, Default)]
pub(super) struct Openings {
    texts: Vec<String>,
    /// The end of what was pushed, where a text may have begun.
    tail: Vec<u8>,
}

impl Openings {
    /// Looks for these, none of them empty.
    pub(super) fn of(texts: &[String]) -> Openings {
        let all = texts.iter().filter(|t| !t.is_empty());
        Openings {
            texts: all.cloned().collect(),
            tail: Vec::new(),
        }
    }

    /// More bytes: what stands behind the text that ends first in them, of equals the longest. The search begins anew
    /// then.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.tail.extend_from_slice(bytes);
        let ends = self.texts.iter().filter_map(|t| {
            let mut places = self.tail.windows(t.len());
            places
                .position(|w| w == t.as_bytes())
                .map(|at| at + t.len())
        });
        if let Some(end) = ends.min() {
            return Some(std::mem::take(&mut self.tail).split_off(end));
        }
        let longest = self.texts.iter().map(String::len).max().unwrap_or(1);
        let cut = self.tail.len().saturating_sub(longest - 1);
        self.tail.drain(..cut);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_however_it_is_cut() {
        let texts = ["<call>".to_owned(), "[[".to_owned()];
        let text = "a <ca<call>x [[[y";
        for cut in 1..text.len() {
            let mut openings = Openings::of(&texts);
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                let mut rest = piece.to_vec();
                while let Some(behind) = openings.push(&rest) {
                    found.push(behind.clone());
                    rest = behind;
                }
            }
            assert_eq!(found.len(), 2, "{cut}");
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is_looked_for() {
        assert_eq!(Openings::of(&[]).push(b"anything"), None);
        assert_eq!(Openings::of(&[String::new()]).push(b"anything"), None);
    }
}
