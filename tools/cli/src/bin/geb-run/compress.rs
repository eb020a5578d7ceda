//! `geb-run compress` and `geb-run decompress`: texts stored by what a model did not expect of them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use geb::files::Over;
use geb::model::Model;
use geb::session::{Session, SessionOptions};
use geb_cli::compress::{Header, compress, decompress};
use serde_json::json;

use crate::args::{CompressArgs, DecompressArgs, ModelArgs, asked};
use crate::interrupt::Interrupt;
use crate::load;
use crate::outputs;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, bytes, dim, out_line, seconds};

/// What compressed files are called.
const ENDING: &str = "geb";

/// Runs `compress`.
pub fn run(args: &CompressArgs, interrupt: &Interrupt) -> Outcome {
    let plain = args.file.as_os_str() == "-";
    let named = || PathBuf::from(format!("{}.{ENDING}", args.file.display()));
    let to = target(args.out.clone().or((!plain).then(named)), args.force)?;
    no_adapters(&args.model)?;
    let data = read(&args.file)?;
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let mut loaded = load::load(opened, &args.cpu, interrupt, Instant::now())?;
    let mut shown = Progress::new("compressing", "tokens", &args.output);
    let mut progress = |done, total| {
        shown.update(done, total);
        !interrupt.pressed()
    };
    let started = Instant::now();
    let session = &mut loaded.session;
    let done = interrupt.during(|| compress(session, &tokenizer, &data, &mut progress));
    let done = done.map_err(|e| load::at(&loaded.opened.path, e))?;
    drop(shown);
    write(&to, &done.file, args.force)?;
    let time = started.elapsed();
    let (before, after) = (data.len(), done.file.len());
    let per_byte = |bits: f64| bits / before.max(1) as f64;
    let total = per_byte(8.0 * after as f64);
    if args.json {
        let value = json!({
            "file": to,
            "bytes": before,
            "compressed_bytes": after,
            "bits_per_byte": total,
            "tokens": done.tokens,
            "stored_bytes": done.stored,
            "cross_entropy_bits": done.bits,
            "seconds": time.as_secs_f64(),
            "threads": loaded.session.threads(),
            "isa": loaded.session.kernels().level().name(),
        });
        out_line(&value.to_string())?;
    } else if !args.output.quiet {
        dim(format_args!(
            "{}: {} → {}, {total:.3} bits per byte ({:.3} by the model's cross-entropy); {} tokens, {} bytes stored, {}",
            to.display(),
            bytes(before as u64),
            bytes(after as u64),
            per_byte(done.bits + 8.0 * done.stored as f64),
            done.tokens,
            done.stored,
            seconds(time)
        ));
    }
    Ok(())
}

/// Runs `decompress`.
pub fn undo(args: &DecompressArgs, interrupt: &Interrupt) -> Outcome {
    let named =
        (args.file.extension().is_some_and(|e| e == ENDING)).then(|| args.file.with_extension(""));
    let to = target(args.out.clone().or(named), args.force)?;
    no_adapters(&args.model)?;
    let file = read(&args.file)?;
    let at = |e: geb::Error| Failure::from(e).at(args.file.display());
    let (header, _) = Header::read(&file).map_err(at)?;
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let model = Model::load(opened.file.clone()).map_err(|e| load::at(&opened.path, e))?;
    let options = SessionOptions {
        threads: asked(args.threads).unwrap_or(0),
        cancel: Some(interrupt.flag()),
        ..header.options().map_err(at)?
    };
    header.check_model(&model).map_err(at)?;
    let session = Session::new(model, &options);
    let mut session = session.map_err(|e| load::at(&opened.path, e))?;
    let mut shown = Progress::new("decompressing", "bytes", &args.output);
    let mut progress = |done, total| {
        shown.update(done, total);
        !interrupt.pressed()
    };
    let started = Instant::now();
    let done = interrupt.during(|| decompress(&mut session, &tokenizer, &file, &mut progress));
    let data = done.map_err(at)?;
    drop(shown);
    write(&to, &data, args.force)?;
    if !args.output.quiet {
        let (size, time) = (bytes(data.len() as u64), seconds(started.elapsed()));
        dim(format_args!("{}: {size}, {time}", to.display()));
    }
    Ok(())
}

/// The file to write; it is not there, unless it may be replaced.
fn target(path: Option<PathBuf>, force: bool) -> Outcome<PathBuf> {
    let path =
        path.ok_or_else(|| Failure::usage("no name for the result").hint("give one with -o FILE"))?;
    let checked = outputs::check(Some(&path), Over::NOTHING.or_any(force));
    checked.map_err(|f| f.hint("--force replaces it, -o FILE writes another one"))?;
    Ok(path)
}

/// Adapters change what the model predicts, and no header names them.
fn no_adapters(model: &ModelArgs) -> Outcome {
    match model.lora.is_empty() {
        true => Ok(()),
        false => Err(Failure::usage("--lora cannot be used with compression")
            .hint("merge the adapter first: geb-quantize merge")),
    }
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    // A header more than the longest text.
    load::read_bytes(path, geb::limits::MAX_TEXT_BYTES + (1 << 20))
}

fn write(path: &Path, data: &[u8], force: bool) -> Outcome {
    if path.as_os_str() == "-" {
        let mut out = std::io::stdout().lock();
        out.write_all(data)?;
        return Ok(out.flush()?);
    }
    outputs::write(path, data, Over::NOTHING.or_any(force))
}
