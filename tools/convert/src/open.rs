//! Opening the weights of a folder, under any of the names that they have.

use super::checkpoint::Checkpoint;
use super::folder::{Folder, bad};
use super::shards;
use geb::error::Result;

impl Checkpoint {
    /// Opens the weights of a folder: `model.safetensors`, its shards by their index or by their own numbers,
    /// `consolidated.safetensors` or its shards, the only safetensors file of another name, then the same of
    /// `pytorch_model.bin`.
    ///
    /// # Errors
    /// [`geb::Error::Checkpoint`] names the file and the field that breaks a rule.
    pub fn open(folder: &Folder) -> Result<Checkpoint> {
        let mut out = Self::empty();
        let stems = [
            ("model", ".safetensors"),
            ("consolidated", ".safetensors"),
            ("pytorch_model", ".bin"),
        ];
        for (stem, end) in stems {
            let single = format!("{stem}{end}");
            let index = format!("{single}.index.json");
            if folder.has(&single) {
                out.add_file(folder, &single)?;
            } else if let Some(json) = folder.json(&index)? {
                shards::add(&mut out, folder, &index, &json)?;
            } else if let Some(shards) = shards::numbered(folder, stem, end)? {
                for shard in shards {
                    out.add_file(folder, &shard)?;
                }
            } else {
                continue;
            }
            return Ok(out);
        }
        let mut others = folder.ending(".safetensors")?;
        others.retain(|n| !n.starts_with("adapter_"));
        match &others[..] {
            [only] => {
                out.add_file(folder, only)?;
                Ok(out)
            }
            [] => {
                let known = "model.safetensors or pytorch_model.bin, or either in shards";
                Err(bad(&folder.name(), "weights", "absent", known))
            }
            several => {
                let allowed = "one file, or an index (model.safetensors.index.json)";
                let names: Vec<_> = several.iter().take(4).map(String::as_str).collect();
                Err(bad(&folder.name(), "weights", names.join(", "), allowed))
            }
        }
    }

    /// A PyTorch file of weights alone, as authors publish them: `name`, or the only `.pth` file of the folder.
    ///
    /// # Errors
    /// [`geb::Error::Checkpoint`] for a malformed file or several.
    pub fn native(folder: &Folder, name: Option<&str>) -> Result<Option<Checkpoint>> {
        let found = folder.ending(".pth")?;
        match (name, &found[..]) {
            (Some(name), _) => Self::open_one(folder, &[name]).map(Some),
            (None, [name]) => Self::open_one(folder, &[name]).map(Some),
            (None, []) => Ok(None),
            (None, several) => {
                let allowed = "one .pth file, or its path";
                Err(bad(&folder.name(), "weights", several.join(", "), allowed))
            }
        }
    }

    /// Opens the first of these weight files that the folder has.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_one(folder: &Folder, names: &[&str]) -> Result<Checkpoint> {
        let mut out = Self::empty();
        let name = names.iter().find(|n| folder.has(n));
        let none = || bad(&folder.name(), "weights", "absent", names.join(" or "));
        out.add_file(folder, name.ok_or_else(none)?)?;
        Ok(out)
    }
}
