//! The table against `tests/data/tool-formats.json`, and readers against cut, broken and hostile replies.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::events::{Delivery, Reply, ReplyEvent};
use super::ids::CallIds;
use super::reply::{ReplyParser, Style};
use super::table::{Beginning, IdStyle, Names, PAIRS, ROWS, Row};
use super::tool::Tool;

fn formats() -> Value {
    let text = include_str!("../../../tests/data/tool-formats.json");
    serde_json::from_str(text).expect("valid JSON")
}

fn row(name: &str) -> &'static Row {
    ROWS.iter().find(|r| r.name == name).expect("a row")
}

fn tools() -> Vec<Tool> {
    Tool::list(&json!([
        {"function": {"name": "get_weather", "parameters": {"type": "object", "properties": {
            "city": {"type": "string"}, "days": {"type": "integer"}, "more": {"type": "object"}}}}},
        {"function": {"name": "add", "parameters": {"type": "object", "properties": {
            "a": {"type": "number"}, "text": {"type": "string"}, "list": {"type": "array"}, "yes": {"type": "boolean"}}}}},
    ]))
    .expect("valid")
}

fn style(row: &'static Row) -> Style {
    Style {
        row,
        pair: row.reasoning,
        beginning: Beginning::Text,
        delivery: Delivery::InPieces,
    }
}

fn ids() -> CallIds {
    CallIds {
        prefix: "c".into(),
        first: 0,
    }
}

/// The events of a reply in these pieces, with pieces of texts put together.
fn events<'t>(style: Style, pieces: impl IntoIterator<Item = &'t str>) -> Vec<ReplyEvent> {
    let mut parser = ReplyParser::new(style, tools(), ids());
    let mut all: Vec<ReplyEvent> = pieces.into_iter().flat_map(|p| parser.push(p)).collect();
    all.extend(parser.finish());
    let mut joined: Vec<ReplyEvent> = Vec::new();
    for event in all {
        match (joined.last_mut(), &event) {
            (Some(ReplyEvent::Content(old)), ReplyEvent::Content(new))
            | (Some(ReplyEvent::Reasoning(old)), ReplyEvent::Reasoning(new))
            | (
                Some(ReplyEvent::CallArguments { text: old, .. }),
                ReplyEvent::CallArguments { text: new, .. },
            ) => old.push_str(new),
            _ => joined.push(event),
        }
    }
    joined
}

fn read(style: Style, text: &str) -> Reply {
    let mut reply = Reply::default();
    events(style, [text]).into_iter().for_each(|e| reply.add(e));
    reply
}

/// The reply as JSON, without ids.
fn shown(reply: &Reply) -> Value {
    let call = |c: &super::events::ToolCall| {
        let arguments: Value = serde_json::from_str(&c.arguments).expect("an object");
        assert!(arguments.is_object());
        json!({ "name": c.name, "arguments": arguments })
    };
    let calls: Vec<Value> = reply.calls.iter().map(call).collect();
    json!({ "content": reply.content, "reasoning": reply.reasoning, "calls": calls })
}

#[test]
fn the_table_is_that_of_the_specification() {
    let formats = formats();
    let mut at = 0;
    for wanted in formats["rows"].as_array().expect("rows") {
        let name = wanted["name"].as_str().expect("a name");
        let place = ROWS[at..].iter().position(|r| r.name == name);
        at += place.expect("a row of this name, in this order") + 1;
        let row = &ROWS[at - 1];
        let list = |key: &str| wanted.get(key).cloned().unwrap_or(json!([]));
        assert_eq!(json!(row.detect), list("detect"), "{name}");
        let close = wanted
            .get("close")
            .map_or("", |c| c.as_str().expect("a text"));
        // A call of GLM ends where the calls end.
        if name != "glm45" && name != "harmony" {
            assert_eq!(row.close, close, "{name}");
            let open = wanted["open"].as_str().expect("a text");
            let own = row.open.first().copied();
            let own = own.filter(|_| row.names == Names::Any || open != "{");
            match row.names {
                Names::Line => assert_eq!(open, "get_weather\n"),
                _ => assert_eq!(own.unwrap_or("{"), open, "{name}"),
            }
        }
        let alone = read(style(row), wanted["example"].as_str().expect("an example"));
        let calls = &formats["calls"];
        assert_eq!(
            shown(&alone),
            json!({"content": "", "reasoning": "", "calls": calls}),
            "{name}"
        );
        if let (Some([open, close]), Some(pair)) = (
            wanted["reasoning"].as_array().map(|a| &a[..]),
            row.reasoning,
        ) {
            assert_eq!(
                (json!(pair.open), json!(pair.close)),
                (open.clone(), close.clone()),
                "{name}"
            );
        }
    }
}

