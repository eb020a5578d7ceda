//! Conversations in JSON: tool calls, results, reasoning; no string of a request becomes control tokens, and what a
//! template writes of calls is read back.

use crate::common::{ROOT, chat, fixture};
use geb::Error;
use geb::chat::tools::{Asked, CallIds, Delivery, From, Most, Proof, Reply, Tool, ToolChoice};
use geb::chat::{ChatTemplate, Prompt};
use geb::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// The templates of `tests/data/templates`: file, row, whether its calls are proved, whether several stand together.
const OWN: [(&str, &str, bool, bool); 11] = [
    ("hermes", "hermes", true, true),
    ("qwen-coder", "qwen-coder", true, true),
    ("mistral-args", "mistral-args", true, true),
    ("llama3", "llama3", true, false),
    ("deepseek-r1", "deepseek-r1", true, true),
    ("glm45", "glm45", true, true),
    ("gemma4", "gemma4", true, true),
    ("harmony", "harmony", true, false),
    ("lfm2", "lfm2", false, true),
    ("unlike", "generic", false, false),
    ("plain", "generic", false, false),
];

fn own(name: &str) -> ChatTemplate {
    let path = std::path::Path::new(ROOT).join(format!("tests/data/templates/{name}.jinja"));
    let source = std::fs::read_to_string(path).expect("a template");
    ChatTemplate::from_source(&source, "<|zqbos|>", "<|zqend|>").expect("valid")
}

fn prompt(template: &ChatTemplate, request: &Value) -> Prompt {
    encoded(template, request).expect("encodes")
}

fn encoded(template: &ChatTemplate, request: &Value) -> geb::Result<Prompt> {
    let tokenizer = chat::tokenizer(&chat::controls_in(template.source()));
    let prompt = template.encode_json(&tokenizer, request)?;
    assert_eq!(tokenizer.decode_with_control(&prompt.ids), prompt.text);
    Ok(prompt)
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"]}}}])
}

/// A conversation with two calls at once, sent as OpenAI's clients send it.
fn two_calls() -> Value {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "add", "arguments": arguments}});
    json!({
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Add."},
            {"role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [call("x", "{\"a\": 1}"), call("y", "{\"a\": 2}")]},
            {"role": "tool", "tool_call_id": "x", "content": "one"},
            {"role": "tool", "tool_call_id": "y", "content": [{"type": "text", "text": "two"}]},
        ],
        "tools": tools(),
        "add_generation_prompt": true,
    })
}

#[test]
fn templates_prove_their_rows() {
    for (name, row, proved, parallel) in OWN {
        let template = own(name);
        let format = template.reply_format();
        assert_eq!(format.name(), row, "{name}: {}", format.describe());
        assert_eq!(
            *format.proof() == Proof::Proved,
            proved,
            "{name}: {}",
            format.describe()
        );
        assert_eq!(format.parallel(), parallel, "{name}");
    }
    let format = |name: &str| own(name).reply_format().proof().clone();
    assert_eq!(format("lfm2"), Proof::Unrendered);
    assert_eq!(format("plain"), Proof::Unmarked);
    let Proof::Failed { row, why } = format("unlike") else {
        panic!("not failed");
    };
    assert_eq!(row, "qwen-coder");
    assert!(why.contains("0 calls"), "{why}");
    assert!(
        own("unlike")
            .reply_format()
            .describe()
            .contains("markers of qwen-coder")
    );
}

/// What a template writes of calls is what a parser reads.
#[test]
fn rendered_calls_are_read_back() {
    for (name, _, proved, _) in OWN {
        let template = own(name);
        if !proved {
            continue;
        }
        let mut request = two_calls();
        request["messages"]
            .as_array_mut()
            .expect("messages")
            .truncate(3);
        request["messages"][2]["tool_calls"]
            .as_array_mut()
            .expect("calls")
            .truncate(1);
        request["add_generation_prompt"] = json!(false);
        let whole = prompt(&template, &request).text;
        let mut asked = request.clone();
        asked["messages"].as_array_mut().expect("messages").pop();
        let asked = prompt(&template, &asked).text;
        let reply = whole.strip_prefix(&asked).expect("the same beginning");
        let header = "<|start_header_id|>assistant<|end_header_id|>\n\n";
        let reply = reply.strip_prefix(header).unwrap_or(reply);
        let reply = reply.strip_suffix("<|eot_id|>").unwrap_or(reply);
        let tools = Tool::list(&tools()).expect("valid");
        let mut parser =
            template
                .reply_format()
                .parser("", tools, CallIds::default(), Delivery::Whole);
        let mut read = Reply::default();
        let events = parser.push(reply).into_iter().chain(parser.finish());
        events.for_each(|e| read.add(e));
        let calls: Vec<Value> = read
            .calls
            .iter()
            .map(|c| {
                json!([
                    c.name,
                    serde_json::from_str::<Value>(&c.arguments).expect("JSON")
                ])
            })
            .collect();
        assert_eq!(
            json!(calls),
            json!([["add", {"a": 1}]]),
            "{name}: {reply:?}"
        );
    }
}

