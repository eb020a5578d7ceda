//! Compressed texts: what comes back, how long they are, what is refused.

use std::path::Path;
use std::sync::Arc;

use crate::common::nano::session_with;
use geb::gguf::GgufFile;
use geb::model::Model;
use geb::session::{KvChoice, Session, SessionOptions};
use geb::tokenizer::{Encode, Tokenizer};
use geb::{Dtype, Error};
use geb_cli::compress::{Compressed, Header, compress, decompress};
use geb_convert::{Options, convert_to_vec};
use geb_eval::Scores;
use sha2::{Digest, Sha256};

type Ready = (Session, Tokenizer);

fn with_tokenizer(session: Session) -> Ready {
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    (session, tokenizer)
}

fn nano(dtype: Dtype, threads: usize, ctx: usize) -> Ready {
    let options = SessionOptions {
        threads,
        ctx: Some(ctx),
        ..Default::default()
    };
    with_tokenizer(session_with(dtype, &options))
}

fn pack(s: &mut Ready, data: &[u8]) -> Compressed {
    compress(&mut s.0, &s.1, data, &mut |_, _| true).expect("compresses")
}

fn unpack(s: &mut Ready, file: &[u8]) -> geb::Result<Vec<u8>> {
    decompress(&mut s.0, &s.1, file, &mut |_, _| true)
}

fn english(bytes: usize) -> Vec<u8> {
    let text = std::fs::read(crate::common::asset("eval-en.txt")).expect("text");
    text[..bytes].to_vec()
}

fn chinese(characters: usize) -> Vec<u8> {
    let text = std::fs::read_to_string(crate::common::asset("eval-zh.txt")).expect("text");
    text.chars()
        .take(characters)
        .collect::<String>()
        .into_bytes()
}

fn random(n: u64) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(99);
        (state >> 40) as u8
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn texts_and_bytes_come_back_whatever_the_threads_and_batches() {
    let mixed = [
        &english(200),
        &[0xff, 0xfe][..],
        &chinese(30),
        b"\xc3(",
        b"ab",
    ]
    .concat();
    let long_token = "神说".repeat(40).into_bytes();
    // A context of 64 is left several times.
    for (name, data, ctx) in [
        ("english", english(1500), 64),
        ("english", english(600), 512),
        ("chinese", chinese(300), 64),
        ("random", random(700), 64),
        ("mixed", mixed, 64),
        ("repeated", long_token, 64),
        ("short", b"a".to_vec(), 64),
        ("nothing", Vec::new(), 64),
    ] {
        let packed = pack(&mut nano(Dtype::Q8_0, 3, ctx), &data);
        let back = unpack(&mut nano(Dtype::Q8_0, 1, ctx), &packed.file).expect("comes back");
        assert!(back == data, "{name}");
        let (header, content) = Header::read(&packed.file).expect("header");
        assert_eq!((header.bytes, header.context), (data.len(), ctx), "{name}");
        let wanted = packed.bits + 8.0 * packed.stored as f64;
        let parts = 33.0 * (2 + data.len() / 16) as f64;
        let most = wanted + 0.001 * packed.tokens as f64 + parts.min(500.0) + 16.0;
        assert!(
            8.0 * content.len() as f64 <= most,
            "{name}: {} {wanted}",
            content.len()
        );
        match name {
            "random" => assert!(packed.stored == data.len() && packed.tokens == 0),
            "english" | "chinese" => {
                let ratio = 8.0 * packed.file.len() as f64 / data.len() as f64;
                assert!(packed.stored == 0 && ratio < 5.0, "{name}: {ratio}");
            }
            _ => {}
        }
    }
}