#[test]
fn no_opening_hides_another_one() {
    for row in &ROWS {
        let mut all = row.open.to_vec();
        all.extend(row.begin());
        all.extend(row.reasoning.iter().map(|p| p.open));
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert!(i == j || !a.starts_with(b), "{}: {a} {b}", row.name);
            }
        }
    }
    for pair in PAIRS {
        assert!(!pair.open.is_empty() && !pair.close.is_empty());
    }
}

/// A reply that says something, thinks and calls, in the way of a row.
fn example(row: &Row) -> String {
    let formats = formats();
    let rows = formats["rows"].as_array().expect("rows");
    let found = rows.iter().find(|r| r["name"] == row.name);
    match (found, row.name) {
        (Some(row), _) => row["example"].as_str().expect("an example").to_owned(),
        (None, "seed-oss") => "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n<parameter=days>2</parameter>\n</function>\n</seed:tool_call>".into(),
        (None, "functionary-3.1") => "<function=get_weather>{\"city\": \"Paris\", \"days\": 2}</function>".into(),
        (None, "nemotron-v2") => "<TOOLCALL>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 2}}]</TOOLCALL>".into(),
        (None, "tool-calls") => "<tool_calls>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 2}}\n</tool_calls>".into(),
        (None, "lfm2.5") => example(self::row("lfm2")),
        (None, name) => {
            let section = if name == "deepseek-v32" { "function_calls" } else { "tool_calls" };
            format!("<｜DSML｜{section}>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Paris</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜{section}>")
        }
    }
}

/// Rows whose calls may stand behind text.
fn stands_anywhere(row: &Row) -> bool {
    !row.open.is_empty() && row.name != "llama3" || row.name == "harmony"
}

#[test]
fn calls_stand_among_text_and_reasoning() {
    for row in &ROWS {
        let call = example(row);
        let wanted = json!([{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}]);
        let found = read(style(row), &call);
        assert_eq!(shown(&found)["calls"], wanted, "{}", row.name);
        assert_eq!(found.content, "", "{}", row.name);
        if row.name == "harmony" {
            continue;
        }
        if stands_anywhere(row) {
            let text = format!("I look.\n\n{call}\n");
            let found = shown(&read(style(row), &text));
            assert_eq!(
                (&found["content"], &found["calls"]),
                (&json!("I look."), &wanted),
                "{}",
                row.name
            );
        }
        if let Some(pair) = row.reasoning {
            let text = format!("{}\nLet me see.\n{}\n\n{call}", pair.open, pair.close);
            let all = json!({"content": "", "reasoning": "Let me see.", "calls": wanted});
            assert_eq!(shown(&read(style(row), &text)), all, "{}", row.name);
            // The prompt has the opening.
            let text = format!("Let me see.\n{}\n\nHello\n", pair.close);
            let begun = Style {
                beginning: Beginning::Reasoning,
                ..style(row)
            };
            let all = json!({"content": "Hello\n", "reasoning": "Let me see.", "calls": []});
            assert_eq!(shown(&read(begun, &text)), all, "{}", row.name);
            // Cut off inside.
            let text = format!("{}Let me", pair.open);
            let all = json!({"content": "", "reasoning": "Let me", "calls": []});
            assert_eq!(shown(&read(style(row), &text)), all, "{}", row.name);
        }
    }
}

