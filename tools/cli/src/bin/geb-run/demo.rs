//! `geb-run demo`: the built-in model, quantized in front of the user and measured.
//!
//! geb-nano was trained in FP32, so the numbers say what 8 and 4 bits really cost. The three files
//! are made by the converter of `geb-quantize`, compared as `geb-run compare` does, and sampled.

use std::path::Path;
use std::sync::Arc;

use geb::Dtype;
use geb::generate::{GenerateOptions, generate};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::{Session, SessionOptions};
use geb::tokenizer::{Encode, Tokenizer};
use geb_convert as convert;
use geb_eval::Method;
use serde_json::{Value, json};

use crate::args::{DemoArgs, GateArgs, KvHow, asked};
use crate::compare::files::{Candidate, Maker};
use crate::compare::state::{Measured, Store};
use crate::compare::{self, Plan, rounds, table};
use crate::interrupt::Interrupt;
use crate::report::{self, Failure, Outcome, note, out};
use geb_eval::compare::result::Comparison;

/// An embedded file of the model's folder.
macro_rules! asset {
    ($name:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../assets/geb-nano/",
            $name
        ))
    };
}

/// The checkpoint, as a folder that the converter reads.
const CHECKPOINT: [(&str, &[u8]); 4] = [
    ("config.json", asset!("hf/config.json")),
    ("model.safetensors", asset!("hf/model.safetensors")),
    ("GEBtokenizer.model", asset!("hf/GEBtokenizer.model")),
    ("tokenizer_config.json", asset!("hf/tokenizer_config.json")),
];
/// What an independent implementation got in FP32.
const EXPECTED: &[u8] = asset!("expected.json");
/// Held-out text and prompt of a language.
const TEXTS: [Language; 2] = [
    Language {
        code: "en",
        text: asset!("eval-en.txt"),
        prompt: "And it came to pass in those days, that",
    },
    Language {
        code: "zh",
        text: asset!("eval-zh.txt"),
        prompt: "耶和华对摩西说：",
    },
];
/// The types compared; the first one is the reference.
const TYPES: [Dtype; 3] = [Dtype::F32, Dtype::Q8_0, Dtype::Q4_0];
/// Windows per language with `--quick`.
const QUICK_WINDOWS: usize = 6;
/// How speed is measured; it fits the context of 512.
const SPEED: rounds::Method = rounds::Method {
    prompt: 256,
    decode: 96,
    rounds: 5,
};
/// A demo has nothing to refuse.
const GATES: GateArgs = GateArgs {
    max_kld: None,
    min_top1: None,
    max_ppl_increase: None,
    min_speedup: None,
    max_block_error: f64::INFINITY,
};
/// Tokens of a sample.
const SAMPLE_TOKENS: usize = 40;

struct Language {
    code: &'static str,
    text: &'static [u8],
    prompt: &'static str,
}

/// Runs the command.
pub fn run(args: &DemoArgs, interrupt: &Interrupt) -> Outcome {
    if !args.output.quiet {
        note(
            "geb-nano: 4.2 M parameters, trained in FP32 on English and Chinese public-domain text",
        );
    }
    let folder = tempfile::Builder::new().prefix("geb-demo-").tempdir()?;
    let mut files = quantize_all(args, folder.path(), interrupt)?;
    let plan = Plan {
        title: "geb-nano: what 8 and 4 bits cost".into(),
        base: files.remove(0),
        candidates: files,
        kv: vec![KvHow::Auto],
        threads: asked(args.threads).into_iter().collect(),
        speed: SPEED,
        texts: TEXTS.iter().map(Language::text).collect(),
        // The method of the model's card, so that the perplexities can be compared with it.
        method: Method {
            max_windows: args.quick.then_some(QUICK_WINDOWS),
            ..Method::default()
        },
        bos: false,
        tasks: Vec::new(),
        gates: &GATES,
        output: &args.output,
    };
    let c = compare::measure(&plan, Measured::default(), &mut Store::none(), interrupt)?;
    let samples = interrupt.during(|| samples(&c, args, interrupt));
    interrupt.check()?;
    let samples = samples?;
    if args.json {
        report::out_line(&to_json(&c, &samples)?.to_string())
    } else {
        out(&to_text(&c, &samples))
    }
}

impl Language {
    /// Name, file and content.
    fn text(&self) -> (String, String, String) {
        let file = format!("assets/geb-nano/eval-{}.txt", self.code);
        let content = String::from_utf8_lossy(self.text).into_owned();
        (self.code.into(), file, content)
    }
}

/// The built-in model as a Q8_0 file in `folder`.
pub fn model(folder: &Path) -> Outcome<std::path::PathBuf> {
    let source = unpack(folder)?;
    let path = folder.join("geb-nano.gguf");
    let options = convert::Options {
        policy: Dtype::Q8_0.into(),
        ..Default::default()
    };
    convert::convert(&source, &path, &options, &mut ())?;
    Ok(path)
}

