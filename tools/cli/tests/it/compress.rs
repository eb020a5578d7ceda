//! Compression from the command line: files, ratios, what is refused.

use serde_json::Value;

use crate::support::*;

#[test]
fn texts_come_back_and_wrong_files_do_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("path").to_owned();
    let (text, packed) = (path("a.txt"), path("a.txt.geb"));
    let content = "Some text for a model that has never seen any. 一点中文。\n".repeat(4);
    std::fs::write(&text, &content).expect("a file");
    let value: Value = json(&run_on_model(&["compress", &text, "--json", "--ctx", "64"]));
    let size = std::fs::metadata(&packed).expect("written").len();
    assert_eq!(value["compressed_bytes"], size);
    assert_eq!(value["bytes"], content.len());
    let ratio = 8.0 * size as f64 / content.len() as f64;
    assert!((value["bits_per_byte"].as_f64().expect("a number") - ratio).abs() < 1e-9);
    // Neither is replaced unasked.
    exits(&run_on_model(&["compress", &text]), 2);
    exits(&run_on_model(&["decompress", &packed]), 2);
    let back = path("b.txt");
    exits(
        &run_on_model(&["decompress", &packed, "-o", &back, "-t", "1"]),
        0,
    );
    assert_eq!(std::fs::read_to_string(&back).expect("written"), content);
    let streamed = run_on_model(&["decompress", &packed, "-o", "-", "-q"]);
    assert_eq!(stdout(&streamed), content);
    // Damage.
    let mut bytes = std::fs::read(&packed).expect("written");
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    let (damaged, cut, other) = (path("damaged.geb"), path("cut.geb"), path("other.geb"));
    std::fs::write(&damaged, &bytes).expect("a file");
    std::fs::write(&cut, &bytes[..last]).expect("a file");
    std::fs::write(&other, &content).expect("a file");
    for file in [&damaged, &cut, &other] {
        let refused = run_on_model(&["decompress", file]);
        exits(&refused, 3);
        let said = stderr(&refused);
        assert!(said.lines().count() == 1, "{said}");
        assert!(said.contains("bad compressed text"), "{said}");
    }
    assert!(!dir.path().join("damaged").exists());
}
