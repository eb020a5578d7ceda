//! What the flags mean: from `args` to options of the library, and the runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use geb::files::{self, Over, Place};
use geb::kernels::Effort;
use geb::shown::Shown;
use geb::{Dtype, Error, Result};
use geb_cli::remote::remote;
use geb_convert::policy::Policy;
use geb_convert::probe::{self as layout_probe, ProbeOptions};
use geb_convert::{self as convert, GebLayout, Options, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::{
    Adapter, Files, How, Kv, Layout, Merge, Mlp, Probe, Rope, Search, Verify, scaled,
};
use crate::show;

/// Longest probe text or template that is read.
const MAX_TEXT_BYTES: u64 = 16 << 20;
/// `--report` replaces its own kind.
const REPORT: Over = Over {
    name: "a report of geb-quantize",
    is: |head| head.starts_with(b"{\n  \"written\": "),
};

impl Layout {
    fn meant(&self) -> GebLayout {
        GebLayout {
            kv_interleaved: self.geb_kv == Kv::Interleaved,
            rope_full: matches!(self.geb_rope, Rope::FullHalf | Rope::FullInterleaved),
            rope_half_split: matches!(self.geb_rope, Rope::FullHalf | Rope::PartHalf),
            gate_first: self.geb_mlp == Mlp::GateUp,
        }
    }
}

impl How {
    fn options(
        &self,
        layout: &Layout,
        adapters: Vec<(PathBuf, f32)>,
        stop: &AtomicBool,
    ) -> Result<Options> {
        let chosen = self.policy.clone().unwrap_or_else(|| {
            show::say(
                "note: no --type: q4_k_m, the usual choice (about 4.8 bits per weight); \
                 --type q8_0 is nearly lossless and twice as large, geb-run compare measures both",
            );
            Policy::from(Dtype::Q4_K)
        });
        let read = |path: &Path| read_text(path, stop);
        let policy = Policy {
            pure: self.pure,
            output: self.output_type,
            embedding: self.embedding_type,
            overrides: self.tensor_type.clone(),
            keep_f32: self.keep_f32.clone(),
            ..chosen
        };
        Ok(Options {
            policy,
            allow_requantize: self.allow_requantize,
            allow_nonfinite: self.allow_nonfinite,
            layout: layout.meant(),
            adapters,
            layers: self.keep_layers.as_ref().map(|l| l.0.clone()),
            chat_template: self.chat_template.as_deref().map(read).transpose()?,
            hash_source: self.hash_source,
            split_max: self.split_max_size,
            resume: self.resume,
            no_heads: self.no_heads,
            force: self.force,
            keep_experts: match &self.keep_experts[..] {
                [] => None,
                lists => Some(lists.join(" ").parse()?),
            },
            imatrix: self.imatrix.clone(),
            search: match (self.search, &self.imatrix) {
                (Some(Search::Best), _) => Effort::Best,
                (Some(Search::Fast), _) | (None, Some(_)) => Effort::Fast,
                (Some(Search::Reference), _) | (None, None) => Effort::Reference,
            },
            threads: self
                .threads
                .map(usize::from)
                .or(Some(geb::threads::default_threads())),
        })
    }
}

fn read_text(path: &Path, stop: &AtomicBool) -> Result<String> {
    files::utf8(path, files::read_stream(path, MAX_TEXT_BYTES, stop)?)
}

/// Runs a conversion.
pub fn convert(files: &Files, how: &How, layout: &Layout, stop: &Arc<AtomicBool>) -> Result<()> {
    elsewhere(&files.source)?;
    let options = how.options(layout, Vec::new(), stop)?;
    run((&files.source, files.out.as_deref()), how, &options, stop)
}

/// Refuses the name of something that is not here: a URL, a repository, a model of ollama.
fn elsewhere(source: &Path) -> Result<()> {
    let typed = source.to_str().unwrap_or_default();
    match remote(typed).filter(|_| !source.exists()) {
        None => Ok(()),
        Some((kind, advice)) => Err(Error::Request {
            what: typed.into(),
            value: kind.into(),
            allowed: format!("a folder or file; {advice}"),
        }),
    }
}

/// Runs a conversion with adapters.
pub fn merge(args: &Merge, stop: &Arc<AtomicBool>) -> Result<()> {
    let [source, adapters @ .., out] = &args.files[..] else {
        unreachable!("clap asks for three files");
    };
    let options = args.how.options(
        &args.layout,
        adapters.iter().map(|a| scaled(a)).collect(),
        stop,
    )?;
    run(
        (Path::new(source), Some(Path::new(out))),
        &args.how,
        &options,
        stop,
    )
}

/// Converts an adapter and says what is in it.
pub fn adapter(args: &Adapter) -> Result<()> {
    Place::of(&args.out)?.check(Over::ADAPTER.or_any(args.force))?;
    let layout = args.layout.meant();
    let done = convert::peft::convert(&args.folder, &args.base, &layout, &args.out)?;
    let ranks = done.parts.iter().map(|p| p.rank);
    let (least, most) = (ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0));
    let magnitudes = done.parts.iter().any(|p| p.magnitude.is_some());
    show::print(&format!(
        "{}: adapter for {}: {} matrices, rank {least} to {most}, alpha {}{}\n",
        args.out.display(),
        done.architecture,
        done.parts.len(),
        done.alpha,
        if magnitudes {
            ", with magnitudes (DoRA)"
        } else {
            ""
        }
    ))
}

