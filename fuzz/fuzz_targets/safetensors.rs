//! Any bytes as a safetensors file: no panic, and accepted tensors have the size of their shape.
#![no_main]

use geb_convert::checkpoint::safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(list) = safetensors("fuzz.safetensors", data) else {
        return;
    };
    for t in &list {
        // Empty shapes are scalars; a zero dimension makes rows or columns zero.
        let _ = (t.rows(), t.cols());
        assert!(t.shape.iter().product::<u64>() <= data.len() as u64);
    }
});
