//! Nodes on hosts of a lab, one on each: single ones or a cluster, started together, reached by number, and switched off and
//! on with their hosts.

use std::net::SocketAddr;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::lab::{Host, Lab};
use crate::node::{Node, NodeOptions, ProcessStatus, outlast_in};
use crate::wait;

/// How long members may take to see each other, and records to be copied, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// What one member of a cluster says of it: `outlast status --cluster --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct ClusterView {
    /// The members.
    pub nodes: Vec<MemberStatus>,
    /// The processes of all of them, as `NAME@NODE`.
    pub processes: Vec<ProcessStatus>,
}

/// A member of a cluster, as another one sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct MemberStatus {
    /// Its name, that of its host.
    pub name: String,
    /// Its number in the cluster.
    pub number: u16,
    /// `up` or `lost`.
    pub state: String,
    /// Where the others reach it.
    pub address: SocketAddr,
}

impl ClusterView {
    /// The state of a member.
    pub fn state(&self, name: &str) -> Option<&str> {
        let member = self.nodes.iter().find(|member| member.name == name)?;
        Some(&member.state)
    }

    /// Whether these members and no others are there, all up, and every process of theirs is ready.
    pub fn is_whole(&self, names: &[&str]) -> bool {
        self.nodes.len() == names.len()
            && names.iter().all(|name| self.state(name) == Some("up") && self.serves(name))
    }

    /// Whether the processes of a member are known, and all ready.
    fn serves(&self, name: &str) -> bool {
        let of_it = |process: &&ProcessStatus| {
            process.name.split_once('@').is_some_and(|(_, node)| node == name)
        };
        let mut processes = self.processes.iter().filter(of_it).peekable();
        processes.peek().is_some() && processes.all(|process| process.state == "ready")
    }
}

/// Nodes, each on its host, numbered from 0 in the order in which the test named the hosts.
#[derive(Debug)]
pub struct Members<'l> {
    lab: &'l Lab,
    members: Vec<Member<'l>>,
    are: Are,
}

/// How the nodes stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Are {
    /// Each is on its own.
    Single,
    OneCluster,
}

#[derive(Debug)]
struct Member<'l> {
    host: &'l Host,
    state: State,
}

#[derive(Debug)]
enum State {
    On(Node),
    /// Its files, which are on a disk that needs no power.
    Off(tempfile::TempDir),
    /// Between the two.
    Changing,
}

impl<'l> Members<'l> {
    /// Starts a node on each of these hosts, all at once.
    ///
    /// # Panics
    /// When one does not become ready.
    pub fn start(
        lab: &'l Lab,
        hosts: &[&str],
        options: impl Fn(&Host) -> NodeOptions + Sync,
    ) -> Members<'l> {
        let hosts: Vec<&Host> = hosts.iter().map(|name| lab.host(name)).collect();
        let started: Vec<_> = thread::scope(|scope| {
            let start = |host: &'l Host| host.enter(|| Node::start(&options(host)));
            let starting: Vec<_> =
                hosts.iter().map(|host| scope.spawn(move || start(host))).collect();
            starting.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        let nodes = started.into_iter().map(|node| node.expect("every node becomes ready"));
        let members = hosts
            .into_iter()
            .zip(nodes)
            .map(|(host, node)| Member { host, state: State::On(node) });
        Members { lab, members: members.collect(), are: Are::Single }
    }

    /// Makes a cluster of nodes on these hosts as an operator does: the first creates it, the others join by a token. Each has
    /// the name of its host. Waits until all see all.
    ///
    /// # Panics
    /// When a command is refused, a node does not become ready, or they do not see each other.
    pub fn cluster(
        lab: &'l Lab,
        hosts: &[&str],
        options: impl Fn(&Host) -> NodeOptions + Sync,
    ) -> Members<'l> {
        let named = |host: &Host| {
            let mut options = options(host);
            let name = format!("[node]\nname = \"{}\"\n\n", host.name());
            options.config = Some(name + options.config.as_deref().unwrap_or_default());
            options
        };
        let first = lab.host(hosts[0]);
        let chosen = named(first);
        let node = first.enter(|| Node::start(&chosen));
        // Again when it was interrupted, as an operator does: on a busy machine a manager may be taken for hung.
        wait::until("the cluster to be created", LIMIT, || {
            let created = first.enter(|| node.outlast(&["cluster", "create"]));
            if created.status.success() { Ok(()) } else { Err(created) }
        });
        let mut members = vec![Member { host: first, state: State::On(node) }];
        for name in &hosts[1..] {
            let host = lab.host(name);
            let State::On(first) = &members[0].state else { unreachable!("it was just started") };
            let token = succeeded(&first.outlast(&["cluster", "token"]));
            let directory = tempfile::tempdir().expect("a temporary directory");
            let config = named(host).config.expect("it has a name");
            std::fs::write(directory.path().join("outlast.toml"), config)
                .expect("the directory is writable");
            let join = ["cluster", "join", token.trim()];
            succeeded(&host.enter(|| outlast_in(directory.path(), &join, b"")));
            let node = host.enter(|| Node::start_in(directory, &NodeOptions::arguments(&[])));
            members.push(Member { host, state: State::On(node) });
        }
        let members = Members { lab, members, are: Are::OneCluster };
        members.until_whole();
        members
    }

