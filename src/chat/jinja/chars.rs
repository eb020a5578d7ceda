//! Properties of characters as Python's `str` sees them.

use std::sync::OnceLock;

use fancy_regex::Regex;

/// A general category of Unicode, by a regular expression of one character.
struct Category(&'static str, OnceLock<Option<Regex>>);

impl Category {
    const fn new(pattern: &'static str) -> Category {
        Category(pattern, OnceLock::new())
    }

    fn has(&self, c: char) -> bool {
        let regex = self.1.get_or_init(|| Regex::new(self.0).ok());
        let mut bytes = [0; 4];
        let text = &*c.encode_utf8(&mut bytes);
        regex
            .as_ref()
            .is_some_and(|r| r.is_match(text).unwrap_or(false))
    }
}

static LETTER: Category = Category::new(r"\p{L}");
static DECIMAL: Category = Category::new(r"\p{Nd}");
static NUMBER: Category = Category::new(r"\p{N}");
static TITLE: Category = Category::new(r"\p{Lt}");
static HIDDEN: Category = Category::new(r"[\p{C}\p{Z}]");

/// Digits that are no decimals (superscripts, circled), as first and last.
const DIGITS: [(u32, u32); 20] = [
    (178, 179),
    (185, 185),
    (4969, 4977),
    (6618, 6618),
    (8304, 8304),
    (8308, 8313),
    (8320, 8329),
    (9312, 9320),
    (9332, 9340),
    (9352, 9360),
    (9450, 9450),
    (9461, 9469),
    (9471, 9471),
    (10102, 10110),
    (10112, 10120),
    (10122, 10130),
    (68160, 68163),
    (69216, 69224),
    (69714, 69722),
    (127232, 127242),
];

/// Letters that stand for a number.
const NUMERALS: &str = "㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零";

pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

pub(super) fn is_alpha(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphabetic()
    } else {
        LETTER.has(c)
    }
}

pub(super) fn is_decimal(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_digit()
    } else {
        DECIMAL.has(c)
    }
}

pub(super) fn is_digit(c: char) -> bool {
    let n = u32::from(c);
    is_decimal(c)
        || DIGITS
            .iter()
            .any(|&(first, last)| (first..=last).contains(&n))
}

pub(super) fn is_numeric(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_digit()
    } else {
        NUMBER.has(c) || NUMERALS.contains(c)
    }
}

/// What `\w` means: letters, numbers and `_`.
pub(super) fn is_word(c: char) -> bool {
    c == '_' || is_alnum(c)
}

pub(super) fn is_alnum(c: char) -> bool {
    is_alpha(c) || is_digit(c) || is_numeric(c)
}

pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        (' '..='~').contains(&c)
    } else {
        !HIDDEN.has(c)
    }
}

pub(super) fn is_title(c: char) -> bool {
    !c.is_ascii() && TITLE.has(c)
}

/// Whether a letter has a case.
pub(super) fn is_cased(c: char) -> bool {
    c.is_uppercase() || c.is_lowercase() || is_title(c)
}

/// Appends a letter in title case: the first part of a ligature is large.
pub(super) fn push_title(c: char, out: &mut String) {
    let digraph = match c {
        'Ǆ' | 'ǅ' | 'ǆ' => 'ǅ',
        'Ǉ' | 'ǈ' | 'ǉ' => 'ǈ',
        'Ǌ' | 'ǋ' | 'ǌ' => 'ǋ',
        'Ǳ' | 'ǲ' | 'ǳ' => 'ǲ',
        'ა'..='ჿ' => c,
        _ => '\0',
    };
    if digraph != '\0' || is_title(c) {
        return out.push(if digraph == '\0' { c } else { digraph });
    }
    let mut upper = c.to_uppercase();
    let first = upper.next().unwrap_or(c);
    out.push(first);
    for more in upper {
        if first.is_uppercase() && more.is_alphabetic() {
            out.extend(more.to_lowercase());
        } else {
            out.push(more);
        }
    }
}
