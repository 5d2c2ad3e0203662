//! Applications of `apps/`, deployed on a node as an operator deploys them.
//!
//! `OUTLAST_APPS` is the directory that `apps/build` built them into. Unset: tests that need one are skipped and say so; in
//! CI they fail.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use testbed::node::Node;
use testbed::wait;

use crate::world;

/// Where the application of that name lies, built. None, and a word about it: it is not built, and in CI it must be.
pub(crate) fn built(name: &str) -> Option<PathBuf> {
    let skip = |missing: &str| {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        println!("skipped: {missing}");
        None
    };
    let Some(all) = std::env::var_os("OUTLAST_APPS").map(PathBuf::from) else {
        return skip("OUTLAST_APPS is unset: run apps/build, then set it to target/apps");
    };
    let built = all.join(name);
    if built.join("outlast-app.toml").exists() {
        Some(built)
    } else {
        skip(&format!("there is no {}: apps/build says why", built.display()))
    }
}

/// A built application, with a manifest that may be changed.
pub(crate) struct Deployable {
    directory: tempfile::TempDir,
    manifest: String,
}

impl Deployable {
    /// The application of that name; None: it is not built, and that need not be.
    pub(crate) fn built(name: &str) -> Option<Deployable> {
        let built = built(name)?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let files = fs::read_dir(&built);
        let files = files.unwrap_or_else(|error| panic!("{}: {error}", built.display()));
        for file in files {
            let file = file.expect("the directory can be read");
            let copy = directory.path().join(file.file_name());
            fs::copy(file.path(), copy).expect("the directory is writable");
        }
        let manifest = directory.path().join("outlast-app.toml");
        let manifest = fs::read_to_string(manifest).expect("a manifest beside the component");
        Some(Deployable { directory, manifest })
    }

    /// With `other` in the manifest, in place of `text`.
    ///
    /// # Panics
    /// When the manifest has no such text.
    pub(crate) fn with(mut self, text: &str, other: &str) -> Deployable {
        assert!(self.manifest.contains(text), "no {text:?} in {}", self.manifest);
        self.manifest = self.manifest.replace(text, other);
        self
    }

    /// With these lines at the manifest's end.
    pub(crate) fn with_more(mut self, lines: &str) -> Deployable {
        self.manifest += lines;
        self
    }

    /// `outlast app deploy`.
    ///
    /// # Panics
    /// When the node refuses it.
    pub(crate) fn deploy(&self, node: &Node) {
        let directory = self.directory.path();
        let manifest = directory.join("outlast-app.toml");
        fs::write(manifest, &self.manifest).expect("the directory is writable");
        let output = node.outlast(&["app", "deploy", directory.to_str().expect("UTF-8")]);
        assert!(output.status.success(), "app deploy: {output:?}");
    }
}

/// Waits until an application is said to have handled something: what a test has seen is its work.
///
/// # Panics
/// When it is not.
pub(crate) fn assert_has_worked(node: &Node, name: &str) {
    wait::until(&format!("{name} to have handled events"), world::LIMIT, || {
        let output = node.outlast(&["app", "list", "--json"]);
        let all: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let its = all.iter().filter(|one| one["name"] == name);
        let versions = its.flat_map(|one| one["versions"].as_array().into_iter().flatten());
        let events: u64 = versions.filter_map(|version| version["events"].as_u64()).sum();
        if events > 0 { Ok(()) } else { Err(all) }
    });
}

/// The sample `b2bua`, for calls that satisfy this condition of a manifest.
pub(crate) fn back_to_back(condition: &str) -> Option<Deployable> {
    const ALL: &str = r#"{ equal = ["request.method", "INVITE"] }"#;
    Some(Deployable::built("b2bua")?.with(ALL, &format!("{{ all = [{ALL}, {condition}] }}")))
}
