//! Which parts of a rendered conversation are the template's own text.
//!
//! A template may trim, split or move contents, so positions are found by rendering again
//! with marks (private-use characters that occur nowhere else) put into the contents, and
//! accepted only when the result without marks is exactly the plain rendering. Three ways
//! are tried, from the most to the least informative; when a template changes contents so
//! much that none works, every control token whose text occurs in a message is taken as
//! plain text everywhere, also in the template's own text: odd, but never an injection.

use std::ops::Range;

use super::Message;
use crate::tokenizer::Tokenizer;

/// Renders with other contents; `None` when the template fails on them.
type Render<'a> = &'a dyn Fn(&[String]) -> Option<String>;

/// Byte ranges of `rendered`, in order, inside which control tokens may be recognised.
pub(super) fn template_ranges(
    tokenizer: &Tokenizer,
    messages: &[Message],
    rendered: &str,
    source: &str,
    render: Render<'_>,
) -> Vec<Range<usize>> {
    let [start, end, inner] = marks(messages, rendered, source);
    wrapped(messages, rendered, render, start, end)
        .or_else(|| broken(tokenizer, messages, rendered, render, inner, true))
        .or_else(|| broken(tokenizer, messages, rendered, render, inner, false))
        .unwrap_or_else(|| cautious(tokenizer, messages, rendered))
}

/// Three private-use characters that occur in none of the texts.
fn marks(messages: &[Message], rendered: &str, source: &str) -> [char; 3] {
    let texts = || {
        messages
            .iter()
            .map(|m| m.content.as_str())
            .chain([rendered, source])
    };
    let mut free = ('\u{F0000}'..='\u{FFFFD}').filter(|&c| texts().all(|t| !t.contains(c)));
    // Texts are far shorter than the private-use plane times four bytes; if an adversary
    // fills it nevertheless, equal marks make every check fail and `cautious` decides.
    std::array::from_fn(|_| free.next().unwrap_or('\u{FFFFD}'))
}

/// A content as (white space, core, white space): templates often trim.
fn core(content: &str) -> (&str, &str, &str) {
    let tail = content.trim_start();
    let middle = tail.trim_end();
    (
        &content[..content.len() - tail.len()],
        middle,
        &tail[middle.len()..],
    )
}

/// Way 1: marks around every content give exact ranges.
fn wrapped(
    messages: &[Message],
    rendered: &str,
    render: Render<'_>,
    start: char,
    end: char,
) -> Option<Vec<Range<usize>>> {
    let wrap = |m: &Message| match core(&m.content) {
        (_, "", _) => m.content.clone(),
        (before, core, after) => format!("{before}{start}{core}{end}{after}"),
    };
    let marked = render(&messages.iter().map(wrap).collect::<Vec<_>>())?;
    let mut plain = String::with_capacity(rendered.len());
    let mut ranges = Vec::new();
    // Where the template's text began; `None` inside a content.
    let mut own = Some(0);
    for c in marked.chars() {
        if c == start {
            ranges.push(own.take()?..plain.len());
        } else if c == end {
            if own.is_some() {
                return None;
            }
            own = Some(plain.len());
        } else {
            plain.push(c);
        }
    }
    ranges.push(own?..plain.len());
    (plain == rendered).then_some(ranges)
}

/// Way 2: a mark inside every control text of a content, and (`edges`) at the content's
/// ends. A control token that covers a mark comes from a content. Marks need no partner, so
/// a template may drop parts of a content.
fn broken(
    tokenizer: &Tokenizer,
    messages: &[Message],
    rendered: &str,
    render: Render<'_>,
    mark: char,
    edges: bool,
) -> Option<Vec<Range<usize>>> {
    let contents: Option<Vec<String>> = messages
        .iter()
        .map(|m| break_up(tokenizer, &m.content, mark, edges))
        .collect();
    let marked = render(&contents?)?;
    let mut plain = String::with_capacity(rendered.len());
    let mut ranges = Vec::new();
    let mut from = 0;
    for c in marked.chars() {
        if c == mark {
            ranges.push(from..plain.len());
            from = plain.len();
        } else {
            plain.push(c);
        }
    }
    ranges.push(from..plain.len());
    (plain == rendered).then_some(ranges)
}

/// Puts marks into a content until it holds no control text. `None` if that takes long.
fn break_up(tokenizer: &Tokenizer, content: &str, mark: char, edges: bool) -> Option<String> {
    let mut text = match core(content) {
        (before, core, after) if edges && !core.is_empty() => {
            format!("{before}{mark}{core}{mark}{after}")
        }
        _ => content.to_owned(),
    };
    // Texts of control tokens may overlap; each round ends at least the leftmost ones.
    for _ in 0..16 {
        let found = tokenizer.control_ranges(&text).ok()?;
        if found.is_empty() {
            return Some(text);
        }
        let mut next = String::with_capacity(text.len() + 4 * found.len());
        let mut from = 0;
        for range in found {
            let first = text[range.clone()].chars().next().map_or(0, char::len_utf8);
            if first == range.len() {
                // A control token of one character cannot be broken.
                return None;
            }
            next.push_str(&text[from..range.start + first]);
            next.push(mark);
            from = range.start + first;
        }
        next.push_str(&text[from..]);
        text = next;
    }
    None
}

/// Last resort: only control tokens whose text occurs in no message, in any case of letters.
fn cautious(tokenizer: &Tokenizer, messages: &[Message], rendered: &str) -> Vec<Range<usize>> {
    let contents: Vec<String> = messages.iter().map(|m| m.content.to_lowercase()).collect();
    let mut ranges = tokenizer.control_ranges(rendered).unwrap_or_default();
    ranges.retain(|range| {
        let text = rendered[range.clone()].to_lowercase();
        contents.iter().all(|content| !content.contains(&text))
    });
    ranges
}
