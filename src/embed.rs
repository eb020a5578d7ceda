//! Texts as vectors (LLM2Vec, arXiv 2404.05961): hidden states after the output norm, pooled, of length 1.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::session::Session;
use crate::tokenizer::{Encode, Tokenizer};

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one.
    Cls,
    /// The last one.
    Last,
}

/// What to embed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How states become one vector.
    pub pooling: Pooling,
    /// Whether a token sees none after its own.
    pub causal: bool,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::Cls, Pooling::Last];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
            Pooling::Last => "last",
        }
    }

    /// The vector of `states`, `[tokens, width]`, without the first `skip` tokens: `[width]`, length 1.
    pub fn pool(self, states: &[f32], width: usize, skip: usize) -> Vec<f32> {
        let kept = &states[skip * width..];
        let last = kept.len().saturating_sub(width);
        let rows = match self {
            Pooling::Mean => kept,
            Pooling::Cls => &kept[..kept.len().min(width)],
            Pooling::Last => &kept[last..],
        };
        let mut sum = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            sum.iter_mut()
                .zip(row)
                .for_each(|(s, v)| *s += f64::from(*v));
        }
        // The number of rows is no matter: the length becomes 1.
        let length = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
        let length = if length > 0.0 { length } else { 1.0 };
        sum.iter().map(|v| (v / length) as f32).collect()
    }
}

impl Settings {
    /// What the file asks for: `{a}.pooling_type` and `{a}.attention.causal`; else the mean of causal
    /// states.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for ranking models; [`Error::Key`].
    pub fn of(model: &Model) -> Result<Settings> {
        let c = model.config();
        let key = format!("{}.pooling_type", c.arch.name);
        let pooling = match model.file().int(&key, 0..=4)? {
            None | Some(0 | 1) => Pooling::Mean,
            Some(2) => Pooling::Cls,
            Some(3) => Pooling::Last,
            Some(_) => {
                return Err(Error::Unsupported {
                    what: "pooling",
                    value: format!("rank ({key})"),
                    known: Pooling::ALL.map(Pooling::name).join(", "),
                });
            }
        };
        Ok(Settings {
            pooling,
            causal: c.causal,
        })
    }
}

/// Ids of a text and how many of the first ones belong to the instruction before it (with the start
/// token): those are read, but not pooled. Without an instruction all count.
///
/// # Errors
/// Those of encoding.
pub fn encode(
    tokenizer: &Tokenizer,
    instruction: Option<&str>,
    text: &str,
) -> Result<(Vec<u32>, usize)> {
    let plain = Encode {
        add_special: true,
        parse_special: false,
    };
    let Some(instruction) = instruction else {
        return Ok((tokenizer.encode(text, plain)?, 0));
    };
    let whole = tokenizer.encode(&format!("{} {text}", instruction.trim()), plain)?;
    let own = tokenizer.encode(text, Encode::default())?.len() + usize::from(tokenizer.add_eos());
    let skip = whole.len().saturating_sub(own);
    Ok((whole, skip))
}

/// The vector of a text, `[E]`, of length 1; `skip` as [`encode`] returns it.
///
/// # Errors
/// As [`Session::hidden_states`], and [`Error::Request`] for a text without tokens.
pub fn embed(
    session: &mut Session,
    ids: &[u32],
    skip: usize,
    settings: Settings,
) -> Result<Vec<f32>> {
    if skip >= ids.len() {
        return Err(Error::Request {
            what: "text".into(),
            value: "without tokens".into(),
            allowed: "at least one token".into(),
        });
    }
    let width = session.model().config().embedding_length;
    let states = session.hidden_states(ids, settings.causal)?;
    Ok(settings.pooling.pool(&states, width, skip))
}
