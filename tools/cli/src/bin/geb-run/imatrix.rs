//! `geb-run imatrix`: what the columns of each matrix are multiplied with on a text.

use std::path::Path;
use std::time::{Duration, Instant};

use geb::calibrate::{self, Chunks, Origin};
use geb::files::{Over, Place};
use geb::gguf::checksums::{hash_files, hex};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::model::inputs::InputStats;
use geb::session::{Session, SessionOptions};
use geb::tokenizer::Encode;

use crate::args::{CpuArgs, ImatrixArgs};
use crate::interrupt::Interrupt;
use crate::load::{self, Opened};
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome, dim, note};

/// Tokens of a chunk when `--ctx` is not given.
const CHUNK: u32 = 512;
/// Longest calibration text.
const MAX_TEXT_BYTES: usize = 1 << 30;
/// How often an unfinished matrix is saved, at least; the time of a save is at most a twentieth.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Runs the command.
pub fn run(args: &ImatrixArgs, interrupt: &Interrupt) -> Outcome {
    let started = Instant::now();
    // A file to go on from is looked at before it is replaced.
    let over = Over::IMATRIX.or_any(args.force || args.resume);
    let place = Place::of(&args.out)?;
    place.check(over)?;
    place.regular()?;
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let text = load::read_text(&args.file, MAX_TEXT_BYTES)?;
    let chunk = args.cpu.ctx.unwrap_or(CHUNK);
    let at = |e| load::at(&opened.path, e);
    let mut session = session(&opened, chunk, &args.cpu, interrupt)?;
    // 0 was the length of the model.
    let chunk = session.ctx() as u32;
    let ids = tokenizer.encode(&text, Encode::default()).map_err(at)?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let most = args.chunks.map(|n| n as usize);
    let chunks = Chunks::new(&ids, chunk as usize, most, bos).map_err(at)?;
    let origin = Origin::new(&args.file, &text, chunk).by(model_hash(&opened)?);
    let mut stats = InputStats::new(session.model(), args.covariance).map_err(at)?;
    let first = start(args, &origin, &mut stats)?;
    if first > chunks.count {
        let (out, n) = (args.out.display(), chunks.count);
        return Err(Failure::usage(format!(
            "{out} has {first} chunks, asked for: {n}"
        )));
    }
    let mut saves = Saves::new(&args.out, &origin);
    let mut progress = Progress::new("imatrix", "chunks", &args.output);
    let done = interrupt.during(|| {
        calibrate::collect(
            &mut session,
            &chunks,
            first,
            &mut stats,
            &mut |done, stats| {
                progress.update(done, chunks.count);
                saves.maybe(done, stats)?;
                Ok(!interrupt.pressed())
            },
        )
    });
    progress.clear();
    let done = done.map_err(at)?;
    calibrate::write(&args.out, &origin, done, &stats)?;
    if done < chunks.count {
        note(format_args!(
            "{}: {done} of {} chunks; --resume goes on",
            args.out.display(),
            chunks.count
        ));
        return Err(Failure::interrupted());
    }
    if !args.output.quiet {
        let tokens = (done - first) * chunks.size;
        dim(format_args!(
            "wrote {}: {} inputs, {done} chunks of {chunk} tokens, {} tok/s",
            args.out.display(),
            stats.inputs().len(),
            report::rate(tokens as f64 / started.elapsed().as_secs_f64())
        ));
    }
    Ok(())
}

/// What the sums depend on beside the text: the model, and adapters with their scales.
fn model_hash(opened: &Opened) -> Outcome<String> {
    let mut all = hex(&hash_files([&*opened.file])?);
    for (path, scale) in &opened.lora {
        let adapter = GgufFile::open(path, Load::Map).map_err(|e| load::at(path, e))?;
        all.push_str(&format!(" {scale} {}", hex(&hash_files([&adapter])?)));
    }
    Ok(all)
}

/// A session that finishes the chunk at hand when Ctrl-C is pressed: half a chunk is in no sum.
fn session(opened: &Opened, chunk: u32, cpu: &CpuArgs, interrupt: &Interrupt) -> Outcome<Session> {
    let options = SessionOptions {
        ctx: Some(chunk as usize),
        cancel: None,
        ..load::session_options(cpu, interrupt)?
    };
    let at = |e| load::at(&opened.path, e);
    let model = Model::load(opened.file.clone()).map_err(at)?;
    let mut session = Session::new(model, &options).map_err(at)?;
    load::adapt(&mut session, &opened.lora)?;
    Ok(session)
}

/// The chunk to begin with: those before it are in `stats`.
fn start(args: &ImatrixArgs, origin: &Origin, stats: &mut InputStats) -> Outcome<usize> {
    if !args.resume || !args.out.exists() {
        return Ok(0);
    }
    let first = calibrate::resume(&args.out, origin, stats)?;
    if !args.output.quiet {
        dim(format_args!("{} has {first} chunks", args.out.display()));
    }
    Ok(first)
}

/// Saves of the unfinished matrix.
struct Saves<'a> {
    path: &'a Path,
    origin: &'a Origin,
    last: Instant,
    took: Duration,
}

impl<'a> Saves<'a> {
    fn new(path: &'a Path, origin: &'a Origin) -> Self {
        Saves {
            path,
            origin,
            last: Instant::now(),
            took: Duration::ZERO,
        }
    }

    fn maybe(&mut self, done: usize, stats: &InputStats) -> geb::Result<()> {
        if self.last.elapsed() < SAVE_EVERY.max(20 * self.took) {
            return Ok(());
        }
        let started = Instant::now();
        calibrate::write(self.path, self.origin, done, stats)?;
        (self.took, self.last) = (started.elapsed(), Instant::now());
        Ok(())
    }
}
