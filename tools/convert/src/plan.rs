//! The plan of a conversion: metadata and tensors, before any weight is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb_kernels::Effort;
use geb_kernels::dtype::Dtype;
use sha2::{Digest, Sha256};

use super::about::{RECIPE, general, provenance, recipe};
use super::checkpoint::{Checkpoint, Elem, float_type};
use super::config::text_model;
use super::family::meta;
use super::feedback::{Feedback, Shared};
use super::folder::{Folder, bad};
use super::hyper::Hyper;
use super::item::{Item, Output, Source};
use super::merge::Merge;
use super::names;
use super::options::Options;
use super::policy::{Policy, Reason};
use super::report::{Report, TensorReport};
use super::rows::{Part, RowMap};
use super::stream::Job;
use super::tensor::is_integer;
use super::vocab::{self, Vocab};
use super::{aside, dequant, recurrent, verify};
use geb::calibrate::Imatrix;
use geb::error::{Error, Result};
use geb::gguf::checksums::hex;
use geb::gguf::journal::Identity;
use geb::gguf::writer::{self, MetaValue, PlannedTensor};
use geb::gguf::{GgufFile, Load, split};
use geb::kinds;

/// A source that has been read and checked, with everything that will be written.
pub(super) struct Prepared {
    pub checkpoint: Checkpoint,
    pub metadata: Vec<(String, MetaValue)>,
    pub items: Vec<Item>,
    pub architecture: String,
    pub notes: Vec<String>,
    /// What the columns of the matrices are multiplied with.
    pub imatrix: Option<Imatrix>,
    /// What is added to the weights.
    merge: Merge,
    /// The files that must not be overwritten.
    sources: Vec<PathBuf>,
    /// Folder and vocabulary of a checkpoint, for the comparison of tokenizers.
    text: Option<(Folder, Vocab)>,
}

impl Prepared {
    /// Opens a checkpoint folder or a GGUF file.
    pub fn read(source: &Path, options: &Options) -> Result<Prepared> {
        let meta = std::fs::metadata(source).map_err(Error::io(source))?;
        let single = source.file_name().and_then(|n| n.to_str());
        let single = single.filter(|n| n.ends_with(".pth"));
        let mut prepared = if meta.is_dir() {
            Self::read_folder(source, None, options)?
        } else if single.is_some() {
            let folder = source.parent().filter(|p| !p.as_os_str().is_empty());
            Self::read_folder(folder.unwrap_or(Path::new(".")), single, options)?
        } else if let Some((folder, name)) = member(source) {
            Self::read_member(folder, name, options)?
        } else {
            Self::read_gguf(source, options)?
        };
        if let Some(keep) = &options.keep_experts {
            keep.apply(&mut prepared.items, &mut prepared.metadata)?;
        }
        if options.no_heads {
            prepared.drop_heads();
        }
        let policy = Policy {
            weighted: options.policy.weighted || options.imatrix.is_some(),
            ..options.policy.clone()
        };
        if let Some(keep) = &options.layers {
            prepared.keep_layers(keep, options)?;
        }
        let adapters = &options.adapters;
        let (merge, keys) = Merge::open(adapters, &prepared.architecture, &prepared.items)?;
        prepared.merge = merge;
        prepared.metadata.extend(keys);
        let paths = adapters.iter().map(|a| a.0.clone());
        prepared.sources.extend(paths);
        assign(&mut prepared.items, &policy, &prepared.metadata)?;
        if let Some(path) = &options.imatrix {
            prepared.weigh(path, options)?;
        }
        let notes: Vec<String> = prepared.items.iter().filter_map(Item::note).collect();
        if notes.len() > 3 {
            prepared.notes.push(format!(
                "{} tensors have rows that do not fill blocks of their type (a dry run lists them)",
                notes.len()
            ));
        } else {
            prepared.notes.extend(notes);
        }
        Ok(prepared)
    }

