//! Checkpoints in several files: by an index, or by the numbers in their names.

use std::collections::HashSet;

use serde_json::Value;

use super::aside::aside;
use super::checkpoint::Checkpoint;
use super::folder::{Folder, bad, kind, short};
use super::wrapped::core;
use geb::error::Result;

/// Ends of names of buffers that only some families have.
const BUFFERS: &[&str] = &[".attn.bias", ".attention.bias"];
/// Names of output matrices, which tied models do not store.
const OUTPUTS: &[&str] = &["lm_head.weight", "embed_out.weight", "output_layer.weight"];

/// Adds the files that an index names.
///
/// # Errors
/// [`geb::Error::Checkpoint`] naming the file that is missing, or the tensor that is in another file than the index says
/// or in none; buffers may be in none, and an output matrix, which the model may not need.
pub(super) fn add(
    checkpoint: &mut Checkpoint,
    folder: &Folder,
    index: &str,
    json: &Value,
) -> Result<()> {
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        let found = json.get("weight_map").map_or("absent", kind);
        let allowed = "an object: tensor name to file name";
        return Err(bad(index, "weight_map", found, allowed));
    };
    let mut shards: Vec<&str> = Vec::new();
    let mut seen = HashSet::new();
    for (tensor, shard) in map {
        let Some(name) = name_of(shard).filter(|s| plain_file_name(s)) else {
            let allowed = "the name of a file in the same folder";
            return Err(bad(
                index,
                format!("weight_map.{tensor}"),
                short(shard),
                allowed,
            ));
        };
        if seen.insert(name) {
            shards.push(name);
        }
    }
    shards.sort_unstable();
    for shard in &shards {
        if !folder.has(shard) {
            let value = format!("{shard} (not in the folder)");
            return Err(bad(index, "weight_map", value, "files that exist"));
        }
        checkpoint.add_file(folder, shard)?;
    }
    for (tensor, shard) in map {
        let shard = name_of(shard).unwrap_or_default();
        let held = checkpoint.holder(tensor);
        if held == Some(shard) {
            continue;
        }
        let buffer = aside(tensor).is_some() || BUFFERS.iter().any(|end| tensor.ends_with(end));
        match held {
            None if buffer => {}
            None if OUTPUTS.contains(&core(tensor).as_str()) => {
                checkpoint.lost_output = Some(tensor.clone());
            }
            held => {
                let held = held.unwrap_or("no file");
                let allowed = format!("a file that holds it (found in: {held})");
                return Err(bad(index, format!("weight_map.{tensor}"), shard, allowed));
            }
        }
    }
    Ok(())
}

/// The file that an index names, which may begin with `./`.
fn name_of(shard: &Value) -> Option<&str> {
    Some(shard.as_str()?.trim_start_matches("./"))
}

/// The files `STEM-00001-of-00003END` of a folder without an index, all of one set.
pub(super) fn numbered(folder: &Folder, stem: &str, end: &str) -> Result<Option<Vec<String>>> {
    let number = |name: &str| -> Option<(u32, u32)> {
        let middle = name
            .strip_prefix(stem)?
            .strip_prefix('-')?
            .strip_suffix(end)?;
        let (part, count) = middle.split_once("-of-")?;
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let both = digits(part) && digits(count) && part.len() == count.len();
        both.then_some((part.parse().ok()?, count.parse().ok()?))
    };
    let names = folder.ending(end)?;
    let parts: Vec<(u32, u32, &String)> = (names.iter())
        .filter_map(|name| number(name).map(|(part, count)| (part, count, name)))
        .collect();
    let Some(&(_, count, first)) = parts.first() else {
        return Ok(None);
    };
    if let Some(other) = parts.iter().find(|p| p.1 != count) {
        let found = format!("{first} and {}", other.2);
        return Err(bad(
            &folder.name(),
            "weights",
            found,
            "the files of one set",
        ));
    }
    let mut shards = Vec::with_capacity(parts.len());
    // As many as there are: a count in a name is not believed.
    for part in 1..=count {
        match parts.iter().find(|p| p.0 == part) {
            Some(p) => shards.push(p.2.clone()),
            None => {
                let width = first.len() - stem.len() - end.len() - "-".len() - "-of-".len();
                let name = format!("{stem}-{part:0w$}-of-{count:0w$}{end}", w = width / 2);
                let allowed = format!("all {count} files of the set");
                return Err(bad(
                    &folder.name(),
                    "weights",
                    format!("{name} missing"),
                    allowed,
                ));
            }
        }
    }
    Ok(Some(shards))
}

/// A name without path parts, so that an index cannot reach outside its folder.
fn plain_file_name(name: &str) -> bool {
    let ends = name.ends_with(".safetensors") || name.ends_with(".bin");
    ends && !name.starts_with('.') && !name.contains(['/', '\\', '\0', ':']) && name.len() <= 255
}
