//! `geb-run demo`: the built-in model, quantized in front of the user and measured.
//!
//! geb-nano was trained in FP32, so the numbers say what 8 and 4 bits really cost. The three files
//! are made by the converter of `geb-quantize`, evaluated in lockstep on held-out text, timed, and
//! sampled.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use geb::Dtype;
use geb::convert;
use geb::eval::{Method, Report, evaluate};
use geb::generate::{GenerateOptions, generate};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::{Session, SessionOptions};
use geb::tokenizer::{Encode, Tokenizer};
use serde_json::{Value, json};

use crate::args::DemoArgs;
use crate::bench::{Rates, measure_decode, measure_prefill};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome, bytes, note, out, rate, seconds, table};

/// An embedded file of the model's folder.
macro_rules! asset {
    ($name:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../assets/geb-nano/",
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
/// Tokens of the speed measurements; together they fit the context of 512.
const PREFILL_TOKENS: usize = 256;
const DECODE_TOKENS: usize = 96;
const SPEED_ROUNDS: usize = 5;
/// Tokens of a sample.
const SAMPLE_TOKENS: usize = 40;

struct Language {
    code: &'static str,
    text: &'static [u8],
    prompt: &'static str,
}

/// One line of the table.
struct Row {
    dtype: Dtype,
    file_bytes: u64,
    bits_per_weight: f64,
    quantize: Duration,
    prefill: Rates,
    decode: Rates,
    /// Per language.
    reports: Vec<Report>,
    samples: Vec<String>,
}

/// Runs the command.
pub fn run(args: &DemoArgs, interrupt: &Interrupt) -> Outcome {
    let result = interrupt.during(|| demo(args, interrupt));
    if interrupt.pressed() {
        Err(Failure::interrupted())
    } else {
        result
    }
}

fn demo(args: &DemoArgs, interrupt: &Interrupt) -> Outcome {
    let say = |text: String| {
        if !args.output.quiet {
            note(text);
        }
    };
    say(
        "geb-nano: 4.2 M parameters, trained in FP32 on English and Chinese public-domain text"
            .into(),
    );
    let folder = tempfile::Builder::new().prefix("geb-demo-").tempdir()?;
    let files = quantize_all(args, folder.path(), &say, interrupt)?;
    let mut sessions = files
        .iter()
        .map(|f| open(&f.path, args, interrupt))
        .collect::<Outcome<Vec<Session>>>()?;
    let tokenizer = Tokenizer::from_gguf(sessions[0].model().file())?;
    let method = Method {
        max_windows: args.quick.then_some(QUICK_WINDOWS),
        ..Method::default()
    };
    let mut rows: Vec<Row> = files
        .into_iter()
        .zip(&sessions)
        .map(|(file, session)| file.into_row(session))
        .collect();
    let mut windows = Vec::new();
    for language in &TEXTS {
        let text = String::from_utf8_lossy(language.text);
        let ids = tokenizer.encode(
            &text,
            Encode {
                add_special: false,
                parse_special: false,
            },
        )?;
        windows.push(method.windows(ids.len()));
        let mut progress = Progress::new(
            format!("held-out text ({})", language.code),
            "windows",
            &args.output,
        );
        let reports = evaluate(&mut sessions, &ids, &method, &mut |done, total| {
            progress.update(done, total);
            !interrupt.pressed()
        })?;
        rows.iter_mut()
            .zip(reports)
            .for_each(|(row, report)| row.reports.push(report));
    }
    speeds(&mut sessions, &mut rows)?;
    for (row, session) in rows.iter_mut().zip(&mut sessions) {
        row.samples = TEXTS
            .iter()
            .map(|l| sample(session, &tokenizer, l.prompt))
            .collect::<Outcome<_>>()?;
    }
    if args.json {
        return report::out_line(&to_json(&rows, &windows, &sessions[0]).to_string());
    }
    out(&to_text(&rows, &windows, &sessions[0]))
}

/// A quantized file.
struct Made {
    dtype: Dtype,
    path: PathBuf,
    took: Duration,
}

impl Made {
    fn into_row(self, session: &Session) -> Row {
        let file = session.model().file();
        let weights: u64 = file.tensors().map(|t| t.info().elements()).sum();
        let tensor_bytes: u64 = file.tensors().map(|t| t.bytes().len() as u64).sum();
        Row {
            dtype: self.dtype,
            file_bytes: file.data().len() as u64,
            bits_per_weight: tensor_bytes as f64 * 8.0 / weights as f64,
            quantize: self.took,
            prefill: Rates::default(),
            decode: Rates::default(),
            reports: Vec::new(),
            samples: Vec::new(),
        }
    }
}

/// Unpacks the checkpoint and converts it to every type.
fn quantize_all(
    args: &DemoArgs,
    folder: &Path,
    say: &dyn Fn(String),
    interrupt: &Interrupt,
) -> Outcome<Vec<Made>> {
    let source = folder.join("hf");
    std::fs::create_dir(&source)?;
    for (name, data) in CHECKPOINT {
        std::fs::write(source.join(name), data)?;
    }
    let target = args.keep.as_deref().unwrap_or(folder);
    std::fs::create_dir_all(target)
        .map_err(|e| Failure::new(e.to_string()).at(target.display()))?;
    let mut files = Vec::new();
    for dtype in TYPES {
        interrupt.check()?;
        let path = target.join(format!("geb-nano-{}.gguf", dtype.name()));
        let start = Instant::now();
        let options = convert::Options {
            dtype,
            threads: args.threads.map(|t| t as usize),
            ..Default::default()
        };
        convert::convert(&source, &path, &options, &mut Stoppable(interrupt))?;
        let took = start.elapsed();
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        say(format!(
            "  {:<5} {:>8}  converted in {}",
            dtype.name(),
            bytes(size),
            seconds(took)
        ));
        files.push(Made { dtype, path, took });
    }
    Ok(files)
}

/// Lets Ctrl-C end a conversion.
struct Stoppable<'a>(&'a Interrupt);

impl convert::Progress for Stoppable<'_> {
    fn cancelled(&self) -> bool {
        self.0.pressed()
    }
}

