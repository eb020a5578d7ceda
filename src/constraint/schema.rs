//! JSON schemas as a grammar takes them, with what a schema leaves open.

use serde_json::{Map, Value, json};

/// What may stand between the parts of a JSON text: a space, or a line end and an indent. A model that has nothing to
/// say would go on with spaces for ever otherwise.
const SPACES: &str = r"[ ]|\n[ ]{0,20}";

/// What describes and forbids nothing; most of the bytes of many a schema.
const NOTES: [&str; 6] = [
    "title",
    "description",
    "default",
    "examples",
    "$comment",
    "deprecated",
];

/// The schema with options for llguidance 1.9; a request's own are taken away. `lenient`: keywords that cannot be
/// enforced are left out. Objects have the properties that are named, unless the schema says what others may be: so
/// other servers read schemas, and a small model would go on with properties of its own.
pub fn for_grammar(schema: &Map<String, Value>, lenient: bool) -> Value {
    let mut schema = Value::Object(schema.clone());
    each(&mut schema, &mut |schema| {
        NOTES.iter().for_each(|key| drop(schema.remove(*key)))
    });
    if !is_composed(&schema) {
        each(&mut schema, &mut close);
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
fn close(schema: &mut Map<String, Value>) {
    let others = [
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
    ];
    if others.iter().any(|k| schema.contains_key(*k)) {
        return;
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        let required = schema.get("required").and_then(Value::as_array);
        let mut names = required.into_iter().flatten().filter_map(Value::as_str);
        if names.all(|name| properties.contains_key(name)) {
            schema.insert("additionalProperties".into(), false.into());
        }
    }
}

/// Calls `change` for a schema and all within it.
fn each(schema: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    match schema {
        Value::Object(map) => {
            change(map);
            for (key, value) in map {
                match (&**key, value) {
                    ("enum" | "const", _) => {}
                    // Of names that are the schema's own.
                    (
                        "properties" | "patternProperties" | "$defs" | "definitions",
                        Value::Object(named),
                    ) => named.values_mut().for_each(|v| each(v, change)),
                    (_, value) => each(value, change),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| each(v, change)),
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
        let told = json!({ "title": "x", "properties": { "title": { "description": "y" } } });
        assert_eq!(closed(told)["properties"], json!({ "title": {} }));
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
