//! Programs that are not ours, run as children like any: prepared, started, asked whether they serve, ended.
//!
//! They connect to nobody and send no heartbeats, so the manager asks each of them twice an interval, and tells the process
//! table the answers as it would tell a child's words. [`Server`] is what a kind of them has of its own.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command as Program;
use std::sync::Arc;
use std::time::Duration;

use state::engine::cluster::servers::Pulse;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use topology::HeartbeatSettings;
use topology::view::{Incarnation, ProcessName};
use tracing::warn;

use super::Input;
use super::child::RunningChild;
use crate::process_table::{Event, ProcessSpec};

/// How often a server that starts is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// How long a server may hand over what it serves before it is told to end.
const RETIRE_MAX: Duration = Duration::from_secs(3);

/// Something that is under way.
pub(crate) type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One program that is not ours.
pub(crate) trait Server: Send + Sync {
    /// As which process it stands in the table.
    fn spec(&self) -> ProcessSpec;

    /// What must be done before each life of it, for as long as that takes.
    fn prepare(&self) -> Doing<'_, Result<(), String>>;

    /// Writes its configuration; how it is started.
    fn program(&self) -> io::Result<Program>;

    /// Asks it whether it serves.
    fn ask(&self) -> Doing<'_, Pulse>;

    /// Has others serve what it serves, before it ends in order.
    fn retire(&self) -> Doing<'_, ()>;
}

/// All of a node.
pub(crate) struct Servers {
    all: HashMap<ProcessName, Arc<dyn Server>>,
    /// Of each that lives.
    asking: HashMap<ProcessName, JoinHandle<()>>,
    preparing: HashSet<ProcessName>,
    heartbeat: HeartbeatSettings,
    inputs: mpsc::Sender<Input>,
}

impl Servers {
    pub(crate) fn new(heartbeat: HeartbeatSettings, inputs: mpsc::Sender<Input>) -> Servers {
        Servers {
            all: HashMap::new(),
            asking: HashMap::new(),
            preparing: HashSet::new(),
            heartbeat,
            inputs,
        }
    }

    /// The servers that the node shall run from now on; as what they stand in the table. Those that it had before are asked
    /// as long as they live.
    pub(crate) fn set(&mut self, servers: Vec<Arc<dyn Server>>) -> Vec<ProcessSpec> {
        let specs: Vec<ProcessSpec> = servers.iter().map(|server| server.spec()).collect();
        self.all.retain(|name, _| self.asking.contains_key(name));
        self.all.extend(specs.iter().map(|spec| spec.name.clone()).zip(servers));
        specs
    }

    pub(crate) fn has(&self, name: &ProcessName) -> bool {
        self.all.contains_key(name)
    }

    /// Prepares its next life; the loop hears when that is done. Once at a time.
    pub(crate) fn prepare(&mut self, name: ProcessName) {
        let Some(server) = self.all.get(&name).cloned() else { return };
        if !self.preparing.insert(name.clone()) {
            return;
        }
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let outcome = server.prepare().await;
            // The loop is gone: then so is the node.
            let _ = inputs.send(Input::ServerPrepared { name, outcome }).await;
        });
    }

    pub(crate) fn was_prepared(&mut self, name: &ProcessName) {
        self.preparing.remove(name);
    }

    /// How it is started; `None` for a process of ours.
    pub(crate) fn program(&self, name: &ProcessName) -> Option<io::Result<Program>> {
        self.all.get(name).map(|server| server.program())
    }

    /// Asks a life from now on.
    pub(crate) fn ask(&mut self, name: &ProcessName, incarnation: Incarnation) {
        let Some(server) = self.all.get(name).cloned() else { return };
        let life = (name.clone(), incarnation);
        let asked = ask_on(server, life, self.heartbeat, self.inputs.clone());
        self.stop_asking(name);
        self.asking.insert(name.clone(), tokio::spawn(asked));
    }

    /// That life is over.
    pub(crate) fn stop_asking(&mut self, name: &ProcessName) {
        if let Some(asking) = self.asking.remove(name) {
            asking.abort();
        }
    }

    /// Has it end in order.
    pub(crate) fn stop(&self, name: &ProcessName, child: &RunningChild) {
        let Some(server) = self.all.get(name).cloned() else { return };
        let (name, child) = (name.clone(), child.clone());
        tokio::spawn(async move {
            if timeout(RETIRE_MAX, server.retire()).await.is_err() {
                warn!(%name, "could not hand over what it serves in time");
            }
            if let Err(error) = child.terminate() {
                warn!(%name, %error, "cannot be told to end");
            }
        });
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.asking.values().for_each(JoinHandle::abort);
    }
}

/// Tells the loop what a life answers, for ever.
async fn ask_on(
    server: Arc<dyn Server>,
    (name, incarnation): (ProcessName, Incarnation),
    heartbeat: HeartbeatSettings,
    inputs: mpsc::Sender<Input>,
) {
    let beat = heartbeat.beat_interval();
    let mut is_ready = false;
    loop {
        let asked = Instant::now();
        // Not sooner: one without a processor would have to greet the next connection as well.
        let pulse = timeout(heartbeat.silence_max(), server.ask()).await.unwrap_or(Pulse::Silent);
        let alive = Event::Alive { name: name.clone(), incarnation, left: 0 };
        let told = match pulse {
            Pulse::Silent => None,
            Pulse::Serves if !is_ready => {
                is_ready = true;
                Some(Event::Ready { name: name.clone(), incarnation })
            }
            Pulse::Serves | Pulse::Begins => Some(alive),
        };
        if let Some(event) = told
            && inputs.send(Input::Told(event)).await.is_err()
        {
            return;
        }
        let pause = if is_ready { beat } else { ASK_EVERY.min(beat) };
        tokio::time::sleep_until(asked + pause).await;
    }
}

/// The first of these programs that is installed.
///
/// # Errors
/// None is; the message names `package`.
pub(crate) fn installed(programs: &[&str], package: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where systems put servers, which an operator's path may not have.
    let places = std::env::split_paths(&path)
        .chain(["/usr/local/bin", "/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let places: Vec<PathBuf> = places.collect();
    let found = |program: &&str| {
        places.iter().map(|place| place.join(program)).find(|path: &PathBuf| is_program(path))
    };
    programs.iter().find_map(found).ok_or_else(|| {
        let told = format!("{} is not installed; install it, as {package} perhaps", programs[0]);
        io::Error::new(io::ErrorKind::NotFound, told)
    })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
