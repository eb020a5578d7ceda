//! The tests of the public interface, a module for each subject. One program, because each links the library.

#[path = "../common/mod.rs"]
mod common;

mod adapter_files;
mod adapters;
mod calibrate;
mod chat_json;
mod choice;
mod compress;
mod constraint;
mod convert;
mod dense;
mod disk;
mod disk_folders;
mod embed;
mod engine;
mod evaluate;
mod experts;
mod expressions;
mod foreign_hybrid;
mod generate;
mod heads;
mod heads_guess;
mod hostile;
mod hostile_checkpoints;
mod hostile_folders;
mod hostile_template;
mod hostile_tensors;
mod hostile_tokenizer;
mod logits;
mod mutants;
mod mutants_behind;
mod observer;
mod pages;
mod probe;
mod quantized;
mod recurrent;
mod resume;
mod round_trip;
mod sampling;
mod scheduler;
mod search;
mod serve;
mod sparse;
mod speculate;
mod spellings;
mod split;
mod switch;
mod text;
mod writer;
mod yarn;

/// Counts what each thread has allocated: hostile files must not ask for more than they are worth.
#[global_allocator]
static ALLOCATOR: common::alloc::Counting = common::alloc::Counting;

/// A file without its line above would be a test that never runs.
#[test]
fn every_file_here_is_a_module() {
    let lines: Vec<&str> = include_str!("main.rs").lines().collect();
    let folder = std::path::Path::new(common::ROOT).join("tests/it");
    for entry in std::fs::read_dir(folder).expect("this folder") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let module = format!("mod {name};");
        assert!(name == "main" || lines.contains(&module.as_str()), "{name}");
    }
}
