//! The tokenizer that will be written against the tokenizer of the source, on a fixed text.

use super::folder::{Folder, bad};
use super::vocab::Vocab;
use super::{bpe, spm};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::gguf::writer::{self, MetaValue};
use crate::tokenizer::{Encode, Tokenizer};

/// English, Chinese, digits, white space, punctuation, code, composed characters and emoji. No
/// text of a special token, and nothing that Unicode composition changes.
const PROBE: &[&str] = &[
    "Hello, world! It's 2024; we'll see 1234567 results at 3.14 %.",
    "In the beginning God created the heaven and the earth.",
    "量化把浮点权重变成很少的比特。今天天气很好，我们去公园散步吧。",
    "中文 and English 混合：GPU 的 8-bit 权重（约 70%）",
    "  leading and   inner  spaces ",
    "line one\nline two\n\n\ttab\r\nend",
    "fn main() { println!(\"{}\", x_1 + 2 * y[3]); } // done",
    "naïve café Ünïcödé ßtraße 日本語 テキスト 한국어 العربية",
    "🙂👍🏽 𝒳 — “quotes” … ",
    "a",
    " ",
];

/// Compares token ids of the probe texts.
///
/// # Errors
/// [`Error::Verify`] with the first text that differs.
pub(super) fn tokenizer(
    folder: &Folder,
    vocab: &Vocab,
    metadata: &[(String, MetaValue)],
) -> Result<()> {
    let plan = writer::Plan {
        metadata: metadata.to_vec(),
        tensors: Vec::new(),
    };
    let mut bytes = Vec::new();
    writer::write_to(&mut bytes, &plan, &mut |_, _| Ok(()))?;
    let written = Tokenizer::from_gguf(&GgufFile::from_bytes(bytes)?)?;
    let source = Reference::open(folder, vocab)?;
    for text in PROBE {
        let want = source.encode(text)?;
        let got = written.encode(
            text,
            Encode {
                add_special: false,
                parse_special: false,
            },
        )?;
        if want != got {
            let at = want.iter().zip(&got).take_while(|(a, b)| a == b).count();
            let piece = |ids: &[u32]| {
                ids.get(at)
                    .map_or("the end".into(), |id| format!("token {id}"))
            };
            return Err(Error::Verify(format!(
                "the written tokenizer differs from the source on {text:?} at position {at}: {} instead of {}",
                piece(&got),
                piece(&want)
            )));
        }
    }
    Ok(())
}

/// The tokenizer of the source.
enum Reference<'a> {
    Json(Box<tokenizers::Tokenizer>),
    Pieces {
        folder: &'a Folder,
        file: &'static str,
        prefix: bool,
    },
}

impl<'a> Reference<'a> {
    fn open(folder: &'a Folder, vocab: &Vocab) -> Result<Reference<'a>> {
        for file in spm::FILES {
            if folder.has(file) {
                return Ok(Reference::Pieces {
                    folder,
                    file,
                    prefix: vocab.space_prefix.unwrap_or(true),
                });
            }
        }
        const FILE: &str = "tokenizer.json";
        let bytes = match folder.bytes(FILE)? {
            Some(bytes) => bytes,
            None => bpe::from_parts(folder)?.map_or_else(Vec::new, |v| v.to_string().into()),
        };
        // The library panics on some malformed files.
        let built = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(&bytes));
        match built {
            Ok(Ok(t)) => Ok(Reference::Json(Box::new(t))),
            Ok(Err(e)) => Err(bad(FILE, "tokenizer", e, "a tokenizer that loads")),
            Err(_) => Err(bad(
                FILE,
                "tokenizer",
                "not consistent",
                "a tokenizer that loads",
            )),
        }
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Reference::Pieces {
                folder,
                file,
                prefix,
            } => spm::encode_plain(folder, file, *prefix, text),
            Reference::Json(t) => {
                let run = std::panic::AssertUnwindSafe(|| t.encode_fast(text, false));
                match std::panic::catch_unwind(run) {
                    Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
                    Ok(Err(e)) => Err(bad(
                        "tokenizer.json",
                        "encoding",
                        e,
                        "a tokenizer that encodes",
                    )),
                    Err(_) => Err(bad(
                        "tokenizer.json",
                        "encoding",
                        "a panic of the library",
                        "a tokenizer that encodes",
                    )),
                }
            }
        }
    }
}