    /// Takes an importance matrix that fits the tensors, and records it.
    fn weigh(&mut self, path: &Path, options: &Options) -> Result<()> {
        let matrix = Imatrix::open(path)?;
        let tensors = self.items.iter().map(|i| (i.name.as_str(), &i.dims[..]));
        let quantized = |name: &str| {
            let mut items = self.items.iter();
            items.any(|i| i.name == name && i.dtype.block_len() > 1)
        };
        // Llama.cpp collects the layers only.
        matrix.check(tensors, |name, _| {
            name.starts_with("blk.") && quantized(name)
        })?;
        if options.search == Effort::Best && !matrix.has_covariances() {
            self.notes.push(
                "no products of columns in the importance matrix (geb-run imatrix collects them on request): \
                 scales are searched block by block"
                    .into(),
            );
        }
        let number = |n: usize| MetaValue::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let mut keys: Vec<(&str, MetaValue)> =
            vec![("quantize.imatrix.file", matrix.file_name().into())];
        if let Some(name) = matrix.datasets().first() {
            let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
            keys.push(("quantize.imatrix.dataset", name.into()));
        }
        keys.push(("quantize.imatrix.entries_count", number(matrix.len())));
        keys.push((
            "quantize.imatrix.chunks_count",
            MetaValue::U32(matrix.chunks()),
        ));
        keys.push(("geb.imatrix.sha256", matrix.hash().into()));
        self.metadata
            .extend(keys.into_iter().map(|(key, value)| (key.into(), value)));
        self.sources.push(path.to_owned());
        self.imatrix = Some(matrix);
        Ok(())
    }

    /// A folder of which one file was named.
    fn read_member(dir: &Path, name: &str, options: &Options) -> Result<Prepared> {
        let mut prepared = Self::read_folder(dir, None, options)?;
        let read: Vec<&str> = prepared.checkpoint.file_names().collect();
        if !name.ends_with(".json") && !read.contains(&name) {
            let place = "a file that its folder is not read from";
            return Err(bad(name, "place", place, read.join(", ")));
        }
        let note = format!(
            "the whole checkpoint folder is converted: {}",
            dir.display()
        );
        prepared.notes.push(note);
        Ok(prepared)
    }

    /// `single`: the only weight file to look at, a `.pth` file beside no configuration.
    fn read_folder(dir: &Path, single: Option<&str>, options: &Options) -> Result<Prepared> {
        let folder = Folder::new(dir).naming(single);
        let config = folder.json("config.json")?;
        let native = match &config {
            Some(_) => None,
            None => Checkpoint::native(&folder, single)?,
        };
        let own = match (&native, folder.json("params.json")?) {
            (Some(native), Some(params)) => Some(meta::config(&params, native)?),
            (Some(native), None) => recurrent::native_config(native)?,
            (None, _) => None,
        };
        let config = config.or(own).ok_or_else(|| {
            if folder.has("adapter_config.json") {
                return kinds::adapter(dir);
            }
            bad(
                "config.json",
                "file",
                "absent",
                "the configuration of a checkpoint",
            )
        })?;
        let mut hyper = Hyper::read(&config)?;
        let mut checkpoint = match native {
            Some(checkpoint) => checkpoint,
            None => Checkpoint::open(&folder)?,
        };
        meta::use_names(&checkpoint, &mut hyper);
        let decoded = dequant::decode(&mut checkpoint, &folder, &config)?;
        let outputs = names::outputs(&checkpoint, &hyper, &options.layout)?;
        let rows = names::vocab_rows(&checkpoint, &hyper)?;
        let (text, _) = text_model(&config)?;
        let vocab = vocab::read(
            &folder,
            &text,
            hyper.family,
            rows,
            options.chat_template.as_deref(),
        )?;
        let mut notes = aside::notes(&checkpoint);
        if !hyper.tied && !outputs.iter().any(|o| o.name == "output.weight") {
            if let Some(name) = &checkpoint.lost_output {
                return Err(Error::Tensors(vec![format!("{name}: missing")]));
            }
            let note = "no output matrix in the checkpoint: the embedding takes its place";
            notes.push(note.into());
        }
        notes.extend(vocab.notes.iter().cloned());
        let ranks = recurrent::ranks(&hyper, &outputs);
        let items = items(&checkpoint, outputs, &hyper)?;

        let architecture = hyper.architecture(&options.layout);
        let elements: u64 = items.iter().map(|i| i.dims.iter().product::<u64>()).sum();
        let mut metadata = general(&folder, &config, architecture, elements, &options.policy);
        metadata.extend(hyper.metadata(&options.layout, rows));
        metadata.extend(ranks);
        metadata.extend(vocab.metadata());
        let mut hashes = folder.hashes();
        if options.hash_source {
            hashes.extend(checkpoint.hashes()?);
        }
        metadata.extend(provenance(recipe(options, Some(hyper.family)), hashes));
        if let Some(decoded) = decoded {
            metadata.push(("geb.source.quantization".into(), decoded.method.into()));
            notes.push(decoded.note);
        }
        let sources = checkpoint
            .file_names()
            .map(|f| folder.path(f))
            .chain(folder.hashes().iter().map(|f| folder.path(&f.0)))
            .collect();
        Ok(Prepared {
            checkpoint,
            metadata,
            items,
            architecture: architecture.into(),
            notes,
            imatrix: None,
            merge: Merge::default(),
            sources,
            text: Some((folder, vocab)),
        })
    }

