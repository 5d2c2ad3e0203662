//! Carries the state of a node that was alone into the stores of the cluster whose first member it is.
//!
//! The containers are drained first, one after the other: nobody writes to the state then, and calls that stand are in it. When
//! all records are in the stores, `DIR/cluster/stores.json` says so, and the containers begin on them. Until that file is there
//! everything is as it was: whatever goes wrong, or ends this command, it can be done again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use state::carry::{Carried, carry};
use state::engine::cluster::{ClusterStore, WriteQuota};
use topology::StoreList;
use topology::credentials::ClusterDirectory;

use super::containers;
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, cluster};

/// How long the stores may take to serve all records. They have just been started.
const STORES_WITHIN: Duration = Duration::from_secs(60);

/// Whether that is still to be done.
pub(super) fn is_due(directory: &Path) -> anyhow::Result<bool> {
    let has_stores = cluster::settings(directory).is_none_or(|it| it.stores.count() > 0)
        || cluster::is_own(directory);
    Ok(has_stores && cluster::list(directory)?.is_none())
}

/// Carries it along, if that is still to be done and this member runs stores. The node is up.
pub(super) fn carry_along(directory: &Path) -> Result<(), Failure> {
    if cluster::list(directory)?.is_some() {
        return Ok(());
    }
    let Some(list) = stores_of(directory)? else {
        output::remark(
            "no stores are configured here ([cluster] stores): the state stays in the node's own directory",
        );
        return Ok(());
    };
    let runtime = stores::runtime()?;
    let store = runtime.block_on(ready(directory, &list))?;
    let carried = containers::without(directory, || {
        let carried = runtime.block_on(carried(directory, &store))?;
        let files = ClusterDirectory::of_node(directory);
        list.write(&files.stores()).map_err(anyhow::Error::from)?;
        Ok(carried)
    })?;
    set_aside(directory)?;
    output::line(&format!(
        "the state lies in the cluster's stores now: {} records were carried along",
        carried.records
    ));
    Ok(())
}

/// Where this node's stores are; `None`: it runs none, and there are no others.
fn stores_of(directory: &Path) -> Result<Option<StoreList>, Failure> {
    if cluster::is_own(directory) {
        // Where they are says the file.
        return Ok(Some(StoreList::default()));
    }
    let view = containers::view(directory)?;
    let own = StoreList::of(&view);
    Ok((!own.stores.is_empty()).then_some(own))
}

/// A client of the stores, which serve all records.
async fn ready(directory: &Path, list: &StoreList) -> anyhow::Result<ClusterStore> {
    let settings = cluster::settings(directory);
    let mut options = cluster::options(directory, list, settings.as_ref(), 1)?;
    // There is nobody yet to have a copy.
    options.quota = WriteQuota { copies: 0, ..options.quota };
    options.patience = Duration::from_secs(10);
    let store = ClusterStore::connect(options)?;
    if !store.is_ready_within(STORES_WITHIN).await {
        bail!(
            "the node is a member, but its stores do not serve all records within {STORES_WITHIN:?}: look at outlast status and \
             the log of the manager, then carry the state along with outlast cluster create again; until then it stays in the \
             node's own directory"
        );
    }
    Ok(store)
}

async fn carried(directory: &Path, store: &ClusterStore) -> anyhow::Result<Carried> {
    let own = stores::open_own_state(directory)?;
    Ok(carry(&own, store).await?)
}

/// What was carried along must not be taken for the state if the node leaves the cluster one day.
fn set_aside(directory: &Path) -> anyhow::Result<()> {
    let (state, aside) = (stores::state(directory), stores::state_before_cluster(directory));
    let moved = match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => std::fs::rename(&state, &aside),
    };
    moved.with_context(|| {
        format!("{} cannot be renamed to {}; remove it", state.display(), aside.display())
    })
}
