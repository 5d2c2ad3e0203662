//! A host of a lab: threads of the test that are on it, the processes that they start, and the power.
//!
//! A thread enters the host's network namespace; what it opens and whom it starts is on that host from then on, and
//! stays there. So every helper of this crate that starts a process or opens a socket works on a host when it is
//! called within [`Host::enter`], and every phone when it is made within [`Host::block_on`].

use std::fs::File;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::{Builder, Runtime};

use super::network::{self, Network};
use crate::wait;

/// How long processes that were killed may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A host of a lab.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    /// Of the tasks that are on this host; made when the first is.
    runtime: Mutex<Option<Arc<Runtime>>>,
}

impl Host {
    pub(super) fn new(network: &Network, number: u8, name: &str) -> Host {
        network.add(number);
        Host { name: name.to_owned(), number, runtime: Mutex::default() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> Ipv4Addr {
        network::ipv4(self.number)
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        network::ipv6(self.number)
    }

    /// Calls `work` by a thread that is on this host.
    ///
    /// # Panics
    /// When `work` does, and when the host is switched off.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        network::enter(&self.namespace(), work)
    }

    /// Waits for a future on this host. Tasks that it begins, for example those of a phone, stay on the host and go on after
    /// it.
    ///
    /// # Panics
    /// As [`Host::enter`].
    pub fn block_on<F: Future + Send>(&self, future: F) -> F::Output
    where
        F::Output: Send,
    {
        let runtime = self.runtime();
        self.enter(|| runtime.block_on(future))
    }

    fn runtime(&self) -> Arc<Runtime> {
        let mut runtime = self.runtime.lock().expect("no panic under the lock");
        let made = runtime.get_or_insert_with(|| {
            let namespace = self.namespace();
            let mut builder = Builder::new_multi_thread();
            builder
                .worker_threads(1)
                .enable_all()
                .on_thread_start(move || network::move_into(&namespace));
            Arc::new(builder.build().expect("the system has a thread left"))
        });
        Arc::clone(made)
    }

    fn namespace(&self) -> File {
        let path = self.namespace_path();
        File::open(&path).unwrap_or_else(|error| panic!("{} is off: {path:?}: {error}", self.name))
    }

    fn namespace_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(network::namespace(self.number))
    }

    /// Process ids of everything that runs on this host; threads and tasks of the test are not among them.
    pub fn pids(&self) -> Vec<i32> {
        let of = |path: &str| std::fs::metadata(path).map(|namespace| namespace.ino());
        let here = std::fs::metadata(self.namespace_path()).map(|namespace| namespace.ino());
        let Ok(here) = here else { return Vec::new() };
        let processes = std::fs::read_dir("/proc").expect("a Linux system").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // Who has ended has no namespaces any more, even if nobody has waited for him.
        pids.filter(|pid: &i32| of(&format!("/proc/{pid}/ns/net")).is_ok_and(|net| net == here))
            .collect()
    }

    /// Stops all that runs on this host where it stands (SIGSTOP); the network still acknowledges what it gets.
    pub fn freeze(&self) {
        let mut stopped: Vec<i32> = Vec::new();
        // Until a look finds nobody new: whoever was still running may have started another.
        loop {
            let running = self.pids();
            let new: Vec<i32> = running.into_iter().filter(|pid| !stopped.contains(pid)).collect();
            if new.is_empty() {
                return;
            }
            new.iter().for_each(|pid| signal(*pid, Signal::STOP));
            stopped.extend(new);
        }
    }

    /// Lets all go on that [`Host::freeze`] stopped.
    pub fn thaw(&self) {
        self.pids().into_iter().for_each(|pid| signal(pid, Signal::CONT));
    }

    /// Pulls the plug: the network is silent at once, and whatever runs on this host is gone without a word. Phones of
    /// the test that are on it stay, and hear nothing for ever.
    ///
    /// # Panics
    /// When the host is off already.
    pub fn power_off(&self, lab: &super::Lab) {
        // First, or the kernel would still close connections for those who are killed.
        lab.network.remove_card(self.number);
        self.freeze();
        wait::until(&format!("the end of all on {}", self.name), END_LIMIT, || {
            let left = self.pids();
            left.iter().for_each(|pid| signal(*pid, Signal::KILL));
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        // Its connections are known to nobody when it is back.
        lab.network.remove(self.number);
        let runtime = self.runtime.lock().expect("no panic under the lock").take();
        if let Some(runtime) = runtime.and_then(Arc::into_inner) {
            runtime.shutdown_background();
        }
    }

    /// Switches it on again: the same addresses, nothing runs, and nobody remembers a connection.
    ///
    /// # Panics
    /// When it is on.
    pub fn power_on(&self, lab: &super::Lab) {
        lab.network.add(self.number);
    }
}

fn signal(pid: i32, signal: Signal) {
    // It may have ended in the meantime.
    let _ = kill_process(Pid::from_raw(pid).expect("a process id"), signal);
}
