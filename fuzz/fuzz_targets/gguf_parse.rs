//! Any bytes as a GGUF file: no panic, and what is accepted can be walked and written again.
#![no_main]

use geb::Error;
use geb::gguf::writer::{Plan, write_to};
use geb::gguf::{GgufFile, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if cfg!(feature = "planted") && data.len() > 24 && data[..4] == *b"GGUF" && data[8] == 40 {
        panic!("planted bug");
    }
    let Ok(file) = GgufFile::from_bytes(data.to_vec()) else { return };
    let mut plan = Plan::default();
    plan.copy_meta(&file, |key, value| {
        if let Value::Array(a) = value {
            assert_eq!(a.iter().count(), a.len);
        }
        assert_eq!(file.get(key).map(|v| v.ty()), Some(value.ty()));
        true
    });
    for t in file.tensors() {
        let info = t.info();
        assert_eq!(info.range.len(), t.bytes().len());
        plan.push_tensor(&info.name, info.dtype, info.dims.clone());
    }
    let views: Vec<_> = file.tensors().collect();
    let mut out = Vec::new();
    let mut fill = |i: usize, w: &mut dyn std::io::Write| w.write_all(views[i].bytes()).map_err(Error::io("memory"));
    write_to(&mut out, &plan, &mut fill).expect("an accepted file can be written");
    let back = GgufFile::from_bytes(out).expect("a written file can be read");
    assert!(file.tensors().zip(back.tensors()).all(|(a, b)| a.bytes() == b.bytes()));
});