/// Runs a conversion or a dry run and prints its report.
fn run(
    (source, out): (&Path, Option<&Path>),
    args: &How,
    options: &Options,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let started = Instant::now();
    let over = REPORT.or_any(args.force);
    if let Some(path) = &args.report {
        Place::of(path)?.check(over)?;
    }
    let (report, written) = match (out, args.dry_run) {
        (Some(out), false) => {
            let mut bar = Bar::new(stop.clone(), !args.no_progress);
            let report = convert::convert(source, out, options, &mut bar);
            bar.bar.finish_and_clear();
            (report?, true)
        }
        _ => (convert::dry_run(source, options)?, false),
    };
    for note in &report.notes {
        show::say(format_args!("note: {}", Shown::list(note)));
    }
    let json = || show::report_json(&report, options, written);
    if let Some(path) = &args.report {
        files::write(path, json().as_bytes(), over)?;
    }
    if args.json {
        return show::print_raw(&json());
    }
    if written {
        show::print(&show::report_table(&report))?;
        let seconds = started.elapsed().as_secs_f64().max(1e-9);
        let rate = report.source_bytes as f64 / 1e6 / seconds;
        geb_cli::shield::complain(format_args!(
            "{seconds:.1} s, {rate:.0} MB/s of source weights (read, quantized, written, read back)"
        ));
        Ok(())
    } else {
        show::print(&show::plan_table(&report))
    }
}

/// Checks stored hashes.
pub fn verify(args: &Verify) -> Result<()> {
    let checked = geb::gguf::checksums::check_hashes(&args.file)?;
    let (file, tensors) = (args.file.display(), checked.tensors);
    if !checked.damaged.is_empty() {
        return Err(Error::Verify(format!(
            "{file}: {} of {tensors} tensors are not what was written: {}",
            checked.damaged.len(),
            checked.damaged.join(", ")
        )));
    }
    if checked.unsealed > 0 || tensors == 0 {
        let unsealed = checked.unsealed;
        return Err(Error::NoChecksums {
            path: args.file.clone(),
            unsealed,
            tensors,
        });
    }
    show::print(&format!(
        "{file}: {tensors} tensors, {}: as written\n",
        show::bytes(checked.bytes)
    ))
}

/// Runs a probe and prints its table.
pub fn probe(args: &Probe, stop: &Arc<AtomicBool>) -> Result<()> {
    let text = read_text(&args.text, stop)?;
    let threads = args
        .threads
        .map_or(geb::threads::default_threads(), usize::from);
    let options = ProbeOptions {
        tokens: args.tokens as usize,
        threads,
        ..ProbeOptions::default()
    };
    let bar = ProgressBar::with_draw_target(Some(16), target(!args.no_progress));
    bar.set_style(style("{bar:24} layout {pos}/{len} {elapsed}"));
    let result = layout_probe::probe(&args.source, &text, &options, &mut |done, _| {
        bar.set_position(done as u64);
        !stop.load(Ordering::SeqCst)
    });
    bar.finish_and_clear();
    let result = result?;
    match args.json {
        true => show::print_raw(&show::probe_json(&result)),
        false => show::print(&show::probe_table(&result)),
    }
}

fn target(on: bool) -> ProgressDrawTarget {
    // indicatif itself hides the bar when standard error is not a terminal.
    if on {
        ProgressDrawTarget::stderr_with_hz(10)
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The progress bar of a conversion.
struct Bar {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Bar {
    fn new(stop: Arc<AtomicBool>, on: bool) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(0), target(on));
        bar.set_style(style(
            "{bar:24} {percent:>3}% {binary_bytes_per_sec:>12} eta {eta:>4} {msg}",
        ));
        Bar { bar, stop }
    }
}

impl Progress for Bar {
    fn start(&mut self, source_bytes: u64, _tensors: usize) {
        self.bar.set_length(source_bytes);
        self.bar.reset();
    }

    fn tensor(&mut self, name: &str, from: Dtype, to: Dtype) {
        self.bar
            .set_message(format!("{} {from} -> {to}", Shown::name(name)));
    }

    fn advance(&mut self, source_bytes: u64) {
        self.bar.inc(source_bytes);
    }

    fn verifying(&mut self) {
        self.bar.set_message("reading back");
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
