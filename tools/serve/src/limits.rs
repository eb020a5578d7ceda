//! Every bound on what a client may send, one constant each.

use std::time::Duration;

/// Bytes of a body.
pub const BODY_BYTES: usize = 4 << 20;
/// Bytes of a body that is read where it arrives; larger ones are read beside.
pub const BODY_AT_ONCE: usize = 32 << 10;
/// Header fields of a request.
pub const HEADERS: usize = 64;
/// Bytes of all header fields and of the target.
pub const HEADER_BYTES: usize = 32 << 10;
/// Bytes of a connection's buffer; a request head that does not fit is refused by the parser itself.
pub const BUFFER_BYTES: usize = 64 << 10;
/// Lists and objects inside each other.
pub const JSON_DEPTH: usize = 32;
/// How long a request head may take, silence between two requests included.
pub const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a body may take.
pub const BODY_TIME: Duration = Duration::from_secs(30);
/// How long a client may take nothing of an answer.
pub const WRITE_TIME: Duration = Duration::from_secs(30);
/// How long what a client still sends is read when its last response is out, and how many bytes of it.
pub const LINGER: (Duration, usize) = (Duration::from_secs(2), 4 * BODY_BYTES);
/// Connections at once.
pub const CONNECTIONS: usize = 256;
/// Silence of a stream after which it says that it lives.
pub const PING: Duration = Duration::from_secs(15);
/// Tools of a conversation.
pub const TOOLS: usize = 128;
/// Bytes of a text to be read.
pub const TEXT_BYTES: usize = 1 << 20;
/// Prompts and answers of a request that run or wait at once; the others follow.
pub const AT_ONCE: usize = 64;
/// Prompts of a request.
pub const PROMPTS: usize = 256;
/// Answers to a prompt.
pub const ANSWERS: usize = 8;
/// Stop texts.
pub const STOPS: usize = 16;
/// Alternatives told for a token.
pub const TOP_LOG_PROBS: usize = 20;
/// Texts that are tokenized, rendered or compiled at once.
pub const BLOCKING: usize = 4;
/// Bytes of an API key.
pub const KEY_BYTES: usize = 4 << 10;
