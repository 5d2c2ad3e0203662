//! `outlast process …`: an edge or a container, as the manager starts it; and the verification of a store, which
//! [`crate::recovery`] has done in a process of its own.
//!
//! An edge or container gets everything from the manager's socket: settings, keys, listening sockets, the topology. It says
//! ready once it serves, follows views and commands, and ends in an orderly way when told or when the manager's end
//! of the socket closes, so that no process outlives its node.

use std::backtrace::Backtrace;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context as _;
use config::NodeConfig;
use topology::protocol::{Hello, Welcome};
use topology::server::Subscription;
use topology::{HeartbeatSettings, ProcessName, ProcessType};

use crate::command_line::{Child, ChildArguments};
use crate::failure::Failure;
use crate::log_file::LogFile;
use crate::{recovery, up};

mod container;
mod edge;
mod snapshots;

/// Runs the child until its end.
pub(crate) fn run(child: Child) -> Result<(), Failure> {
    match child {
        Child::Edge(arguments) => edge::run(Joined::join(&arguments, ProcessType::Edge)?)?,
        Child::Container(arguments) => {
            container::run(Joined::join(&arguments, ProcessType::Container)?)?;
        }
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
        log_to_file(&welcome.directory, &name, &config)?;
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

fn log_to_file(directory: &Path, name: &ProcessName, config: &NodeConfig) -> anyhow::Result<()> {
    let path = directory.join("log").join(format!("{name}.log"));
    let log = LogFile::open(&path).with_context(|| path.display().to_string())?;
    tracing_subscriber::fmt()
        .with_max_level(up::level(config))
        .with_ansi(false)
        .with_writer(Mutex::new(log))
        .init();
    Ok(())
}

/// A bug of ours leaves its trace in the bounded log, with where it happened.
fn log_panics(process_type: ProcessType) {
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(backtrace = %Backtrace::force_capture(), "{panic}");
        match process_type {
            // Each worker has sockets of its own: without one of them a share of the phones would wait for
            // nothing. The manager has the edge back in a moment, and its sockets keep what arrives.
            ProcessType::Edge => std::process::abort(),
            // A handler that panics costs its request only.
            ProcessType::Container => {}
        }
    }));
}