    fn read_gguf(path: &Path, options: &Options) -> Result<Prepared> {
        let file = GgufFile::open(path, Load::Map)?;
        kinds::check_source(&file)?;
        let architecture =
            GgufFile::require("general.architecture", file.str("general.architecture")?)?
                .to_owned();
        let checkpoint = Checkpoint::from_gguf(&file);
        let items = requantized(&checkpoint, options)?;
        let mut plan = writer::Plan::default();
        let dropped = [
            "general.file_type",
            "general.quantization_version",
            "general.alignment",
        ];
        plan.copy_meta(&file, |key, _| {
            let prefixes = ["geb.", "split.", "quantize."];
            !dropped.contains(&key) && !prefixes.iter().any(|p| key.starts_with(p))
        });
        plan.set_meta("general.file_type", options.policy.mixture.file_type);
        if options.policy.quantized() {
            plan.set_meta("general.quantization_version", MetaValue::U32(2));
        }
        if let Some(template) = &options.chat_template {
            plan.set_meta("tokenizer.chat_template", MetaValue::Str(template.clone()));
        }
        let hashes = match options.hash_source {
            true => checkpoint.hashes()?,
            false => Vec::new(),
        };
        let mut metadata = plan.metadata;
        metadata.extend(provenance(recipe(options, None), hashes));
        let notes = Vec::new();
        Ok(Prepared {
            checkpoint,
            metadata,
            items,
            architecture,
            notes,
            imatrix: None,
            merge: Merge::default(),
            sources: file.parts().map(|p| p.1.to_owned()).collect(),
            text: None,
        })
    }

    /// What the writer needs.
    pub fn writer_plan(&self) -> writer::Plan {
        let tensors = self.items.iter().map(|i| PlannedTensor {
            name: i.name.clone(),
            dtype: i.dtype,
            dims: i.dims.clone(),
        });
        let mut plan = writer::Plan {
            metadata: self.metadata.clone(),
            tensors: tensors.collect(),
        };
        plan.reserve_hashes(1);
        plan
    }

    /// The files to be written: one, or as many as the limit of their size asks for.
    pub fn files(&self, out: &Path, options: &Options) -> Result<Vec<(PathBuf, writer::Plan)>> {
        let plan = self.writer_plan();
        let Some(max) = options.split_max else {
            return Ok(vec![(out.to_owned(), plan)]);
        };
        let mut parts = split::cut(&plan, max)?;
        let count = parts.len();
        parts.iter_mut().for_each(|p| p.reserve_hashes(count));
        let name = |(i, plan)| (split::part_path(out, i, count), plan);
        Ok(parts.into_iter().enumerate().map(name).collect())
    }

