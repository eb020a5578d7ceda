//! Checkpoints to GGUF: plan, then stream rows into an atomically written, verified file.
//!
//! ```text
//! open source -> hyperparameters, tokenizer, tensor table (all checked) = plan
//! compare the planned tokenizer with the source's on a probe text
//! for each tensor: rows -> f32 -> quantize -> file, errors measured on the way
//! files are read back and compared, then renamed
//! ```
//! A journal beside the unfinished files lets a killed run continue (`Options::resume`); it has the
//! hash of each tensor's source bytes, which are read once more before a tensor is believed.
//! The same source and options give the same bytes, whatever the number of threads.

mod about;
mod aside;
mod bpe;
pub mod checkpoint;
mod cholesky;
mod config;
mod cut;
mod dequant;
pub mod family;
mod feedback;
mod folder;
pub mod hf;
pub mod hyper;
mod item;
mod keep_experts;
mod known;
mod layout;
mod machine;
mod made;
mod merge;
pub mod names;
mod open;
mod options;
pub mod peft;
mod pickle;
mod pipeline;
mod plan;
pub mod policy;
mod positions;
pub mod probe;

mod range;
mod recurrent;
mod report;
mod rows;
mod rwkv_vocab;
mod scores;
mod shards;
mod sizes;
mod spm;
mod stream;
mod sums;
mod templates;
mod tensor;
mod tokens;
pub mod torch;
mod verify;
pub mod vocab;
mod wrapped;

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

pub use item::Source;
pub use keep_experts::KeepExperts;
pub use layout::GebLayout;
pub use made::{How, Made, Piece};
pub use options::{Options, Progress};
pub use report::{Report, TensorReport, TypeRow};
pub use rows::{Part, RowMap};
pub use sums::{Outcome, Sums, WorstBlock};

use geb::error::{Error, Result};
use geb::files::Over;
use geb::gguf::{Output, Resume, checksums, writer};
use machine::thread_pool;
use plan::Prepared;
use stream::Job;

/// Reads and checks everything but the weights, and says what a conversion would write.
///
/// # Errors
/// As [`convert`], without those of writing.
pub fn dry_run(source: &Path, options: &Options) -> Result<Report> {
    let prepared = Prepared::read(source, options)?;
    prepared.check_tokenizer()?;
    prepared.report()
}

/// Converts a checkpoint folder or a GGUF file to a GGUF file.
///
/// # Errors
/// [`Error::Checkpoint`], [`Error::Tensors`] and [`Error::Unsupported`] for the source;
/// [`Error::NonFinite`] and [`Error::OutOfRange`] naming tensor and index; [`Error::Request`] when `out` is the source;
/// [`Error::Verify`] when what was written is not what was planned. On any error nothing is
/// left behind and an old `out` is untouched.
pub fn convert(
    source: &Path,
    out: &Path,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Report> {
    let prepared = Prepared::read(source, options)?;
    let files = prepared.files(out, options)?;
    for (path, _) in &files {
        prepared.refuse_same_file(source, path)?;
    }
    prepared.check_tokenizer()?;
    let pool = thread_pool(options.threads)?;
    let mut report = prepared.report()?;
    report.files = files.iter().map(|f| f.0.clone()).collect();
    progress.start(report.source_bytes, prepared.items.len());
    let resume = Resume {
        identity: prepared.identity(&files, options)?,
        wanted: options.resume,
    };
    let over = Over::MODEL.or_any(options.force);
    let mut output = Output::create(files, over, Some(&resume))?;
    let finished = finished(&prepared, options, &pool, &mut output, progress)?;
    for (i, outcome) in &finished {
        report.record(*i, outcome);
    }
    report.notes.extend(output.remark());
    let all = 0..prepared.items.len();
    let open: Vec<usize> = all.filter(|i| !finished.contains_key(i)).collect();
    let jobs = prepared.jobs(&open, options)?;
    pipeline::run(&pool, &jobs, |units| {
        open.iter().enumerate().try_for_each(|(job, &i)| {
            let item = &prepared.items[i];
            progress.tensor(&item.name, item.from, item.dtype);
            let mut outcome = Outcome::default();
            output.tensor(i, &mut |out| {
                let (found, source) = units.fill(job, out, progress)?;
                outcome = found;
                Ok(format!("{} {}", checksums::hex(&source), outcome.to_line()))
            })?;
            report.record(i, &outcome);
            Ok(())
        })
    })?;
    progress.verifying();
    output.set_zeros(&report.zero_percents());
    pool.install(|| output.finish())?;
    report.finish(options.allow_nonfinite);
    Ok(report)
}

/// Source bytes hashed before the wish to stop is looked at.
const PATIENCE: u64 = 256 << 20;

/// What an earlier run finished: tensors whose source bytes still have the hash that the journal
/// tells. The others are forgotten.
fn finished(
    prepared: &Prepared,
    options: &Options,
    pool: &rayon::ThreadPool,
    output: &mut Output,
    progress: &mut dyn Progress,
) -> Result<BTreeMap<usize, Outcome>> {
    let mut claims = Vec::new();
    for i in 0..prepared.items.len() {
        let Some(note) = output.finished(i) else {
            continue;
        };
        let fields = note.split_once(' ');
        match fields.and_then(|(hash, line)| Some((i, hash.to_owned(), Outcome::from_line(line)?)))
        {
            Some(claim) => claims.push(claim),
            None => output.forget(i),
        }
    }
    let (mut out, mut read) = (BTreeMap::new(), 0);
    for some in claims.chunks(pool.current_num_threads().max(1)) {
        let numbers: Vec<usize> = some.iter().map(|c| c.0).collect();
        let jobs = prepared.jobs(&numbers, options)?;
        let hashes = || jobs.par_iter().map(Job::source_hash).collect();
        let hashes: Vec<_> = pool.install::<_, Result<_>>(hashes)?;
        for ((i, hash, outcome), now) in some.iter().zip(hashes) {
            let bytes = prepared.items[*i].source_bytes(&prepared.checkpoint);
            read += bytes;
            if *hash == checksums::hex(&now) {
                progress.advance(bytes);
                out.insert(*i, *outcome);
            } else {
                output.forget(*i);
            }
        }
        if read > PATIENCE {
            read = 0;
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
        }
    }
    Ok(out)
}

/// Converts into memory: the bytes [`convert`] would write to one file.
///
/// # Errors
/// As [`convert`].
pub fn convert_to_vec(source: &Path, options: &Options) -> Result<(Vec<u8>, Report)> {
    let prepared = Prepared::read(source, options)?;
    prepared.check_tokenizer()?;
    let pool = thread_pool(options.threads)?;
    let mut report = prepared.report()?;
    let mut plan = prepared.writer_plan();
    let layout = plan.layout()?;
    let all: Vec<usize> = (0..prepared.items.len()).collect();
    let jobs = prepared.jobs(&all, options)?;
    let mut bytes = Vec::new();
    let sums = pipeline::run(&pool, &jobs, |units| {
        let memory = Path::new("memory");
        writer::stream(&mut bytes, &plan, &layout, memory, &mut |i, out| {
            let (outcome, _) = units.fill(i, out, &mut ())?;
            report.record(i, &outcome);
            Ok(())
        })
    })?;
    plan.set_zeros(&report.zero_percents());
    plan.set_checksums(&sums, &checksums::hash_of(sums.iter()));
    let header = plan.layout()?.header;
    bytes[..header.len()].copy_from_slice(&header);
    report.finish(options.allow_nonfinite);
    Ok((bytes, report))
}
