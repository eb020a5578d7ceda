//! Schemas of arguments as a grammar wants them.

use serde_json::{Value, json};

use super::tool::Tool;
use crate::constraint::for_grammar;

/// The schema of a tool's arguments. What a constraint cannot enforce is let through; a client's own options for
/// the constraint are taken away.
pub(super) fn arguments(tool: &Tool) -> Value {
    let mut schema = tool.parameters.as_object().cloned().unwrap_or_default();
    if !schema.contains_key("type") {
        schema.insert("type".into(), json!("object"));
    }
    for_grammar(&schema, true)
}

/// The schema of one parameter, with the definitions that it may refer to.
pub(super) fn parameter(tool: &Tool, name: &str) -> Value {
    let own = tool.parameters["properties"][name].as_object();
    let mut schema = own.cloned().unwrap_or_default();
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = tool.parameters.get(key) {
            schema.insert(key.into(), definitions.clone());
        }
    }
    for_grammar(&schema, true)
}
