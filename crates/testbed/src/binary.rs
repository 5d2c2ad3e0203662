//! The `outlast` binary under test.
//!
//! Cargo builds a binary for the integration tests of its own package only, and tells them its path. For the
//! tests of every other package this module asks cargo for it, once a test process: a test never runs
//! against a stale binary, and `cargo test -p testbed` alone works. It is built with the feature `faults`, so that
//! tests can make containers misbehave.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of the freshly built `outlast` binary, of the profile this test itself was built with.
///
/// `OUTLAST_BINARY` names another one, for example of a release build.
///
/// # Panics
/// When cargo cannot build it; cargo's own message is on stderr.
pub fn outlast() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        ["OUTLAST_BINARY", "CARGO_BIN_EXE_outlast"]
            .into_iter()
            .find_map(std::env::var_os)
            .map_or_else(build, PathBuf::from)
    })
}

fn build() -> PathBuf {
    // .../target/<profile>/deps/<this test>
    let this_test = std::env::current_exe().expect("a running test has a path");
    let profile_directory =
        this_test.ancestors().nth(2).expect("cargo runs tests from target/<profile>/deps");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "outlast", "--features", "faults"]);
    if profile_directory.ends_with("release") {
        cargo.arg("--release");
    }
    // What cargo tells this test of its own package makes build scripts that look at it run again, ring's for one, and all
    // that is built on them be built again.
    let of_package = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for name in std::env::vars_os().map(|(name, _)| name).filter(of_package) {
        cargo.env_remove(name);
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(status.success(), "cargo build --package outlast: {status}");
    profile_directory.join("outlast")
}
