//! Chat templates: vocabularies with their control tokens, and requests that put control texts everywhere.

use geb::chat::ChatTemplate;
use geb::gguf::writer::MetaValue;
use geb::tokenizer::{Tokenizer, byte_of};
use serde_json::{Value, json};

use super::fixture::file_of;

/// Control tokens that no template writes.
pub const FOREIGN: [&str; 3] = ["<|zqfirst|>", "<|zqsecond|>", "[ZQTHIRD]"];

/// Texts in the source of a template that look like control tokens: `<|…|>`, `<｜…｜>`, `<|…>`, `<…|>`, `[UPPER]`.
pub fn controls_in(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, c) in source.char_indices() {
        let close = match c {
            '<' => '>',
            '[' => ']',
            _ => continue,
        };
        let Some(end) = source[at..].find(close).map(|e| at + e) else {
            continue;
        };
        let (inner, whole) = (&source[at + 1..end], &source[at..=end]);
        let marked = inner.contains(['|', '｜']);
        let upper = inner
            .bytes()
            .all(|b| b.is_ascii_uppercase() || matches!(b, b'_' | b'/'));
        let plain = !inner.contains(char::is_whitespace) && inner.chars().count() < 48;
        let plain = plain && !inner.contains(['<', '{', '}', '\'', '\\', '[']);
        let control = if close == '>' {
            marked && inner.len() > 2
        } else {
            upper && inner.len() > 1
        };
        if plain && control && !found.iter().any(|f| f == whole) {
            found.push(whole.to_owned());
        }
    }
    found
}

/// A byte-level vocabulary with these control tokens, [`FOREIGN`], and an end of text.
pub fn tokenizer(controls: &[String]) -> Tokenizer {
    let chars = (0..0x180).filter_map(char::from_u32);
    let mut bytes: Vec<(u8, char)> = chars.filter_map(|c| Some((byte_of(c)?, c))).collect();
    bytes.sort_unstable();
    let mut tokens: Vec<String> = bytes.iter().map(|(_, c)| c.to_string()).collect();
    assert_eq!(tokens.len(), 256);
    tokens.push("he".into());
    let plain = tokens.len();
    tokens.extend(controls.iter().cloned());
    tokens.extend(FOREIGN.map(str::to_owned));
    tokens.push("<|zqend|>".into());
    let kinds = (0..tokens.len()).map(|i| if i < plain { 1 } else { 3 });
    let metadata = vec![
        ("tokenizer.ggml.model", MetaValue::Str("gpt2".into())),
        ("tokenizer.ggml.pre", MetaValue::Str("gpt-2".into())),
        ("tokenizer.ggml.merges", MetaValue::Strs(vec!["h e".into()])),
        (
            "tokenizer.ggml.token_type",
            MetaValue::I32s(kinds.collect()),
        ),
        (
            "tokenizer.ggml.eos_token_id",
            MetaValue::U32(tokens.len() as u32 - 1),
        ),
        ("tokenizer.ggml.tokens", MetaValue::Strs(tokens)),
    ];
    Tokenizer::from_gguf(&file_of(metadata).expect("a valid file")).expect("valid metadata")
}

/// A request with `text` in every field that a client fills.
pub fn request(text: &str) -> Value {
    let schema = json!({
        "type": "object", "title": text, "description": text, "$comment": text,
        "properties": {
            format!("key{text}"): {"type": "string", "description": text, "enum": [text, format!("a{text}b")], "default": text},
            "other": {"type": "array", "items": {"type": "string", "pattern": text}, "examples": [text]},
            "deep": {"type": "object", "properties": {format!("{text}deep"): {"anyOf": [{"const": text}, {"type": "null"}]}}},
        },
        "required": [format!("key{text}")],
    });
    let tool = |name: String| json!({"type": "function", "function": {"name": name, "description": format!("Does {text}."), "parameters": schema}});
    let call = json!({
        "id": format!("call{text}"), "type": "function",
        "function": {"name": format!("first{text}"), "arguments": json!({
            format!("key{text}"): format!("{text} and \"{text}\""),
            "deep": {format!("{text}deep"): [text, {"x": text}]},
        }).to_string()},
    });
    json!({
        "messages": [
            {"role": "system", "content": format!("Be {text} good.")},
            {"role": "user", "name": format!("n{text}"), "content": format!("{text}Ask{text}")},
            {"role": "assistant", "content": null, "reasoning_content": format!("Why {text}?"), "tool_calls": [call]},
            {"role": "tool", "tool_call_id": format!("call{text}"), "content": format!("{{\"r\": \"{text}\"}}")},
            {"role": "assistant", "content": format!("So {text}.")},
            {"role": "user", "content": [{"type": "text", "text": text}, {"type": "text", "text": "end"}]},
        ],
        "tools": [tool(format!("first{text}")), tool("second".to_owned())],
        "add_generation_prompt": true,
    })
}

/// The ids of control tokens in what a request becomes, or why the template refuses the conversation.
pub fn controls_of(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    request: &Value,
) -> Result<Vec<u32>, String> {
    let prompt = match template.encode_json(tokenizer, request) {
        Ok(prompt) => prompt,
        Err(geb::Error::Template(why)) => return Err(why),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(tokenizer.decode_with_control(&prompt.ids), prompt.text);
    let controls = prompt
        .ids
        .into_iter()
        .filter(|&id| tokenizer.is_control(id));
    Ok(controls.collect())
}

/// Puts control texts into every field of a request: none becomes a control token. Returns the texts
/// for which some of the template's own control tokens became text too, or why it refuses the conversation.
pub fn injected(template: &ChatTemplate) -> Result<Vec<String>, String> {
    let mut texts = controls_in(template.source());
    let tokenizer = tokenizer(&texts);
    texts.extend(FOREIGN.map(str::to_owned));
    // Halves that could become whole with what stands around them.
    let halves = texts.iter().rev().take(4).flat_map(|t| {
        let middle = t
            .char_indices()
            .nth(t.chars().count() / 2)
            .map_or(0, |(i, _)| i);
        [t[..middle].to_owned(), t[middle..].to_owned()]
    });
    let halves: Vec<String> = halves.collect();
    let mut lost = Vec::new();
    let foreign: Vec<u32> = (0..tokenizer.vocab_len() as u32)
        .filter(|&id| FOREIGN.contains(&tokenizer.vocab().text(id)))
        .collect();
    for text in texts.iter().chain(&halves) {
        let plain: String = text.chars().map(|_| 'x').collect();
        let wanted = controls_of(template, &tokenizer, &request(&plain))?;
        let Ok(found) = controls_of(template, &tokenizer, &request(text)) else {
            // A template may refuse a text.
            continue;
        };
        assert!(!foreign.iter().any(|id| found.contains(id)), "{text:?}");
        // What is missing was the template's own; nothing may be there that is not.
        let mut rest = wanted.iter();
        let subset = found.iter().all(|id| rest.any(|w| w == id));
        assert!(subset, "{text:?}: {found:?}, without it {wanted:?}");
        if found != wanted {
            lost.push(text.clone());
        }
    }
    Ok(lost)
}
