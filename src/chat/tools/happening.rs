//! What the reader of a format finds, and what it needs to look at.

use super::tool::Tool;

/// Found in a reply, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Happening {
    /// Text for the person.
    Content(String),
    /// Text of the reasoning.
    Reasoning(String),
    /// A call begins: its name.
    Name(String),
    /// More of the text of its arguments, a JSON object.
    Arguments(String),
    /// The call is whole.
    End,
}

/// What a reader may look at.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    /// What has not been taken.
    pub text: &'a str,
    /// Nothing follows it.
    pub end: bool,
    /// The tools of the request.
    pub tools: &'a [Tool],
}

/// What a reader did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It took so many bytes, and goes on; 0 only if its state has changed.
    Took(usize),
    /// It needs more text.
    Wait,
    /// It took so many bytes, and what follows is not its own.
    Over(usize),
    /// This is no call.
    Bad,
}

/// Whether a text begins with another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    Yes,
    No,
    /// More text decides.
    Perhaps,
}

impl Look<'_> {
    /// Whether the text begins with `wanted`.
    pub fn begins(&self, wanted: &str) -> Begins {
        begins(self.text, wanted, self.end)
    }

    /// Without the white space at its beginning, and how many bytes that is.
    pub fn trimmed(&self) -> (Self, usize) {
        let text = self.text.trim_start();
        (Self { text, ..*self }, self.text.len() - text.len())
    }

    /// From a byte on.
    pub fn from(&self, at: usize) -> Self {
        let text = &self.text[at..];
        Self { text, ..*self }
    }

    /// More text, if there may be some; else no call.
    pub fn wait(&self) -> Next {
        if self.end { Next::Bad } else { Next::Wait }
    }
}

/// Whether `text` begins with `wanted`; `end`: nothing follows `text`.
pub(super) fn begins(text: &str, wanted: &str, end: bool) -> Begins {
    if text.starts_with(wanted) {
        Begins::Yes
    } else if !end && wanted.starts_with(text) {
        Begins::Perhaps
    } else {
        Begins::No
    }
}

/// The first byte from which `text` may be the beginning of one of `wanted`: bytes that are held back.
pub(super) fn held<'w>(text: &str, wanted: impl Iterator<Item = &'w str>) -> usize {
    let mut from = text.len();
    for w in wanted {
        let longest = w.len().saturating_sub(1).min(text.len());
        let starts = (text.len() - longest..text.len()).filter(|&at| text.is_char_boundary(at));
        let mut starts = starts.filter(|&at| w.starts_with(&text[at..]));
        from = from.min(starts.next().unwrap_or(text.len()));
    }
    from
}

/// The first of `wanted` in `text`: where, and which; of those at one place the longest.
pub(super) fn first<'w>(
    text: &str,
    wanted: impl Iterator<Item = &'w str>,
) -> Option<(usize, &'w str)> {
    let found = wanted.filter_map(|w| Some((text.find(w)?, w)));
    found.min_by_key(|(at, w)| (*at, std::cmp::Reverse(w.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_become_a_marker_is_held() {
        let wanted = || ["<tool_call>", "</think>", "｜x"].into_iter();
        assert_eq!(held("abc <tool", wanted()), 4);
        assert_eq!(held("abc <", wanted()), 4);
        assert_eq!(held("abc <<", wanted()), 5);
        assert_eq!(held("abc", wanted()), 3);
        assert_eq!(held("a｜", wanted()), 1);
        assert_eq!(held("</think", wanted()), 0);
        assert_eq!(
            first("a </think> <tool_call>", wanted()),
            Some((2, "</think>"))
        );
        assert_eq!(first("a", wanted()), None);
        assert_eq!(begins("<to", "<tool", false), Begins::Perhaps);
        assert_eq!(begins("<to", "<tool", true), Begins::No);
        assert_eq!(begins("<toolx", "<tool", true), Begins::Yes);
    }
}