/// A format, and two calls in it.
const TWO: &[(&str, &str)] = &[
    (
        "hermes",
        "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"a\": 2}, \"name\": \"add\"}\n</tool_call>",
    ),
    (
        "qwen-coder",
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=add>\n<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>",
    ),
    (
        "qwen-coder",
        "<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n<function=add>\n<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>",
    ),
    (
        "glm45",
        "<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call><tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
    ),
    (
        "minimax-m2",
        "<minimax:tool_call>\n<invoke name=\"add\">\n<parameter name=\"a\">1</parameter>\n</invoke>\n<invoke name=\"add\"><parameter name=\"a\">2</parameter></invoke>\n</minimax:tool_call>",
    ),
    (
        "kimi",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.add:1<|tool_call_argument_begin|>{\"a\": 2}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    (
        "deepseek-v31",
        "<｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        "deepseek-r1",
        "<｜tool_calls_begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 2}\n```<｜tool▁call▁end｜>",
    ),
    (
        "mistral-args",
        "[TOOL_CALLS]add[CALL_ID]123456789[ARGS]{\"a\": 1}[TOOL_CALLS]add[ARGS]{\"a\": 2}",
    ),
    (
        "mistral-list",
        "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}, \"id\": \"123456789\"}, {\"name\": \"add\", \"arguments\": {\"a\": 2}}]",
    ),
    (
        "command-r7b",
        "<|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"add\", \"parameters\": {\"a\": 1}},\n{\"tool_call_id\": \"1\", \"tool_name\": \"add\", \"parameters\": {\"a\": 2}}]<|END_ACTION|>",
    ),
    (
        "lfm2",
        "<|tool_call_start|>[add(a=1), add(a=2)]<|tool_call_end|>",
    ),
    (
        "gemma4",
        "<|tool_call>call:add{a:1}<tool_call|><|tool_call>call:add{a:2}<tool_call|>",
    ),
    ("functionary", ">>>add\n{\"a\": 1}>>>add\n{\"a\": 2}"),
    (
        "phi4-mini",
        "<|tool_call|>[{\"type\": \"function\", \"function\": {\"name\": \"add\", \"arguments\": {\"a\": 1}}}, {\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 2}\"}]<|/tool_call|>",
    ),
    (
        "harmony",
        "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{\"a\": 1}<|call|><|start|>assistant to=functions.add<|channel|>commentary json<|message|>{\"a\": 2}",
    ),
    ("glm4", "add\n{\"a\": 1}\nadd\n{\"a\": 2}"),
];

#[test]
fn several_calls_are_several() {
    for &(name, text) in TWO {
        let wanted =
            json!([{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2}}]);
        let found = read(style(row(name)), text);
        assert_eq!(shown(&found)["calls"], wanted, "{name}");
        assert_eq!(found.content, "", "{name}");
        assert_ne!(found.calls[0].id, found.calls[1].id, "{name}");
        if row(name).ids == IdStyle::Nine {
            assert!(found.calls.iter().all(|c| c.id.len() == 9));
        }
    }
}

#[test]
fn arguments_are_what_was_meant() {
    let nested = json!({"city": "a \"b\" \\ \n 中 😀 </tool_call>", "more": {"x": [1, {"y": null}], "z": "{}"}});
    let text = json!({"name": "get_weather", "arguments": nested}).to_string();
    let call = |arguments: &Value| json!([{"name": "get_weather", "arguments": arguments}]);
    let found = read(
        style(row("hermes")),
        &format!("<tool_call>{text}</tool_call>"),
    );
    assert_eq!(shown(&found)["calls"], call(&nested));
    let texts = [
        // No arguments, null, an empty text, the text of an object, line ends that JSON wants escaped.
        ("{\"name\": \"get_weather\"}", json!({})),
        (
            "{\"name\": \"get_weather\", \"arguments\": null}",
            json!({}),
        ),
        (
            "{\"name\": \"get_weather\", \"arguments\": \"\"}",
            json!({}),
        ),
        (
            "{\"arguments\": \"{\\\"days\\\": 3}\", \"name\": \"get_weather\"}",
            json!({"days": 3}),
        ),
        (
            "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"a\nb\tc\"}}",
            json!({"city": "a\nb\tc"}),
        ),
        (
            "{\"id\": 7, \"name\": \"get_weather\", \"parameters\": {}, \"x\": [{}]}",
            json!({}),
        ),
    ];
    for (text, wanted) in texts {
        let found = read(style(row("hermes")), &format!("<tool_call>{text}"));
        assert_eq!(shown(&found)["calls"], call(&wanted), "{text}");
    }
    // Texts between tags: the schema says what they are, and they may hold the text of their own end.
    let coder = "<tool_call>\n<function=add>\n<parameter=text>\n2\n</parameter>\n<parameter=a>\n2\n</parameter>\n<parameter=list>\n[1, \"x\"]\n</parameter>\n<parameter=yes>\nTrue\n</parameter>\n</function>\n</tool_call>";
    let wanted = json!({"text": "2", "a": 2, "list": [1, "x"], "yes": true});
    assert_eq!(
        shown(&read(style(row("qwen-coder")), coder))["calls"][0]["arguments"],
        wanted
    );
    let hard = "<tool_call>\n<function=add>\n<parameter=text>\n  <parameter=x>\n</parameter>\n is </function>\n\n</parameter>\n</function>\n</tool_call>";
    let wanted = json!({"text": "  <parameter=x>\n</parameter>\n is </function>\n"});
    assert_eq!(
        shown(&read(style(row("qwen-coder")), hard))["calls"][0]["arguments"],
        wanted
    );
}

