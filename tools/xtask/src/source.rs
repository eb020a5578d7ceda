//! The project's Rust files, parsed once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a rule is broken, and how often.
pub type Findings = BTreeMap<String, usize>;

/// A file of the project.
pub struct File {
    /// From the top of the checkout, with `/`.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its syntax.
    pub syntax: syn::File,
}

/// A package's sources: a root file and the files of its modules below the same folder.
pub struct Crate {
    /// `src/lib.rs`, `tools/cli/src/bin/geb-run/main.rs`.
    pub root: String,
    /// The folder of the root, with `/` at the end.
    pub folder: String,
}

/// All files, and the crates whose modules they are.
pub struct Tree {
    /// Sorted by name.
    pub files: Vec<File>,
    /// Every root file that was found.
    pub crates: Vec<Crate>,
}

/// What is called, not started: no flag, no terminal.
const LIBRARIES: &[&str] = &[
    "src/",
    "kernels/src/",
    "tools/convert/src/",
    "tools/eval/src/",
    "lab/src/",
];

impl Tree {
    /// Reads every `.rs` file that is not below `target`, `fuzz` or a hidden folder.
    ///
    /// # Errors
    /// What cannot be read or parsed, by name.
    pub fn read(top: &Path) -> Result<Tree, String> {
        let mut paths = Vec::new();
        walk(top, &mut paths)?;
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let name = path.strip_prefix(top).unwrap_or(&path);
            let name = name.to_string_lossy().replace('\\', "/");
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
            let syntax = syn::parse_file(&text).map_err(|e| format!("{name}: {e}"))?;
            files.push(File { name, text, syntax });
        }
        let root = |f: &File| {
            let (folder, last) = f.name.rsplit_once('/')?;
            let is_root = last == "lib.rs" || (last == "main.rs" && !folder.starts_with("tests"));
            is_root.then(|| Crate {
                root: f.name.clone(),
                folder: format!("{folder}/"),
            })
        };
        let crates = files.iter().filter_map(root).collect();
        Ok(Tree { files, crates })
    }

    /// The files of the libraries, without their tests.
    pub fn library(&self) -> impl Iterator<Item = &File> {
        let inside = |f: &&File| LIBRARIES.iter().any(|folder| f.name.starts_with(folder));
        self.files.iter().filter(inside)
    }
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let left_out = name.starts_with('.') || matches!(&*name, "target" | "fuzz" | "data");
        if path.is_dir() && !left_out {
            walk(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

/// Whether an item is compiled for tests only.
pub fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| match &a.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let mut words = list.tokens.clone().into_iter();
            words.any(|t| matches!(t, proc_macro2::TokenTree::Ident(i) if i == "test"))
        }
        meta => meta.path().is_ident("test"),
    })
}
