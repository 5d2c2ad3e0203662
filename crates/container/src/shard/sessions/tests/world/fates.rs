//! What befalls containers and edges, and who hears of it.

use topology::view::WEIGHT_DEFAULT;
use topology::{Incarnation, ProcessEntry, ProcessName, ProcessState, ProcessType, TopologyView};

use super::World;

impl World {
    pub(super) fn view(alive: &[u64]) -> TopologyView {
        let entry = |number: u64| ProcessEntry {
            name: ProcessName::new(format!("c{number}")),
            process_type: ProcessType::Container,
            incarnation: Incarnation(number),
            pid: None,
            state: if alive.contains(&number) {
                ProcessState::Ready
            } else {
                ProcessState::Backoff
            },
            restarts: 0,
            link: None,
            link_address: None,
            addresses: Vec::new(),
            weight: WEIGHT_DEFAULT,
            is_silent: false,
            http: None,
        };
        TopologyView { processes: vec![entry(1), entry(2)], ..TopologyView::default() }
    }

    /// Everybody alive learns who is.
    pub(super) fn topology(&mut self, alive: &[u64]) {
        for number in [0, 1] {
            self.with(number, |shard, now, effects| {
                shard.topology(&World::view(alive), now, effects)
            });
        }
    }

    /// An edge serves that has no link to anybody yet.
    pub(in super::super) fn gets_another_edge(&mut self) {
        let mut view = World::view(&[2]);
        let edge = ProcessEntry {
            name: ProcessName::new("edge2"),
            process_type: ProcessType::Edge,
            incarnation: Incarnation(9),
            state: ProcessState::Ready,
            addresses: vec![topology::EdgeAddress {
                transport: topology::ListenerTransport::Udp,
                own: "192.0.2.2:5060".parse().unwrap(),
                public: "192.0.2.2:5060".to_owned(),
            }],
            ..view.processes[0].clone()
        };
        view.processes.push(edge);
        self.with(1, |shard, now, effects| shard.topology(&view, now, effects));
    }

    /// The first container dies.
    pub(in super::super) fn kill(&mut self) {
        self.log.push("killed".to_owned());
        let dead = self.containers[0].take();
        self.topology(&[2]);
        for (_, bytes) in dead.into_iter().flat_map(|dead| dead.untaken) {
            self.reaches_container(bytes);
        }
    }

    /// The first container is stopped: what it has to do by the clock waits, and so does what comes to it.
    pub(in super::super) fn stops(&mut self) {
        self.stopped = true;
    }

    /// It goes on.
    pub(in super::super) fn wakes(&mut self) {
        self.stopped = false;
        self.falls_silent(false);
        let now = self.now;
        self.with(0, |shard, _, effects| shard.timeout(now, effects));
        self.settles();
    }

    /// The others hear that the first container is silent, or is so no more.
    pub(in super::super) fn falls_silent(&mut self, is_silent: bool) {
        let mut view = World::view(&[1, 2]);
        view.processes[0].is_silent = is_silent;
        self.with(1, |shard, now, effects| shard.topology(&view, now, effects));
        self.settles();
    }

    /// The second container is told that the first is dead, which is not true.
    pub(super) fn slander(&mut self) {
        self.log.push("taken for dead".to_owned());
        let now = self.now;
        if let Some(container) = &mut self.containers[1] {
            let mut effects = Vec::new();
            container.shard.topology(&World::view(&[2]), now, &mut effects);
            container.effects.extend(effects);
        }
    }
}
