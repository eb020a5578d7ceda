//! geb-quantize.

fn main() {}
