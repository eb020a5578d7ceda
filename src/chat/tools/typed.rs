//! Values that are written as plain text: the tool's schema says what they are.

use serde_json::Value;

use super::notation::python_value;
use super::tool::Tool;

// Kinds of JSON values, as bits.
const STRING: u8 = 1;
const NUMBER: u8 = 2;
const BOOLEAN: u8 = 4;
const NULL: u8 = 8;
const OBJECT: u8 = 16;
const ARRAY: u8 = 32;

/// References inside each other that are followed.
const MAX_REFERENCES: usize = 16;

fn kind_of(value: &Value) -> u8 {
    match value {
        Value::String(_) => STRING,
        Value::Number(_) => NUMBER,
        Value::Bool(_) => BOOLEAN,
        Value::Null => NULL,
        Value::Object(_) => OBJECT,
        Value::Array(_) => ARRAY,
    }
}

fn kind_named(name: &Value) -> u8 {
    match name.as_str() {
        Some("string") => STRING,
        Some("number" | "integer") => NUMBER,
        Some("boolean") => BOOLEAN,
        Some("null") => NULL,
        Some("object") => OBJECT,
        Some("array") => ARRAY,
        _ => 0,
    }
}

/// The kinds that a schema allows; none if it does not say.
fn kinds(schema: &Value, root: &Value, depth: usize) -> u8 {
    if depth > MAX_REFERENCES {
        return 0;
    }
    let mut found = match &schema["type"] {
        Value::Array(names) => names.iter().map(kind_named).fold(0, |a, b| a | b),
        name => kind_named(name),
    };
    if found != 0 {
        return found;
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(kind_of).fold(0, |a, b| a | b);
    }
    if let Some(value) = schema.get("const") {
        return kind_of(value);
    }
    if let Some(to) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#'))
        && let Some(schema) = root.pointer(to)
    {
        return kinds(schema, root, depth + 1);
    }
    for name in ["anyOf", "oneOf", "allOf"] {
        let parts = schema[name].as_array().into_iter().flatten();
        found |= parts
            .map(|s| kinds(s, root, depth + 1))
            .fold(0, |a, b| a | b);
    }
    match found {
        0 if schema.get("properties").is_some() => OBJECT,
        0 if schema.get("items").is_some() => ARRAY,
        found => found,
    }
}

/// Whether a parameter of a tool takes strings only: then its text is the value.
pub(super) fn takes_text_only(tool: &Tool, key: &str) -> bool {
    let schema = &tool.parameters["properties"][key];
    kinds(schema, &tool.parameters, 0) == STRING
}

/// The value that a text of the parameter `key` of `tool` stands for.
///
/// Where the schema allows strings only, the text itself. Where it allows something else, the JSON value if it
/// is of an allowed kind. Where it says nothing, the JSON value if it is one. Else the text: nothing is lost.
pub(super) fn value(text: &str, key: &str, tool: Option<&Tool>) -> Value {
    let schema = tool.map(|t| (&t.parameters["properties"][key], &t.parameters));
    let allowed = schema.map_or(0, |(schema, root)| kinds(schema, root, 0));
    if allowed == STRING {
        return Value::from(text);
    }
    let parsed = json_or_python(text.trim(), allowed);
    match parsed {
        Some(value) if allowed == 0 || allowed & kind_of(&value) != 0 => value,
        _ => Value::from(text),
    }
}

/// JSON or, where the schema allows more than strings, a literal of Python, as some templates print them.
fn json_or_python(text: &str, allowed: u8) -> Option<Value> {
    let python = || (allowed & !STRING != 0).then(|| python_value(text));
    let value = serde_json::from_str(text).ok();
    let value = value.or_else(|| python().flatten());
    value.filter(|v: &Value| !v.is_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_schema_decides() {
        let tool = Tool {
            name: "f".into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "s": {"type": "string"},
                    "i": {"type": "integer"},
                    "n": {"type": ["number", "null"]},
                    "b": {"type": "boolean"},
                    "o": {"type": "object"},
                    "a": {"items": {}},
                    "e": {"enum": ["1", "2"]},
                    "u": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                    "r": {"$ref": "#/$defs/r"},
                    "loop": {"$ref": "#/properties/loop"},
                },
                "$defs": {"r": {"type": "array"}},
            }),
        };
        for (key, text, wanted) in [
            ("s", "2", json!("2")),
            ("s", " a\n", json!(" a\n")),
            ("i", "2", json!(2)),
            ("i", " -7 ", json!(-7)),
            ("i", "two", json!("two")),
            ("n", "2.5", json!(2.5)),
            ("n", "null", json!(null)),
            ("n", "None", json!(null)),
            ("b", "true", json!(true)),
            ("b", "False", json!(false)),
            ("b", "2", json!("2")),
            ("o", "{\"a\": [1, \"é\"]}", json!({"a": [1, "é"]})),
            ("a", "[1]", json!([1])),
            (
                "a",
                "[1, 'it\\'s', {'x': True}]",
                json!([1, "it's", {"x": true}]),
            ),
            ("e", "1", json!("1")),
            ("u", "1", json!(1)),
            ("u", "one", json!("one")),
            ("r", "[]", json!([])),
            ("loop", "1", json!(1)),
            ("unknown", "1", json!(1)),
            ("unknown", "text", json!("text")),
            ("unknown", "\"text\"", json!("\"text\"")),
            ("unknown", "True", json!("True")),
        ] {
            assert_eq!(value(text, key, Some(&tool)), wanted, "{key}: {text}");
        }
        assert_eq!(value("[1]", "x", None), json!([1]));
    }
}
