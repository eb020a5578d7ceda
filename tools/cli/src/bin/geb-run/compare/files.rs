//! From what was typed to GGUF files: paths as they are; checkpoint folders and type names made
//! with the converter into the cache folder, under a name that holds the hash of the source, of the
//! recipe and of this program's version.

use std::io::Read;
use std::path::{Path, PathBuf};

use geb::Error;
use geb::gguf::{GgufFile, Load};
use geb::kernels::Effort;
use geb_convert as convert;
use geb_convert::policy::{self, Policy};
use sha2::{Digest, Sha256};

use crate::args::OutputArgs;
use crate::interrupt::Interrupt;
use crate::load::{self, Opened};
use crate::model_path;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, bytes, dim, seconds};

/// Candidates when none are named.
const DEFAULT: [&str; 2] = ["q8_0", "q4_0"];

/// A file to compare.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Type or name of the file.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// How to make it, if it was made here.
    pub command: Option<String>,
}

/// What a candidate is.
#[derive(Clone, Debug)]
enum Typed {
    /// A file that is there.
    File(PathBuf),
    /// To be quantized.
    Type(Policy),
}

/// Makes the files.
pub struct Maker<'a> {
    /// Folder for what is made.
    pub folder: PathBuf,
    /// Importance matrix for candidates that are quantized.
    pub imatrix: Option<&'a Path>,
    /// Make again what is there.
    pub fresh: bool,
    /// Threads of the converter.
    pub threads: Option<usize>,
    /// What is said.
    pub output: &'a OutputArgs,
    /// Ctrl-C.
    pub interrupt: &'a Interrupt,
}

impl Maker<'_> {
    /// The base: a GGUF file, or a checkpoint folder converted to F32.
    pub fn base(&self, typed: &str) -> Outcome<Candidate> {
        let path = Path::new(typed);
        if path.join("config.json").is_file() {
            return self.make(path, geb::Dtype::F32.into(), None);
        }
        let path = model_path::resolve(Some(typed))?;
        Ok(existing(path))
    }

    /// The candidates, made from `source` (what was typed as the base) where they are types.
    pub fn candidates(&self, source: &Path, typed: &[String]) -> Outcome<Vec<Candidate>> {
        let default = DEFAULT.map(str::to_owned);
        let typed = if typed.is_empty() {
            &default[..]
        } else {
            typed
        };
        // All names first: a wrong one is an error before the work.
        let meant = typed.iter().map(|t| meant(t));
        let meant = meant.collect::<Outcome<Vec<_>>>()?;
        let mut hash = None;
        let made = meant.into_iter().map(|m| match m {
            Typed::File(path) => Ok(existing(path)),
            Typed::Type(policy) => self.make(source, policy, Some(&mut hash)),
        });
        made.collect()
    }

    /// Converts, unless the same was converted before. `hash` keeps the hash of the source.
    fn make(
        &self,
        source: &Path,
        policy: Policy,
        hash: Option<&mut Option<String>>,
    ) -> Outcome<Candidate> {
        let name = policy.mixture.name.to_ascii_lowercase();
        let imatrix = self.imatrix.filter(|_| policy.quantized());
        let options = convert::Options {
            policy,
            imatrix: imatrix.map(Path::to_path_buf),
            search: imatrix.map_or(Effort::Reference, |_| Effort::Fast),
            threads: self.threads,
            // The folder is this program's own.
            force: true,
            ..Default::default()
        };
        let mut own = None;
        let hash = hash.unwrap_or(&mut own);
        if hash.is_none() {
            *hash = Some(self.hash(source)?);
        }
        let mut sources = hash.clone().unwrap_or_default();
        if let Some(path) = imatrix {
            let of = file_hash(path);
            let of = of.map_err(|e| Failure::new(e.to_string()).at(path.display()))?;
            sources.push_str(&hex(&of));
        }
        let key = key(&sources, &options);
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let path = self
            .folder
            .join(format!("{stem}-{name}-{}.gguf", &key[..16]));
        if self.fresh || !path.is_file() {
            std::fs::create_dir_all(&self.folder)
                .map_err(|e| Failure::new(e.to_string()).at(self.folder.display()))?;
            self.convert(source, &path, &name, &options)?;
        }
        let mut command = format!(
            "geb-quantize {} {name}.gguf --type {name}",
            source.display()
        );
        if let Some(path) = imatrix {
            command.push_str(&format!(" --imatrix {}", path.display()));
        }
        Ok(Candidate {
            name,
            path,
            command: Some(command),
        })
    }

    /// Converts in any case.
    pub fn convert(
        &self,
        source: &Path,
        path: &Path,
        name: &str,
        options: &convert::Options,
    ) -> Outcome {
        let started = std::time::Instant::now();
        let mut shown = Shown {
            bar: Progress::new(format!("quantizing to {name}"), "MB", self.output),
            done: 0,
            total: 0,
            interrupt: self.interrupt,
        };
        let made = self
            .interrupt
            .during(|| convert::convert(source, path, options, &mut shown));
        drop(shown);
        let report = made.map_err(|e| match e {
            Error::Interrupted => Failure::interrupted(),
            e => Failure::from(e).at(source.display()),
        })?;
        if !self.output.quiet {
            let (size, took) = (bytes(report.file_bytes), seconds(started.elapsed()));
            dim(format_args!("{name}: {size}, quantized in {took}"));
        }
        Ok(())
    }

    /// SHA-256 of a file, or of all files of a folder with their names.
    fn hash(&self, source: &Path) -> Outcome<String> {
        let at = |e: std::io::Error| Failure::new(e.to_string()).at(source.display());
        let mut files = Vec::new();
        if source.is_dir() {
            let entries = std::fs::read_dir(source).map_err(at)?;
            files = entries
                .filter_map(|e| Some(e.ok()?.path()))
                .filter(|p| p.is_file())
                .collect();
            files.sort();
        } else {
            let opened = GgufFile::open(source, Load::Map).map_err(|e| load::at(source, e))?;
            files.extend(opened.parts().map(|(_, path)| path.to_path_buf()));
        }
        let mut all = Sha256::new();
        for file in files {
            self.interrupt.check()?;
            all.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            all.update(file_hash(&file).map_err(at)?);
        }
        Ok(hex(&all.finalize()))
    }
}

