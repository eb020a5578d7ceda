//! Any bytes as the pickle of a PyTorch checkpoint, and as the whole archive: no panic.
#![no_main]

use std::io::{Cursor, Write};

use geb_convert::torch::torch_file;
use libfuzzer_sys::fuzz_target;
use zip::write::SimpleFileOptions;

fuzz_target!(|data: &[u8]| {
    let _ = torch_file("fuzz.bin", data);
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in [("m/data.pkl", data), ("m/data/0", &[0u8; 24][..])] {
        archive.start_file(name, stored).expect("memory");
        archive.write_all(bytes).expect("memory");
    }
    let bytes = archive.finish().expect("memory").into_inner();
    let _ = torch_file("fuzz.bin", &bytes);
});
