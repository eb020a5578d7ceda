//! Grammars that answers are held to, from JSON schemas, regular expressions and Lark, by llguidance.
//!
//! ```text
//! Source --compile--> Compiled { grammar, unenforced }      once for each source, the last 64 are kept
//! grammar -> Constraint of geb::constraint                  one matcher for each answer, on a thread of its own
//! ```
//! What is hostile costs its own request alone: a grammar is compiled and asked once within [`FIRST`], and each later
//! step has [`STEP`]; what takes longer is cut short ([`watch`]).

mod cpu_time;
mod matcher;
mod source;
mod vocab;
mod watch;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use geb::constraint::Grammar;
use geb::error::{Error, Result};
use geb::threads;
use geb::tokenizer::Tokenizer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory, earley::SlicedBiasComputer};
use sha2::{Digest, Sha256};

use matcher::Ready;
pub use source::Source;
use vocab::Vocabulary;
pub use watch::{FIRST, STEP};

/// Grammars that are kept.
const KEPT: usize = 32;
/// States of the automaton of a grammar, of 1 to 2 kB.
const MOST_STATES: usize = 20_000;
/// Stack of a thread that makes a grammar: rules, references and expressions are followed as deep as they go. It is
/// address space; what is not touched takes no memory.
const STACK: usize = 1 << 30;
/// Grammars that are being made at once, those among them that nobody waits for any more.
const AT_ONCE: usize = 8;

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
    factory: OnceLock<Result<Arc<ParserFactory>, String>>,
    making: Arc<AtomicUsize>,
    kept: Mutex<VecDeque<([u8; 32], Compiled)>>,
}

impl Grammars {
    /// Grammars of what this tokenizer writes.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Grammars {
        Grammars {
            tokenizer,
            factory: OnceLock::new(),
            making: Arc::default(),
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
        source.check()?;
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer));
        let factory = factory.as_ref().map_err(|e| Error::Constraint(e.clone()))?;
        let compiled = self.made(factory.clone(), source.clone())?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT - 1);
        kept.push_front((key, compiled.clone()));
        Ok(compiled)
    }

    /// Makes a grammar on a thread of its own, which goes on by itself where it is too slow: nothing else ends it.
    fn made(&self, factory: Arc<ParserFactory>, source: Source) -> Result<Compiled> {
        let limit_ms = FIRST.as_millis() as u64;
        let place = Place::take(&self.making).ok_or(Error::Slow { limit_ms })?;
        let (stops, (done, waiting)) = (self.tokenizer.stop_ids().to_vec(), channel());
        let thread = std::thread::Builder::new().name("geb-compile".into());
        let work = move || {
            let _place = place;
            let made = AssertUnwindSafe(|| make(&factory, &source, &stops));
            let panicked = |_| Err(Error::Panic("a grammar could not be made".into()));
            _ = done.send(catch_unwind(made).unwrap_or_else(panicked));
        };
        let thread = thread.stack_size(STACK).spawn(work);
        thread.map_err(|e| threads::refused(1, e))?;
        match waiting.recv_timeout(FIRST) {
            Ok(made) => made,
            Err(_) => Err(Error::Slow { limit_ms }),
        }
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

/// One of [`AT_ONCE`].
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(making: &Arc<AtomicUsize>) -> Option<Place> {
        let place = Place(making.clone());
        (making.fetch_add(1, Ordering::Relaxed) < AT_ONCE).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The grammar of a source, asked once.
fn make(factory: &ParserFactory, source: &Source, stops: &[u32]) -> Result<Compiled> {
    let parser = factory.create_parser(source.grammar()?);
    let mut matcher = Matcher::new(parser).into_cancellable();
    if let Some(why) = matcher.get_error() {
        return Err(Error::Constraint(source::said(&why)));
    }
    watch::within(FIRST, &mut matcher, Matcher::compute_mask_or_eos)?;
    let unenforced = matcher.grammar_warnings();
    let ready = Ready::new(matcher, stops);
    // What fails at its first step fails here.
    ready.matcher().begin(&[])?;
    Ok(Compiled {
        grammar: Arc::new(ready),
        unenforced,
    })
}

/// What makes parsers for a vocabulary.
fn factory(tokenizer: &Arc<Tokenizer>) -> Result<Arc<ParserFactory>, String> {
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
    Ok(Arc::new(factory))
}
