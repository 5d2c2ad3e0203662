//! What `outlast status` says of the cluster's configuration: who runs with an older version, what the file says without effect.

use std::fs;
use std::path::Path;

use config::Document;
use topology::NodeEntry;
use topology::protocol::NodeStatus;

use super::{current, hidden};
use crate::stores::{self, accounts};

/// A line each; none while there is nothing to be said. Of other nodes that is said which `status` has in it.
pub(crate) fn lines(directory: &Path, status: &NodeStatus) -> Vec<String> {
    let Some(cluster) = &status.cluster else { return Vec::new() };
    let (runs_with, current) = (cluster.configuration.runs_with, cluster.configuration.current);
    let mut lines = Vec::new();
    if current > runs_with {
        lines.push(match refused(directory, current) {
            Some(reason) => format!(
                "configuration: this node runs with version {runs_with}, and cannot take version {current}: {reason}"
            ),
            None => format!(
                "configuration: this node runs with version {runs_with}, the cluster has version {current}: stop and start it to take \
                 that"
            ),
        });
    }
    let is_behind = |node: &&NodeEntry| {
        node.name != status.view.node
            && node.state == topology::NodeState::Up
            && node.runs_with.configuration < current
    };
    lines.extend(status.view.nodes.iter().filter(is_behind).map(|node| {
        format!(
            "configuration: {} runs with version {}, the cluster has version {current}",
            node.name, node.runs_with.configuration
        )
    }));
    if let Ok(effective) = config::of_node(directory) {
        lines.extend(hidden(&effective).iter().map(|line| format!("configuration: {line}")));
    }
    lines
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
