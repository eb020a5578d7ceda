//! `wordwrap`, as Python's `textwrap`.

use super::args::{Given, int_or, some};
use super::chars::{is_alpha, is_word};
use super::strings;
use super::value::Text;
use super::value::Value;
use super::vm::Vm;
use super::{Fail, fail};

type Result<T> = std::result::Result<T, Fail>;

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Runs of spaces, and words; `hyphens` lets a word end behind a hyphen between letters.
fn chunks(line: &[char], hyphens: bool) -> Vec<Vec<char>> {
    let mut out: Vec<Vec<char>> = Vec::new();
    let mut at = 0;
    while at < line.len() {
        let blank = is_blank(line[at]);
        let end = (at..line.len())
            .find(|&i| is_blank(line[i]) != blank)
            .unwrap_or(line.len());
        let mut word = &line[at..end];
        let cut_in =
            |word: &[char]| hyphen(word).filter(|&at| !blank && hyphens && at < word.len());
        while let Some(at) = cut_in(word) {
            out.push(word[..at].to_vec());
            word = &word[at..];
        }
        out.push(word.to_vec());
        at = end;
    }
    out
}

/// Where a word may be cut: behind `letter letter -` before `letter letter`, and around a dash of
/// several hyphens.
fn hyphen(word: &[char]) -> Option<usize> {
    let letter = |i: usize| word.get(i).is_some_and(|c| is_alpha(*c));
    let dash = |i: usize| word.get(i) == Some(&'-');
    for i in 1..word.len() {
        if !dash(i) {
            continue;
        }
        let word_end =
            |c: &char| is_word(*c) || matches!(c, '!' | '"' | '\'' | '&' | '.' | ',' | '?');
        let long = (i..word.len()).take_while(|&j| dash(j)).count();
        if long >= 2 {
            let after = word.get(i + long).is_some_and(|c| is_word(*c));
            if after && word_end(&word[i - 1]) {
                return Some(i);
            }
            continue;
        }
        let before = i >= 2 && letter(i - 1) && (letter(i - 2) || i >= 3 && dash(i - 2));
        let after = letter(i + 1) && (letter(i + 2) || dash(i + 2) && letter(i + 3));
        if before && after {
            return Some(i + 1);
        }
    }
    let leading = word.iter().take_while(|c| **c == '-').count();
    (leading >= 2 && leading < word.len() && is_word(word[leading])).then_some(leading)
}

/// One paragraph as lines of at most `width` characters.
fn wrapped(line: &str, width: usize, break_long: bool, hyphens: bool) -> Vec<String> {
    let chars: Vec<char> = line.chars().collect();
    let mut left = chunks(&chars, hyphens);
    left.reverse();
    let mut lines = Vec::new();
    while let Some(first) = left.last() {
        if !lines.is_empty() && first.iter().all(|c| is_blank(*c)) {
            left.pop();
            if left.is_empty() {
                break;
            }
        }
        let (mut current, mut length) = (Vec::new(), 0);
        while let Some(chunk) = left.pop_if(|c| length + c.len() <= width) {
            length += chunk.len();
            current.push(chunk);
        }
        if left.last().is_some_and(|c| c.len() > width) {
            let room = if width < 1 { 1 } else { width - length };
            if break_long {
                if let Some(mut chunk) = left.pop() {
                    let mut end = room;
                    let hyphen = chunk[..room.min(chunk.len())]
                        .iter()
                        .rposition(|c| *c == '-');
                    if let Some(at) = hyphen.filter(|&at| hyphens && chunk.len() > room && at > 0)
                        && chunk[..at].iter().any(|c| *c != '-')
                    {
                        end = at + 1;
                    }
                    let rest = chunk.split_off(end.min(chunk.len()));
                    current.push(chunk);
                    left.push(rest);
                }
            } else if current.is_empty() {
                current.extend(left.pop());
            }
        }
        if current
            .last()
            .is_some_and(|c| c.iter().all(|c| is_blank(*c)))
        {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat().into_iter().collect());
        }
    }
    lines
}

impl Vm<'_> {
    pub(super) fn wrap(&mut self, own: &Text, given: Given) -> Result<Value> {
        let names = [
            "width",
            "break_long_words",
            "wrapstring",
            "break_on_hyphens",
        ];
        let [width, long, mark, hyphens] = given.bind("wordwrap", names, 0)?;
        let width = int_or("wordwrap", &width, 79)?;
        let Some(width) = usize::try_from(width).ok().filter(|w| *w > 0) else {
            return fail(format!("invalid width {width} (must be > 0)"));
        };
        let mark = match some(&mark) {
            Some(mark) => self.str(mark)?,
            None => "\n".into(),
        };
        let yes = |v: &Option<Value>| v.as_ref().is_none_or(Value::truth);
        self.memory(own.len().saturating_mul(8 + mark.len()))?;
        let paragraphs: Vec<String> = strings::lines(own, false)
            .into_iter()
            .map(|line| wrapped(line, width, yes(&long), yes(&hyphens)).join(&mark))
            .collect();
        self.text(paragraphs.join(&mark))
    }
}
