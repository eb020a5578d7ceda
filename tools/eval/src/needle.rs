//! Recall over a long context: a fact is planted into filler text at some depth, the end of the
//! prompt asks for it (C6 of the usual evaluations, "needle in a haystack").
//!
//! ```text
//! haystack[.. depth] + needle + haystack[depth ..] + question      = length tokens with the answer
//! found    = greedy decoding writes the answer
//! log_prob = Σ log p(token of the answer)
//! ```
//! The facts are about cities and numbers that nothing else in the prompt mentions; several needles
//! of a cell differ in wording, city and number.

use std::ops::Range;

use serde::Serialize;

use super::choice::run::{Prompt, greedy, ids, likelihood};
use geb::error::{Error, Result};
use geb::session::Session;
use geb::tokenizer::{Encode, Tokenizer};

/// Which prompts to try.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tokens of the prompts, answer included; each at most the context of the session.
    pub lengths: Vec<usize>,
    /// Where the needle is: 0 at the start, 1 right before the question.
    pub depths: Vec<f64>,
    /// Needles tried one after another in each cell.
    pub needles: usize,
    /// Filler, repeated where it is too short; `None`: sentences made up here.
    pub haystack: Option<String>,
}

impl Plan {
    /// Number of prompts.
    pub fn trials(&self) -> usize {
        self.lengths.len() * self.depths.len() * self.needles
    }
}

/// The outcome of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Length asked for.
    pub length: usize,
    /// Tokens of the prompt, answer included.
    pub tokens: usize,
    /// Depth asked for.
    pub depth: f64,
    /// Number of the needle, from 0.
    pub needle: usize,
    /// What was to be found.
    pub expected: String,
    /// What greedy decoding wrote.
    pub answer: String,
    /// Whether that begins with what was to be found.
    pub found: bool,
    /// Log-likelihood of the expected answer, nats.
    pub log_prob: f64,
}

/// Tries every prompt of the plan, for each length from the deepest needle up: two prompts share the
/// text before the shallower needle, which is evaluated once.
///
/// `observe` is given each trial; its `false` ends with [`Error::Interrupted`].
///
/// # Errors
/// [`Error::Request`] for a length beyond the context or too small for the question, a depth
/// outside 0..=1, or filler without text; and those of [`Session::forward`].
pub fn run(
    session: &mut Session,
    tokenizer: &Tokenizer,
    plan: &Plan,
    observe: &mut dyn FnMut(Trial) -> bool,
) -> Result<()> {
    session.reset();
    prompts(session, tokenizer, plan, &mut |session, planted| {
        let log_prob = likelihood(session, &planted.prompt)?;
        let (answer, _) = greedy(session, tokenizer, &planted.prompt)?;
        let answer = answer.trim().to_owned();
        let trial = Trial {
            length: planted.length,
            tokens: planted.prompt.ids.len(),
            depth: planted.depth,
            needle: planted.needle,
            found: begins_with(&answer, &planted.number),
            expected: planted.number,
            answer,
            log_prob,
        };
        match observe(trial) {
            true => Ok(()),
            false => Err(Error::Interrupted),
        }
    })
}

/// A prompt of the plan.
pub(super) struct Planted {
    length: usize,
    depth: f64,
    needle: usize,
    number: String,
    pub(super) prompt: Prompt,
    /// The context as text, and where in it the needle is.
    text: String,
    bytes: Range<usize>,
}

impl Planted {
    /// The tokens of the needle.
    pub(super) fn needle_tokens(&self, tokenizer: &Tokenizer) -> Result<Range<usize>> {
        let before = |end: usize| -> Result<usize> {
            let ids = ids(tokenizer, &self.text[..end])?;
            let pairs = ids.iter().zip(&self.prompt.ids);
            Ok(pairs.take_while(|(a, b)| a == b).count())
        };
        Ok(before(self.bytes.start)?..before(self.bytes.end)?)
    }
}

/// Calls `each` with every prompt of the plan, in the order of [`run`].
pub(super) fn prompts(
    session: &mut Session,
    tokenizer: &Tokenizer,
    plan: &Plan,
    each: &mut dyn FnMut(&mut Session, Planted) -> Result<()>,
) -> Result<()> {
    check(session, plan)?;
    let made_up = || (0..FILLERS).map(filler).collect();
    let haystack = plan.haystack.as_deref().map_or_else(made_up, sentences);
    let haystack = Haystack::new(tokenizer, haystack)?;
    let mut depths = plan.depths.clone();
    depths.sort_by(|a, b| b.total_cmp(a));
    for &length in &plan.lengths {
        for &depth in &depths {
            for needle in 0..plan.needles {
                let fact = Fact::new(needle);
                let (prompt, (text, bytes)) = haystack.prompt(tokenizer, &fact, length, depth)?;
                let planted = Planted {
                    length,
                    depth,
                    needle,
                    number: fact.number,
                    prompt,
                    text,
                    bytes,
                };
                each(session, planted)?;
            }
        }
    }
    Ok(())
}

