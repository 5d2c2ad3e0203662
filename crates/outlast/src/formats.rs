//! Whether this release can be with what the node's cluster writes ([`topology::format_level`]).

use std::path::Path;

use manager::founding;
use topology::protocol::NodeStatus;
use topology::{FormatLevel, NodeEntry, ReleaseFormats};

use crate::stores::{self, accounts};

/// Refuses to begin where this release could not read what the other nodes write, as far as this node's copy of the repository
/// knows. What cannot be read keeps the node from nothing.
///
/// # Errors
/// Which release is needed.
pub(crate) fn check(directory: &Path) -> anyhow::Result<()> {
    if founding::is_member(directory)
        && let Ok(level) = known(directory)
    {
        ReleaseFormats::own().fits(level)?;
    }
    Ok(())
}

fn known(directory: &Path) -> anyhow::Result<FormatLevel> {
    stores::runtime()?.block_on(async {
        let store = accounts::open_as_known(directory)?.store();
        Ok(manager::format_level::current(store.as_ref()).await?)
    })
}

/// What `outlast status` says while releases are mixed; a line at the most. Of nodes that is said which `status` has in it.
pub(crate) fn line(status: &NodeStatus) -> Option<String> {
    let formats = status.cluster.as_ref()?.formats;
    if let Err(apart) = ReleaseFormats::up_to(formats.newest).fits(formats.level) {
        return Some(format!("formats: {apart}"));
    }
    if formats.newest < formats.level {
        return Some(format!(
            "formats: the cluster writes level {}, and this node's release level {}; both are read by all",
            formats.level, formats.newest
        ));
    }
    if formats.newest == formats.level {
        return None;
    }
    let cannot = |node: &&NodeEntry| node.runs_with.newest_format <= formats.level;
    let nodes: Vec<&str> =
        status.view.nodes.iter().filter(cannot).map(|node| node.name.as_str()).collect();
    let waits = if nodes.is_empty() {
        String::new()
    } else {
        format!("; not yet, or not heard since this node began: {}", nodes.join(", "))
    };
    Some(format!(
        "formats: the cluster writes level {}; this node's release can write {}{waits}",
        formats.level, formats.newest
    ))
}
