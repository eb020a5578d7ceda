//! Grammars that answers are held to, from JSON schemas, regular expressions and Lark, by llguidance.
//!
//! ```text
//! Source --compile--> Compiled { grammar, unenforced }      once for each source, the last 64 are kept
//! grammar -> Constraint of geb::constraint                  one matcher for each answer, on a thread of its own
//! ```
//! What is hostile costs its own request alone: a grammar is compiled and asked once within [`FIRST`], and each later
//! step has [`STEP`]; what takes longer is cut short ([`watch`]).

mod matcher;
mod source;
mod vocab;
mod watch;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use geb::constraint::Grammar;
use geb::error::{Error, Result};
use geb::tokenizer::Tokenizer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory, earley::SlicedBiasComputer};
use sha2::{Digest, Sha256};

use matcher::Ready;
pub use source::Source;
use vocab::Vocabulary;
pub use watch::{FIRST, STEP};

/// Grammars that are kept.
const KEPT: usize = 64;
/// States of the automaton of a grammar, of 1 to 2 kB.
const MOST_STATES: usize = 50_000;

/// A grammar that can be used.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The grammar.
    pub grammar: Arc<dyn Grammar>,
    /// What of a schema it does not enforce, a line each.
    pub unenforced: Vec<String>,
}

/// The grammars of a tokenizer.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Made when a grammar is asked for, from the whole vocabulary.
    factory: OnceLock<Result<ParserFactory, String>>,
    kept: Mutex<VecDeque<([u8; 32], Compiled)>>,
}

impl Grammars {
    /// Grammars of what this tokenizer writes.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Grammars {
        Grammars {
            tokenizer,
            factory: OnceLock::new(),
            kept: Mutex::default(),
        }
    }

    /// The grammar of a source. Takes up to [`FIRST`] and, for the first of a vocabulary, up to a second more.
    ///
    /// # Errors
    /// [`Error::Constraint`] says what is wrong with the source, [`Error::Slow`] that it takes too long.
    pub fn compile(&self, source: &Source) -> Result<Compiled> {
        let key: [u8; 32] = Sha256::digest(source.key()).into();
        if let Some(found) = self.find(&key) {
            return Ok(found);
        }
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer));
        let factory = factory.as_ref().map_err(|e| Error::Constraint(e.clone()))?;
        let parser = factory.create_parser(source.grammar()?);
        let mut matcher = Matcher::new(parser).into_cancellable();
        if let Some(why) = matcher.get_error() {
            return Err(Error::Constraint(source::said(&why)));
        }
        watch::within(FIRST, &mut matcher, Matcher::compute_mask_or_eos)?;
        let unenforced = matcher.grammar_warnings();
        let ready = Ready::new(matcher, self.tokenizer.stop_ids());
        // What fails at its first step fails here.
        ready.matcher().begin(&[])?;
        let compiled = Compiled {
            grammar: Arc::new(ready),
            unenforced,
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT - 1);
        kept.push_front((key, compiled.clone()));
        Ok(compiled)
    }

    /// One that is kept, which then is the last to go.
    fn find(&self, key: &[u8; 32]) -> Option<Compiled> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(k, _)| k == key)?;
        let found = kept.remove(at)?;
        kept.push_front(found);
        kept.front().map(|(_, compiled)| compiled.clone())
    }
}

/// What makes parsers for a vocabulary.
fn factory(tokenizer: &Arc<Tokenizer>) -> Result<ParserFactory, String> {
    let env: TokEnv = Arc::new(Vocabulary::new(tokenizer.clone()));
    let abilities = InferenceCapabilities {
        ff_tokens: true,
        ..InferenceCapabilities::default()
    };
    let slices = SlicedBiasComputer::json_slices();
    let mut factory = ParserFactory::new(&env, abilities, &slices).map_err(|e| e.to_string())?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.verbose_errors = false;
    limits.max_lexer_states = MOST_STATES;
    Ok(factory)
}
