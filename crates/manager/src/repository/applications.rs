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

/// Applications of one cluster, removed ones among them.
pub const APPLICATIONS_MAX: usize = 1_000;

/// All files of the applications of a cluster, in octets.
pub const BYTES_MAX: u64 = 512 << 20;

/// How many of those that have most are told where there is no room.
const LARGEST_TOLD: usize = 5;

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

/// Whether an application has a file of that hash, or will when what comes in is there.
#[must_use]
pub fn is_noted(all: &BTreeMap<String, Shared>, name: &str, hash: &str) -> bool {
    all.get(name).is_some_and(|shared| {
        let coming = shared.coming.iter().flat_map(|coming| coming.files.values());
        shared.files.values().chain(coming).any(|file| file.hash == hash)
    })
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
pub fn has_room(
    all: &BTreeMap<String, Shared>,
    files: &BTreeMap<String, FileNote>,
) -> Result<(), String> {
    let bytes = |files: &BTreeMap<String, FileNote>| -> u64 {
        files.values().fold(0, |sum, file| sum.saturating_add(file.bytes))
    };
    let mut having: Vec<(u64, &String)> =
        all.iter().map(|(name, shared)| (bytes(&shared.files), name)).collect();
    let taken = having.iter().fold(0_u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
    let wanted = bytes(files);
    if taken.saturating_add(wanted) <= BYTES_MAX {
        return Ok(());
    }
    having.retain(|(bytes, _)| *bytes > 0);
    having.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let largest = having.iter().take(LARGEST_TOLD);
    let largest: Vec<String> =
        largest.map(|(bytes, name)| format!("{name} {}", mebibytes(*bytes))).collect();
    let largest = if largest.is_empty() { "nothing".to_owned() } else { largest.join(", ") };
    Err(format!(
        "its files have {}, and {} of the {} that the repository has for applications are taken ({largest}): remove one that \
         is not needed (outlast app remove NAME), and try again",
        mebibytes(wanted),
        mebibytes(taken),
        mebibytes(BYTES_MAX)
    ))
}

/// Whether the cluster may have an application of that name.
///
/// # Errors
/// What to do.
pub fn has_place(all: &BTreeMap<String, Shared>, name: &str) -> Result<(), String> {
    if all.contains_key(name) || all.len() < APPLICATIONS_MAX {
        return Ok(());
    }
    Err(format!(
        "the cluster knows {APPLICATIONS_MAX} applications, removed ones among them, and takes no further name: use one of \
         these again"
    ))
}

/// Reads the records of applications, by name, and says of which it cannot read.
pub fn read(
    records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
) -> (BTreeMap<String, Shared>, BTreeMap<String, String>) {
    let (mut all, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in records {
        let is_name = str::from_utf8(&name).is_ok();
        let name = String::from_utf8_lossy(&name).into_owned();
        match serde_json::from_slice(&value) {
            Ok(shared) if is_name => drop(all.insert(name, shared)),
            Ok(_) => drop(unreadable.insert(name, "its name is no text".to_owned())),
            Err(error) => drop(unreadable.insert(name, error.to_string())),
        }
    }
    (all, unreadable)
}

/// Of octets; rounded up, so that what is too much by an octet does not look as if it were not.
fn mebibytes(bytes: u64) -> String {
    let tenths = u128::from(bytes).saturating_mul(10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// What a change came to whose outcome is unknown, by what the record says afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It was made.
    Made,
    /// It was not, and will not be: the record is that of before, or another one by now.
    Not,
    /// It was not when one looked, and may be yet.
    NotYet,
}

/// What came of a change to `wanted` from `before`; `found` is what the record says, if there is one.
#[must_use]
pub fn came(before: Option<&Shared>, wanted: &Shared, found: Option<&Shared>) -> Came {
    match found {
        found if found == Some(wanted) => Came::Made,
        found if found == before => Came::NotYet,
        Some(_) | None => Came::Not,
    }
}
