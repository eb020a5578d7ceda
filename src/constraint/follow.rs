//! One answer and its grammar: where the text stands, what is asked of the grammar's thread, what it said.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::openings::Openings;
use super::{Constraint, Grammar, Next, Reasoning, TokenSet};
use crate::error::{Error, Result};
use crate::threads;

/// Stack of the thread of a grammar: expressions are nested as deep as their text is long.
const STACK: usize = 16 << 20;

/// Called when a grammar has said how a text may go on.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// How the next token is chosen.
#[derive(Debug)]
pub(crate) enum Choice {
    /// From all.
    Free,
    /// It is this one.
    Forced(u32),
    /// From these.
    Among(Arc<TokenSet>),
    /// There is none: the text is whole.
    End,
}

/// Where a text stands.
#[derive(Debug)]
enum Stand {
    /// At its first token, which may begin reasoning.
    First { open: u32, close: String },
    /// In its reasoning.
    Reasoning(Openings),
    /// In front of an opening.
    Free(Openings),
    /// In a text of the grammar.
    Held,
}

/// What is said to the thread of a grammar.
enum Ask {
    Begin(Vec<u8>),
    Take(u32),
}

/// The thread of a grammar. It ends when this is dropped.
struct Worker {
    asks: Sender<Ask>,
    answers: Receiver<Result<Option<Next>>>,
}

/// An answer that a constraint holds.
pub(crate) struct Follow {
    constraint: Constraint,
    stand: Stand,
    worker: Option<Worker>,
    /// The thread owes an answer.
    asked: bool,
    /// It has come, and was not looked at.
    answer: Option<Result<Option<Next>>>,
    forced: VecDeque<u32>,
    allowed: Option<Arc<TokenSet>>,
}

impl Follow {
    pub(crate) fn new(constraint: Constraint) -> Follow {
        let stand = match &constraint.reasoning {
            Reasoning::None => Stand::behind_reasoning(&constraint),
            Reasoning::Open { close } => {
                Stand::Reasoning(Openings::of(std::slice::from_ref(close)))
            }
            Reasoning::Possible { open, close } => Stand::First {
                open: *open,
                close: close.clone(),
            },
        };
        Follow {
            constraint,
            stand,
            worker: None,
            asked: false,
            answer: None,
            forced: VecDeque::new(),
            allowed: None,
        }
    }

    /// Starts the thread, once.
    ///
    /// # Errors
    /// [`Error::Threads`].
    pub(crate) fn start(&mut self, wake: Option<&Wake>) -> Result<()> {
        if self.worker.is_some() {
            return Ok(());
        }
        let (asks, theirs) = channel();
        let (said, answers) = channel();
        let grammar = self.constraint.grammar.clone();
        let thread = std::thread::Builder::new().name("geb-grammar".into());
        let thread = thread.stack_size(STACK);
        let wake = wake.cloned();
        let run = move || follow(&*grammar, &theirs, &said, wake.as_deref());
        thread.spawn(run).map_err(|e| threads::refused(1, e))?;
        self.worker = Some(Worker { asks, answers });
        let held_at_once = self.constraint.openings.is_empty();
        if matches!(self.stand, Stand::Held | Stand::First { .. }) && held_at_once {
            self.ask(Ask::Begin(Vec::new()));
        }
        Ok(())
    }

    fn ask(&mut self, ask: Ask) {
        // A thread that has ended is noticed when its answer is waited for.
        if let Some(worker) = &self.worker {
            _ = worker.asks.send(ask);
        }
        self.asked = true;
        self.allowed = None;
    }

