//! `outlast process …`: the manager, as the guardian starts it; an edge or a container, as the manager starts it; and
//! the verification of a store, which [`crate::recovery`] has done in a process of its own; and the compilation of a component
//! that another node deployed.
//!
//! An edge or container gets everything from the manager's socket: settings, keys, listening sockets, the topology. It says
//! ready once it serves, follows views and commands, and ends in an orderly way when told, or when no manager wants it
//! any more. It outlives its manager and returns to the next one.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use config::NodeConfig;
use topology::protocol::{Hello, Welcome};
use topology::server::Subscription;
use topology::{HeartbeatSettings, ProcessName, ProcessType};

use crate::command_line::{Child, ChildArguments};
use crate::failure::Failure;
use crate::{logging, recovery};

mod applications;
mod cluster;
mod container;
mod edge;
mod guests;
mod http;
mod manager;
mod shared_state;
mod snapshots;
mod usage;

/// Runs the child until its end.
pub(crate) fn run(child: Child) -> Result<(), Failure> {
    match child {
        Child::Manager { socket } => manager::run(&socket)?,
        Child::Edge(arguments) => edge::run(Joined::join(&arguments, ProcessType::Edge)?)?,
        Child::Container(arguments) => {
            container::run(Joined::join(&arguments, ProcessType::Container)?)?;
        }
        Child::Prepare { at } => guests::prepare(&at)?,
        Child::Verify { store } => return recovery::verify(&store),
    }
    Ok(())
}

/// A child that the manager has welcomed.
struct Joined {
    name: ProcessName,
    config: NodeConfig,
    welcome: Welcome,
    sockets: Vec<OwnedFd>,
    subscription: Subscription,
}

impl Joined {
    fn join(arguments: &ChildArguments, process_type: ProcessType) -> anyhow::Result<Joined> {
        let name = ProcessName::new(&arguments.name);
        let hello = Hello { name: name.clone(), process_type, pid: std::process::id(), life: None };
        let (welcome, sockets, subscription) = Subscription::connect(&arguments.socket, hello)?;
        let config: NodeConfig =
            serde_json::from_value(welcome.settings.clone()).context("the manager's settings")?;
        logging::to_file(&logging::file(&welcome.directory, name.as_str()), &config)?;
        log_panics(process_type);
        Ok(Joined { name, config, welcome, sockets, subscription })
    }

    fn heartbeat(&self) -> HeartbeatSettings {
        HeartbeatSettings {
            interval: self.config.heartbeat.interval,
            allowed_miss_count: self.config.heartbeat.allowed_miss_count,
        }
    }
}

/// A bug of ours leaves its trace in the bounded log, with where it happened.
fn log_panics(process_type: ProcessType) {
    logging::log_panics(move || match process_type {
        // Each worker has sockets of its own: without one of them a share of the phones would wait for
        // nothing. The manager has the edge back in a moment, and its sockets keep what arrives.
        ProcessType::Edge => std::process::abort(),
        // A handler that panics costs its request only.
        ProcessType::Container => {}
        ProcessType::Store | ProcessType::Repository => {
            unreachable!("the programs of these are not ours")
        }
    });
}
