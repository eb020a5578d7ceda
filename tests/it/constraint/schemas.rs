//! Random schemas: every answer that was not cut by its length is JSON of its schema.
//!
//! `GEB_SCHEMAS`: how many; `GEB_SCHEMA_MODEL`: the file of another model.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use geb::constraint::{Constraint, Grammar, Matcher, Next};
use geb::generate::StopReason;
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::scheduler::Request;
use geb::tokenizer::Tokenizer;
use geb_constrain::{Grammars, Source};
use serde_json::{Map, Value, json};

use super::{Nano, asked, read};
use crate::common::dice::Dice;
use crate::common::nano::encode;

const WORDS: [&str; 6] = ["name", "age", "city", "\"q\"", "é", "a b"];

/// A schema of at most this depth.
fn schema(dice: &mut Dice, depth: usize) -> Value {
    let leaf = depth == 0;
    match dice.below(if leaf { 7 } else { 11 }) {
        0 => json!({ "type": "null" }),
        1 => json!({ "type": "boolean" }),
        2 => {
            let low = dice.below(200) as i64 - 100;
            json!({ "type": "integer", "minimum": low, "maximum": low + dice.below(50) as i64 })
        }
        3 => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 + dice.below(9) }),
        4 => {
            let least = dice.below(4);
            json!({ "type": "string", "minLength": least, "maxLength": least + dice.below(8) })
        }
        5 => json!({ "enum": ["red", 7, null, { "a": [1] }] }),
        6 => json!({ "type": "string", "pattern": "^[a-f]{2}-[0-9]+$" }),
        7 => {
            let least = dice.below(2);
            let items = schema(dice, depth - 1);
            json!({ "type": "array", "items": items, "minItems": least, "maxItems": least + dice.below(3) })
        }
        8 => json!({ "anyOf": [schema(dice, depth - 1), schema(dice, depth - 1)] }),
        _ => object(dice, depth),
    }
}

fn object(dice: &mut Dice, depth: usize) -> Value {
    let mut properties = Map::new();
    for _ in 0..dice.below(4) {
        let name = WORDS[dice.below(WORDS.len())];
        properties.insert(name.to_owned(), schema(dice, depth - 1));
    }
    let required: Vec<_> = properties.keys().filter(|_| dice.below(2) == 0).collect();
    let required = json!(required);
    let mut object = json!({ "type": "object", "properties": properties, "required": required });
    // Where nothing is said of other properties there are none either.
    if dice.below(2) == 0 {
        object["additionalProperties"] = false.into();
    }
    object
}

/// Why a value is none of the schema; of the keywords above.
fn fault(value: &Value, schema: &Value) -> Option<String> {
    let wrong = |what: &str| Some(format!("{value}: {what} of {schema}"));
    if let Some(all) = schema["enum"].as_array() {
        return if all.contains(value) {
            None
        } else {
            wrong("enum")
        };
    }
    if let Some(all) = schema["anyOf"].as_array() {
        let none = all.iter().all(|s| fault(value, s).is_some());
        return if none { wrong("anyOf") } else { None };
    }
    let between = |n: f64, low: &str, high: &str| {
        schema[low].as_f64().is_none_or(|l| n >= l) && schema[high].as_f64().is_none_or(|h| n <= h)
    };
    let good = match schema["type"].as_str().unwrap_or_default() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value
            .as_i64()
            .is_some_and(|n| between(n as f64, "minimum", "maximum")),
        "number" => value
            .as_f64()
            .is_some_and(|n| n > 0.0 && between(n, "minimum", "maximum")),
        "string" => value.as_str().is_some_and(|s| {
            let n = s.chars().count() as f64;
            between(n, "minLength", "maxLength") && (schema["pattern"].is_null() || is_code(s))
        }),
        "array" => return array_fault(value, schema),
        _ => return object_fault(value, schema),
    };
    if good { None } else { wrong("value") }
}

/// `^[a-f]{2}-[0-9]+$`
fn is_code(text: &str) -> bool {
    let Some((letters, digits)) = text.split_once('-') else {
        return false;
    };
    letters.len() == 2
        && letters.bytes().all(|b| (b'a'..=b'f').contains(&b))
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
}

