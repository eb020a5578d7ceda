//! The writer: what it writes reads back, and whatever fails leaves the old output alone.

use std::fs;
use std::io::Write;

use geb::gguf::writer::{MetaValue, Plan, write_file, write_to};
use geb::gguf::{GgufFile, Load};
use geb::{Dtype, Error};

fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", "test")
        .push_meta("a.list", vec!["x".to_owned(), String::new()]);
    plan.push_tensor("a", Dtype::Q8_0, [64, 2])
        .push_tensor("b", Dtype::F32, [3]);
    plan
}

fn fill(i: usize, out: &mut dyn Write) -> geb::Result<()> {
    let bytes = if i == 0 {
        vec![7u8; 136]
    } else {
        vec![9u8; 12]
    };
    out.write_all(&bytes).map_err(Error::io("data"))
}

#[test]
fn written_file_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write_file(&path, &plan(), &mut fill).unwrap();
    let file = GgufFile::open(&path, Load::Map).unwrap();
    assert_eq!(file.str("general.architecture").unwrap(), Some("test"));
    assert_eq!(file.tensor("a").unwrap().bytes(), [7u8; 136]);
    assert_eq!(file.tensor("b").unwrap().bytes(), [9u8; 12]);
    let mut memory = Vec::new();
    write_to(&mut memory, &plan(), &mut fill).unwrap();
    assert_eq!(memory, fs::read(&path).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let mut copy = Plan::default();
    copy.copy_meta(&file, |_, _| true);
    assert_eq!(copy.metadata, plan().metadata);
    assert_eq!(MetaValue::from("x"), MetaValue::Str("x".into()));
}