fn open(path: &Path, args: &DemoArgs, interrupt: &Interrupt) -> Outcome<Session> {
    let file = Arc::new(GgufFile::open(path, Load::Map)?);
    let threads = args
        .threads
        .map_or(SessionOptions::default().threads, |t| t as usize);
    let options = SessionOptions {
        threads,
        cancel: Some(interrupt.flag()),
        ..Default::default()
    };
    Ok(Session::new(Model::load(file)?, &options)?)
}

/// Times all types in turn, several rounds, so that a busy machine hurts all of them alike.
fn speeds(sessions: &mut [Session], rows: &mut [Row]) -> Outcome {
    for _ in 0..SPEED_ROUNDS {
        for (session, row) in sessions.iter_mut().zip(rows.iter_mut()) {
            row.prefill
                .push(PREFILL_TOKENS, measure_prefill(session, 0, PREFILL_TOKENS)?);
            row.decode
                .push(DECODE_TOKENS, measure_decode(session, 0, DECODE_TOKENS)?);
        }
    }
    Ok(())
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

/// Mean KL divergence from the base, 0 for itself.
fn mean_kl(report: &Report) -> f64 {
    report
        .against_base
        .as_ref()
        .map_or(0.0, |d| d.kl.mean.value)
}

/// Share of tokens whose most probable successor is that of the base, 1 for itself.
fn top1(report: &Report) -> f64 {
    report.against_base.as_ref().map_or(1.0, |d| d.top1.value)
}

fn to_text(rows: &[Row], windows: &[usize], session: &Session) -> String {
    let head = [
        "type",
        "size",
        "bits/weight",
        "prefill tok/s",
        "decode tok/s",
        "ppl en",
        "ppl zh",
        "KL en",
        "KL zh",
        "top-1 en",
        "top-1 zh",
    ];
    let mut lines = vec![head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()];
    for row in rows {
        let mut line = vec![
            row.dtype.name().to_owned(),
            bytes(row.file_bytes),
            format!("{:.2}", row.bits_per_weight),
            row.prefill.median().map_or("-".into(), rate),
            row.decode.median().map_or("-".into(), rate),
        ];
        let each = |f: fn(&Report) -> String| row.reports.iter().map(f).collect::<Vec<_>>();
        line.extend(each(|r| format!("{:.3}", r.perplexity.value)));
        line.extend(each(|r| format!("{:.5}", mean_kl(r))));
        line.extend(each(|r| format!("{:.1} %", top1(r) * 100.0)));
        lines.push(line);
    }
    let mut text = format!("\n{}", table(&lines));
    let expected = expected();
    text.push_str(&format!(
        "\n{} threads, {}. ppl: perplexity on held-out text, {} windows of 512 tokens in English and {} in Chinese,\n\
         the second half of each counted; an independent FP32 implementation gets {:.3} and {:.3} on all 121 and 96.\n\
         KL: divergence of the predictions from FP32, nats per token. top-1: same most probable token as FP32.\n",
        session.threads(),
        session.kernels().level().name(),
        windows[0],
        windows[1],
        expected[0].unwrap_or(f64::NAN),
        expected[1].unwrap_or(f64::NAN),
    ));
    for (i, language) in TEXTS.iter().enumerate() {
        text.push_str(&format!("\n{} …\n", language.prompt));
        for row in rows {
            text.push_str(&format!(
                "  {:<5} … {}\n",
                row.dtype.name(),
                row.samples[i].trim_start()
            ));
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

fn to_json(rows: &[Row], windows: &[usize], session: &Session) -> Value {
    let row_json = |row: &Row| {
        let languages = TEXTS.iter().enumerate().map(|(i, language)| {
            let r = &row.reports[i];
            let value = json!({
                "perplexity": r.perplexity.value,
                "perplexity_error": r.perplexity.error,
                "mean_nll": r.nll.value,
                "tokens": r.tokens,
                "mean_kl": mean_kl(r),
                "max_kl": r.against_base.as_ref().map_or(0.0, |d| d.kl.max),
                "top1_agreement": top1(r),
                "sample": { "prompt": language.prompt, "text": row.samples[i] },
            });
            (language.code.to_owned(), value)
        });
        let mut value = json!({
            "type": row.dtype.name(),
            "file_bytes": row.file_bytes,
            "bits_per_weight": row.bits_per_weight,
            "convert_s": row.quantize.as_secs_f64(),
            "prefill_tok_s": row.prefill.median(),
            "decode_tok_s": row.decode.median(),
        });
        for (code, score) in languages {
            value[code] = score;
        }
        value
    };
    let expected = expected();
    json!({
        "model": "geb-nano",
        "threads": session.threads(),
        "isa": session.kernels().level().name(),
        "windows": { "en": windows[0], "zh": windows[1] },
        "window_tokens": 512,
        "expected_f32": { "en": expected[0], "zh": expected[1], "windows": { "en": 121, "zh": 96 } },
        "peak_memory_bytes": report::peak_memory_bytes(),
        "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
    })
}
