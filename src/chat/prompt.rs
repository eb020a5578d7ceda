//! A conversation, ready for a model.

/// What a model reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The text that they stand for.
    pub text: String,
    /// What the reply goes on with: the template's text behind the last message or, where an answer is continued,
    /// what it has said. [`ReplyFormat::parser`](super::tools::ReplyFormat::parser) looks here for reasoning that is open.
    pub opened: String,
    /// Fields of the request without a meaning here, as `messages[0].audio`.
    pub ignored: Vec<String>,
}