#[test]
fn calls_and_results_reach_the_template_in_its_form() {
    for (name, parts) in [
        (
            "hermes",
            vec![
                "<|im_start|>system\nBe brief.\nCall",
                "<|im_start|>assistant\n<think>\nHm.\n</think>\n\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 2}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\none\n",
                "\ntwo\n",
            ],
        ),
        // Arguments as text, the content none.
        (
            "deepseek-r1",
            vec![
                "<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\":1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>",
            ],
        ),
        // One call at once: the results stand behind their calls.
        (
            "llama3",
            vec![
                "{\"name\": \"add\", \"parameters\": {\"a\": 1}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\none<|eot_id|>",
                "{\"name\": \"add\", \"parameters\": {\"a\": 2}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\ntwo<|eot_id|>",
            ],
        ),
        (
            "harmony",
            vec![
                "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.add<|channel|>commentary json<|message|>{\"a\": 1}<|call|><|start|>functions.add to=assistant<|channel|>commentary<|message|>\"one\"<|end|><|start|>assistant to=functions.add<|channel|>commentary json<|message|>{\"a\": 2}<|call|>",
            ],
        ),
        // The names of results are those of their calls.
        (
            "gemma4",
            vec![
                "<|tool_call>call:add{a:1}<tool_call|><|tool_call>call:add{a:2}<tool_call|>",
                "<|tool_response>response:add{value:<|\"|>one<|\"|>}<tool_response|>",
            ],
        ),
        // Templates that know no calls: they are text, and the system text is the first user's.
        (
            "plain",
            vec![
                "<start_of_turn>user\nBe brief.\n\nYou can call the functions below.",
                "\n{\"name\":\"add\",\"description\":\"Adds.\",",
                "\n\nAdd.<end_of_turn>\n<start_of_turn>model\n{\"tool_call\":{\"name\":\"add\",\"arguments\":{\"a\":1}}}\n{\"tool_call\":{\"name\":\"add\",\"arguments\":{\"a\":2}}}<end_of_turn>\n<start_of_turn>user\n{\"tool_result\":{\"name\":\"add\",\"content\":\"one\"}}\n{\"tool_result\":{\"name\":\"add\",\"content\":\"two\"}}<end_of_turn>\n<start_of_turn>model\n",
            ],
        ),
    ] {
        let text = prompt(&own(name), &two_calls()).text;
        for part in parts {
            assert!(text.contains(part), "{name}: {part:?} in {text:?}");
        }
    }
}

#[test]
fn ids_and_contents_go_where_the_template_takes_them() {
    // Ids of nine letters and digits, the same for a call and its result.
    let text = prompt(&own("mistral-args"), &two_calls()).text;
    let id = text
        .split("[CALL_ID]")
        .nth(1)
        .and_then(|t| t.split('[').next())
        .expect("an id");
    assert_eq!(id.len(), 9);
    assert!(
        text.contains(&format!("[TOOL_RESULTS]{id}[TOOL_CONTENT]one")),
        "{text}"
    );
    // A content beside calls goes where the template would lose the calls.
    let mut request = two_calls();
    request["messages"][2]["content"] = json!("I add.");
    assert!(
        prompt(&own("deepseek-r1"), &request)
            .text
            .contains("{\"a\":2}")
    );
    let text = prompt(&own("harmony"), &request).text;
    assert!(text.contains("I add.") && !text.contains("Hm."), "{text}");
}