    /// Waits for the answer that the thread owes, at most so long, without `most` until it comes; whether it is there.
    fn receive(&mut self, most: Option<Duration>) -> bool {
        let Some(worker) = self.worker.as_ref().filter(|_| self.asked) else {
            return true;
        };
        if self.answer.is_none() {
            let answer = match most {
                Some(most) => worker.answers.recv_timeout(most),
                None => (worker.answers.recv()).map_err(|_| RecvTimeoutError::Disconnected),
            };
            self.answer = match answer {
                Ok(answer) => Some(answer),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Err(Error::Panic(
                    "the thread of a grammar has ended".into(),
                ))),
            };
        }
        self.answer.is_some()
    }

    /// Whether it is known how the text goes on; waits for that at most so long, without `most` until it is.
    ///
    /// # Errors
    /// What the grammar failed with; [`Error::Constraint`] where the text behind the reasoning is none of it.
    pub(crate) fn ready(&mut self, most: Option<Duration>) -> Result<bool> {
        if !self.receive(most) {
            return Ok(false);
        }
        let Some(answer) = self.answer.take() else {
            return Ok(true);
        };
        self.asked = false;
        match answer? {
            Some(next) => {
                self.forced.extend(next.forced);
                self.allowed = next.allowed;
            }
            // What stands behind the opening is no text of the grammar: it was none of its openings.
            None if !self.constraint.openings.is_empty() => self.free(),
            None => {
                let why = "the answer has begun, in the token that ends its reasoning, with a text that is not allowed";
                return Err(Error::Constraint(why.into()));
            }
        }
        Ok(true)
    }

    fn free(&mut self) {
        self.stand = Stand::Free(Openings::of(&self.constraint.openings));
    }

    /// How the next token is chosen, once it is [`ready`](Self::ready).
    pub(crate) fn choose(&mut self) -> Choice {
        match &self.stand {
            Stand::Reasoning(_) | Stand::Free(_) => Choice::Free,
            Stand::First { .. } if !self.constraint.openings.is_empty() => Choice::Free,
            Stand::First { open, .. } => {
                let mut set = match (self.forced.front(), &self.allowed) {
                    (Some(_), _) | (_, None) => TokenSet::of(Vec::new()),
                    (None, Some(allowed)) => TokenSet::clone(allowed),
                };
                set.add(*open);
                self.forced
                    .front()
                    .iter()
                    .for_each(|token| set.add(**token));
                Choice::Among(Arc::new(set))
            }
            Stand::Held => match (self.forced.front(), &self.allowed) {
                (Some(token), _) => Choice::Forced(*token),
                (None, Some(allowed)) => Choice::Among(allowed.clone()),
                (None, None) if self.constraint.openings.is_empty() => Choice::End,
                (None, None) => {
                    self.free();
                    Choice::Free
                }
            },
        }
    }

    /// A token of the answer was chosen, which says `bytes`.
    pub(crate) fn took(&mut self, token: u32, bytes: &[u8]) {
        if let Stand::First { open, close } = &self.stand {
            if token == *open {
                self.stand = Stand::Reasoning(Openings::of(std::slice::from_ref(close)));
                // Behind the reasoning the grammar is asked anew.
                self.forced.clear();
                return;
            }
            self.stand = Stand::behind_reasoning(&self.constraint);
        }
        if let Stand::Reasoning(closing) = &mut self.stand {
            let Some(rest) = closing.push(bytes) else {
                return;
            };
            self.stand = Stand::behind_reasoning(&self.constraint);
            match &mut self.stand {
                Stand::Free(_) => self.look(&rest),
                _ => self.ask(Ask::Begin(rest.trim_ascii_start().to_vec())),
            }
            return;
        }
        match &self.stand {
            Stand::Free(_) => self.look(bytes),
            _ if self.forced.front() == Some(&token) => drop(self.forced.pop_front()),
            _ => self.ask(Ask::Take(token)),
        }
    }

    /// Looks for an opening in more of a free text.
    fn look(&mut self, bytes: &[u8]) {
        if let Stand::Free(openings) = &mut self.stand
            && let Some(rest) = openings.push(bytes)
        {
            self.stand = Stand::Held;
            self.ask(Ask::Begin(rest));
        }
    }

    /// Tokens that are known to follow. What the grammar fails with is told when a token is chosen.
    pub(crate) fn known(&mut self) -> impl ExactSizeIterator<Item = u32> {
        let waiting = self.asked && self.receive(Some(Duration::ZERO));
        if waiting && matches!(self.answer, Some(Ok(Some(_)))) {
            _ = self.ready(Some(Duration::ZERO));
        }
        let held = matches!(self.stand, Stand::Held) && !self.asked;
        let known = if held { self.forced.len() } else { 0 };
        self.forced.iter().copied().take(known)
    }

    /// Whether the token may be the next one, as far as is known.
    pub(crate) fn admits(&self, token: u32) -> bool {
        let held = matches!(self.stand, Stand::Held);
        let allowed = self.allowed.as_ref();
        !held || allowed.is_none_or(|allowed| allowed.has(token))
    }
}

impl Stand {
    /// Where a text without reasoning, or behind it, stands.
    fn behind_reasoning(constraint: &Constraint) -> Stand {
        match constraint.openings.is_empty() {
            true => Stand::Held,
            false => Stand::Free(Openings::of(&constraint.openings)),
        }
    }
}

