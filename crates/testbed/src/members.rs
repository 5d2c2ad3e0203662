//! Nodes on hosts of a lab, one on each: started together, reached by number, and switched off and on with their hosts.

use std::thread;
use std::time::Duration;

use crate::lab::{Host, Lab};
use crate::node::{Node, NodeOptions};
use crate::wait;

/// How long a node may take to serve on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Nodes, each on its host, numbered from 0 in the order in which the test named the hosts.
#[derive(Debug)]
pub struct Members<'l> {
    lab: &'l Lab,
    members: Vec<Member<'l>>,
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
        Members { lab, members: members.collect() }
    }

    /// Waits until every process of every node is ready.
    ///
    /// # Panics
    /// When they are not within half a minute, and when one is switched off.
    pub fn until_whole(&self) {
        for number in 0..self.count() {
            wait::until("everything to serve", LIMIT, || {
                let status = self.node(number).status();
                let is_ready = status.processes.iter().all(|process| process.state == "ready");
                if is_ready { Ok(()) } else { Err(status) }
            });
        }
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
