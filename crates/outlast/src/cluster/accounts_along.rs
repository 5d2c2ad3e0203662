//! Carries accounts and names of a node that was alone into the repository of the cluster whose first member it is.
//!
//! The containers are drained first: applications bind names while they run. When all is in the repository, the manager notes
//! so in `DIR/cluster/repository.json`, and the containers begin on it. Until then everything is as it was: whatever goes
//! wrong, or ends this command, it can be done again.

use std::path::Path;

use topology::RepositoryList;
use topology::credentials::ClusterDirectory;
use topology::protocol::Request;

use super::containers;
use crate::control::ask;
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, accounts};

/// Whether the cluster has a repository in which the accounts are not yet.
pub(super) fn is_due(directory: &Path) -> Result<bool, Failure> {
    let path = ClusterDirectory::of_node(directory).repository();
    let list = RepositoryList::load(&path).map_err(anyhow::Error::from)?;
    Ok(list.is_some_and(|list| !list.has_accounts))
}

/// Carries them along, if that is still to be done. The node is up.
pub(super) fn carry_along(directory: &Path) -> Result<(), Failure> {
    if !is_due(directory)? {
        return Ok(());
    }
    let runtime = stores::runtime()?;
    // Before anybody is bothered.
    runtime.block_on(accounts::until_begun(directory))?;
    let carried = containers::without(directory, || {
        let carried = runtime.block_on(accounts::carry(directory))?;
        containers::done(ask(directory, Request::RepositoryHasAccounts))?;
        Ok(carried)
    })?;
    output::line(&format!(
        "accounts and names lie in the cluster's repository now: {carried} records were carried along"
    ));
    Ok(())
}