fn check(session: &Session, plan: &Plan) -> Result<()> {
    let refuse = |what: &str, value: String, allowed: String| {
        Err(Error::Request {
            what: what.into(),
            value,
            allowed,
        })
    };
    let ctx = session.ctx();
    if let Some(length) = plan.lengths.iter().find(|l| **l > ctx) {
        let allowed = format!("at most {ctx}, the context");
        return refuse("length", length.to_string(), allowed);
    }
    if let Some(depth) = plan.depths.iter().find(|d| !(0.0..=1.0).contains(*d)) {
        return refuse("depth", depth.to_string(), "0..=1".into());
    }
    Ok(())
}

/// Whether the text begins with this number and the number ends there.
fn begins_with(text: &str, number: &str) -> bool {
    text.strip_prefix(number)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// What is planted and asked for.
struct Fact {
    needle: String,
    question: String,
    number: String,
}

/// Needle, question and the beginning of the answer, with `{}` for the city; the number follows the
/// needle's and the answer's text.
const WORDINGS: [[&str; 3]; 3] = [
    [
        "The magic number of {} is",
        "What is the magic number of {}?",
        "The magic number of {} is",
    ],
    [
        "Remember that the locker code for {} is",
        "Which code opens the locker for {}?",
        "The locker code for {} is",
    ],
    [
        "The parcel that goes to {} carries the label",
        "Which label does the parcel that goes to {} carry?",
        "The parcel that goes to {} carries the label",
    ],
];

const CITIES: [&str; 10] = [
    "Lisbon", "Oslo", "Cairo", "Lima", "Kyoto", "Dublin", "Prague", "Nairobi", "Boston", "Sydney",
];

impl Fact {
    fn new(number: usize) -> Fact {
        let city = CITIES[number % CITIES.len()];
        let [needle, question, answer] =
            WORDINGS[number % WORDINGS.len()].map(|text| text.replace("{}", city));
        // Five digits, no zero first.
        let number = (10_000 + mixed(number as u64 + 1) % 90_000).to_string();
        Fact {
            needle: format!("{needle} {number}."),
            question: format!("\n\nQuestion: {question}\nAnswer: {answer}"),
            number,
        }
    }
}

/// Filler by sentences.
struct Haystack {
    sentences: Vec<String>,
    /// Tokens of each, taken alone.
    tokens: Vec<usize>,
}

impl Haystack {
    fn new(tokenizer: &Tokenizer, sentences: Vec<String>) -> Result<Haystack> {
        let count = |s: &String| Ok(tokenizer.encode(s, Encode::default())?.len().max(1));
        let tokens = sentences.iter().map(count).collect::<Result<Vec<_>>>()?;
        if sentences.is_empty() {
            return Err(Error::Request {
                what: "filler text".into(),
                value: "empty".into(),
                allowed: "at least one sentence".into(),
            });
        }
        Ok(Haystack { sentences, tokens })
    }

    /// The longest prompt of whole sentences with at most `length` tokens.
    fn prompt(
        &self,
        tokenizer: &Tokenizer,
        fact: &Fact,
        length: usize,
        depth: f64,
    ) -> Result<(Prompt, (String, Range<usize>))> {
        let answer = format!(" {}", fact.number);
        let build = |count| -> Result<_> {
            let text = self.text(fact, count, depth);
            Ok((Prompt::new(tokenizer, &text.0, &answer)?, text))
        };
        let bare = build(0)?.0.ids.len();
        let room = length.checked_sub(bare).ok_or_else(|| Error::Request {
            what: "length".into(),
            value: length.to_string(),
            allowed: format!("at least {bare}, the question alone"),
        })?;
        // Sentences in a row seldom take more tokens than each alone; where they do, fewer fit.
        let mut count = self.fitting(room);
        loop {
            let built = build(count)?;
            if built.0.ids.len() <= length {
                return Ok(built);
            }
            count -= 1;
        }
    }

    /// Number of sentences whose tokens together are at most `room`.
    fn fitting(&self, room: usize) -> usize {
        let tokens = self.tokens.iter().cycle();
        let sums = tokens.scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        });
        sums.take_while(|sum| *sum <= room).count()
    }

    /// `count` sentences with the needle behind the share `depth` of their tokens, and the question; where
    /// in it the needle is.
    fn text(&self, fact: &Fact, count: usize, depth: f64) -> (String, Range<usize>) {
        let tokens = || self.tokens.iter().cycle().take(count);
        let target = depth * tokens().sum::<usize>() as f64;
        let mut sum = 0.0;
        let before = tokens().take_while(|n| {
            sum += **n as f64;
            sum - **n as f64 / 2.0 < target
        });
        let before = before.count();
        let filler: Vec<&str> = self.sentences.iter().map(String::as_str).collect();
        let filler = filler.iter().copied().cycle();
        let mut text = String::new();
        for sentence in filler.clone().take(before) {
            text += sentence;
            text.push(' ');
        }
        let start = text.len();
        text += &fact.needle;
        let needle = start..text.len();
        for sentence in filler.skip(before).take(count - before) {
            text.push(' ');
            text += sentence;
        }
        (text + &fact.question, needle)
    }
}

