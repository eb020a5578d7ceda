//! Checkpoints to GGUF: plan, then stream rows into an atomically written, verified file.
//!
//! ```text
//! open source -> hyperparameters, tokenizer, tensor table (all checked) = plan
//! compare the planned tokenizer with the source's on a probe text
//! for each tensor: rows -> f32 -> quantize -> file, errors measured on the way
//! file is read back and compared, then renamed
//! ```
//! The same source and options give the same bytes, whatever the number of threads.

mod bpe;
pub mod checkpoint;
mod cholesky;
mod feedback;
mod folder;
pub mod hyper;
pub mod names;
mod pickle;
mod plan;
pub mod policy;
pub mod probe;
mod report;
mod rows;
mod spm;
mod stream;
mod templates;
pub mod torch;
mod verify;
pub mod vocab;

use std::io::Write;
use std::path::{Path, PathBuf};

use geb_kernels::dtype::Dtype;
use geb_kernels::{Effort, Kernels, Search};

pub use names::GebLayout;
pub use report::{Report, TensorReport, TypeRow};
pub use rows::{Part, RowMap};
pub use stream::Sums;

use crate::error::{Error, Result};
use crate::gguf::writer;
use feedback::Feedback;
use plan::Prepared;

/// What to convert to, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Base type of the weights.
    pub dtype: Dtype,
    /// The base type even for the output matrix.
    pub pure: bool,
    /// Accept a GGUF source whose weights are quantized already.
    pub allow_requantize: bool,
    /// Warn instead of failing about NaN and infinities; only for float output.
    pub allow_nonfinite: bool,
    /// Answers to the layout questions of GEB checkpoints.
    pub layout: GebLayout,
    /// Replaces the chat template of the source.
    pub chat_template: Option<String>,
    /// Record the SHA-256 of the weight files too (reads them once more).
    pub hash_source: bool,
    /// Importance matrix that weights the errors of columns.
    pub imatrix: Option<PathBuf>,
    /// How hard to search. With `Best` and second moments in the importance matrix, errors of columns
    /// make up for each other.
    pub search: Effort,
    /// Threads; `None` = all that are available.
    pub threads: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            dtype: Dtype::Q8_0,
            pure: false,
            allow_requantize: false,
            allow_nonfinite: false,
            layout: GebLayout::default(),
            chat_template: None,
            hash_source: false,
            imatrix: None,
            search: Effort::Reference,
            threads: None,
        }
    }
}

/// Told what happens; all methods have empty defaults.
pub trait Progress {
    /// Before the first tensor: bytes of source weights to be read, and tensors.
    fn start(&mut self, _source_bytes: u64, _tensors: usize) {}
    /// Before each tensor.
    fn tensor(&mut self, _name: &str, _from: Dtype, _to: Dtype) {}
    /// After each piece: source bytes read.
    fn advance(&mut self, _source_bytes: u64) {}
    /// All tensors are written; the file is being read back.
    fn verifying(&mut self) {}
    /// Asked between pieces; true stops with [`Error::Interrupted`] and leaves nothing behind.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {}

/// Where the rows of an output tensor come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Rows of checkpoint tensors.
    Rows(Vec<Part>),
    /// Values made from the configuration.
    Values(Vec<f32>),
}

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
/// [`Error::NonFinite`] naming tensor and index; [`Error::Request`] when `out` is the source;
/// [`Error::Verify`] when what was written is not what was planned. On any error nothing is
/// left behind and an old `out` is untouched.
pub fn convert(
    source: &Path,
    out: &Path,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Report> {
    let prepared = Prepared::read(source, options)?;
    prepared.refuse_same_file(source, out)?;
    prepared.check_tokenizer()?;
    let pool = thread_pool(options.threads)?;
    let mut report = prepared.report()?;
    progress.start(report.source_bytes, prepared.items.len());
    let plan = prepared.writer_plan();
    let last = prepared.items.len().saturating_sub(1);
    writer::write_file(out, &plan, &mut |i, w| {
        fill(&prepared, i, &pool, options, w, progress, &mut report)?;
        if i == last {
            progress.verifying();
        }
        Ok(())
    })?;
    report.finish(options.allow_nonfinite);
    Ok(report)
}

/// Converts into memory: the bytes [`convert`] would write.
///
/// # Errors
/// As [`convert`].
pub fn convert_to_vec(source: &Path, options: &Options) -> Result<(Vec<u8>, Report)> {
    let prepared = Prepared::read(source, options)?;
    prepared.check_tokenizer()?;
    let pool = thread_pool(options.threads)?;
    let mut report = prepared.report()?;
    let mut bytes = Vec::new();
    writer::write_to(&mut bytes, &prepared.writer_plan(), &mut |i, w| {
        fill(&prepared, i, &pool, options, w, &mut (), &mut report)
    })?;
    report.finish(options.allow_nonfinite);
    Ok((bytes, report))
}

fn fill(
    prepared: &Prepared,
    i: usize,
    pool: &rayon::ThreadPool,
    options: &Options,
    out: &mut dyn Write,
    progress: &mut dyn Progress,
    report: &mut Report,
) -> Result<()> {
    let item = &prepared.items[i];
    progress.tensor(&item.name, item.from, item.dtype);
    let quantized = item.dtype.block_len() > 1;
    let matrix = prepared.imatrix.as_ref().filter(|_| quantized);
    let moments = match matrix {
        Some(m) if options.search == Effort::Best && Feedback::can(item.dtype) => {
            m.covariance(&item.name)?
        }
        _ => None,
    };
    let feedback = moments
        .map(|m| pool.install(|| Feedback::new(&m)))
        .transpose()?;
    let importance = matrix.and_then(|m| m.importance(&item.name));
    let job = stream::Job {
        checkpoint: &prepared.checkpoint,
        kernels: kernels()?,
        search: Search {
            effort: options.search,
            importance: importance.as_deref(),
        },
        feedback: feedback.as_ref(),
        pool,
        name: &item.name,
        dims: &item.dims,
        source: &item.source,
        dtype: item.dtype,
        allow_nonfinite: options.allow_nonfinite,
    };
    let outcome = job.run(out, progress)?;
    report.record(i, &outcome);
    Ok(())
}

/// The kernels of this machine; a bad `GEB_ISA` is an error, not a fallback.
fn kernels() -> Result<&'static Kernels> {
    Kernels::best().map_err(|e| Error::Request {
        what: "GEB_ISA".into(),
        value: e.to_string(),
        allowed: "a level this machine has".into(),
    })
}

fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    let n = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    if !(1..=1024).contains(&n) {
        return Err(Error::Request {
            what: "threads".into(),
            value: n.to_string(),
            allowed: "1..=1024".into(),
        });
    }
    let builder = rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .thread_name(|i| format!("convert-{i}"));
    builder.build().map_err(|e| Error::Request {
        what: "threads".into(),
        value: n.to_string(),
        allowed: e.to_string(),
    })
}
