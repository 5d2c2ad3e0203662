//! `outlast config`: what a node is configured as, and the configuration of all nodes of its cluster.
//!
//! The document of a cluster lies in its repository ([`manager::configuration`]); a node takes the version that holds when it
//! is started ([`taking`]), and keeps that until it is stopped.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use config::{Document, Effective, Origin};
use manager::configuration::{Change, ConfigurationError};
use manager::founding;
use state::Store;

use crate::command_line::ConfigCommand;
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, accounts, must_exist};

mod applying;
mod check;
mod history;
mod show;
pub(crate) mod standing;
pub(crate) mod taking;

pub(crate) fn configuration(directory: &Path, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check => check::check(directory),
        ConfigCommand::Show { cluster: true, version, json, .. } => {
            show::document(directory, version, json.into())
        }
        ConfigCommand::Show { origin, json, .. } => {
            show::effective(directory, origin.into(), json.into())
        }
        ConfigCommand::Diff { file, json } => applying::diff(directory, &file, json.into()),
        ConfigCommand::Apply { file, comment } => applying::apply(directory, &file, comment),
        ConfigCommand::History { json } => history::history(directory, json.into()),
        ConfigCommand::Rollback { version, comment } => {
            applying::rollback(directory, version, comment)
        }
    }
}

/// What to do about a repository that has no configuration, where one was known.
const EMPTIED: &str = "look whether it is the right repository, and whether it has lost what it had (outlast status --cluster, outlast config \
                       history); to make the version that is known hold again, apply a copy of DIR/cluster/configuration.toml \
                       without its first line";

/// The document that a change made.
fn document(change: &Change) -> Document {
    Document { version: change.version, text: change.text.clone() }
}

/// Asks the repository of the node's cluster; if it is away, what the node knew last is read, and that is said.
fn with_repository<T>(
    directory: &Path,
    ask: impl AsyncFnOnce(&dyn Store) -> Result<T, ConfigurationError>,
) -> Result<T, Failure> {
    must_exist(directory)?;
    let asked = stores::runtime()?.block_on(async {
        let store = shared(directory).await?;
        ask(store.as_ref()).await.map_err(anyhow::Error::from)
    });
    Ok(asked?)
}

async fn shared(directory: &Path) -> anyhow::Result<Arc<dyn Store>> {
    if !founding::is_member(directory) {
        bail!(
            "this node is in no cluster, and {} is all of its configuration; outlast cluster create or join makes it a member",
            config::FILE_NAME
        );
    }
    if !accounts::are_shared(directory)? {
        bail!(
            "the cluster's repository has not begun; when the node is up, type outlast cluster create again"
        );
    }
    Ok(accounts::open(directory).await?.store())
}

/// The change that made a version; 0: the empty document that a cluster begins with.
async fn version_of(
    store: &dyn Store,
    version: u64,
) -> Result<Option<Document>, ConfigurationError> {
    if version == 0 {
        return Ok(Some(Document::default()));
    }
    let change = manager::configuration::version(store, version).await?;
    Ok(change.as_ref().map(document))
}

/// The document that holds.
async fn current(store: &dyn Store) -> Result<Document, ConfigurationError> {
    let change = manager::configuration::current(store).await?;
    Ok(change.as_ref().map(document).unwrap_or_default())
}

/// What `outlast.toml` says without effect, a line each.
fn hidden(effective: &Effective) -> Vec<String> {
    let told = effective.settings.iter().filter_map(|setting| {
        let hidden = setting.hidden.as_ref()?;
        let says = match &setting.origin {
            Origin::Cluster(written) | Origin::ClusterForNode(written) => &written.file,
            Origin::Default | Origin::Node(_) => return None,
        };
        Some(format!(
            "{}:{} {} = {} is without effect: {says} has {}",
            hidden.written.file, hidden.written.line, setting.key, hidden.value, setting.value
        ))
    });
    told.collect()
}

/// Nodes that a document names and that are no members: it may be meant for one that is to join, or be misspelt.
fn remark_on_strangers(directory: &Path, text: &str) -> anyhow::Result<()> {
    let files = topology::credentials::ClusterDirectory::of_node(directory);
    let list = topology::MemberFile::load(&files.members())?.membership;
    let members: BTreeSet<&str> = list.members.iter().map(|member| member.name.as_str()).collect();
    for name in config::document::nodes_named(text) {
        if !members.contains(name.as_str()) {
            let members: Vec<&str> = members.iter().copied().collect();
            output::remark(&format!(
                "no member is named {name} (on.{name}); the cluster has {}",
                members.join(", ")
            ));
        }
    }
    Ok(())
}
