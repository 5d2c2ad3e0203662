//! Carries accounts and names of a node that was alone into the repository of the cluster whose first member it is.
//!
//! The containers are drained first: applications bind names while they run. When all is in the repository, the manager notes
//! so in `DIR/cluster/repository.json`, and the containers begin on it. Until then everything is as it was: whatever goes
//! wrong, or ends this command, it can be done again.

use std::path::Path;
use std::time::{Duration, Instant};

use topology::RepositoryList;
use topology::credentials::ClusterDirectory;
use topology::protocol::{Answer, Request};
use topology::{ProcessName, ProcessState, TopologyView};

use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, accounts};

/// What a container may still finish: the record of a call has all that another one needs.
const DRAIN: Duration = Duration::from_millis(200);

/// How long the containers may take to end.
const END_WITHIN: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(200);

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
    let containers = containers(directory)?;
    let carried = emptied(directory, &containers).and_then(|()| {
        let carried = runtime.block_on(accounts::carry(directory))?;
        done(ask(directory, Request::RepositoryHasAccounts))?;
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
    output::line(&format!(
        "accounts and names lie in the cluster's repository now: {carried} records were carried along"
    ));
    Ok(())
}

fn view(directory: &Path) -> Result<TopologyView, Failure> {
    match ask(directory, Request::Status)? {
        Answer::Status(status) => Ok(status.view),
        other => Err(unexpected(&other)),
    }
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
        let deadline_ms = u64::try_from(DRAIN.as_millis()).ok();
        done(ask(directory, Request::Drain { name: name.clone(), deadline_ms }))?;
    }
    let began = Instant::now();
    loop {
        let view = view(directory)?;
        let left = view.containers().filter(|it| it.name.parts().1.is_none() && it.pid.is_some());
        let left: Vec<_> = left.map(|container| container.name.to_string()).collect();
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > END_WITHIN {
            let told =
                format!("{} do not end, so the accounts stay where they are", left.join(", "));
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
