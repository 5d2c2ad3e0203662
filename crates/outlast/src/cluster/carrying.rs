//! Carries the state of a node that was alone into the stores of the cluster whose first member it is.
//!
//! The containers are drained first, one after the other: nobody writes to the state then, and calls that stand are in it. When
//! all records are in the stores, `DIR/cluster/stores.json` says so, and the containers begin on them. Until that file is there
//! everything is as it was: whatever goes wrong, or ends this command, it can be done again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use state::carry::{Carried, carry};
use state::engine::cluster::{ClusterStore, WriteQuota};
use topology::credentials::ClusterDirectory;
use topology::protocol::{Answer, Request};
use topology::{ProcessName, ProcessState, StoreList, TopologyView};

use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, cluster};

/// How long the stores may take to serve all records. They have just been started.
const STORES_WITHIN: Duration = Duration::from_secs(60);

/// What a container may still finish: the record of a call has all that another one needs.
const DRAIN: Duration = Duration::from_millis(200);

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whether that is still to be done.
pub(super) fn is_due(directory: &Path) -> anyhow::Result<bool> {
    let has_stores = cluster::settings(directory).is_none_or(|it| it.stores.count() > 0);
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
    let containers = containers(directory)?;
    let carried = emptied(directory, &containers).and_then(|()| {
        let carried = runtime.block_on(carried(directory, &store))?;
        let files = ClusterDirectory::of_node(directory);
        list.write(&files.stores()).map_err(anyhow::Error::from)?;
        Ok(carried)
    });
    // On what they had, or on what they have now.
    let mut failed = None;
    for name in containers {
        if let Err(failure) = done(ask(directory, Request::Start { name: name.clone() })) {
            failed.get_or_insert((name, failure));
        }
    }
    let carried = carried?;
    if let Some((name, failure)) = failed {
        output::remark(&format!("{name} did not start again: {failure}"));
    }
    set_aside(directory)?;
    output::line(&format!(
        "the state lies in the cluster's stores now: {} records were carried along",
        carried.records
    ));
    Ok(())
}

/// Where this node's stores are; `None`: it runs none.
fn stores_of(directory: &Path) -> Result<Option<StoreList>, Failure> {
    let view = view(directory)?;
    let own: Vec<_> = StoreList::of(&view).stores;
    Ok((!own.is_empty()).then_some(StoreList { stores: own, copies: 0 }))
}

fn view(directory: &Path) -> Result<TopologyView, Failure> {
    match ask(directory, Request::Status)? {
        Answer::Status(status) => Ok(status.view),
        other => Err(unexpected(&other)),
    }
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

/// The containers that are to run again.
fn containers(directory: &Path) -> Result<Vec<ProcessName>, Failure> {
    let view = view(directory)?;
    let own = view.containers().filter(|it| it.name.parts().1.is_none());
    let up = own.filter(|container| container.state != ProcessState::Down);
    Ok(up.map(|container| container.name.clone()).collect())
}

/// Ends them, one after the other: what one hands over another one takes, and the last leaves it in the state.
fn emptied(directory: &Path, containers: &[ProcessName]) -> Result<(), Failure> {
    for name in containers {
        let deadline_ms = u64::try_from(DRAIN.as_millis()).unwrap_or(u64::MAX);
        done(ask(
            directory,
            Request::Drain { name: name.clone(), deadline_ms: Some(deadline_ms) },
        ))?;
    }
    let began = Instant::now();
    loop {
        let view = view(directory)?;
        let left = view.containers().filter(|it| it.name.parts().1.is_none() && it.pid.is_some());
        let left: Vec<_> = left.map(|container| container.name.to_string()).collect();
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > STORES_WITHIN {
            let told = format!("{} do not end, so the state stays where it is", left.join(", "));
            return Err(anyhow::Error::msg(told).into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn done(answer: Result<Answer, Failure>) -> Result<(), Failure> {
    match answer? {
        Answer::Done => Ok(()),
        Answer::Refused { reason } => Err(anyhow::Error::msg(reason).into()),
        other => Err(unexpected(&other)),
    }
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
