//! Files as PyTorch writes them.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

/// Tensors by name: shape and values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A file as `torch.save` writes it: a dictionary of tensors with a storage each.
pub fn torch_file(tensors: &Tensors) -> Vec<u8> {
    let text = |s: &str| [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
    let int = |n: usize| [&[0x8a, 8][..], &(n as i64).to_le_bytes()].concat();
    let ints = |list: &[usize]| {
        [
            &b"("[..],
            &list.iter().flat_map(|n| int(*n)).collect::<Vec<_>>(),
            b"t",
        ]
        .concat()
    };
    let mut pickle = b"\x80\x02}(".to_vec();
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (key, (name, (shape, values))) in tensors.iter().enumerate() {
        let stride: Vec<usize> = (1..=shape.len())
            .map(|i| shape[i..].iter().product())
            .collect();
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend([text("storage"), b"ctorch\nFloatStorage\n".to_vec()].concat());
        pickle.extend([text(&key.to_string()), text("cpu"), int(values.len())].concat());
        pickle.extend(
            [
                &b"tQ"[..],
                &int(0),
                &ints(shape),
                &ints(&stride),
                b"\x89}tR",
            ]
            .concat(),
        );
        zip.start_file(format!("m/data/{key}"), stored)
            .expect("memory");
        zip.write_all(&bytes_of(values)).expect("memory");
    }
    pickle.extend(b"u.");
    zip.start_file("m/data.pkl", stored).expect("memory");
    zip.write_all(&pickle).expect("memory");
    zip.finish().expect("memory").into_inner()
}
