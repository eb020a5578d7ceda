//! geb-run.

fn main() {}