    /// What decides the bytes of the files: a run with other facts is not continued. The sources
    /// are known by name, size and time of change here; the journal has hashes of their bytes.
    /// Configuration, tokenizer, importance matrix and adapters are in the metadata, by hash.
    pub fn identity(
        &self,
        files: &[(PathBuf, writer::Plan)],
        options: &Options,
    ) -> Result<Identity> {
        let mut sources = Vec::new();
        for path in &self.sources {
            let meta = std::fs::metadata(path).map_err(Error::io(path))?;
            let changed = meta.modified().map_err(Error::io(path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            sources.push(format!("{name} {} {changed:?}", meta.len()));
        }
        sources.sort();
        let mut plan = Sha256::new();
        for (path, part) in files {
            plan.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            plan.update(part.layout()?.header);
        }
        let same = Options {
            policy: options.policy.clone(),
            layout: options.layout,
            search: options.search,
            allow_nonfinite: options.allow_nonfinite,
            ..Options::default()
        };
        plan.update(format!("{same:?}"));
        for item in &self.items {
            plan.update(format!("{item:?}"));
        }
        let recipe = self.metadata.iter().find(|(k, _)| k == RECIPE);
        let recipe = recipe.map_or(String::new(), |(_, v)| format!("{v:?}"));
        Ok(vec![
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("recipe", recipe),
            ("source", hex(&Sha256::digest(sources.join("\n")))),
            ("plan", hex(&plan.finalize())),
        ])
    }

    /// The work of the items with these numbers.
    pub fn jobs(&self, items: &[usize], options: &Options) -> Result<Vec<Job<'_>>> {
        let kernels = super::machine::kernels()?;
        let mut jobs: Vec<Job<'_>> = Vec::with_capacity(items.len());
        for &i in items {
            let item = &self.items[i];
            let matrix = self.imatrix.as_ref();
            let matrix = matrix.filter(|_| item.dtype.block_len() > 1);
            let mut job = Job {
                checkpoint: &self.checkpoint,
                kernels,
                effort: options.search,
                importance: matrix.and_then(|m| m.importance(&item.name, item.dims[0] as usize)),
                feedback: None,
                changes: self.merge.of(&item.name),
                name: &item.name,
                dims: &item.dims,
                source: &item.source,
                dtype: item.dtype,
                allow_nonfinite: options.allow_nonfinite,
            };
            if let Some(m) = matrix
                && options.search == Effort::Best
                && Feedback::can(item.dtype)
                && m.moments(&item.name).is_some()
            {
                // q, k and v have one input, as have gate and up.
                let same = |j: &&Job<'_>| m.moments(j.name) == m.moments(&item.name);
                let before = jobs.last().filter(same).and_then(|j| j.feedback.clone());
                let shared = before.unwrap_or_else(|| Arc::new(Shared::new(m)));
                shared.expect(job.units().len());
                job.feedback = Some(shared);
            }
            jobs.push(job);
        }
        Ok(jobs)
    }

    /// A report without measurements.
    pub fn report(&self) -> Result<Report> {
        let layout = self.writer_plan().layout()?;
        let tensors = self
            .items
            .iter()
            .zip(&layout.tensors)
            .map(|(i, range)| TensorReport::new(i, range.end - range.start));
        let source_bytes = self
            .items
            .iter()
            .map(|i| i.source_bytes(&self.checkpoint))
            .sum();
        Ok(Report::new(
            self.architecture.clone(),
            layout.file_bytes,
            source_bytes,
            tensors.collect(),
            self.notes.clone(),
        ))
    }

    /// Compares the tokenizer that will be written with the source's on a fixed text.
    pub fn check_tokenizer(&self) -> Result<()> {
        match &self.text {
            Some((folder, vocab)) => verify::tokenizer(folder, vocab, &self.metadata),
            None => Ok(()),
        }
    }

    /// Refuses an output that is one of the source's files, also through links.
    pub fn refuse_same_file(&self, source: &Path, out: &Path) -> Result<()> {
        for path in self.sources.iter().map(PathBuf::as_path).chain([source]) {
            if writer::same_file(path, out)? {
                return Err(Error::Request {
                    what: "output file".into(),
                    value: format!("{} (a file of the source)", out.display()),
                    allowed: "another file".into(),
                });
            }
        }
        Ok(())
    }
}

/// The folder and name of a file of a checkpoint.
fn member(path: &Path) -> Option<(&Path, &str)> {
    let name = path.file_name()?.to_str()?;
    let ends = [
        ".safetensors",
        ".safetensors.index.json",
        ".bin",
        ".bin.index.json",
    ];
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let beside = folder.join("config.json").is_file();
    let known = name == "config.json" || ends.iter().any(|e| name.ends_with(e));
    (known && beside && !kinds::is_gguf(path)).then_some((folder, name))
}

/// The tensors, types not yet chosen; `rope_freqs.weight` follows the embedding when the
/// configuration asks for it.
fn items(checkpoint: &Checkpoint, outputs: Vec<Output>, hyper: &Hyper) -> Result<Vec<Item>> {
    let mut items = Vec::with_capacity(outputs.len() + 1);
    for output in outputs {
        let sources: Vec<usize> = match &output.source {
            Source::Rows(parts) => parts.iter().map(|p| p.tensor).collect(),
            Source::Made(made) => made.tensors().collect(),
            Source::Values(_) => Vec::new(),
        };
        let mut from = Dtype::F32;
        for &i in sources.iter().rev() {
            from = float_type(&checkpoint.tensors()[i])?;
        }
        items.push(Item {
            name: output.name,
            dims: output.dims,
            from,
            dtype: from,
            reason: Reason::Base,
            source: output.source,
        });
    }
    for (name, factors) in hyper.factors() {
        if factors.len() * 2 != hyper.rotary {
            let allowed = format!("{}, one for each pair of a head", hyper.rotary / 2);
            return Err(bad("config.json", name, factors.len(), allowed));
        }
        let item = Item {
            name: name.into(),
            dims: vec![factors.len() as u64],
            from: Dtype::F32,
            dtype: Dtype::F32,
            reason: Reason::Base,
            source: Source::Values(factors),
        };
        items.insert(1.min(items.len()), item);
    }
    Ok(items)
}

/// Chooses the types of all tensors but those of integers.
fn assign(items: &mut [Item], policy: &Policy, metadata: &[(String, MetaValue)]) -> Result<()> {
    let mut open: Vec<&mut Item> = items
        .iter_mut()
        .filter(|i| i.reason != Reason::Kept)
        .collect();
    let shapes: Vec<_> = open
        .iter()
        .map(|i| (i.name.as_str(), &i.dims[..]))
        .collect();
    let types = policy.choose(&shapes, metadata)?;
    for (item, (dtype, reason)) in open.iter_mut().zip(types) {
        (item.dtype, item.reason) = (dtype, reason);
    }
    Ok(())
}

/// The tensors of a GGUF file, types not yet chosen.
fn requantized(checkpoint: &Checkpoint, options: &Options) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for (i, t) in checkpoint.tensors().iter().enumerate() {
        let Elem::Float(from) = t.elem else { continue };
        let dims: Vec<u64> = t.shape.iter().rev().copied().collect();
        let integer = is_integer(from);
        let readable = integer
            || matches!(from, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
            || super::machine::kernels()?.supports(from);
        if !readable {
            return Err(Error::Unsupported {
                what: "source type",
                value: format!("{from} of {}", t.name),
                known: "types with a decoder".into(),
            });
        }
        if from.block_len() > 1 && !options.allow_requantize {
            return Err(Error::Request {
                what: format!("type of {}", t.name),
                value: from.name().into(),
                allowed: "F32, F16, BF16 (allow_requantize converts quantized files, with a loss on top of a loss)".into(),
            });
        }
        let n = if dims.len() == 1 && from.block_len() == 1 {
            t.cols()
        } else {
            t.rows()
        };
        let source = Source::Rows(vec![Part {
            tensor: i,
            rows: RowMap::Span(0..n),
            offset: 0.0,
            transposed: false,
            scale: 1.0,
            columns: None,
        }]);
        items.push(Item {
            name: t.name.clone(),
            dims,
            from,
            dtype: from,
            reason: if integer { Reason::Kept } else { Reason::Base },
            source,
        });
    }
    Ok(items)
}