/// SHA-256 of a file.
pub fn file_hash(path: &Path) -> std::io::Result<Vec<u8>> {
    let opened = geb::files::open_regular(path);
    let (mut file, _) = opened.map_err(|e| std::io::Error::other(e.to_string()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What decides the bytes of a made file.
fn key(source: &str, options: &convert::Options) -> String {
    let mut options = options.clone();
    // Results do not depend on threads; the importance matrix is among the sources.
    (options.threads, options.imatrix) = (None, None);
    let all = format!("{source} {options:?} {}", env!("CARGO_PKG_VERSION"));
    hex(&Sha256::digest(all.as_bytes()))
}

fn existing(path: PathBuf) -> Candidate {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Candidate {
        name: name.into_owned(),
        path,
        command: None,
    }
}

/// A file of that name, else a type.
fn meant(typed: &str) -> Outcome<Typed> {
    if Path::new(typed).exists() {
        return model_path::resolve(Some(typed)).map(Typed::File);
    }
    let unknown = match Policy::named(typed) {
        Ok(policy) => return Ok(Typed::Type(policy)),
        Err(e) => e,
    };
    // A word for a type that we have under another name is no file.
    if !policy::similar(typed).is_empty() && !typed.contains(['/', '.']) {
        return Err(Failure::usage(unknown.to_string()));
    }
    // Neither: both are said.
    model_path::resolve(Some(typed))
        .map(Typed::File)
        .map_err(|f| f.hint(format!("give a GGUF file or a type; {unknown}")))
}

/// A conversion as the user sees it.
struct Shown<'a> {
    bar: Progress,
    done: u64,
    total: u64,
    interrupt: &'a Interrupt,
}

impl convert::Progress for Shown<'_> {
    fn start(&mut self, source_bytes: u64, _tensors: usize) {
        self.total = source_bytes;
    }

    fn advance(&mut self, source_bytes: u64) {
        self.done += source_bytes;
        let mb = |n: u64| (n / 1_000_000) as usize;
        self.bar.update(mb(self.done), mb(self.total));
    }

    fn cancelled(&self) -> bool {
        self.interrupt.pressed()
    }
}

/// The failure of a candidate whose tokenizer is not that of the base.
pub fn another_tokenizer(other: &Opened, what: &str) -> Failure {
    Failure {
        code: 3,
        ..Failure::new(format!("another tokenizer than the base's: {what}"))
    }
    .at(other.path.display())
    .hint("compare files made from the same checkpoint")
}