/// Sentences of a text.
fn sentences(text: &str) -> Vec<String> {
    let parts = text.split_inclusive(['.', '!', '?', '\n', '。', '！', '？']);
    let parts = parts.map(|s| s.split_whitespace().collect::<Vec<_>>().join(" "));
    parts.filter(|s| !s.is_empty()).collect()
}

/// Different sentences made up before they repeat.
const FILLERS: usize = 4096;

const WHO: [&str; 16] = [
    "The baker",
    "A young clerk",
    "My neighbour",
    "The old sailor",
    "Her brother",
    "The teacher",
    "A tired traveller",
    "The gardener",
    "Our cousin",
    "The night guard",
    "A visiting painter",
    "The librarian",
    "His aunt",
    "The ferryman",
    "A retired judge",
    "The carpenter",
];
const DOES: [&str; 16] = [
    "watched the rain",
    "mended a chair",
    "waited for the bus",
    "read the morning paper",
    "drank a cup of tea",
    "wrote a long letter",
    "fed the pigeons",
    "looked for a lost glove",
    "hummed an old song",
    "swept the stairs",
    "counted the passing trains",
    "peeled an apple",
    "talked about the weather",
    "watered the flowers",
    "folded the clean sheets",
    "listened to the radio",
];
const WHERE: [&str; 16] = [
    "in the kitchen",
    "near the harbour",
    "behind the church",
    "on the wooden bridge",
    "under the chestnut tree",
    "at the corner shop",
    "by the open window",
    "in the empty hall",
    "along the quiet river",
    "in front of the school",
    "beside the fountain",
    "on the way to the market",
    "in the back garden",
    "outside the post office",
    "at the edge of the wood",
    "in the small courtyard",
];

/// Sentence number `n` of the made-up filler; all below [`FILLERS`] differ.
fn filler(n: usize) -> String {
    // An odd factor visits every number once, in an order without plain rhythm.
    let n = n * 2477 % FILLERS;
    let [who, does, place] = [WHO[n % 16], DOES[n / 16 % 16], WHERE[n / 256]];
    format!("{who} {does} {place}.")
}

/// Bits of a number, mixed (the finishing step of SplitMix64).
pub(super) fn mixed(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use geb::gguf::GgufFile;
    use geb_convert::{Options, convert_to_vec};

    #[test]
    fn sentences_of_the_filler_differ() {
        let all: std::collections::BTreeSet<String> = (0..FILLERS).map(filler).collect();
        assert_eq!(all.len(), FILLERS);
    }

    #[test]
    fn the_needle_is_found_among_the_tokens() {
        for case in ["llama", "llama3", "gpt2"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
            let source = dir.join(case).join("hf");
            let (bytes, _) = convert_to_vec(&source, &Options::default()).expect("converts");
            let file = GgufFile::from_bytes(bytes).expect("GGUF");
            let tokenizer = Tokenizer::from_gguf(&file).expect("tokenizer");
            let sentences = (0..50).map(filler).collect();
            let haystack = Haystack::new(&tokenizer, sentences).expect("sentences");
            for depth in [0.0, 0.4, 1.0] {
                let fact = Fact::new(1);
                let found = haystack.prompt(&tokenizer, &fact, 1500, depth);
                let (prompt, (text, bytes)) = found.expect("a prompt");
                assert_eq!(text[bytes.clone()], fact.needle);
                let planted = Planted {
                    length: 1500,
                    depth,
                    needle: 1,
                    number: fact.number.clone(),
                    prompt,
                    text,
                    bytes,
                };
                let tokens = planted.needle_tokens(&tokenizer).expect("tokens");
                let found = tokenizer.decode(&planted.prompt.ids[tokens]);
                // The full stop may be one token with what follows.
                assert!(fact.needle.starts_with(found.trim()), "{case} {found:?}");
                assert!(found.contains(&fact.number), "{case} {found:?}");
            }
        }
    }

    #[test]
    fn facts_differ_and_ask_for_what_they_say() {
        let facts: Vec<Fact> = (0..30).map(Fact::new).collect();
        for (i, fact) in facts.iter().enumerate() {
            assert!(fact.needle.ends_with(&format!(" {}.", fact.number)));
            assert!(!fact.question.contains(&fact.number) && fact.number.len() == 5);
            let city = CITIES[i % 10];
            assert!(fact.needle.contains(city) && fact.question.contains(city));
            assert!(facts[..i].iter().all(|f| f.needle != fact.needle));
        }
    }

    #[test]
    fn texts_are_cut_into_sentences() {
        let text = "One two. Three\nfour!  五六。七";
        assert_eq!(
            sentences(text),
            ["One two.", "Three", "four!", "五六。", "七"]
        );
        assert!(sentences(" \n ").is_empty());
    }

    #[test]
    fn a_longer_number_is_another_one() {
        assert!(begins_with("123.", "123") && begins_with("123", "123"));
        assert!(!begins_with("1234", "123") && !begins_with("12", "123"));
    }
}
