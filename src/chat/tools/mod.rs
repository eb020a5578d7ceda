//! Tool calls and reasoning in what a model writes.
//!
//! `table` has a row for each way to write calls; `reader` chooses its reader: `object` for JSON, `named` for a name
//! before JSON, `tagged` for text between tags (`typed` says what a text stands for), `notation` for what is no
//! JSON, `harmony` for messages with channels; `json` follows JSON that is not whole. `reply` reads a reply as it
//! comes and tells `events`. `format` is the row of a template: found by markers, and proved (`proof`) by rendering
//! two calls in the `forms` that a template may want them in, and reading them back.

mod events;
mod format;
pub(in crate::chat) mod forms;
mod grammar;
mod happening;
mod harmony;
mod ids;
mod json;
mod named;
mod notation;
mod object;
mod proof;
mod reader;
mod reply;
mod schema;
mod table;
mod tagged;
#[cfg(test)]
mod tests;
mod tool;
mod typed;

pub use events::{Delivery, Reply, ReplyEvent, ToolCall};
pub(in crate::chat) use format::Seen;
pub use format::{Asked, ReplyFormat};
pub use grammar::{CallGrammar, From, Most, ToolChoice};
pub use ids::CallIds;
pub(in crate::chat) use ids::nine;
pub use proof::Proof;
pub use reply::ReplyParser;
pub(in crate::chat) use table::IdStyle;
pub use tool::Tool;
