//! Format levels: how a cluster changes what its nodes write into records, tokens and link frames while it serves.
//!
//! A level is one number for all of it. A release writes its own newest level or the one below, and reads one up and one down. What
//! a cluster writes lies in its repository, and is raised by one when every member runs a release that writes the next; so at any
//! moment two releases that follow each other can serve together, and who has gone up can go back. Pure.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::node::NodeEntry;

/// A level, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FormatLevel(u8);

impl FormatLevel {
    /// What the first release wrote; a cluster, or a node, that says nothing of levels is at this one.
    pub const FIRST: FormatLevel = FormatLevel(1);

    /// `None`: there is no level 0.
    pub fn new(level: u8) -> Option<FormatLevel> {
        (level > 0).then_some(FormatLevel(level))
    }

    /// As the octet that stands in what is written.
    pub fn get(self) -> u8 {
        self.0
    }

    fn next(self) -> FormatLevel {
        FormatLevel(self.0.saturating_add(1))
    }

    /// What a cluster at this level goes on to, one step at a time. `None`: a member cannot write the next one, or was not
    /// heard since this node began, or nobody can.
    pub fn raised(self, members: &[NodeEntry]) -> Option<FormatLevel> {
        let can_all = members.iter().all(|node| node.runs_with.newest_format > self);
        (can_all && !members.is_empty()).then(|| self.next())
    }
}

impl Default for FormatLevel {
    fn default() -> FormatLevel {
        FormatLevel::FIRST
    }
}

impl fmt::Display for FormatLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a release does with levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseFormats {
    newest: FormatLevel,
}

/// A release cannot be with a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster writes formats of level {cluster}, and this release reads {} to {}: install {}, one release after the other",
    reads.start(), reads.end(), if cluster > reads.end() { "a later release" } else { "an earlier release" }
)]
pub struct FormatsApart {
    cluster: FormatLevel,
    reads: RangeInclusive<FormatLevel>,
}

impl ReleaseFormats {
    /// The release that writes up to this level.
    pub fn up_to(newest: FormatLevel) -> ReleaseFormats {
        ReleaseFormats { newest }
    }

    /// This one. A build for tests passes for another one if `OUTLAST_NEWEST_FORMAT` says so.
    pub fn own() -> ReleaseFormats {
        #[cfg(feature = "faults")]
        if let Some(level) =
            std::env::var("OUTLAST_NEWEST_FORMAT").ok().and_then(|it| it.parse().ok())
            && let Some(newest) = FormatLevel::new(level)
        {
            return ReleaseFormats { newest };
        }
        ReleaseFormats { newest: FormatLevel::FIRST }
    }

    /// The highest level that it can write.
    pub fn newest(self) -> FormatLevel {
        self.newest
    }

    /// What it writes in a cluster at that level.
    pub fn writes(self, cluster: FormatLevel) -> FormatLevel {
        cluster.min(self.newest)
    }

    /// Whether it reads all that a cluster at that level writes.
    ///
    /// # Errors
    /// [`FormatsApart`].
    pub fn fits(self, cluster: FormatLevel) -> Result<(), FormatsApart> {
        let oldest = FormatLevel(self.newest.0.saturating_sub(1).max(1));
        let reads = oldest..=self.newest.next();
        if reads.contains(&cluster) { Ok(()) } else { Err(FormatsApart { cluster, reads }) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node::{NodeNumber, NodeState, RunsWith};
    use crate::view::Incarnation;

    fn level(level: u8) -> FormatLevel {
        FormatLevel::new(level).unwrap()
    }

    fn members(newest: &[u8]) -> Vec<NodeEntry> {
        let member = |(number, newest): (u16, &u8)| NodeEntry {
            name: format!("node{}", number + 1),
            number: NodeNumber::new(number).unwrap(),
            state: NodeState::Up,
            address: ([192, 0, 2, 1], 6200).into(),
            last_life: Incarnation::NONE,
            runs_with: RunsWith { newest_format: level(*newest), ..RunsWith::default() },
        };
        (0..).zip(newest).map(member).collect()
    }

    #[test]
    fn a_cluster_goes_up_by_one_when_all_can() {
        let raised =
            |from: u8, newest: &[u8]| level(from).raised(&members(newest)).map(FormatLevel::get);
        assert_eq!(raised(1, &[1, 1, 1]), None);
        assert_eq!(raised(1, &[2, 2, 1]), None);
        assert_eq!(raised(1, &[2, 2, 2]), Some(2));
        assert_eq!(raised(2, &[2, 2, 2]), None);
        assert_eq!(raised(2, &[4, 3]), Some(3), "one step at a time");
        assert_eq!(raised(3, &[2, 4]), None, "one has gone back");
        assert_eq!(raised(1, &[]), None);
        assert_eq!(raised(u8::MAX, &[u8::MAX]), None);
    }

    #[test]
    fn a_release_reads_one_up_and_one_down_and_writes_what_all_read() {
        for (newest, cluster, writes) in [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 2), (2, 3, 2)] {
            let release = ReleaseFormats::up_to(level(newest));
            assert_eq!(release.fits(level(cluster)), Ok(()), "{newest} {cluster}");
            assert_eq!(release.writes(level(cluster)), level(writes), "{newest} {cluster}");
        }
        let apart = |newest, cluster| {
            ReleaseFormats::up_to(level(newest)).fits(level(cluster)).unwrap_err().to_string()
        };
        assert_eq!(
            apart(1, 3),
            "the cluster writes formats of level 3, and this release reads 1 to 2: install a later release, one release after the other"
        );
        assert!(
            apart(4, 2).contains("reads 3 to 5: install an earlier release"),
            "{}",
            apart(4, 2)
        );
    }

    #[test]
    fn who_says_nothing_of_levels_is_at_the_first() {
        let said: RunsWith = serde_json::from_str("{\"configuration\":3}").unwrap();
        assert_eq!(said.newest_format, FormatLevel::FIRST);
    }
}
