//! `outlast cluster leave`: a member becomes a single node again, and takes nothing along that the others have not.
//!
//! First the stores of the others take over what its stores have, then another node takes its place in the repository, then its
//! containers end, and those of the others go on with their calls. Only then it is taken out of the list, and its containers begin anew
//! on what a single node has: nothing. Until then everything can be had again by staying.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use config::{FirstRun, edit};
use manager::founding;
use topology::MemberFile;
use topology::credentials::ClusterDirectory;
use topology::protocol::{Answer, Request};

use super::{ConfigFile, SECTION, containers, held, must_be_member, open};
use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, accounts, cluster};

/// How long nothing may change in what the node's stores hold until that is told instead of waited for.
const PATIENCE: Duration = Duration::from_secs(20);

const ASK_EVERY: Duration = Duration::from_millis(300);

/// How a member stands to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The others have let it go already.
    Removed,
    /// There are no others.
    Last,
    OneOfSeveral,
}

pub(super) fn leave(directory: &Path, force: bool) -> Result<(), Failure> {
    must_be_member(directory)?;
    let files = ClusterDirectory::of_node(directory);
    let member = MemberFile::load(&files.members()).map_err(anyhow::Error::from)?;
    let name = &member.name;
    let status = match ask(directory, Request::Status)? {
        Answer::Status(status) => status,
        other => return Err(unexpected(&other)),
    };
    let standing = match status.cluster {
        Some(cluster) if cluster.is_removed => Standing::Removed,
        _ if member.membership.members.len() == 1 => Standing::Last,
        _ => Standing::OneOfSeveral,
    };
    if !force {
        strands_nothing(directory, name, standing)?;
    }
    if standing == Standing::OneOfSeveral {
        containers::done(ask(directory, Request::RepositoryLeave))?;
    }
    containers::without(directory, || {
        match standing {
            Standing::Removed => {}
            Standing::Last => {
                stores::runtime()?.block_on(accounts::carry_back(directory))?;
            }
            Standing::OneOfSeveral => {
                if !force {
                    // Meanwhile it may have been given something again.
                    empty_stores(directory, name)?;
                }
                let request = Request::ClusterRemove { node: name.clone(), is_leaving: true };
                containers::done(ask(directory, request))?;
            }
        }
        let file = ConfigFile::open(directory, &FirstRun::default())?;
        founding::forget(directory).context("DIR/cluster cannot be removed; remove it")?;
        file.write(&edit::remove_section(&file.text, SECTION))?;
        open(directory).map(drop)
    })?;
    output::line(&format!("{name} has left the cluster"));
    output::line(
        "it goes on as a single node; stop it and start it again when its calls have ended",
    );
    Ok(())
}

/// Refuses where records would be out of reach for everybody, and moves away what can be moved.
fn strands_nothing(directory: &Path, name: &str, standing: Standing) -> Result<(), Failure> {
    match standing {
        Standing::Removed => Ok(()),
        Standing::Last if cluster::list(directory)?.is_none() => Ok(()),
        Standing::Last if cluster::is_own(directory) => {
            let told = format!(
                "{name} is the last member, and the state lies in your own Redis or Valkey cluster, where it stays and a single node \
                 does not look for it: that would begin without registrations and sessions; leave all the same with --force"
            );
            Err(anyhow::Error::msg(told).into())
        }
        Standing::Last => {
            let told = format!(
                "{name} is the last member, and the state lies in the cluster's stores, which end with it: a single node would \
                 begin without registrations and sessions; leave all the same with --force"
            );
            Err(anyhow::Error::msg(told).into())
        }
        Standing::OneOfSeveral => {
            let holds = held(directory)?;
            if !holds.is_empty() {
                let told = format!(
                    "{name} holds {} in its own stores, which the cluster would lose; let them end or move them first, or take \
                     them along with --force",
                    holds.join(", ")
                );
                return Err(anyhow::Error::msg(told).into());
            }
            empty_stores(directory, name)
        }
    }
}

/// Waits until the stores of the others have what this node's have.
fn empty_stores(directory: &Path, name: &str) -> Result<(), Failure> {
    let mut last = (String::new(), Instant::now());
    loop {
        let told = match ask(directory, Request::StoresLeave)? {
            Answer::Done => return Ok(()),
            Answer::StoresHold(told) => told,
            Answer::Refused { reason } => {
                let told = format!(
                    "{name} stays, for the cluster would lose records: {reason}; or lose them with --force"
                );
                return Err(anyhow::Error::msg(told).into());
            }
            other => return Err(unexpected(&other)),
        };
        if told != last.0 {
            if last.0.is_empty() {
                output::remark("the other nodes take over what this one's stores have");
            }
            last = (told, Instant::now());
        } else if last.1.elapsed() > PATIENCE {
            let told = format!(
                "{name} stays, for the cluster would lose records: {}; see outlast state status, bring up the nodes that are lost \
                 or remove those that will not come back (outlast cluster remove), and try again, or lose them with --force",
                last.0
            );
            return Err(anyhow::Error::msg(told).into());
        }
        std::thread::sleep(ASK_EVERY);
    }
}
