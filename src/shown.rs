//! Foreign text in messages: what a file, a person or another library says cannot steer a terminal, forge
//! a line or fill a screen. [`crate::Error`] shows all its fields through it.

use std::fmt::{self, Display, Write};

/// A text with control and direction characters escaped, cut after some characters.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    text: &'a str,
    most: usize,
    lines: bool,
}

impl<'a> Shown<'a> {
    /// A name: at most 80 characters on one line.
    pub fn name(text: &'a str) -> Self {
        Self::new(text, 80, false)
    }

    /// A value: at most 300 characters on one line.
    pub fn value(text: &'a str) -> Self {
        Self::new(text, 300, false)
    }

    /// Several names, or a path: at most 8,000 characters on one line.
    pub fn list(text: &'a str) -> Self {
        Self::new(text, 8_000, false)
    }

    /// A text of several lines, as long as it is; tabs stay as well.
    pub fn lines(text: &'a str) -> Self {
        Self::new(text, usize::MAX, true)
    }

    fn new(text: &'a str, most: usize, lines: bool) -> Self {
        Self { text, most, lines }
    }
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.text.chars().enumerate() {
            if i == self.most {
                return f.write_str("…");
            }
            if steers(c) && !(self.lines && matches!(c, '\n' | '\t')) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Whether a character does something else than being seen: C0 and C1 controls, separators of lines,
/// changes of direction, invisible marks and tags.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_and_nothing_fills_the_screen() {
        let text = "a\x1b[2J\u{9b}1m\r\n\tb\u{202e}c\u{2028}\u{e0041}é\\n";
        let want = r"a\u{1b}[2J\u{9b}1m\r\n\tb\u{202e}c\u{2028}\u{e0041}é\n";
        assert_eq!(Shown::name(text).to_string(), want);
        let want = want.replace(r"\r\n\tb", "\\r\n\tb");
        assert_eq!(Shown::lines(text).to_string(), want);
        let long = "x".repeat(1 << 20);
        for (shown, most) in [
            (Shown::name(&long), 80),
            (Shown::value(&long), 300),
            (Shown::list(&long), 8_000),
        ] {
            assert_eq!(shown.to_string().chars().count(), most + 1);
        }
    }
}
