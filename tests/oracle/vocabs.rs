//! Published vocabularies: ids must equal those stored beside them.
//!
//! Set `GEB_VOCABS` to a folder of `ggml-vocab-*.gguf` files with their `.inp` and `.out`
//! pairs; without it the test is ignored. Texts are separated by a line `__ggml_vocab_test__`; ids stand one text
//! per line. Beside the files of `tests/oracle/tokenizers_walk.py` stands one `.json`: a list of texts with their ids,
//! special tokens included.

use std::path::{Path, PathBuf};

use crate::common::{ROOT, fixture, needs};
use geb::Error;
use geb::gguf::{GgufFile, Load};
use geb::tokenizer::{Encode, Tokenizer};
use libtest_mimic::Trial;

/// Families that compose characters first (NFC), as their own `tokenizer.json` says. The published ids are those of a
/// program that does not: for texts with combining marks they are other ones.
const COMPOSED: [&str; 1] = ["qwen35"];

/// Vocabularies whose algorithm is not ours; they must be refused by name.
const REFUSED: [&str; 2] = ["bert-bge", "gemma-4"];

fn companion(path: &Path, extension: &str) -> Option<String> {
    std::fs::read_to_string(format!("{}.{extension}", path.display())).ok()
}

/// Whether the ids are those of the SentencePiece library, which knows no special tokens.
fn sentencepiece(path: &Path) -> bool {
    companion(path, "library").is_some_and(|l| l.trim() == "sentencepiece")
}

/// Combining marks of which every published text with one has a composed form.
fn combines(c: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&c)
}

/// Returns (equal, different) texts.
fn compare(tokenizer: &Tokenizer, path: &Path) -> (usize, usize) {
    let (mut equal, mut different) = (0, 0);
    if let Some(list) = companion(path, "json") {
        let list: Vec<(String, Vec<u32>)> = serde_json::from_str(&list).expect("texts with ids");
        let how = Encode {
            add_special: false,
            parse_special: !sentencepiece(path),
        };
        for (text, expected) in &list {
            let found = tokenizer.encode(text, how).expect("encodes");
            match found == *expected {
                true => equal += 1,
                false => different += 1,
            }
            if found != *expected && different < 3 {
                println!("{text:?}\n  found    {found:?}\n  expected {expected:?}");
            }
        }
        return (equal, different);
    }
    let (Some(texts), Some(ids)) = (companion(path, "inp"), companion(path, "out")) else {
        return (0, 0);
    };
    for (text, line) in texts.split("\n__ggml_vocab_test__\n").zip(ids.lines()) {
        let expected: Vec<u32> = line
            .split_whitespace()
            .map(|id| id.parse().expect("an id"))
            .collect();
        let found = tokenizer.encode(text, Encode::default()).expect("encodes");
        let composed = COMPOSED.iter().any(|c| path.to_string_lossy().contains(c));
        if composed && text.chars().any(combines) {
            assert!(!tokenizer.decode(&found).chars().any(combines), "{text:?}");
            continue;
        }
        if found == expected {
            equal += 1;
        } else {
            different += 1;
            println!(
                "{}: {text:?}\n  found    {found:?}\n  expected {expected:?}",
                path.display()
            );
        }
        // Families that compose characters give them back composed.
        let again = tokenizer.decode(&found);
        let same = || {
            tokenizer
                .encode(&again, Encode::default())
                .expect("encodes")
                == found
        };
        assert!(again == text || same(), "{}: {text:?}", path.display());
    }
    (equal, different)
}

pub fn trials() -> Vec<Trial> {
    let missing = std::env::var_os("GEB_VOCABS").is_none();
    let missing = missing.then(|| "a folder of vocabularies (GEB_VOCABS)".to_owned());
    let test = published_vocabularies_give_their_published_ids;
    let geb = geb_vocabulary();
    let no_geb = (!geb.exists()).then(|| format!("GEB's tokenizer in {}", geb.display()));
    needs::trials(vec![
        (
            "published_vocabularies_give_their_published_ids",
            test,
            missing,
        ),
        (
            "geb_tokenizer_equals_sentencepiece",
            geb_tokenizer_equals_sentencepiece,
            no_geb,
        ),
    ])
}

fn published_vocabularies_give_their_published_ids() {
    let folder = PathBuf::from(std::env::var_os("GEB_VOCABS").expect("GEB_VOCABS"));
    let mut differences = 0;
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
    files.sort();
    for path in &files {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .replace("ggml-vocab-", "");
        let start = std::time::Instant::now();
        let file = GgufFile::open(path, Load::Map).expect("a valid file");
        let opened = start.elapsed();
        match Tokenizer::from_gguf(&file) {
            Ok(tokenizer) => {
                let built = start.elapsed() - opened;
                let (equal, different) = compare(&tokenizer, path);
                println!(
                    "{name}: {equal} equal, {different} different; {} tokens, file {opened:?}, tokenizer {built:?} {:?}",
                    tokenizer.vocab_len(),
                    tokenizer.warnings()
                );
                differences += different;
                assert!(
                    !REFUSED.contains(&name.as_str()),
                    "{name} was expected to be refused"
                );
            }
            Err(error @ Error::Unsupported { .. }) => {
                println!("{name}: {error}");
                assert!(REFUSED.contains(&name.as_str()), "{name}: {error}");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert!(!files.is_empty(), "no vocabulary in {}", folder.display());
    assert_eq!(differences, 0);
}

/// Its file cannot be part of this repository.
fn geb_vocabulary() -> PathBuf {
    Path::new(ROOT).join("../shared/geb/GEBtokenizer.model")
}

/// The tokenizer of GEB and ChatGLM3 against 240 texts encoded by the SentencePiece library.
fn geb_tokenizer_equals_sentencepiece() {
    let tokenizer =
        Tokenizer::from_gguf(&fixture::geb_vocabulary(&geb_vocabulary())).expect("valid metadata");
    let cases = std::fs::read_to_string(fixture::path("", "geb-tokenizer.json"))
        .expect("a file of the repository");
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_str(&cases).expect("JSON");
    for (text, ids) in cases {
        let found = tokenizer.encode(&text, Encode::default()).expect("encodes");
        assert_eq!(found, ids, "{text:?}");
        assert_eq!(tokenizer.decode(&found), text.replace('\u{2581}', " "));
    }
}