fn array_fault(value: &Value, schema: &Value) -> Option<String> {
    let Some(items) = value.as_array() else {
        return Some(format!("{value}: no array"));
    };
    let n = items.len() as u64;
    let [low, high] = ["minItems", "maxItems"].map(|key| schema[key].as_u64());
    if low.is_some_and(|low| n < low) || high.is_some_and(|high| n > high) {
        return Some(format!("{value}: {n} items of {schema}"));
    }
    items.iter().find_map(|v| fault(v, &schema["items"]))
}

fn object_fault(value: &Value, schema: &Value) -> Option<String> {
    let Some(map) = value.as_object() else {
        return Some(format!("{value}: no object"));
    };
    let required = schema["required"].as_array().into_iter().flatten();
    let mut missing = required
        .filter_map(Value::as_str)
        .filter(|k| !map.contains_key(*k));
    if let Some(key) = missing.next() {
        return Some(format!("{value}: no {key}"));
    }
    map.iter()
        .find_map(|(key, v)| match schema["properties"].get(key) {
            Some(schema) => fault(v, schema),
            None => Some(format!("{value}: {key} is not allowed")),
        })
}

/// A grammar whose steps are timed.
#[derive(Clone, Debug)]
struct Timed(Arc<dyn Grammar>, Arc<Mutex<Vec<Duration>>>);

struct TimedMatcher(Box<dyn Matcher>, Arc<Mutex<Vec<Duration>>>);

impl Grammar for Timed {
    fn matcher(&self) -> Box<dyn Matcher> {
        Box::new(TimedMatcher(self.0.matcher(), self.1.clone()))
    }
}

impl Matcher for TimedMatcher {
    fn begin(&mut self, said: &[u8]) -> geb::Result<Option<Next>> {
        self.0.begin(said)
    }

    fn take(&mut self, token: u32) -> geb::Result<Next> {
        let start = Instant::now();
        let next = self.0.take(token);
        self.1.lock().expect("no panic").push(start.elapsed());
        next
    }
}

fn model() -> Nano {
    let Some(path) = std::env::var_os("GEB_SCHEMA_MODEL") else {
        return Nano::open();
    };
    let file = GgufFile::open(Path::new(&path), Load::Map).expect("a model");
    let tokenizer = Arc::new(Tokenizer::from_gguf(&file).expect("tokenizer"));
    Nano {
        model: Model::load(Arc::new(file)).expect("a model"),
        grammars: Grammars::new(tokenizer.clone()),
        tokenizer,
    }
}

#[test]
fn answers_are_of_their_schemas() {
    let count = std::env::var("GEB_SCHEMAS").map_or(60, |n| n.parse().expect("a number"));
    let nano = model();
    let scheduler = nano.scheduler(16);
    let mut dice = Dice(99);
    let mut waiting = Vec::new();
    let mut ended = 0;
    let times = Arc::new(Mutex::new(Vec::new()));
    let mut check = |(schema, handle): (Value, geb::scheduler::Handle)| {
        let (_, text, _, reason) = read(handle).expect("an answer");
        if reason == Some(StopReason::Eos) {
            ended += 1;
            let value = serde_json::from_str(&text);
            let value: Value = value.unwrap_or_else(|e| panic!("{e}: {text} of {schema}"));
            assert_eq!(fault(&value, &schema), None, "{text}");
        }
    };
    for i in 0..count {
        let schema = schema(&mut dice, 3);
        let source = Source::Schema {
            schema: schema.clone(),
            strict: true,
        };
        let grammar = nano.grammars.compile(&source);
        let grammar = grammar.unwrap_or_else(|e| panic!("{e}: {schema}")).grammar;
        let grammar = Arc::new(Timed(grammar, times.clone()));
        let request = Request {
            prompt: encode(&nano.tokenizer, "In the beginning"),
            options: asked(Some(Constraint::whole(grammar)), i),
            ..Default::default()
        };
        waiting.push((schema, scheduler.submit(request).expect("room")));
        if waiting.len() == 16 {
            waiting.drain(..).for_each(&mut check);
        }
    }
    waiting.drain(..).for_each(&mut check);
    let mut times = times.lock().expect("no panic").clone();
    times.sort_unstable();
    let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
    println!(
        "{count} schemas: {ended} answers ended by themselves; {} steps, median {:?}, p99 {:?}, longest {:?}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    assert!(ended * 10 > count * 6, "{ended} of {count}");
}
