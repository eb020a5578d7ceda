//! JSON schemas as a grammar takes them, with what a schema leaves open.

use serde_json::{Map, Value, json};

/// What may stand between the parts of a JSON text: a space, or a line end and an indent. A model that has nothing to
/// say would go on with spaces for ever otherwise.
const SPACES: &str = r"[ ]|\n[ ]{0,20}";

/// The schema with options for llguidance 1.9; a request's own are taken away. `lenient`: keywords that cannot be
/// enforced are left out. Objects have the properties that are named, unless the schema says what others may be: so
/// other servers read schemas, and a small model would go on with properties of its own.
pub fn for_grammar(schema: &Map<String, Value>, lenient: bool) -> Value {
    let mut schema = Value::Object(schema.clone());
    if !is_composed(&schema) {
        close(&mut schema);
    }
    schema["x-guidance"] = json!({
        "lenient": lenient,
        "coerce_one_of": lenient,
        "whitespace_pattern": SPACES,
    });
    schema
}

/// Whether an object may be described in several places, none of which knows all of its properties.
fn is_composed(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            let beside = ["$ref", "anyOf", "oneOf"]
                .iter()
                .any(|k| map.contains_key(*k));
            map.contains_key("allOf")
                || beside && map.contains_key("properties")
                || map.values().any(is_composed)
        }
        Value::Array(list) => list.iter().any(is_composed),
        _ => false,
    }
}

/// Forbids other properties where a schema of an object says nothing of them.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let others = [
                "additionalProperties",
                "patternProperties",
                "unevaluatedProperties",
            ];
            let is_open = !others.iter().any(|k| map.contains_key(*k));
            if let Some(Value::Object(properties)) = map.get("properties").filter(|_| is_open) {
                let required = map.get("required").and_then(Value::as_array);
                let mut names = required.into_iter().flatten().filter_map(Value::as_str);
                if names.all(|name| properties.contains_key(name)) {
                    map.insert("additionalProperties".into(), false.into());
                }
            }
            for (key, value) in map {
                match (&**key, value) {
                    ("enum" | "const" | "default" | "examples", _) => {}
                    // Of names that are the schema's own.
                    (
                        "properties" | "patternProperties" | "$defs" | "definitions",
                        Value::Object(named),
                    ) => named.values_mut().for_each(close),
                    (_, value) => close(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(schema: Value) -> Value {
        let mut schema = for_grammar(schema.as_object().expect("an object"), true);
        assert!(schema["x-guidance"]["lenient"].is_boolean());
        schema
            .as_object_mut()
            .expect("an object")
            .remove("x-guidance");
        schema
    }

    #[test]
    fn objects_are_closed_where_nothing_is_said() {
        let inner = json!({ "properties": { "b": {} } });
        let schema = json!({ "properties": { "a": inner }, "required": ["a"], "x-guidance": { "lenient": 5 } });
        let found = closed(schema);
        assert_eq!(found["additionalProperties"], false);
        assert_eq!(found["properties"]["a"]["additionalProperties"], false);
        assert_eq!(found["properties"].as_object().expect("there").len(), 1);
        // A property of that name is no list of properties.
        let named = closed(json!({ "properties": { "properties": { "type": "string" } } }));
        assert_eq!(
            named["properties"],
            json!({ "properties": { "type": "string" } })
        );
    }

    #[test]
    fn schemas_stay_as_they_are_where_they_say_more() {
        let open = [
            json!({ "properties": { "a": {} }, "additionalProperties": true }),
            json!({ "properties": { "a": {} }, "required": ["b"] }),
            json!({ "properties": { "a": {} }, "allOf": [{ "properties": { "b": {} } }] }),
            json!({ "properties": { "a": {} }, "anyOf": [{ "required": ["b"] }] }),
            json!({ "type": "object" }),
            json!({ "const": { "properties": { "a": 1 } } }),
            json!({ "$defs": { "properties": { "type": "string" } } }),
        ];
        for schema in open {
            assert_eq!(closed(schema.clone()), schema);
        }
    }
}