/// What is no call is given back, whole.
#[test]
fn broken_calls_are_content() {
    for (name, text) in [
        (
            "hermes",
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}",
        ),
        (
            "hermes",
            "<tool_call>\n{\"name\": \"add\", \"arguments\": [1]}\n</tool_call>",
        ),
        (
            "hermes",
            "<tool_call>\nadd(1)\n</tool_call> and <tool_call>",
        ),
        ("hermes", "<tool_call>{\"arguments\": {}}</tool_call>"),
        ("hermes", "a < b <tool"),
        ("hermes", "<tool_call><tool_call><tool_call>"),
        (
            "qwen-coder",
            "<tool_call>\n<function=add>\n<parameter=a>\n1",
        ),
        ("qwen-coder", "<tool_call>\n<func"),
        ("glm45", "<tool_call>add<arg_key>a</arg_key>1</tool_call>"),
        ("kimi", "<|tool_calls_section_begin|>add"),
        ("mistral-args", "[TOOL_CALLS]add this[ARGS]{}"),
        ("mistral-args", "[TOOL_CALLS]add[ARGS]7"),
        ("mistral-list", "[TOOL_CALLS][{\"name\": \"add\""),
        ("lfm2", "<|tool_call_start|>[add(a=b)]<|tool_call_end|>"),
        ("gemma4", "<|tool_call>call:add{a:1"),
        ("functionary", ">>>unknown\n{}"),
        ("functionary", "x >>> y"),
        ("llama3", "{\"name\": \"unknown\", \"parameters\": {}}"),
        (
            "llama3",
            "{\"name\": \"add\", \"parameters\": {}} is how one calls it",
        ),
        ("llama3", "  {\"a\": 1}"),
        ("llama3", "See {\"name\": \"add\", \"parameters\": {}}"),
        ("glm4", "add\nis a function"),
        ("glm4", "sub\n{\"a\": 1}"),
        ("generic", "{\"other\": 1}"),
        ("generic", "{\"tool_call\": {\"name\": \"unknown\"}}"),
        ("command-r7b", "<|START_ACTION|>[]<|END_ACTION|>"),
    ] {
        for delivery in [Delivery::Whole, Delivery::InPieces] {
            let found = read(
                Style {
                    delivery,
                    ..style(row(name))
                },
                text,
            );
            assert_eq!(
                (found.content.as_str(), found.calls.len()),
                (text, 0),
                "{name}: {text}"
            );
        }
    }
}

#[test]
fn what_was_whole_before_a_broken_call_stays() {
    // A whole call before a broken one stays.
    let text =
        "<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\"";
    let found = read(style(row("hermes")), text);
    assert_eq!(
        (found.calls.len(), found.content.as_str()),
        (1, "<tool_call>\n{\"name\"")
    );
    // Harmony gives back its header, too.
    let text = "<|channel|>commentary to=functions.add<|message|>{\"a\": <|call|>";
    let found = read(style(row("harmony")), text);
    assert_eq!(
        found.content,
        "<|channel|>commentary to=functions.add<|message|>{\"a\": "
    );
}

#[test]
fn harmony_has_channels() {
    let text = "<|channel|>analysis<|message|>Think <x>.<|end|><|start|>assistant<|channel|>commentary<|message|>I will add.<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{\"a\":1}<|call|>";
    let found = shown(&read(style(row("harmony")), text));
    assert_eq!(
        found,
        json!({"content": "I will add.", "reasoning": "Think <x>.", "calls": [{"name": "add", "arguments": {"a": 1}}]})
    );
    let text = "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B\n<|return|>";
    let found = shown(&read(style(row("harmony")), text));
    assert_eq!(
        found,
        json!({"content": "B\n", "reasoning": "A", "calls": []})
    );
    // Without markers it is text.
    assert_eq!(
        read(style(row("harmony")), "Plain <|x|> text").content,
        "Plain <|x|> text"
    );
    // Built-in tools are none of the request.
    let text = "<|channel|>analysis to=browser.search<|message|>{}<|call|>";
    assert_eq!(read(style(row("harmony")), text).reasoning, "{}");
}

