//! Tool calls and reasoning in what a model writes.
//!
//! `table` has a row for each way to write calls; `reader` chooses its reader: `object` for JSON, `named` for a name
//! before JSON, `tagged` for text between tags (`typed` says what a text stands for), `notation` for what is no
//! JSON, `harmony` for messages with channels; `json` follows JSON that is not whole. `reply` reads a reply as it
//! comes and tells `events`.

mod events;
mod happening;
mod harmony;
mod ids;
mod json;
mod named;
mod notation;
mod object;
mod reader;
mod reply;
mod table;
mod tagged;
#[cfg(test)]
mod tests;
mod tool;
mod typed;

pub use events::{Delivery, Reply, ReplyEvent, ToolCall};
pub use ids::CallIds;
pub use reply::ReplyParser;
pub use tool::Tool;
