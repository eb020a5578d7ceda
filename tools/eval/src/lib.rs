//! How good a model is on a text, and how near it stays to a reference.
//!
//! [`TextRun`] evaluates a base and any number of candidates in lockstep: all of them see the same
//! window of text, then the same few rows of logits are compared and forgotten. What is kept is
//! one line of a table per counted token (9 bytes per model): negative log-likelihood, divergence
//! from the base, agreement of the most probable tokens. Every number of a [`Report`] is a function
//! of that table, so a run that was stopped and resumed, or that had other threads, reports the
//! same bits.
//!
//! [`Scores`] gives the log-probabilities of single tokens, [`weights`] the differences of the weights
//! themselves; [`choice`] answers questions from local data sets, [`needle`] looks how far back a
//! model reads, [`table`] whether it knows a table by heart, [`labels`] what it learns from examples,
//! [`clash`] whether it believes its prompt, [`quotes`] what it copied, [`probe`] looks into it.
//! None of them knows files of models or terminals.

mod bits;
pub mod choice;
pub mod clash;
pub mod compare;
pub mod labels;
mod method;
pub mod needle;
pub mod probe;
pub mod quotes;
mod report;
pub mod retrieval;
mod rows;
mod scores;
mod stats;
pub mod table;
mod text;
pub mod weights;

pub use method::Method;
pub use report::{Bin, DeltaP, Divergence, Kl, Report};
pub use scores::{Scores, TokenScore};
pub use stats::{Estimate, quantile};
pub use text::{TextRun, evaluate};