/// The thread of a grammar: answers one question after the other.
fn follow(
    grammar: &dyn Grammar,
    asks: &Receiver<Ask>,
    answers: &Sender<Result<Option<Next>>>,
    wake: Option<&(dyn Fn() + Send + Sync)>,
) {
    let mut matcher = None;
    while let Ok(ask) = asks.recv() {
        let answer = || match (ask, &mut matcher) {
            (Ask::Begin(said), matcher) => matcher.insert(grammar.matcher()).begin(&said),
            (Ask::Take(token), Some(matcher)) => matcher.take(token).map(Some),
            (Ask::Take(_), None) => Ok(None),
        };
        let answer = catch_unwind(AssertUnwindSafe(answer));
        let answer = answer.unwrap_or_else(|_| Err(Error::Panic("a grammar failed".into())));
        if answers.send(answer).is_err() {
            break;
        }
        if let Some(wake) = wake {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Matcher;
    use super::*;

    /// Texts of the token 5, twice, and then nothing; what was said already must be empty or `(`.
    #[derive(Debug)]
    struct Fives;

    struct Left(usize);

    impl Grammar for Fives {
        fn matcher(&self) -> Box<dyn Matcher> {
            Box::new(Left(2))
        }
    }

    impl Matcher for Left {
        fn begin(&mut self, said: &[u8]) -> Result<Option<Next>> {
            Ok(matches!(said, b"" | b"(").then(|| self.next()))
        }

        fn take(&mut self, token: u32) -> Result<Next> {
            assert_eq!(token, 5, "only what is allowed is taken");
            self.0 -= 1;
            Ok(self.next())
        }
    }

    impl Left {
        fn next(&self) -> Next {
            let mut five = TokenSet::of(Vec::new());
            five.add(5);
            Next {
                forced: Vec::new(),
                allowed: (self.0 > 0).then(|| Arc::new(five)),
            }
        }
    }

    fn following(reasoning: Reasoning, openings: &[&str]) -> Follow {
        let mut follow = Follow::new(Constraint {
            grammar: Arc::new(Fives),
            reasoning,
            openings: openings.iter().map(|o| (*o).to_owned()).collect(),
        });
        follow.start(None).expect("a thread");
        follow
    }

    /// Which of the tokens 0 to 9 may follow; `None`: any, or none and the end.
    fn allowed(follow: &mut Follow) -> Result<Vec<u32>, &'static str> {
        assert!(follow.ready(None).expect("it says"));
        match follow.choose() {
            Choice::Free => Err("free"),
            Choice::End => Err("end"),
            Choice::Forced(token) => Ok(vec![token]),
            Choice::Among(set) => Ok((0..10).filter(|t| set.has(*t)).collect()),
        }
    }

    #[test]
    fn a_whole_answer_ends_with_its_grammar() {
        let mut follow = following(Reasoning::None, &[]);
        for _ in 0..2 {
            assert_eq!(allowed(&mut follow), Ok(vec![5]));
            assert!(follow.admits(5) && !follow.admits(4));
            follow.took(5, b"V");
        }
        assert_eq!(allowed(&mut follow), Err("end"));
    }

    #[test]
    fn reasoning_comes_first_where_the_answer_begins_with_it() {
        let close = "</t>".to_owned();
        let possible = Reasoning::Possible { open: 7, close };
        let mut without = following(possible.clone(), &[]);
        assert_eq!(allowed(&mut without), Ok(vec![5, 7]));
        without.took(5, b"V");
        assert_eq!(allowed(&mut without), Ok(vec![5]));
        let mut with = following(possible, &[]);
        assert_eq!(allowed(&mut with), Ok(vec![5, 7]));
        with.took(7, b"<t>");
        for bytes in [b"V V".as_slice(), b"</", b"t>\n"] {
            assert_eq!(allowed(&mut with), Err("free"));
            with.took(1, bytes);
        }
        assert_eq!(allowed(&mut with), Ok(vec![5]));
    }

    #[test]
    fn an_answer_is_free_before_between_and_behind_calls() {
        let mut follow = following(Reasoning::None, &["<c>"]);
        for _ in 0..2 {
            for bytes in [b"text <".as_slice(), b"c", b">("] {
                assert_eq!(allowed(&mut follow), Err("free"));
                follow.took(1, bytes);
            }
            for _ in 0..2 {
                assert_eq!(allowed(&mut follow), Ok(vec![5]));
                follow.took(5, b"V");
            }
            assert_eq!(allowed(&mut follow), Err("free"));
        }
        follow.took(1, b"<c>)");
        assert_eq!(allowed(&mut follow), Err("free"), "it was no opening");
    }

    /// It fails behind its first token.
    #[derive(Debug)]
    struct Broken;

    impl Grammar for Broken {
        fn matcher(&self) -> Box<dyn Matcher> {
            Box::new(Broken)
        }
    }

    impl Matcher for Broken {
        fn begin(&mut self, _: &[u8]) -> Result<Option<Next>> {
            Ok(Some(Left(1).next()))
        }

        fn take(&mut self, _: u32) -> Result<Next> {
            Err(Error::Constraint("broken".into()))
        }
    }

    #[test]
    fn what_a_grammar_fails_with_is_told_when_a_token_is_chosen() {
        let mut follow = Follow::new(Constraint::whole(Arc::new(Broken)));
        follow.start(None).expect("a thread");
        assert!(follow.ready(None).expect("it says"));
        follow.took(5, b"V");
        while !follow.receive(Some(Duration::ZERO)) {}
        // However often it is asked what is known.
        assert_eq!(follow.known().len(), 0);
        assert_eq!(follow.known().len(), 0);
        assert!(matches!(follow.ready(None), Err(Error::Constraint(why)) if why == "broken"));
    }

    #[test]
    fn what_does_not_fit_behind_reasoning_is_an_error() {
        let close = "</t>".to_owned();
        let mut follow = following(Reasoning::Open { close }, &[]);
        follow.took(1, b"hm</t>x");
        let error = follow.ready(None);
        assert!(matches!(error, Err(Error::Constraint(_))), "{error:?}");
    }
}
