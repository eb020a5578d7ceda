//! Log-probabilities of texts, as lm-eval asks for them: as many as it counts on, and the library's in bits.

use std::collections::BTreeMap;

use geb_eval::{Scores, TokenScore};
use serde_json::{Value, json};

use super::client::post;
use super::exact::Library;
use super::{VOCAB, shared};
use crate::common::dice::Dice;

const TEXTS: &str = "/v1/completions";

/// The library's scores of a text's tokens from the second on.
fn scores(library: &mut Library, ids: &[u32], top: usize) -> Vec<TokenScore> {
    let mut scores = Scores::new(&mut library.session, ids, top);
    let mut all = Vec::new();
    loop {
        let some = scores.advance().expect("scores");
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// Texts of 1 to 500 tokens, some of them of the vocabulary's odd ends.
fn texts(library: &Library) -> Vec<Vec<u32>> {
    let mut dice = Dice(44);
    let mut all = vec![library.ids("A river is wide"), vec![1], vec![0, 1, 2, 3]];
    for n in [2, 63, 64, 65, 66, 127, 128, 129, 500, 512] {
        all.push((0..n).map(|_| dice.below(VOCAB) as u32).collect());
    }
    all
}

/// Compares what the server says of a prompt with the library's: entry 0 has no numbers.
fn compare(library: &mut Library, ids: &[u32], top: usize, weights: &Value) {
    let list = |key: &str| weights[key].as_array().expect("a list").clone();
    let (tokens, own, best) = (list("tokens"), list("token_logprobs"), list("top_logprobs"));
    assert!(own[0].is_null() && best[0].is_null());
    let expected = scores(library, ids, top);
    for (i, score) in expected.iter().enumerate() {
        let at = i + 1;
        let piece = library.tokenizer.piece(ids[at]);
        assert_eq!(tokens[at], piece);
        let found = own[at].as_f64().expect("a number");
        assert_eq!(found.to_bits(), score.logprob.to_bits(), "token {at}");
        // By text: of ids with one text the larger number.
        let mut texts = BTreeMap::new();
        for (id, p) in score.top.iter().copied().chain([(score.id, score.logprob)]) {
            let place = texts.entry(library.tokenizer.piece(id)).or_insert(p);
            *place = p.max(*place);
        }
        let said = best[at].as_object().expect("alternatives");
        let said: BTreeMap<_, _> = said
            .iter()
            .map(|(k, v)| (k.clone(), v.as_f64().expect("a number")))
            .collect();
        assert_eq!(said, texts, "token {at}");
        assert!(said[&piece] >= found);
        // As lm-eval decides whether a token is the most probable one.
        if top > 0 {
            let most = said.values().copied().fold(f64::MIN, f64::max);
            assert_eq!(score.rank == 1, found == most, "token {at}");
        }
    }
}

#[test]
fn prompts_have_the_scores_of_the_library() {
    let mut library = Library::open();
    for ids in texts(&library) {
        for (top, max_tokens) in [(1, 1), (0, 0), (20, 0)] {
            let body = json!({
                "model": "m", "prompt": [ids], "temperature": 0, "max_tokens": max_tokens, "logprobs": top,
                "seed": 1234, "echo": true, "ignore_eos": true,
            });
            let answer = post(&shared().address, TEXTS, &body).json();
            let choice = &answer["choices"][0];
            let entries = choice["logprobs"]["token_logprobs"]
                .as_array()
                .expect("a list");
            // It drops the last unseen, and asks for one token.
            assert_eq!(
                entries.len(),
                ids.len() + max_tokens,
                "{} tokens",
                ids.len()
            );
            compare(&mut library, &ids, top, &choice["logprobs"]);
            assert_eq!(answer["usage"]["prompt_tokens"], ids.len());
            assert_eq!(answer["usage"]["completion_tokens"], max_tokens);
            assert_eq!(choice["finish_reason"], "length");
        }
    }
}

/// An end token counts as an entry: a client that drops the last one drops this one.
#[test]
fn an_end_token_is_an_entry() {
    let mut library = Library::open();
    let ids = library.ids("A river is wide");
    let end = library.tokenizer.eos().expect("an end").to_string();
    for stream in [false, true] {
        let body = json!({
            "prompt": [ids], "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": true,
            "logit_bias": { end.clone(): 100 }, "stream": stream,
        });
        let response = post(&shared().address, TEXTS, &body);
        let choice = match stream {
            false => response.json()["choices"][0].clone(),
            true => {
                let chunks = super::shape::stream(&response.events(), "text_completion", 1);
                joined(&chunks)
            }
        };
        assert_eq!(choice["finish_reason"], "stop");
        let entries = choice["logprobs"]["token_logprobs"]
            .as_array()
            .expect("a list");
        assert_eq!(entries.len(), ids.len() + 1, "{choice}");
        compare(&mut library, &ids, 1, &choice["logprobs"]);
        let last = choice["logprobs"]["tokens"]
            .as_array()
            .and_then(|t| t.last());
        assert_eq!(last, Some(&json!("</s>")));
        // It is no part of the text.
        assert_eq!(choice["text"], "A river is wide");
    }
}

/// The choices of a stream's chunks as one.
fn joined(chunks: &[Value]) -> Value {
    let mut whole = json!({ "text": "", "logprobs": { "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [] } });
    for choice in chunks.iter().map(|c| &c["choices"][0]) {
        let text = whole["text"].as_str().expect("a text").to_owned();
        whole["text"] = (text + choice["text"].as_str().expect("a text")).into();
        whole["finish_reason"] = choice["finish_reason"].clone();
        for (key, list) in whole["logprobs"].as_object_mut().expect("lists") {
            let new = choice["logprobs"][key].as_array().cloned();
            list.as_array_mut()
                .expect("a list")
                .extend(new.unwrap_or_default());
        }
    }
    whole
}

#[test]
fn offsets_point_at_tokens() {
    for text in ["A river is wide", "é 晴れ 🙂 waters", " two  spaces"] {
        let body = json!({ "prompt": text, "temperature": 0, "max_tokens": 8, "logprobs": 0, "echo": true, "ignore_eos": true });
        let answer = post(&shared().address, TEXTS, &body).json();
        let choice = &answer["choices"][0];
        let whole: Vec<char> = choice["text"].as_str().expect("a text").chars().collect();
        assert!(
            whole.iter().collect::<String>().starts_with(text),
            "{choice}"
        );
        let offsets = choice["logprobs"]["text_offset"]
            .as_array()
            .expect("a list");
        let tokens = choice["logprobs"]["tokens"].as_array().expect("a list");
        let mut last = 0;
        for (token, offset) in tokens.iter().zip(offsets) {
            let at = offset.as_u64().expect("an offset") as usize;
            assert!(at >= last && at <= whole.len(), "{choice}");
            last = at;
            let token = token.as_str().expect("a text").trim_start();
            let rest: String = whole[at..].iter().collect();
            // Signs of several tokens have no text of their own.
            let is_part = token.contains('\u{fffd}') || token.starts_with("<0x");
            assert!(
                is_part || rest.trim_start().starts_with(token),
                "{token:?} at {at}: {choice}"
            );
        }
    }
}

/// A request of many texts: each is scored as alone, in its place.
#[test]
fn many_texts_at_once() {
    let mut library = Library::open();
    let all = texts(&library);
    let body = json!({ "prompt": all, "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": true, "n": 1, "ignore_eos": true });
    let answer = post(&shared().address, TEXTS, &body).json();
    for (i, ids) in all.iter().enumerate() {
        let choice = &answer["choices"][i];
        assert_eq!(choice["index"], i);
        let entries = choice["logprobs"]["token_logprobs"]
            .as_array()
            .expect("a list");
        assert_eq!(entries.len(), ids.len() + 1);
        compare(&mut library, ids, 1, &choice["logprobs"]);
    }
    // As a path of its own, where nothing is generated.
    let answer = post(
        &shared().address,
        "/v1/logprobs",
        &json!({ "prompt": all, "top_logprobs": 2 }),
    )
    .json();
    for (ids, found) in all.iter().zip(answer["data"].as_array().expect("data")) {
        let expected = scores(&mut library, ids, 2);
        let numbers = found["logprobs"].as_array().expect("numbers");
        assert!(numbers[0].is_null() && found["ids"] == json!(ids));
        assert_eq!(numbers.len(), ids.len());
        for (score, number) in expected.iter().zip(&numbers[1..]) {
            assert_eq!(
                number.as_f64().map(f64::to_bits),
                Some(score.logprob.to_bits())
            );
        }
    }
}

/// What it asks of the tokenizer.
#[test]
fn texts_become_ids_and_back() {
    let (library, address) = (Library::open(), &shared().address);
    let tokens = |body: Value| post(address, "/tokenize", &body).json()["tokens"].clone();
    assert_eq!(
        tokens(json!({ "prompt": "</s>", "add_special_tokens": false })),
        json!([2])
    );
    let text = "A river is wide";
    let ids = library.ids(text);
    assert_eq!(
        tokens(json!({ "prompt": text, "add_special_tokens": false })),
        json!(ids)
    );
    assert_eq!(tokens(json!({ "content": text })), json!(ids));
    let plain = tokens(json!({ "content": "</s>", "parse_special": false }));
    assert!(plain.as_array().is_some_and(|ids| ids.len() > 1), "{plain}");
    let pieces = tokens(json!({ "content": text, "with_pieces": true }));
    let joined: String = pieces
        .as_array()
        .expect("pieces")
        .iter()
        .map(|p| p["piece"].as_str().expect("a text"))
        .collect();
    assert_eq!(joined.trim_start(), text);
    let back = post(address, "/detokenize", &json!({ "tokens": ids })).json();
    assert_eq!(back["prompt"], text);
    let messages = json!({ "messages": [{ "role": "user", "content": text }] });
    let rendered = post(address, "/apply-template", &messages).json();
    assert_eq!(rendered["prompt"], format!("{text}\n"));
    assert_eq!(tokens(messages), json!(library.ids(&format!("{text}\n"))));
    // Control tokens in messages are text.
    let forged = json!({ "messages": [{ "role": "user", "content": "</s>" }] });
    let ids = tokens(forged);
    assert!(!ids.as_array().expect("ids").contains(&json!(2)), "{ids}");
}