    /// What a member says of its cluster.
    ///
    /// # Panics
    /// When it is switched off or does not answer.
    pub fn view_of(&self, number: usize) -> ClusterView {
        let said = succeeded(&self.node(number).outlast(&["status", "--cluster", "--json"]));
        serde_json::from_str(&said).expect("status --cluster --json is JSON")
    }

    /// Waits until this is what a member sees; how long that took.
    ///
    /// # Panics
    /// When it does not within a minute and a half, with what it sees.
    pub fn until_sees(
        &self,
        number: usize,
        what: &str,
        is: impl Fn(&ClusterView) -> bool,
    ) -> Duration {
        let began = Instant::now();
        wait::until(&format!("{} to see {what}", self.host(number).name()), LIMIT, || {
            let view = self.view_of(number);
            if is(&view) { Ok(()) } else { Err(view) }
        });
        began.elapsed()
    }

    /// Waits until this is what all members see that are switched on.
    ///
    /// # Panics
    /// As [`Members::until_sees`].
    pub fn until_all_see(&self, what: &str, is: impl Fn(&ClusterView) -> bool) {
        for (number, member) in self.members.iter().enumerate() {
            if let State::On(_) = member.state {
                self.until_sees(number, what, &is);
            }
        }
    }

    /// Waits until every process of every node is ready, and, in a cluster, all nodes see it so.
    ///
    /// # Panics
    /// When they are not within a minute and a half, and when one is switched off.
    pub fn until_whole(&self) {
        if self.are == Are::OneCluster {
            let names: Vec<&str> = self.members.iter().map(|member| member.host.name()).collect();
            return self.until_all_see("the whole cluster", |view| view.is_whole(&names));
        }
        for number in 0..self.count() {
            wait::until("everything to serve", LIMIT, || {
                let status = self.node(number).status();
                let is_ready = status.processes.iter().all(|process| process.state == "ready");
                if is_ready { Ok(()) } else { Err(status) }
            });
        }
    }

    /// Waits until every record of the cluster's state has a copy on another host, and each node a share of the records.
    ///
    /// # Panics
    /// When that takes longer than a minute and a half, with what the first member says of its stores.
    pub fn until_copied(&self) {
        wait::until("every record to have a copy", LIMIT, || {
            let said = self.host(0).enter(|| self.node(0).outlast(&["state", "status", "--json"]));
            let status: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
            let shards = status["shards"].as_array().map_or(0, Vec::len);
            let is_copied = said.status.success() && status["copies"].as_u64() >= Some(1);
            if is_copied && shards == self.count() { Ok(()) } else { Err(said) }
        });
    }

    /// How many there are, switched on or off.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The lab that they are in.
    pub fn lab(&self) -> &'l Lab {
        self.lab
    }

    /// The host of a member.
    pub fn host(&self, number: usize) -> &'l Host {
        self.members[number].host
    }

    /// The node of a member.
    ///
    /// # Panics
    /// When it is switched off.
    pub fn node(&self, number: usize) -> &Node {
        match &self.members[number].state {
            State::On(node) => node,
            State::Off(_) | State::Changing => panic!("member {number} is off"),
        }
    }

    /// Does something to a node by a thread that is on its host: what that starts, runs there.
    ///
    /// # Panics
    /// When it is switched off.
    pub fn on_host<T: Send>(
        &mut self,
        number: usize,
        work: impl FnOnce(&mut Node) -> T + Send,
    ) -> T {
        let member = &mut self.members[number];
        match &mut member.state {
            State::On(node) => member.host.enter(|| work(node)),
            State::Off(_) | State::Changing => panic!("member {number} is off"),
        }
    }

    /// Pulls the plug of a member's host.
    ///
    /// # Panics
    /// When it is off already.
    pub fn power_off(&mut self, number: usize) {
        let member = &mut self.members[number];
        let State::On(node) = std::mem::replace(&mut member.state, State::Changing) else {
            panic!("member {number} is off already");
        };
        member.host.power_off(self.lab);
        member.state = State::Off(node.kill_everything());
    }

    /// Switches it on again, and waits until its node is ready.
    ///
    /// # Panics
    /// When it is on, or the node does not become ready.
    pub fn power_on(&mut self, number: usize) {
        let member = &mut self.members[number];
        let State::Off(directory) = std::mem::replace(&mut member.state, State::Changing) else {
            panic!("member {number} is on");
        };
        let host = member.host;
        host.power_on(self.lab);
        let node = host.enter(|| Node::start_in(directory, &NodeOptions::arguments(&[])));
        member.state = State::On(node);
    }
}

/// What a command printed.
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
