//! Adapters that become part of the weights, before these are quantized.

use std::collections::HashMap;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::item::Item;
use super::tensor::is_integer;
use geb::adapter::{Adapter, LowRank};
use geb::error::{Error, Result};
use geb::gguf::checksums::hex;
use geb::gguf::writer::MetaValue;
use geb::gguf::{GgufFile, Load};

/// A change of a matrix and its factor s.
pub(super) type Change = (LowRank, f32);

/// The changes of all adapters, by the name of the matrix.
#[derive(Default)]
pub(super) struct Merge {
    changes: HashMap<String, Vec<Change>>,
}

impl Merge {
    /// Opens adapters, each with its scale, and compares them with the tensors to be written. Returns
    /// what is recorded about them, too.
    pub fn open(
        adapters: &[(PathBuf, f32)],
        architecture: &str,
        items: &[Item],
    ) -> Result<(Merge, Vec<(String, MetaValue)>)> {
        let mut merge = Merge::default();
        let (mut names, mut sums) = (Vec::new(), Vec::new());
        for (path, scale) in adapters {
            if !scale.is_finite() {
                return Err(Error::Request {
                    what: format!("scale of {}", path.display()),
                    value: scale.to_string(),
                    allowed: "a finite number".into(),
                });
            }
            let file = GgufFile::open(path, Load::Map)?;
            let adapter = Adapter::read(&file, architecture, &|name| shape(items, name))?;
            for part in adapter.parts().iter().filter(|_| *scale != 0.0) {
                let of = merge.changes.entry(part.tensor.clone()).or_default();
                of.push((part.clone(), adapter.factor(part, *scale)));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            names.push(format!("{name}={scale}"));
            sums.push(hex(&Sha256::digest(file.data())));
        }
        let keys = [("geb.merged.adapters", names), ("geb.merged.sha256", sums)];
        let keys = keys.into_iter().filter(|k| !k.1.is_empty());
        let metadata = keys.map(|(key, list)| (key.to_owned(), MetaValue::Strs(list)));
        Ok((merge, metadata.collect()))
    }

    /// The changes of a tensor.
    pub fn of(&self, name: &str) -> &[Change] {
        self.changes.get(name).map_or(&[], Vec::as_slice)
    }
}

/// `[rows, cols]` of a matrix that will be written.
fn shape(items: &[Item], name: &str) -> std::result::Result<[usize; 2], String> {
    let item = items.iter().find(|i| i.name == name);
    match item.map(|i| &i.dims[..]) {
        Some(_) if item.is_some_and(|i| is_integer(i.from)) => {
            Err("integers, which are no weights".into())
        }
        None => Err("the model has no such tensor".into()),
        Some([cols, rows]) if name != "token_embd.weight" => Ok([*rows as usize, *cols as usize]),
        Some(_) => {
            Err("no matrix that adapters change: those of the layers and output.weight".into())
        }
    }
}

/// Adds the changes to rows of a matrix, `x`: `[rows, cols]`, of which the first is row `first`.
pub(super) fn apply(changes: &[Change], first: usize, cols: usize, x: &mut [f32]) {
    if changes.is_empty() {
        return;
    }
    let (mut low, mut sum) = (vec![0.0; cols], vec![0.0; cols]);
    for (i, row) in x.chunks_exact_mut(cols).enumerate() {
        sum.fill(0.0);
        let mut total = 1.0;
        for (part, s) in changes {
            let gain = part.row(*s, first + i, row, &mut low);
            total += gain - 1.0;
            sum.iter_mut()
                .zip(&low)
                .for_each(|(v, l)| *v += gain * f64::from(*l));
        }
        for (w, v) in row.iter_mut().zip(&sum) {
            *w = (total * f64::from(*w) + v) as f32;
        }
    }
}