#[test]
fn the_size_is_the_cross_entropy() {
    for data in [english(1000), chinese(250)] {
        let mut s = nano(Dtype::Q8_0, 2, 512);
        let packed = pack(&mut s, &data);
        let text = std::str::from_utf8(&data).expect("text");
        let mut ids = vec![s.1.bos().or(s.1.eos()).unwrap_or(0)];
        ids.extend(s.1.encode(text, Encode::default()).expect("encodes"));
        assert_eq!(packed.tokens, ids.len() - 1);
        let (mut nats, mut scores) = (0.0, Scores::new(&mut s.0, &ids, 0));
        loop {
            let some = scores.advance().expect("scores");
            if some.is_empty() {
                break;
            }
            nats -= some.iter().map(|t| t.logprob).sum::<f64>();
        }
        let bits = nats / std::f64::consts::LN_2;
        assert!(
            (packed.bits / bits - 1.0).abs() < 1e-3,
            "{} {bits}",
            packed.bits
        );
        let (_, content) = Header::read(&packed.file).expect("header");
        let over = 8.0 * content.len() as f64 - packed.bits;
        assert!(
            (0.0..50.0 + 0.001 * packed.tokens as f64).contains(&over),
            "{over}"
        );
    }
}

#[test]
fn recurrent_models_compress_too() {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    for case in ["rwkv7", "mamba2"] {
        let options = Options {
            policy: Dtype::F32.into(),
            ..Options::default()
        };
        let (bytes, _) = convert_to_vec(&root.join(case).join("hf"), &options).expect("converts");
        let file = Arc::new(GgufFile::from_bytes(bytes).expect("GGUF"));
        let ready = |threads| {
            let options = SessionOptions {
                threads,
                ctx: Some(64),
                ..Default::default()
            };
            let model = Model::load(file.clone()).expect("model");
            with_tokenizer(Session::new(model, &options).expect("session"))
        };
        let data = b"What a recurrent model remembers is enough. ".repeat(3);
        let packed = pack(&mut ready(2), &data);
        assert!(packed.tokens > 0, "{case}");
        assert!(
            unpack(&mut ready(1), &packed.file).expect("comes back") == data,
            "{case}"
        );
    }
}

#[test]
fn damage_is_found_before_or_after() {
    let mut s = nano(Dtype::Q8_0, 2, 64);
    let data = english(120);
    let file = pack(&mut s, &data).file;
    for n in (0..file.len()).step_by(7).chain([file.len() - 1]) {
        let cut = unpack(&mut s, &file[..n]);
        assert!(matches!(cut, Err(Error::Compressed { .. })), "{n}");
    }
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 0x10;
        let refused = Header::read(&changed).map(|_| ());
        assert!(matches!(refused, Err(Error::Compressed { .. })), "{at}");
    }
    // Changed so that the check holds: the content decodes to something else.
    let (_, content) = Header::read(&file).expect("header");
    let start = file.len() - 8 - content.len();
    for at in (start..file.len() - 8).step_by(9) {
        let mut changed = file.clone();
        changed[at] ^= 0x41;
        let end = changed.len() - 8;
        let check = Sha256::digest(&changed[..end]);
        changed[end..].copy_from_slice(&check[..8]);
        let refused = unpack(&mut s, &changed);
        assert!(
            matches!(refused, Err(Error::Compressed { .. })),
            "{at}: {refused:?}"
        );
    }
    assert!(unpack(&mut s, &file).expect("comes back") == data);
    let stopped = decompress(&mut s.0, &s.1, &file, &mut |_, _| false);
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

#[test]
fn another_model_or_session_is_refused_by_name() {
    let mut s = nano(Dtype::Q8_0, 2, 64);
    let file = pack(&mut s, &english(60)).file;
    let (header, _) = Header::read(&file).expect("header");
    assert!(header.name.contains("Q8_0"), "{}", header.name);
    let options = SessionOptions {
        ctx: Some(64),
        kv: KvChoice::F32,
        ..Default::default()
    };
    for (mut other, field) in [
        (nano(Dtype::Q4_0, 2, 64), "model"),
        (nano(Dtype::Q8_0, 2, 65), "context"),
        (
            with_tokenizer(session_with(Dtype::Q8_0, &options)),
            "KV cache type",
        ),
    ] {
        let refused = unpack(&mut other, &file);
        let Err(Error::Request { what, allowed, .. }) = refused else {
            panic!("{field}: {refused:?}")
        };
        assert_eq!(what, field);
        assert!(
            field != "model" || allowed.contains(&header.name),
            "{allowed}"
        );
    }
    // What the header asks for is what reads it.
    let options = header.options().expect("options");
    let mut same = with_tokenizer(session_with(Dtype::Q8_0, &options));
    assert!(unpack(&mut same, &file).expect("comes back") == english(60));
}
