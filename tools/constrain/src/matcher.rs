//! llguidance's parser as a matcher of `geb`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use geb::constraint::{self, Grammar, Next, TokenSet};
use geb::error::Result;
use llguidance::Matcher;

use crate::watch::{self, STEP};

/// A grammar whose first tokens are worked out.
pub(crate) struct Ready {
    matcher: Mutex<Matcher>,
    stops: Arc<[u32]>,
}

impl Ready {
    pub(crate) fn new(matcher: Matcher, stops: &[u32]) -> Ready {
        Ready {
            matcher: Mutex::new(matcher),
            stops: stops.into(),
        }
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ready")
    }
}

impl Grammar for Ready {
    fn matcher(&self) -> Box<dyn constraint::Matcher> {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        Box::new(Following {
            matcher: matcher.deep_clone(),
            stops: self.stops.clone(),
        })
    }
}

/// One text.
struct Following {
    matcher: Matcher,
    stops: Arc<[u32]>,
}

impl Following {
    /// How the text may go on.
    fn next(&mut self) -> Result<Next> {
        let stops = self.stops.clone();
        watch::within(STEP, &mut self.matcher, |matcher| {
            let mut forced = Vec::new();
            while !matcher.is_stopped() {
                let more = matcher.consume_ff_tokens();
                if more.is_empty() {
                    break;
                }
                forced.extend(more);
            }
            if let Some(why) = matcher.get_error() {
                anyhow::bail!(why);
            }
            // The parser says the end of a text as a token.
            if let Some(at) = forced.iter().position(|id| stops.contains(id)) {
                forced.truncate(at);
                return Ok(Next {
                    forced,
                    allowed: None,
                });
            }
            if matcher.is_stopped() {
                return Ok(Next {
                    forced,
                    allowed: None,
                });
            }
            let mask = matcher.compute_mask()?;
            let ends = stops.iter().any(|id| mask.is_allowed(*id));
            let mut allowed = TokenSet::of(mask.as_slice().to_vec());
            if ends {
                stops.iter().for_each(|id| allowed.add(*id));
            }
            Ok(Next {
                forced,
                allowed: Some(Arc::new(allowed)),
            })
        })
    }
}

impl constraint::Matcher for Following {
    fn begin(&mut self, said: &[u8]) -> Result<Option<Next>> {
        if !said.is_empty() {
            let fits = watch::within(STEP, &mut self.matcher, |matcher| {
                let ids = matcher.tok_env()?.tokenize_bytes(said);
                Ok(matcher.try_consume_tokens(&ids)? == ids.len())
            })?;
            if !fits {
                return Ok(None);
            }
        }
        self.next().map(Some)
    }

    fn take(&mut self, token: u32) -> Result<Next> {
        watch::within(STEP, &mut self.matcher, |matcher| {
            matcher.consume_token(token)
        })?;
        self.next()
    }
}