/// Writes the checkpoint into a folder of `folder`.
fn unpack(folder: &Path) -> Outcome<std::path::PathBuf> {
    let source = folder.join("hf");
    std::fs::create_dir(&source)?;
    for (name, data) in CHECKPOINT {
        std::fs::write(source.join(name), data)?;
    }
    Ok(source)
}

/// Unpacks the checkpoint and converts it to every type.
fn quantize_all(args: &DemoArgs, folder: &Path, interrupt: &Interrupt) -> Outcome<Vec<Candidate>> {
    let source = unpack(folder)?;
    let target = args.keep.as_deref().unwrap_or(folder);
    std::fs::create_dir_all(target)
        .map_err(|e| Failure::new(e.to_string()).at(target.display()))?;
    let maker = Maker {
        folder: target.to_path_buf(),
        imatrix: None,
        fresh: true,
        threads: asked(args.threads),
        output: &args.output,
        interrupt,
    };
    let make = |dtype: Dtype| {
        let name = dtype.name().to_lowercase();
        let path = target.join(format!("geb-nano-{}.gguf", dtype.name()));
        let options = convert::Options {
            policy: dtype.into(),
            threads: maker.threads,
            ..Default::default()
        };
        maker.convert(&source, &path, &name, &options)?;
        Ok(Candidate {
            command: Some(format!(
                "geb-quantize assets/geb-nano/hf {name}.gguf --type {name}"
            )),
            name,
            path,
        })
    };
    TYPES.into_iter().map(make).collect()
}

/// Continuations of all prompts, per row.
fn samples(c: &Comparison, args: &DemoArgs, interrupt: &Interrupt) -> Outcome<Vec<Vec<String>>> {
    let of_row = |row: &geb_eval::compare::result::Row| {
        let file = Arc::new(GgufFile::open(Path::new(&row.file), Load::Map)?);
        let tokenizer = Tokenizer::from_gguf(&file)?;
        let options = SessionOptions {
            threads: asked(args.threads).unwrap_or(0),
            cancel: Some(interrupt.flag()),
            ..Default::default()
        };
        let mut session = Session::new(Model::load(file)?, &options)?;
        let texts = TEXTS
            .iter()
            .map(|l| sample(&mut session, &tokenizer, l.prompt));
        texts.collect()
    };
    c.rows.iter().map(of_row).collect()
}

/// A continuation; the same seed for all types, so that differences come from the weights.
fn sample(session: &mut Session, tokenizer: &Tokenizer, prompt: &str) -> Outcome<String> {
    let ids = tokenizer.encode(
        prompt,
        Encode {
            add_special: true,
            parse_special: false,
        },
    )?;
    let options = GenerateOptions {
        max_tokens: SAMPLE_TOKENS,
        sampling: SamplerOptions {
            temperature: 0.7,
            top_k: 40,
            seed: 1,
            ..Default::default()
        },
        ..Default::default()
    };
    session.reset();
    let result = generate(session, tokenizer, &ids, &options, &mut |_: &str| {
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(result.text.replace('\n', " "))
}

fn to_text(c: &Comparison, samples: &[Vec<String>]) -> String {
    let [en, zh] = expected().map(|p| p.unwrap_or(f64::NAN));
    let mut text = format!(
        "{}\nAn independent FP32 implementation gets the perplexities {en:.3} and {zh:.3} on all 121 and 96 windows.\n",
        table::text(c)
    );
    for (i, language) in TEXTS.iter().enumerate() {
        text.push_str(&format!("\n{} …\n", language.prompt));
        for (row, samples) in c.rows.iter().zip(samples) {
            let sample = samples[i].trim_start();
            text.push_str(&format!("  {:<5} … {sample}\n", row.name));
        }
    }
    text.push_str("\nThe model is a toy. A real one: geb-run pull smollm2, then geb-run smollm2\n");
    text
}

/// FP32 perplexities of the reference, English and Chinese.
fn expected() -> [Option<f64>; 2] {
    let json: Value = serde_json::from_slice(EXPECTED).unwrap_or_default();
    ["en", "zh"].map(|code| json["perplexity"][code]["perplexity"].as_f64())
}

/// The comparison, with the samples and what an independent implementation got.
fn to_json(c: &Comparison, samples: &[Vec<String>]) -> Outcome<Value> {
    let mut all = serde_json::to_value(c).map_err(|e| Failure::new(e.to_string()))?;
    for (i, samples) in samples.iter().enumerate() {
        let told = TEXTS.iter().zip(samples);
        all["rows"][i]["samples"] = told
            .map(|(l, text)| json!({ "prompt": l.prompt, "text": text }))
            .collect();
    }
    let [en, zh] = expected();
    all["expected_f32"] = json!({ "en": en, "zh": zh, "windows": { "en": 121, "zh": 96 } });
    Ok(all)
}
