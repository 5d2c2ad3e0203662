//! The functions that Redis runs for us (`library.lua`), under a name that says which text it is.
//!
//! Releases that differ in the text have different names, so nobody replaces what another one calls while a cluster is
//! upgraded. Whoever finds the library missing loads it; it is kept with the data and replicated like it.

use redis::{Cmd, cmd};

const TEXT: &str = include_str!("library.lua");

/// The library of this release.
#[derive(Clone, Debug)]
pub(super) struct Library {
    name: String,
}

impl Library {
    pub(super) fn new() -> Self {
        let hash = blake3::hash(TEXT.as_bytes()).to_hex();
        Self { name: format!("outlast_{}", &hash[..12]) }
    }

    /// The name of the function that commits.
    pub(super) fn commit(&self) -> String {
        format!("{}_commit", self.name)
    }

    /// The name of the function that lists.
    pub(super) fn page(&self) -> String {
        format!("{}_page", self.name)
    }

    /// The name of the function that sweeps.
    pub(super) fn sweep(&self) -> String {
        format!("{}_sweep", self.name)
    }

    /// The question whether it is there: an empty answer if not.
    pub(super) fn list(&self) -> Cmd {
        let mut list = cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg(&self.name);
        list
    }

    /// The call that loads it. `REPLACE`: two may find it missing at a time.
    pub(super) fn load(&self) -> Cmd {
        let text = TEXT.replace("NAME", &self.name);
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(format!("#!lua name={}\n{text}", self.name));
        load
    }
}