#[test]
fn answers_of_other_templates_are_unwrapped() {
    let found = read(
        style(row("generic")),
        " {\"response\": \"Say \\\"hi\\\"\\n\\u4e2d\"} ",
    );
    assert_eq!(
        shown(&found),
        json!({"content": "Say \"hi\"\n中", "reasoning": "", "calls": []})
    );
    assert_eq!(read(style(row("generic")), "plain\n").content, "plain\n");
    let cut = read(style(row("generic")), "{\"response\": \"Say");
    assert_eq!(cut.content, "Say");
    // Behind Llama's marker: an object, or Python.
    let found = read(
        style(row("llama3")),
        "<|python_tag|>add.call(a=1, text=\"x\")",
    );
    assert_eq!(
        shown(&found)["calls"],
        json!([{"name": "add", "arguments": {"a": 1, "text": "x"}}])
    );
    let found = read(
        style(row("llama3")),
        "<|python_tag|>{\"name\": \"add\", \"parameters\": {\"a\": 1}}",
    );
    assert_eq!(found.calls.len(), 1);
    // Functionary's text, and a prompt that has the opening.
    let open = Style {
        beginning: Beginning::Call,
        ..style(row("functionary"))
    };
    assert_eq!(read(open, "all\nHello").content, "Hello");
    assert_eq!(read(open, "add\n{\"a\": 1}").calls.len(), 1);
    assert_eq!(read(open, "all\nHello>>>add\n{\"a\": 1}").calls.len(), 1);
}

#[test]
fn nothing_is_looked_for_without_tools() {
    for row in &ROWS {
        let mut parser = ReplyParser::new(style(row), Vec::new(), ids());
        let text = example(row);
        let mut reply = Reply::default();
        let events = parser.push(&text).into_iter().chain(parser.finish());
        events.for_each(|e| reply.add(e));
        assert!(reply.calls.is_empty(), "{}", row.name);
        if row.name != "harmony" {
            assert_eq!(reply.content, text, "{}", row.name);
        }
    }
}

/// Openings that lead nowhere, one in the other: work stays in proportion.
#[test]
fn hostile_replies_end() {
    let started = std::time::Instant::now();
    for row in &ROWS {
        let open = row.open.first().copied().unwrap_or("{");
        for filler in [
            "",
            "{\"a\": \"",
            "[{\"name\": \"add\", \"arguments\": {\"",
            "add\n{\"",
            "<function=add><parameter=a>",
        ] {
            let text = format!("{open}{filler}").repeat(4000);
            let found = read(style(row), &text);
            assert!(found.content.len() <= text.len());
        }
    }
    assert!(started.elapsed().as_secs() < 60);
}

/// Replies of a row: pieces of text, reasoning, calls and markers, some of them broken.
fn reply_of(row: &'static Row) -> impl Strategy<Value = String> {
    let call = example(row);
    let mut parts = vec![
        call.clone(),
        "Hello".into(),
        "\n\n".into(),
        " ".into(),
        "{".into(),
        "<".into(),
        "中😀".into(),
        "}".into(),
        "\"".into(),
    ];
    parts.extend(row.markers().into_iter().map(str::to_owned));
    parts.extend(
        row.reasoning
            .iter()
            .flat_map(|p| [p.open.to_owned(), p.close.to_owned()]),
    );
    let cut =
        (0..=call.chars().count()).prop_map(move |n| call.chars().take(n).collect::<String>());
    let part = prop_oneof![4 => prop::sample::select(parts), 1 => cut];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// A text cut at some places between characters.
fn cut(text: &str, places: &[usize]) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut places: Vec<usize> = places.iter().map(|p| p % (chars.len() + 1)).collect();
    places.extend([0, chars.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|w| chars[w[0]..w[1]].iter().collect())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn events_do_not_depend_on_the_pieces(
        (row, text) in (0..ROWS.len()).prop_flat_map(|i| (Just(&ROWS[i]), reply_of(&ROWS[i]))),
        places in prop::collection::vec(any::<usize>(), 0..12),
        streamed in any::<bool>(),
        reasons in any::<bool>(),
    ) {
        let delivery = if streamed { Delivery::InPieces } else { Delivery::Whole };
        let beginning = if reasons { Beginning::Reasoning } else { Beginning::Text };
        let style = Style { delivery, beginning, ..style(row) };
        let whole = events(style, [text.as_str()]);
        let pieces = cut(&text, &places);
        prop_assert_eq!(&events(style, pieces.iter().map(String::as_str)), &whole, "{} {:?}", row.name, text);
        let each = cut(&text, &(0..text.chars().count()).collect::<Vec<_>>());
        prop_assert_eq!(&events(style, each.iter().map(String::as_str)), &whole, "{} {:?}", row.name, text);
        for event in &whole {
            if let ReplyEvent::CallDropped { .. } = event {
                prop_assert!(streamed);
            }
        }
    }
}
