//! Which applications a node is to have, as its cluster has them, and the next step towards it. Pure.
//!
//! What the cluster has of an application is its current version, with the files of that; older versions stay on each node for
//! as long as sessions need them, and go there by themselves. A version that comes in is noted, with its files, before any
//! node is asked to take it: until it counts nobody follows by himself, and when it never will, everybody goes back.

use std::collections::BTreeMap;

use repository::FileNote;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// All files of the applications of a cluster, in octets.
pub const BYTES_MAX: u64 = 512 << 20;

/// An application as the cluster has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// With which version new sessions begin; none: with no version, it is retired.
    pub current: Option<String>,
    /// Of that version, by name.
    #[serde(default)]
    pub files: BTreeMap<String, FileNote>,
    /// It was removed, with all its versions.
    #[serde(default)]
    pub is_removed: bool,
    /// On its way in.
    #[serde(default)]
    pub coming: Option<Coming>,
}

/// A version that comes in, one node after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Which.
    pub version: String,
    /// Its files, by name.
    pub files: BTreeMap<String, FileNote>,
}

/// An application as this node has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// The versions whose files it keeps.
    pub versions: Vec<String>,
    /// With which new sessions begin.
    pub current: Option<String>,
    /// A version is on its way in.
    pub is_coming_in: bool,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch the files of a version and bring it in.
    Fetch {
        /// Which.
        version: String,
    },
    /// Have new sessions begin with a version that is here.
    Switch {
        /// Which.
        version: String,
    },
    /// Remove a version that has other files than the cluster's of the same name.
    Drop {
        /// Which; none: all of the application, as new sessions begin with it.
        version: Option<String>,
    },
    /// Begin no session any more.
    Retire,
    /// Remove all of it.
    Remove,
}

/// What a version consists of that is here and that the cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Of the same files; or it is not here.
    Same,
    /// Of others: the name was given twice.
    Other,
}

/// The next step of an application; `None`: this node has what the cluster has, or is about to. `kept` is about the version
/// that is current in the cluster.
#[must_use]
pub fn step(shared: &Shared, local: Option<&Local>, kept: Kept) -> Option<Step> {
    if local.is_some_and(|local| local.is_coming_in) {
        return None;
    }
    match (&shared.current, local) {
        _ if shared.is_removed => local.map(|_| Step::Remove),
        (None, local) => local?.current.as_ref().map(|_| Step::Retire),
        (Some(version), local) => towards(version, local, kept),
    }
}

/// The next step to a version that comes in; `None`: it is current here. `kept` is about that version.
#[must_use]
pub fn take(coming: &Coming, local: Option<&Local>, kept: Kept) -> Option<Step> {
    towards(&coming.version, local, kept)
}

fn towards(version: &str, local: Option<&Local>, kept: Kept) -> Option<Step> {
    let version = version.to_owned();
    let Some(local) = local.filter(|local| local.versions.contains(&version)) else {
        return Some(Step::Fetch { version });
    };
    let is_current = local.current.as_ref() == Some(&version);
    match (kept, is_current) {
        (Kept::Same, true) => None,
        (Kept::Same, false) => Some(Step::Switch { version }),
        (Kept::Other, true) => Some(Step::Drop { version: None }),
        (Kept::Other, false) => Some(Step::Drop { version: Some(version) }),
    }
}

/// What a change has made current, by what there was before and is now.
#[must_use]
pub fn changed(before: &BTreeMap<String, Local>, after: &BTreeMap<String, Local>) -> Vec<String> {
    let current = |of: &BTreeMap<String, Local>, name: &String| {
        of.get(name).map(|local| local.current.clone())
    };
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    names.filter(|name| current(before, name) != current(after, name)).cloned().collect()
}

/// The files that nobody needs any more when an application is so instead.
#[must_use]
pub fn unneeded(before: &Shared, now: &Shared) -> Vec<FileNote> {
    let files = |shared: &Shared| -> Vec<FileNote> {
        let coming = shared.coming.iter().flat_map(|coming| coming.files.values());
        shared.files.values().chain(coming).cloned().collect()
    };
    let needed = files(now);
    files(before).into_iter().filter(|file| !needed.contains(file)).collect()
}

/// Without what was on its way in: as it was before.
#[must_use]
pub fn given_up(shared: &Shared) -> Shared {
    Shared { coming: None, ..shared.clone() }
}

/// Whether there is room for these files beside those of the others.
///
/// # Errors
/// What to do.
pub fn has_room<'a>(
    others: impl Iterator<Item = &'a Shared>,
    files: &BTreeMap<String, FileNote>,
) -> Result<(), String> {
    let bytes = |files: &BTreeMap<String, FileNote>| -> u64 {
        files.values().fold(0, |sum, file| sum.saturating_add(file.bytes))
    };
    let taken = others.fold(0_u64, |sum, shared| sum.saturating_add(bytes(&shared.files)));
    let wanted = bytes(files);
    if taken.saturating_add(wanted) <= BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "its files have {wanted} octets, and the repository has {taken} of {BYTES_MAX} taken by other applications: remove one \
         with outlast app remove NAME"
    ))
}
