//! The seed corpora of `fuzz/`, replayed on every test run.

use std::path::Path;

use crate::properties;

/// Gives every file of `fuzz/corpus/NAME` to `property`; an empty or missing corpus is a failure.
fn replay(name: &str, properties: &[fn(&[u8])]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let entries =
        std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("directory entry").path();
        let octets = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        eprintln!("replaying {}", path.display());
        properties.iter().for_each(|property| property(&octets));
        count += 1;
    }
    assert!(count >= 5, "{} holds only {count} seeds", directory.display());
}

#[test]
fn parser_corpus_holds_its_properties() {
    replay("parse", &[properties::parse, properties::differential]);
}

#[test]
fn framer_corpus_holds_its_properties() {
    replay("frame", &[properties::frame]);
}
