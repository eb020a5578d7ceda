//! What a file may not ask for.

use super::*;
use crate::gguf::writer::{MetaValue, Plan};

fn read(architecture: &str, more: &[(&str, MetaValue)]) -> Result<Config> {
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", architecture.to_owned());
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
    ] {
        plan.push_meta(format!("{architecture}.{key}"), MetaValue::U32(value));
    }
    let epsilon = format!("{architecture}.attention.layer_norm_rms_epsilon");
    plan.push_meta(&epsilon, MetaValue::F32(1e-5));
    for (key, value) in more {
        plan.push_meta(format!("{architecture}.{key}"), value.clone());
    }
    let header = plan.layout().expect("fits").header;
    Config::read(&GgufFile::from_bytes(header).expect("a valid file"))
}

#[test]
fn unknown_names_are_errors_that_list_the_known() {
    let kind = |name: &str| [("rope.scaling.type", MetaValue::Str(name.into()))];
    for known in ["none", "linear", "yarn", "longrope"] {
        assert!(read("llama", &kind(known)).is_ok(), "{known}");
    }
    let names = REGISTRY.iter().map(|a| a.name).collect::<Vec<_>>();
    let scalings = ["none", "linear", "yarn", "longrope"];
    for (found, value, all) in [
        (read("mpt", &[]), "mpt", names.as_slice()),
        (read("Llama", &[]), "Llama", &names),
        (read("llama", &kind("ntk")), "ntk", &scalings),
        (read("llama", &kind("")), "", &scalings),
    ] {
        let Err(Error::Unsupported {
            value: named,
            known,
            ..
        }) = found
        else {
            panic!("{value}: {found:?}")
        };
        assert_eq!(named, value);
        assert!(all.iter().all(|name| known.contains(name)), "{known}");
    }
}
