//! Merges as the scores of SentencePiece, and whether these say the same.
//!
//! SentencePiece joins the adjacent pair whose union has the highest score; merges name the pairs that are
//! joined and their order. Both do the same wherever (1) every pair that is adjacent at some time and whose
//! union is a token has a merge, (2) the merges that make one token follow each other, and (3) of two such
//! merges that compete for a symbol the left one comes first. A pair that breaks (1) or (3) matters only if
//! merging its text alone comes past it: what is merged inside a text does not depend on what is around it.

use std::collections::{HashMap, HashSet};

use super::tokens::{Kind, Token};

/// Score of tokens that no merge produces.
pub(super) const UNMERGED: f32 = -1e6;
/// Pairs that are looked at closely before they count as different.
const MAX_DOUBTS: usize = 20_000;

/// Sets the scores of normal tokens to minus the rank of the first merge that makes them, so that the
/// highest score is the earliest merge. Returns whether they say what the merges say.
pub(super) fn from_merges(tokens: &mut [Token], merges: &[(String, String)]) -> bool {
    let mut first: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (a, b)) in merges.iter().enumerate() {
        first.entry(format!("{a}{b}")).or_insert(rank);
    }
    for token in tokens.iter_mut().filter(|t| t.kind == Kind::Normal) {
        if let Some(&rank) = first.get(&token.text) {
            token.score = -(rank as f32);
        }
    }
    Proof::new(tokens, merges).is_some_and(|p| p.holds())
}

struct Proof<'a> {
    ranks: HashMap<(&'a str, &'a str), usize>,
    /// Normal tokens that text can become.
    reached: HashSet<&'a str>,
    texts: Vec<&'a str>,
}

impl<'a> Proof<'a> {
    /// `None` when merges use tokens that are no text.
    fn new(tokens: &'a [Token], merges: &'a [(String, String)]) -> Option<Proof<'a>> {
        let normal = tokens.iter().filter(|t| t.kind == Kind::Normal);
        let texts: Vec<&str> = normal.map(|t| t.text.as_str()).collect();
        let known: HashSet<&str> = texts.iter().copied().collect();
        let one = |t: &&&str| t.chars().nth(1).is_none();
        let mut reached: HashSet<&str> = texts.iter().filter(one).copied().collect();
        let mut ranks = HashMap::with_capacity(merges.len());
        for (rank, (a, b)) in merges.iter().enumerate() {
            ranks.insert((a.as_str(), b.as_str()), rank);
        }
        let mut before = 0;
        while reached.len() != before {
            before = reached.len();
            for (a, b) in merges {
                if reached.contains(a.as_str()) && reached.contains(b.as_str()) {
                    reached.insert(known.get(format!("{a}{b}").as_str())?);
                }
            }
        }
        Some(Proof {
            ranks,
            reached,
            texts,
        })
    }

    /// The ways to put a token together from two that text can become.
    fn pairs(&self, text: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        let borders = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        borders.filter(|(a, b)| self.reached.contains(a) && self.reached.contains(b))
    }

    fn holds(&self) -> bool {
        let mut doubts: Vec<Vec<&str>> = Vec::new();
        // First and last rank of the merges that make a token.
        let mut blocks: Vec<(usize, usize)> = Vec::new();
        for &text in &self.texts {
            let mut ranked = Vec::new();
            for (a, b) in self.pairs(text) {
                match self.ranks.get(&(a, b)) {
                    Some(&rank) => ranked.push((a, b, rank)),
                    None => doubts.push(vec![a, b]),
                }
            }
            for &(a, b, rank) in &ranked {
                let rivals = ranked.iter().filter(|r| r.0 == b && r.2 < rank);
                doubts.extend(rivals.map(|r| vec![a, b, r.1]));
            }
            let ranks = || ranked.iter().map(|r| r.2);
            blocks.extend(ranks().min().zip(ranks().max()));
            if doubts.len() > MAX_DOUBTS {
                return false;
            }
        }
        blocks.sort_unstable();
        let in_order = blocks.windows(2).all(|pair| pair[0].1 < pair[1].0);
        in_order && !doubts.iter().any(|d| self.passes(d))
    }

    /// Whether merging the text of `symbols` comes past these symbols.
    fn passes(&self, symbols: &[&str]) -> bool {
        let text: String = symbols.concat();
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        let mut at: Vec<usize> = std::iter::once(0).chain(ends).collect();
        loop {
            let found = at.windows(2).map(|b| &text[b[0]..b[1]]);
            if found.eq(symbols.iter().copied()) {
                return true;
            }
            let rank = |b: &[usize]| self.ranks.get(&(&text[b[0]..b[1]], &text[b[1]..b[2]]));
            let best = at.windows(3).enumerate();
            let best = best.filter_map(|(i, b)| Some((*rank(b)?, i))).min();
            match best {
                Some((_, i)) => at.remove(i + 1),
                None => return false,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(tokens: &[&str], merges: &[(&str, &str)]) -> bool {
        let token = |t: &&str| Token {
            text: (*t).to_owned(),
            score: UNMERGED,
            kind: Kind::Normal,
        };
        let mut tokens: Vec<Token> = tokens.iter().map(token).collect();
        let merges: Vec<_> = merges
            .iter()
            .map(|(a, b)| ((*a).into(), (*b).into()))
            .collect();
        from_merges(&mut tokens, &merges)
    }

    #[test]
    fn only_merges_that_scores_say_are_scores() {
        let abc = ["a", "b", "c", "ab", "bc", "abc"];
        assert!(exact(
            &abc,
            &[("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]
        ));
        // `a` and `bc` never meet: `ab` is joined before.
        assert!(exact(&abc, &[("a", "b"), ("b", "c"), ("ab", "c")]));
        // They do here, and have no merge.
        assert!(!exact(&abc, &[("b", "c"), ("a", "b"), ("ab", "c")]));
        // `abc` is made before and after `bc`.
        let two = [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")];
        assert!(!exact(&abc, &two));
        // Of three symbols the right two are joined first.
        let runs = ["a", "aa", "aaa"];
        assert!(exact(&runs, &[("a", "a"), ("aa", "a"), ("a", "aa")]));
        assert!(!exact(&["a", "aa"], &[("a", "aaa")]));
    }
}
