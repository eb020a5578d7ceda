//! PyTorch checkpoints: a zip archive with one pickle that lists tensors, and one entry per storage.
//! Entries are stored as they are, so tensors stay where they are in the mapped file.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;

use super::folder::bad;
use super::pickle::{Found, STORAGES, tensors_of};
use super::tensor::{SourceTensor, byte_count, check_shape};
use geb::error::Result;
use geb::limits;

/// The stored, unencrypted entries of a zip archive: name to byte range.
fn zip_entries(file: &str, data: &[u8]) -> Result<HashMap<String, Range<usize>>> {
    let broken = |e: zip::result::ZipError| {
        bad(
            file,
            "zip archive",
            e,
            "a zip file as torch.save writes it (since PyTorch 1.6)",
        )
    };
    let mut zip = zip::ZipArchive::new(Cursor::new(data)).map_err(broken)?;
    if zip.len() > 2 * limits::MAX_CHECKPOINT_TENSORS {
        return Err(bad(
            file,
            "zip entries",
            zip.len(),
            format!("at most {}", 2 * limits::MAX_CHECKPOINT_TENSORS),
        ));
    }
    let mut out = HashMap::with_capacity(zip.len());
    for i in 0..zip.len() {
        let entry = zip.by_index_raw(i).map_err(broken)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let field = |what: &str| format!("{name}: {what}");
        if entry.compression() != zip::CompressionMethod::Stored || entry.encrypted() {
            return Err(bad(
                file,
                field("compression"),
                format!("{:?}", entry.compression()),
                "stored, not encrypted",
            ));
        }
        let size = entry.size();
        if size != entry.compressed_size() {
            return Err(bad(
                file,
                field("size"),
                size,
                format!("{} as stored", entry.compressed_size()),
            ));
        }
        let start = entry.data_start().unwrap_or(u64::MAX);
        let end = start
            .checked_add(size)
            .filter(|&end| end <= data.len() as u64);
        let Some(end) = end else {
            return Err(bad(
                file,
                field("size"),
                size,
                format!("entries inside the {} bytes of the file", data.len()),
            ));
        };
        if out
            .insert(name.clone(), start as usize..end as usize)
            .is_some()
        {
            return Err(bad(file, "zip entry", name, "names that occur once"));
        }
    }
    Ok(out)
}

/// Reads the tensor list of a PyTorch checkpoint written by `torch.save`.
///
/// # Errors
/// [`Error::Checkpoint`](geb::Error::Checkpoint) naming the opcode, the global or the tensor that is refused.
pub fn torch_file(file: &str, data: &[u8]) -> Result<Vec<SourceTensor>> {
    let entries = zip_entries(file, data)?;
    let mut pickles = entries.keys().filter_map(|n| n.strip_suffix("data.pkl"));
    let (Some(prefix), None) = (pickles.next(), pickles.next()) else {
        return Err(bad(
            file,
            "data.pkl",
            "absent or repeated",
            "one entry of that name",
        ));
    };
    let range = entries[&format!("{prefix}data.pkl")].clone();
    if range.len() as u64 > limits::MAX_PICKLE_BYTES {
        return Err(bad(
            file,
            "data.pkl: size",
            range.len(),
            format!("at most {}", limits::MAX_PICKLE_BYTES),
        ));
    }
    if let Some(order) = entries.get(&format!("{prefix}byteorder"))
        && &data[order.clone()] != b"little"
    {
        return Err(bad(
            file,
            "byteorder",
            String::from_utf8_lossy(&data[order.clone()][..order.len().min(16)]),
            "little",
        ));
    }
    tensors_of(file, &data[range])?
        .into_iter()
        .map(|found| {
            let storage = format!("{prefix}data/{}", found.tensor.storage.key);
            let range = entries.get(&storage);
            place(file, found, range.cloned())
        })
        .collect()
}

/// Checks a tensor against the bytes of its storage.
fn place(file: &str, found: Found, range: Option<Range<usize>>) -> Result<SourceTensor> {
    let Found { name, tensor } = found;
    let cut: String = name.chars().take(80).collect();
    let field = |what: &str| format!("{cut}: {what}");
    let Some(range) = range else {
        return Err(bad(
            file,
            field("storage"),
            &tensor.storage.key,
            "an entry of the archive",
        ));
    };
    let (_, elem, elem_bytes) = STORAGES[tensor.storage.class];
    check_shape(file, &name, &tensor.shape)?;
    let bytes = byte_count(file, &cut, &tensor.shape, elem_bytes)?;
    let stored = range.len() as u64;
    if tensor.storage.elements.checked_mul(elem_bytes) != Some(stored) {
        let allowed = format!("{} (its entry has {stored} bytes)", stored / elem_bytes);
        return Err(bad(
            file,
            field("storage elements"),
            tensor.storage.elements,
            allowed,
        ));
    }
    let first = tensor
        .offset
        .checked_mul(elem_bytes)
        .filter(|&f| f <= stored && bytes <= stored - f);
    let Some(first) = first else {
        let value = format!("offset {} and shape {:?}", tensor.offset, tensor.shape);
        return Err(bad(
            file,
            field("range"),
            value,
            format!("inside the {stored} bytes of its storage"),
        ));
    };
    let start = range.start + first as usize;
    Ok(SourceTensor {
        name: name.to_string(),
        elem,
        shape: tensor.shape.clone(),
        file: 0,
        range: start..start + bytes as usize,
        coded: None,
    })
}
