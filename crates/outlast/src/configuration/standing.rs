//! What `outlast status` says of the cluster's configuration: who runs with an older version, what the file says without effect.

use std::fs;
use std::path::Path;

use config::Document;
use topology::NodeEntry;
use topology::protocol::{ConfigurationStatus, NodeStatus};

use super::{EMPTIED, current, hidden};
use crate::stores::{self, accounts};

/// A line each; none while there is nothing to be said. Of other nodes that is said which `status` has in it.
pub(crate) fn lines(directory: &Path, status: &NodeStatus) -> Vec<String> {
    let Some(cluster) = &status.cluster else { return Vec::new() };
    let standing = &cluster.configuration;
    let mut lines = Vec::new();
    lines.extend(own(standing, |current| refused(directory, current)));
    if let Some(current) = standing.current {
        let is_other = |node: &&NodeEntry| {
            node.name != status.view.node
                && node.state == topology::NodeState::Up
                && node.runs_with.configuration != current
        };
        lines.extend(status.view.nodes.iter().filter(is_other).map(|node| {
            format!(
                "configuration: {} runs with version {}, the cluster has version {current}",
                node.name, node.runs_with.configuration
            )
        }));
    }
    if let Ok(effective) = config::of_node(directory) {
        lines.extend(hidden(&effective).iter().map(|line| format!("configuration: {line}")));
    }
    lines
}

/// How this node stands to what holds; `refused` says why it cannot take that version, if it cannot.
fn own(
    standing: &ConfigurationStatus,
    refused: impl FnOnce(u64) -> Option<String>,
) -> Option<String> {
    let ConfigurationStatus { runs_with, is_of_another, current } = *standing;
    let runs = match is_of_another {
        true => format!("version {runs_with} of the configuration of another cluster"),
        false => format!("version {runs_with}"),
    };
    // A node that does not know yet what holds says nothing of it.
    let current = match current {
        Some(current) if is_of_another || current != runs_with => current,
        Some(_) | None => return None,
    };
    Some(if current == 0 && !is_of_another {
        format!(
            "configuration: this node runs with {runs}, and the cluster's repository has none: {EMPTIED}"
        )
    } else if let Some(reason) = refused(current) {
        format!(
            "configuration: this node runs with {runs}, and cannot take version {current}: {reason}"
        )
    } else {
        format!(
            "configuration: this node runs with {runs}, the cluster has version {current}: stop and start it to take that"
        )
    })
}

/// Why this node cannot take the version that holds.
fn refused(directory: &Path, version: u64) -> Option<String> {
    let document = held(directory).ok().filter(|document| document.version == version)?;
    let own = fs::read_to_string(directory.join(config::FILE_NAME)).ok()?;
    let problems = config::effective(&own, Some(&document)).err()?;
    problems.first().map(ToString::to_string)
}

/// What holds, as far as this node knows; nobody is asked.
fn held(directory: &Path) -> anyhow::Result<Document> {
    stores::runtime()?.block_on(async {
        let store = accounts::open_as_known(directory)?.store();
        Ok(current(store.as_ref()).await?)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(runs_with: u64, is_of_another: bool, current: Option<u64>) -> Option<String> {
        own(&ConfigurationStatus { runs_with, is_of_another, current }, |_| None)
    }

    #[test]
    fn a_node_that_runs_with_what_holds_or_does_not_know_what_does_says_nothing() {
        for (runs_with, current) in [(0, Some(0)), (3, Some(3)), (0, None), (3, None)] {
            assert_eq!(told(runs_with, false, current), None);
        }
    }

    #[test]
    fn what_a_node_runs_with_is_told_where_it_is_not_what_holds() {
        for (runs_with, current) in [(0, 3), (2, 3), (7, 3)] {
            let line = told(runs_with, false, Some(current)).unwrap();
            let expected = format!(
                "configuration: this node runs with version {runs_with}, the cluster has version {current}: stop and start it to take that"
            );
            assert_eq!(line, expected);
        }
        let standing = ConfigurationStatus { runs_with: 2, is_of_another: false, current: Some(3) };
        let line = own(&standing, |version| Some(format!("reason of {version}"))).unwrap();
        assert!(line.ends_with("and cannot take version 3: reason of 3"), "{line}");
    }

    #[test]
    fn an_emptied_repository_is_told_with_what_to_do() {
        let line = told(7, false, Some(0)).unwrap();
        assert!(
            line.contains("runs with version 7, and the cluster's repository has none"),
            "{line}"
        );
        assert!(
            line.contains("without its first line") && !line.contains("stop and start"),
            "{line}"
        );
    }

    #[test]
    fn a_version_of_another_cluster_is_compared_with_none_of_this_one() {
        for current in [0, 3, 7] {
            let line = told(7, true, Some(current)).unwrap();
            let expected = format!(
                "configuration: this node runs with version 7 of the configuration of another cluster, the cluster has version {current}: \
                 stop and start it to take that"
            );
            assert_eq!(line, expected);
        }
    }
}
