//! Published chat templates: their tool calls are read back, and no request becomes control tokens.
//!
//! Set `GEB_TEMPLATES` to a folder of `*.jinja` files, as llama.cpp has them in `models/templates`; without it the
//! tests are ignored, and fail where `CI` is `true`.

use std::path::PathBuf;

use crate::common::{chat, needs};
use geb::chat::ChatTemplate;
use geb::chat::tools::Proof;
use libtest_mimic::Trial;

/// Of llama-cpp-python 0.3.36: 70 templates, of which so many have a row, are proved, take the conversation of `injected`.
const ROWS: usize = 54;
const PROVED: usize = 49;
const TAKEN: usize = 65;

/// Rows of templates by name, where the file is known.
const KNOWN: [(&str, &str); 22] = [
    ("openai-gpt-oss-120b", "harmony"),
    ("google-gemma-4-31B-it", "gemma4"),
    ("ByteDance-Seed-OSS", "seed-oss"),
    ("meetkai-functionary-medium-v3.1", "functionary-3.1"),
    ("meetkai-functionary-medium-v3.2", "functionary"),
    ("Qwen3-Coder", "qwen-coder"),
    ("Qwen3.5-4B", "qwen-coder"),
    ("GLM-4.6", "glm45"),
    ("GLM-4.7-Flash", "glm45"),
    ("MiniMax-M2", "minimax-m2"),
    ("Qwen-Qwen3-0.6B", "hermes"),
    ("Qwen-Qwen2.5-7B-Instruct", "hermes"),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes"),
    ("ibm-granite-granite-4.0", "hermes"),
    ("moonshotai-Kimi-K2", "kimi"),
    ("deepseek-ai-DeepSeek-V3.1", "deepseek-v31"),
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-r1"),
    ("mistralai-Ministral-3-14B-Reasoning-2512", "mistral-args"),
    ("mistralai-Mistral-Nemo-Instruct-2407", "mistral-list"),
    (
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        "command-r7b",
    ),
    ("LFM2-8B-A1B", "lfm2"),
    ("meta-llama-Llama-3.1-8B-Instruct", "llama3"),
];

pub fn trials() -> Vec<Trial> {
    let folder = std::env::var_os("GEB_TEMPLATES").is_some();
    let missing = || (!folder).then(|| "GEB_TEMPLATES, a folder of chat templates".into());
    needs::trials(vec![
        (
            "tool_calls_are_read_back",
            tool_calls_are_read_back as fn(),
            missing(),
        ),
        (
            "no_request_becomes_control_tokens",
            no_request_becomes_control_tokens as fn(),
            missing(),
        ),
    ])
}

/// Names and templates; what is no template of ours is told.
fn templates() -> Vec<(String, ChatTemplate)> {
    let folder = PathBuf::from(std::env::var_os("GEB_TEMPLATES").expect("a folder"));
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "jinja") {
            continue;
        }
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let source = std::fs::read_to_string(&path).expect("a text");
        match ChatTemplate::from_source(&source, "<|zqbos|>", "<|zqend|>") {
            Ok(template) => out.push((name, template)),
            Err(error) => println!("{name}: {error}"),
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

fn tool_calls_are_read_back() {
    let templates = templates();
    let known = |n: &str| KNOWN.iter().find(|(known, _)| *known == n);
    let (mut rows, mut proved, mut wrong, mut found) = (0, 0, Vec::new(), 0);
    for (name, template) in &templates {
        let format = template.reply_format();
        println!(
            "{name}: {}, parallel {}, reasoning {:?}",
            format.describe(),
            format.parallel(),
            format.reasoning()
        );
        rows += usize::from(format.name() != "generic");
        proved += usize::from(*format.proof() == Proof::Proved);
        if let Some((_, row)) = known(name) {
            found += 1;
            if *row != format.name() {
                wrong.push(format!("{name}: {}, known: {row}", format.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "other rows than known: {wrong:?}");
    assert_eq!(found, KNOWN.len(), "templates of KNOWN that were read");
    println!(
        "{} templates: {rows} with a row, {proved} of them proved",
        templates.len()
    );
    assert!(rows >= ROWS && proved >= PROVED, "{rows}, {proved}");
}

fn no_request_becomes_control_tokens() {
    let mut taken = 0;
    for (name, template) in templates() {
        let found = chat::injected(&template);
        taken += usize::from(found.is_ok());
        println!(
            "{name}: {}",
            match found {
                Ok(lost) if lost.is_empty() => "its own tokens stay".to_owned(),
                Ok(lost) => format!("its own tokens become text beside {lost:?}"),
                Err(why) => format!("refuses the conversation: {why}"),
            }
        );
    }
    assert!(taken >= TAKEN, "{taken} templates took the conversation");
}
