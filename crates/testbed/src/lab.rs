//! A lab: several hosts on this machine, each a network namespace of its own, without root.
//!
//! A test calls [`run`] (or [`run_within`]) with the names of its hosts and a body. It runs itself again, this one test
//! only, inside user, mount, network and process namespaces of its own (`launch`); there the hosts are made
//! (`network`), each with a network card, an IPv4 and an IPv6 address, all on one bridge, and the body is called. When the test
//! ends, whether it passed, panicked, took too long or was killed, the kernel ends every process in there and forgets
//! namespaces, files (`/run` and `TMPDIR` are a tmpfs) and network with them.
//!
//! ```no_run
//! testbed::lab::run(&["node1", "phones"], |lab| {
//!     let node1 = lab.host("node1");
//!     let socket = node1.enter(|| std::net::UdpSocket::bind((node1.ipv4(), 5060)));
//!     let cut = lab.cut("node1");
//!     // … what must happen while nobody reaches it …
//!     cut.heal();
//! });
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`Lab`] | the hosts, and what can be done to the network between them |
//! | [`Host`] | where processes, threads and phones of the test run; power off, freeze, thaw |
//! | [`Traffic`] | which packets a fault is about (pure) |
//! | `delay` | a relay that holds the packets of a host back, in user space |
//!
//! Deliberately absent: disks (all hosts share the files of the machine: what was written before [`Host::power_off`] is
//! there after it, synced or not), CPUs (hosts share those as well), host names.

mod delay;
mod faults;
mod host;
mod launch;
mod network;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

pub use delay::Delayed;
pub use faults::Traffic;
pub use host::Host;

use crate::turn;
use faults::{Fate, Rules};
use network::Network;

/// How long a test in a lab may take, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(90);

/// Runs `body` in a lab with hosts of these names, or says why it is skipped. Whatever the test does before and behind it, it
/// does outside.
///
/// # Panics
/// When the body does, with all that was written in the lab; when it takes longer than a minute and a half; under `CI=true` also when
/// a lab cannot be made here, with what to install.
pub fn run<B: FnOnce(&Lab)>(hosts: &[&str], body: B) {
    run_for(LIMIT, hosts, body);
}

/// As [`run`], for whole clusters, whose body may take up to `limit`: one after the other ([`turn`]).
///
/// # Panics
/// As [`run`].
pub fn run_within<B: FnOnce(&Lab)>(limit: Duration, hosts: &[&str], body: B) {
    let _turn = turn::take();
    run_for(limit, hosts, body);
}

fn run_for<B: FnOnce(&Lab)>(limit: Duration, hosts: &[&str], body: B) {
    let test = launch::name_of_test::<B>();
    if launch::is_inside(&test) {
        launch::end_with(|| {
            let lab = Lab::new(hosts);
            launch::say_that_it_is_up(&test);
            body(&lab);
        });
    }
    launch::again_inside(&test, limit);
}

/// Whether this machine lets us make labs; if not, [`run`] skips its test.
pub fn is_possible() -> bool {
    launch::possible().is_ok()
}

/// The hosts of a test and the network between them.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    network: Network,
    rules: Mutex<Rules>,
}

impl Lab {
    fn new(names: &[&str]) -> Lab {
        let network = Network::new(names.len());
        let hosts = (1..).zip(names).map(|(number, name)| Host::new(&network, number, name));
        Lab { hosts: hosts.collect(), network, rules: Mutex::default() }
    }

    /// The host of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn host(&self, name: &str) -> &Host {
        let found = self.hosts.iter().find(|host| host.name() == name);
        found.unwrap_or_else(|| panic!("no host {name} in this lab"))
    }

    /// All hosts, in the order in which the test named them.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Cuts a host off: nothing reaches it, nothing leaves it, and nobody is told.
    pub fn cut(&self, host: &str) -> Fault<'_> {
        self.fault(&[Traffic::from(host), Traffic::to(host)], Fate::Lost)
    }

    /// Parts two hosts from each other; both reach all others.
    pub fn part(&self, one: &str, other: &str) -> Fault<'_> {
        let there = Traffic::from(one).and_to(other);
        let back = Traffic::from(other).and_to(one);
        self.fault(&[there, back], Fate::Lost)
    }

    /// Loses this traffic, all of it, in this direction only.
    pub fn lose(&self, traffic: Traffic) -> Fault<'_> {
        self.fault(&[traffic], Fate::Lost)
    }

    /// Loses so many percent of this traffic's TCP and UDP packets, at random, and nothing else: not, for example,
    /// who has an address that moved.
    pub fn lose_some(&self, traffic: Traffic, percent: u8) -> Fault<'_> {
        self.fault(&[traffic], Fate::LostAtRandom { percent })
    }

    fn fault(&self, traffic: &[Traffic], fate: Fate) -> Fault<'_> {
        let number = |name: &str| self.host(name).number();
        let traffic = traffic.iter().map(|traffic| traffic.numbered(number)).collect();
        let mut rules = self.rules();
        let id = rules.add(traffic, fate);
        self.network.filter(&rules);
        Fault { lab: self, id }
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().expect("no panic under the lock")
    }

    /// Holds every packet that a host sends or gets back for so long: an answer takes twice as long more.
    pub fn delay(&self, host: &str, by: Duration) -> Delayed<'_> {
        Delayed::begin(&self.network, self.host(host), by)
    }
}

/// A fault of the network, until it is healed or dropped.
#[derive(Debug)]
#[must_use = "a fault ends with its value"]
pub struct Fault<'a> {
    lab: &'a Lab,
    id: u64,
}

impl Fault<'_> {
    /// Ends the fault.
    pub fn heal(self) {}
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        let mut rules = self.lab.rules();
        rules.remove(self.id);
        self.lab.network.filter(&rules);
    }
}
