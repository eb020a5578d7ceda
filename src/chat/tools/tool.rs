//! The tools of a request.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::limits;

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments; an object.
    pub parameters: Value,
}

impl Tool {
    /// The tools of a request in OpenAI's form: a list of `{"type": "function", "function": {"name",
    /// "parameters"}}`. Without parameters a tool takes an empty object.
    ///
    /// # Errors
    /// [`Error::Request`] names the first field that is of another form, or more than [`limits::MAX_TOOLS`].
    pub fn list(tools: &Value) -> Result<Vec<Tool>> {
        let Some(list) = tools.as_array() else {
            return match tools {
                Value::Null => Ok(Vec::new()),
                other => Err(refused("tools", other, "a list")),
            };
        };
        if list.len() > limits::MAX_TOOLS {
            let allowed = format!("at most {}", limits::MAX_TOOLS);
            let count = Value::from(list.len());
            return Err(refused("number of tools", &count, &allowed));
        }
        list.iter().enumerate().map(|(i, t)| one(i, t)).collect()
    }
}

fn one(at: usize, tool: &Value) -> Result<Tool> {
    let field = |name: &str| format!("tools[{at}]{name}");
    if !tool.is_object() {
        return Err(refused(&field(""), tool, "an object"));
    }
    match &tool["type"] {
        Value::Null => {}
        kind if kind == "function" => {}
        kind => return Err(refused(&field(".type"), kind, "function")),
    }
    let function = &tool["function"];
    if !function.is_object() {
        return Err(refused(&field(".function"), function, "an object"));
    }
    let name = match function["name"].as_str() {
        Some(name) if is_name(name) => name.to_owned(),
        _ => {
            let allowed = format!(
                "1 to {} characters without white space and control characters",
                limits::MAX_TOOL_NAME
            );
            return Err(refused(
                &field(".function.name"),
                &function["name"],
                &allowed,
            ));
        }
    };
    let parameters = match &function["parameters"] {
        Value::Null => serde_json::json!({ "type": "object", "properties": {} }),
        schema if schema.is_object() => schema.clone(),
        other => return Err(refused(&field(".function.parameters"), other, "an object")),
    };
    Ok(Tool { name, parameters })
}

/// Whether a text can be the name of a function.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    (1..=limits::MAX_TOOL_NAME).contains(&name.chars().count()) && name.chars().all(plain)
}

fn refused(what: &str, value: &Value, allowed: &str) -> Error {
    Error::Request {
        what: what.to_owned(),
        value: if value.is_null() {
            "absent".to_owned()
        } else {
            value.to_string()
        },
        allowed: allowed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tools_are_read_or_named() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let good = json!([
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}},
            {"function": {"name": "g.h-i_2"}},
        ]);
        let tools = Tool::list(&good).expect("valid");
        assert_eq!(tools[0].parameters, schema);
        assert_eq!(tools[1].parameters["type"], "object");
        assert!(Tool::list(&Value::Null).expect("none").is_empty());
        for (bad, field) in [
            (json!({}), "tools is {}"),
            (json!([1]), "tools[0] is 1"),
            (
                json!([{"type": "web_search"}]),
                "tools[0].type is \"web_search\"",
            ),
            (json!([{"type": "function"}]), "tools[0].function is absent"),
            (
                json!([{"function": {}}]),
                "tools[0].function.name is absent",
            ),
            (
                json!([{"function": {"name": "a b"}}]),
                "tools[0].function.name is \"a b\"",
            ),
            (
                json!([{"function": {"name": "a", "parameters": []}}]),
                "tools[0].function.parameters is []",
            ),
            (
                json!(vec![
                    json!({"function": {"name": "a"}});
                    limits::MAX_TOOLS + 1
                ]),
                "number of tools is 129",
            ),
        ] {
            let error = Tool::list(&bad).expect_err("refused").to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
