//! One command run to its end, and whether it did what it was told.

use std::path::Path;

use testbed::node::outlast_in;

/// Asserts that it was done, and gives its stdout.
pub(crate) fn done(directory: &Path, arguments: &[&str], input: &str) -> String {
    let output = outlast_in(directory, arguments, input.as_bytes());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Asserts that it was done, and gives the JSON on its stdout.
pub(crate) fn done_json(directory: &Path, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&done(directory, arguments, "")).unwrap()
}

/// Asserts that it was not done, with that exit code, and gives its stderr.
pub(crate) fn refused(directory: &Path, arguments: &[&str], input: &str, code: i32) -> String {
    let output = outlast_in(directory, arguments, input.as_bytes());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "what is not done says nothing on stdout: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}
