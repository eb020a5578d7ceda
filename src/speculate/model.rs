//! A draft model: a smaller model with the same vocabulary, in a session of its own.

use super::{Draft, Drafter, Offer};
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value, ValueType};
use crate::sampler::argmax;
use crate::session::{Session, Want};

/// Guesses with another model, always its most probable token.
pub struct DraftModel {
    session: Session,
}

impl DraftModel {
    /// Takes the session of the draft model; `target` is the file of the model that decodes.
    ///
    /// # Errors
    /// [`Error::Request`] if the vocabularies differ; it names the first difference.
    pub fn new(session: Session, target: &GgufFile) -> Result<Self> {
        same_vocabulary(target, session.model().file())?;
        Ok(Self { session })
    }
}

impl Drafter for DraftModel {
    fn name(&self) -> &'static str {
        "draft"
    }

    fn offer(&mut self, history: &[u32]) -> Option<Offer> {
        let room = history.len() < self.session.ctx();
        room.then_some(Offer {
            class: 0,
            next: None,
        })
    }

    fn draft(
        &mut self,
        _: &mut Draft<'_>,
        history: &[u32],
        max: usize,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        // What it has read of the text, wrong guesses taken back; at least the last token is evaluated.
        let known = self.session.common_prefix(history);
        let known = known.min(history.len().saturating_sub(1));
        self.session.truncate(known);
        // A sliding window may have kept less.
        let known = self.session.pos();
        let mut next = argmax(self.session.forward(&history[known..], Want::Last)?)?;
        out.push(next);
        while out.len() < max && self.session.pos() < self.session.ctx() {
            next = argmax(self.session.forward(&[next], Want::Last)?)?;
            out.push(next);
        }
        Ok(())
    }
}

/// Checks that ids mean the same in two files: tokenizer, number of tokens, every token.
fn same_vocabulary(target: &GgufFile, draft: &GgufFile) -> Result<()> {
    const MODEL: &str = "tokenizer.ggml.model";
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let differs = |what: String, value: String, allowed: String| {
        Err(Error::Request {
            what: format!("draft model: {what}"),
            value,
            allowed: format!("{allowed}, as in the model"),
        })
    };
    let kind = |file| GgufFile::require(MODEL, GgufFile::str(file, MODEL)?);
    if kind(target)? != kind(draft)? {
        return differs(MODEL.into(), kind(draft)?.into(), kind(target)?.into());
    }
    let tokens = |file| GgufFile::require(TOKENS, GgufFile::array(file, TOKENS, ValueType::Str)?);
    let (ours, theirs) = (tokens(target)?, tokens(draft)?);
    if ours.len != theirs.len {
        let count = |n| format!("{n} tokens");
        return differs("vocabulary".into(), count(theirs.len), count(ours.len));
    }
    if ours.raw() == theirs.raw() {
        return Ok(());
    }
    let mut pairs = ours.iter().zip(theirs.iter()).enumerate();
    match pairs.find(|(_, (a, b))| a != b) {
        Some((id, (Value::Str(a), Value::Str(b)))) => {
            differs(format!("token {id}"), format!("{b:?}"), format!("{a:?}"))
        }
        _ => Ok(()),
    }
}
