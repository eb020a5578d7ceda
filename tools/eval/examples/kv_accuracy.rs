//! What a narrower KV cache costs: perplexity, KL divergence and top-1 agreement with the F32 cache
//! of the same file.
//!
//! ```sh
//! cargo run --release --example kv_accuracy -- model.gguf text.txt [windows]
//! ```

use std::sync::Arc;

use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{KvChoice, Session, SessionOptions};
use geb::tokenizer::{Encode, Tokenizer};
use geb_eval::{Method, evaluate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, rest @ ..] = args.as_slice() else {
        return Err("usage: kv_accuracy MODEL TEXT [WINDOWS]".into());
    };
    let file = Arc::new(GgufFile::open(model.as_ref(), Load::Map)?);
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let ids = tokenizer.encode(&std::fs::read_to_string(text)?, Encode::default())?;
    let model = Model::load(file)?;
    let session = |kv| {
        let options = SessionOptions {
            kv,
            ..Default::default()
        };
        Session::new(model.clone(), &options)
    };
    let caches = [KvChoice::F32, KvChoice::F16, KvChoice::Q8_0];
    let mut sessions = caches
        .map(session)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let method = Method {
        max_windows: rest.first().map(|n| n.parse()).transpose()?,
        ..Method::default()
    };
    let reports = evaluate(&mut sessions, &ids, &method, &mut |_, _| true)?;
    println!("cache  perplexity        KL    largest  top-1");
    for (session, report) in sessions.iter().zip(&reports) {
        let name = session.kv_type().name();
        print!("{name:6} {:10.4}", report.perplexity.value);
        match &report.against_base {
            None => println!(" the base"),
            Some(d) => println!(
                " {:9.6} {:10.6} {:5.2} %",
                d.kl.mean.value,
                d.kl.max,
                100.0 * d.top1.value
            ),
        }
    }
    Ok(())
}