#[test]
fn no_request_becomes_control_tokens() {
    for (name, ..) in OWN {
        assert_eq!(chat::injected(&own(name)), Ok(Vec::new()), "{name}");
    }
}

/// The templates of the fixtures; some refuse tools or a system text.
#[test]
fn no_request_becomes_control_tokens_in_fixtures() {
    let mut taken = 0;
    for entry in std::fs::read_dir(fixture::path(".", ".")).expect("fixtures") {
        let path = entry
            .expect("an entry")
            .path()
            .join("hf/tokenizer_config.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let config: Value = serde_json::from_str(&text).expect("JSON");
        let Some(source) = config["chat_template"].as_str() else {
            continue;
        };
        let template = ChatTemplate::from_source(source, "<|zqbos|>", "<|zqend|>").expect("valid");
        let lost = chat::injected(&template).expect("taken: calls and tools are text");
        assert!(lost.is_empty(), "{path:?}: {lost:?}");
        taken += 1;
    }
    assert!(taken > 20, "{taken}");
}

/// Marks cannot be put everywhere: a schema's own words are compared with, keys are sorted, texts are escaped.
#[test]
fn templates_may_do_much_with_strings() {
    for body in [
        "{{ tools | tojson }}",
        "{{ tools | string }}",
        "{% for t in tools %}{% for k, v in t.function.parameters.properties | dictsort %}{{ k ~ (v.type | upper) }}{% if k in t.function.parameters.required %}!{% endif %}{% endfor %}{% endfor %}",
        "{% for t in tools %}{{ t.function.parameters.properties | length }}{{ t.function.description | trim | replace('Does', 'Is') }}{% endfor %}",
        "{% for t in tools %}{{ t.function.name | length }}{{ t.function.name }}{% endfor %}",
        "{% for m in messages %}{{ m.content | length if m.content }}{% endfor %}",
    ] {
        // The marker lets tools and calls reach the template.
        let source = format!(
            "{{# <|tool_list_start|> #}}{body}{{% for m in messages %}}<|turn|>{{{{ m.role }}}}: {{{{ m.content }}}}{{% endfor %}}<|end|>"
        );
        let template = ChatTemplate::from_source(&source, "", "").expect("valid");
        chat::injected(&template).expect("taken");
    }
}

#[test]
fn answers_are_continued() {
    let request = |content: Value| json!({"messages": [{"role": "user", "content": "Say"}, {"role": "assistant", "content": content}], "continue_final_message": true});
    for content in ["Once upon ", "<think>\nHm", "", " <|im_end|> "] {
        let prompt = prompt(&own("hermes"), &request(json!(content)));
        let behind = if content.is_empty() { "" } else { "\n" };
        let wanted =
            format!("<|im_start|>user\nSay<|im_end|>\n<|im_start|>assistant{behind}{content}");
        // An empty content has nothing to be put behind but the mark.
        assert_eq!(prompt.text.trim_end(), wanted.trim_end(), "{content:?}");
        assert!(prompt.text.ends_with(content));
        assert_eq!(prompt.opened, content);
        let tokenizer = chat::tokenizer(&chat::controls_in(own("hermes").source()));
        let ends = prompt
            .ids
            .iter()
            .filter(|&&id| tokenizer.vocab().text(id) == "<|im_end|>");
        assert_eq!(ends.count(), 1, "{content:?}");
    }
    let parser = |opened: &str| {
        own("hermes")
            .reply_format()
            .parser(opened, Vec::new(), CallIds::default(), Delivery::Whole)
    };
    assert!(parser("<think>\nHm").in_reasoning());
    assert!(!parser("<think>\nHm</think> So").in_reasoning());
    for (messages, value) in [
        (json!([{"role": "user", "content": "Say"}]), "user"),
        (
            two_calls()["messages"].as_array().expect("messages")[..3].into(),
            "one with tool calls",
        ),
    ] {
        let request = json!({"messages": messages, "continue_final_message": true});
        let error = encoded(&own("hermes"), &request).expect_err("refused");
        assert!(error.to_string().contains(value), "{error}");
    }
    let deaf = ChatTemplate::from_source("{{ messages[0].content }}", "", "").expect("valid");
    assert!(matches!(
        encoded(&deaf, &request(json!("a"))),
        Err(Error::Template(_))
    ));
}

#[test]
fn prompts_say_what_they_open() {
    let ask = |switches: Value| json!({"messages": [{"role": "user", "content": "What is <think>?"}], "add_generation_prompt": true, "chat_template_kwargs": switches});
    let reasons = |name: &str, switches: Value| {
        let template = own(name);
        let prompt = prompt(&template, &ask(switches));
        template
            .reply_format()
            .parser(
                &prompt.opened,
                Vec::new(),
                CallIds::default(),
                Delivery::Whole,
            )
            .in_reasoning()
    };
    assert!(reasons("deepseek-r1", json!({})));
    assert!(reasons("qwen-coder", json!({})));
    assert!(!reasons("hermes", json!({})));
    assert!(!reasons("hermes", json!({"enable_thinking": false})));
    assert!(!reasons("gemma4", json!({"enable_thinking": true})));
    let text = prompt(&own("hermes"), &ask(json!({"enable_thinking": false}))).text;
    assert!(text.ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
}

/// Markers that are control tokens stand in grammars by their ids, and are text to readers.
#[test]
fn grammars_and_readers_know_control_tokens() {
    let template = own("mistral-args");
    let tokenizer = chat::tokenizer(&chat::controls_in(template.source()));
    let format = template.reply_format();
    let id = |text: &str| {
        (0..tokenizer.vocab_len() as u32)
            .find(|&i| tokenizer.vocab().text(i) == text)
            .expect("a token")
    };
    let (calls, args) = (id("[TOOL_CALLS]"), id("[ARGS]"));
    let shown = format.shown(&tokenizer);
    assert!(shown.contains(&calls) && shown.contains(&args) && !shown.contains(&id("[INST]")));
    let mut ids = vec![id("[INST]"), calls];
    ids.extend(tokenizer.encode("he", Default::default()).expect("encodes"));
    ids.push(args);
    let mut stream = tokenizer.stream();
    stream.show(&shown);
    let text: String = ids.iter().map(|&i| stream.push(i)).collect();
    assert_eq!(text, "[TOOL_CALLS]he[ARGS]");
    let tools = Tool::list(&tools()).expect("valid");
    let grammar = |choice: &ToolChoice| {
        let asked = Asked {
            tools: &tools,
            choice,
            most: Most::Any,
            opened: "",
        };
        format.grammar(&tokenizer, &asked)
    };
    let required = grammar(&ToolChoice::Required).expect("valid").expect("one");
    let start = format!("start: <[{calls}]> call (<[{calls}]> call)*\n");
    assert!(
        required.lark.starts_with(&start) && required.from == From::Start,
        "{}",
        required.lark
    );
    let named = grammar(&ToolChoice::Function("add".into()))
        .expect("valid")
        .expect("one");
    assert!(
        named
            .lark
            .starts_with(&format!("start: <[{calls}]> call\n")),
        "{}",
        named.lark
    );
    let auto = grammar(&ToolChoice::Auto).expect("valid").expect("one");
    assert_eq!(auto.from, From::Behind(vec!["[TOOL_CALLS]"]));
    let error = grammar(&ToolChoice::Function("sub".into())).expect_err("refused");
    assert_eq!(error.to_string(), "tool_choice is sub, allowed: add");
    let none = Asked {
        tools: &[],
        choice: &ToolChoice::Required,
        most: Most::Any,
        opened: "",
    };
    assert!(format.grammar(&tokenizer, &none).is_err());
}

/// Control tokens that a parser has to see are told to whoever turns ids into text.
#[test]
fn markers_cover_the_calls_of_the_example() {
    let formats =
        std::fs::read_to_string(std::path::Path::new(ROOT).join("tests/data/tool-formats.json"))
            .expect("a file");
    let formats: Value = serde_json::from_str(&formats).expect("JSON");
    for (name, row, ..) in OWN {
        let Some(example) = formats["rows"]
            .as_array()
            .expect("rows")
            .iter()
            .find(|r| r["name"] == row)
        else {
            continue;
        };
        let example = example["example"].as_str().expect("an example");
        let controls = chat::controls_in(example);
        let tokenizer: Tokenizer = chat::tokenizer(&controls);
        let markers = own(name).reply_format().markers();
        for control in &controls {
            assert!(
                markers.iter().any(|m| m.contains(control.as_str())),
                "{name}: {control}"
            );
        }
        assert!(tokenizer.vocab_len() > 256);
    }
}
