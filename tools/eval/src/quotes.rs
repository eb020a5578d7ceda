//! How much of a text is quoted: the share of its n-grams that a corpus has (Quote-Tuning,
//! arXiv 2404.03862). No model is needed.
//!
//! Units are words in small letters, without punctuation; characters of Chinese and Japanese are units
//! of their own. N-grams do not cross the ends of files.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::choice::files::DataFile;
use super::stats::Estimate;
use geb::error::Result;

/// Texts of one field of a JSON-lines file, with their lines; `field` may lead into objects and lists
/// (`response/body/choices/0/text`).
///
/// # Errors
/// [`Error::Io`](geb::error::Error::Io), and [`Error::Data`](geb::error::Error::Data) with file and line
/// for what is no text.
pub fn read(path: &Path, field: &str) -> Result<Vec<(usize, String)>> {
    let file = DataFile::read(path.to_owned())?;
    let objects = file.at_least(1)?;
    let text = |o: &super::choice::files::Object<'_>| Ok((o.line, o.text(field)?.to_owned()));
    objects.iter().map(text).collect()
}

/// The texts of a corpus.
///
/// # Errors
/// [`Error::Io`](geb::error::Error::Io), and [`Error::Data`](geb::error::Error::Data) for what is not
/// UTF-8 or too large.
pub fn corpus(paths: &[PathBuf]) -> Result<Vec<String>> {
    let text = |p: &PathBuf| Ok(DataFile::read(p.clone())?.text().to_owned());
    paths.iter().map(text).collect()
}

/// N-grams of one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Units of an n-gram.
    pub n: usize,
    /// N-grams of the text, each place counted.
    pub total: usize,
    /// Those that are in the corpus.
    pub found: usize,
}

impl Count {
    /// `found / total`; nothing where the text is shorter than n.
    pub fn share(self) -> Option<f64> {
        (self.total > 0).then(|| self.found as f64 / self.total as f64)
    }
}

/// Words and single Chinese or Japanese characters.
pub fn units(text: &str) -> Vec<String> {
    let mut units = Vec::new();
    let mut word = String::new();
    let end = |word: &mut String, units: &mut Vec<String>| {
        if !word.is_empty() {
            units.push(std::mem::take(word));
        }
    };
    for c in text.chars() {
        if alone(c) {
            end(&mut word, &mut units);
            units.push(c.into());
        } else if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        } else {
            end(&mut word, &mut units);
        }
    }
    end(&mut word, &mut units);
    units
}

/// Whether a character is a unit: those of scripts without spaces between words.
fn alone(c: char) -> bool {
    // Kana; unified ideographs, compatible ones, and those of the planes beyond.
    matches!(c, '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Counts the n-grams of every text for every `n`: `[texts][ns]`.
pub fn count(texts: &[&str], corpus: &[String], ns: &[usize]) -> Vec<Vec<Count>> {
    // Numbers for the words of the texts; all other words of the corpus are the same one.
    const OTHER: u32 = u32::MAX;
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut number = |word: String| {
        let next = numbers.len() as u32;
        *numbers.entry(word).or_insert(next)
    };
    let texts: Vec<Vec<u32>> = texts
        .iter()
        .map(|t| units(t).into_iter().map(&mut number).collect())
        .collect();
    let known = |word: String| numbers.get(&word).copied().unwrap_or(OTHER);
    let corpus: Vec<Vec<u32>> = corpus
        .iter()
        .map(|t| units(t).into_iter().map(known).collect())
        .collect();
    let mut counts = vec![Vec::new(); texts.len()];
    for &n in ns {
        let wanted: HashSet<&[u32]> = texts.iter().flat_map(|t| t.windows(n)).collect();
        let there = corpus.iter().flat_map(|t| t.windows(n));
        let found: HashSet<&[u32]> = there.filter(|gram| wanted.contains(gram)).collect();
        for (text, counts) in texts.iter().zip(&mut counts) {
            let grams = text.windows(n);
            counts.push(Count {
                n,
                total: grams.len(),
                found: grams.filter(|gram| found.contains(gram)).count(),
            });
        }
    }
    counts
}

/// The mean over texts of the share of n-grams number `i`; nothing where all are too short.
pub fn mean_share(counts: &[Vec<Count>], i: usize) -> Option<Estimate> {
    let shares: Vec<f64> = counts.iter().filter_map(|c| c[i].share()).collect();
    (!shares.is_empty()).then(|| Estimate::mean(&shares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_characters_are_units() {
        assert_eq!(units("The cat's 2 Hats."), ["the", "cat", "s", "2", "hats"]);
        assert_eq!(units("我爱 geb!か"), ["我", "爱", "geb", "か"]);
        assert!(units(" .,。 ").is_empty());
    }

    #[test]
    fn shares_are_those_counted_by_hand() {
        let corpus = ["A b c d. X y", "c D e 我们爱"].map(str::to_owned);
        // a b | b c | c d | d e | e z: four of five; a b c | b c d | c d e | d e z: three of four.
        let counts = count(&["a b c d e z", "z", "我们 你"], &corpus, &[2, 3]);
        let found = |t: usize| {
            counts[t]
                .iter()
                .map(|c| (c.found, c.total))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(0), [(4, 5), (3, 4)]);
        assert_eq!(found(1), [(0, 0), (0, 0)]);
        assert_eq!(found(2), [(1, 2), (0, 1)]);
        // "y c" would cross the files.
        assert_eq!(count(&["y c"], &corpus, &[2])[0][0].found, 0);
        let mean = mean_share(&counts, 0).expect("two texts");
        assert!((mean.value - 0.65).abs() < 1e-12);
        // Half the distance of two values.
        assert!((mean.error.expect("two texts") - 0.15).abs() < 1e-12);
        assert!(mean_share(&counts[1..2], 0).is_none());
    }
}
