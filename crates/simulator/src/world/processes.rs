//! The processes: spawned, welcomed, turned, told and killed, as the manager's table wants it.

use std::sync::Arc;

use super::partitions::Reached;
use super::*;

/// Phones begin to register within so long.
const REGISTERING_FOR: Duration = Duration::from_secs(1);
/// How often a program looks for the manager that has started it.
const LOOKS_EVERY: Duration = Duration::from_millis(50);
/// How long a spawned program takes until it is welcomed.
const BOOT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(60));
/// How long the store takes, when nothing ails it.
const STORE: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(3));

/// Nodes that are further apart do not become ready.
const CLOCKS_APART_MAX: Duration = Duration::from_millis(500);

pub(super) fn user_name(place: usize) -> String {
    ["alice", "bob", "carol", "dave"]
        .get(place)
        .map_or(format!("user{place}"), |name| (*name).into())
}

/// The phones of the scenario.
pub(super) fn phones(scenario: &Scenario, edges: &[SocketAddr], random: &Random) -> Vec<Phone> {
    let mut phones: Vec<Phone> = Vec::new();
    for (place, user) in scenario.phones.iter().enumerate() {
        let user = user_name(*user);
        let name = format!("{user}{}", place + 1);
        let mut random = random.split(&name);
        let registers_at = scenario::REGISTERING + random.between(Duration::ZERO, REGISTERING_FOR);
        let address = SocketAddr::from(([192, 0, 2, 11 + place as u8], 5060));
        phones.push(Phone::new((name, user), address, edges.to_vec(), random, registers_at));
    }
    phones
}

/// The clocks of several nodes are up to half a second apart; that of the store, by which lifetimes end, is in between.
/// The embedded store looks at the clock of its node.
pub(super) fn clocks(nodes: &[Node], random: &Random) -> NodeClock {
    if let [only] = nodes {
        return only.clock.clone();
    }
    let mut random = random.split("clocks");
    for node in nodes {
        node.clock.step_forward(random.between(Duration::ZERO, CLOCKS_APART_MAX));
    }
    let between = NodeClock::default();
    between.step_forward(CLOCKS_APART_MAX / 2);
    between
}

impl World {
    /// The life of that process that its manager knows of.
    pub(super) fn current(&self, process: &ProcessId) -> Option<LifeId> {
        let is_it = |life: &Life| {
            life.is_of(process) && !life.is_disowned && !matches!(life.process, Process::Dead)
        };
        self.lives.iter().rposition(is_it).map(LifeId)
    }

    pub(super) fn spawned(
        &mut self,
        process: ProcessId,
        incarnation: Incarnation,
    ) -> process_table::Event {
        self.serves_alone(&process);
        let life = LifeId(self.lives.len());
        let ProcessId { node, name } = process;
        let shown = self.nodes[node.0].process_name(&name);
        self.trace.note(&shown, format_args!("is spawned as life {}", life.0));
        self.streams.begins_on(node.0);
        self.lives.push(Life {
            node,
            shown,
            name: name.clone(),
            incarnation,
            process: Process::Booting,
            is_stopped: false,
            stood_until: None,
            is_disowned: false,
            reign: None,
            words: Vec::new(),
            armed: None,
            held: Vec::new(),
            last_word_at: self.now,
        });
        let at = self.now + self.manager_random.between(BOOT.0, BOOT.1);
        self.schedule.at(at, Happening::Booted(life));
        process_table::Event::Spawned { name, pid: life.0 as u32 }
    }

    pub(super) fn booted(&mut self, id: LifeId) {
        let life = &self.lives[id.0];
        if !matches!(life.process, Process::Booting) {
            return; // killed meanwhile
        }
        match self.is_expected(id) {
            Some(true) => {}
            // Started by a manager that died before it could note that.
            Some(false) => return self.dies(id),
            None => return self.schedule.at(self.now + LOOKS_EVERY, Happening::Booted(id)),
        }
        let life = &self.lives[id.0];
        let (name, incarnation) = (life.name.clone(), life.incarnation);
        let node = life.node;
        let view = self.view(node).expect("the manager has just welcomed it");
        let process = match self.nodes[node.0].edge_place(&name) {
            Some(place) => self.start_edge(id, &name, incarnation, place, &view),
            None => {
                let process = self.start_container(id, &name, incarnation);
                self.lives[id.0].words.push(Word::View(Arc::clone(&view)));
                self.says_where(id, &view);
                self.tell_manager(id, process_table::Event::Ready { name, incarnation });
                process
            }
        };
        self.lives[id.0].process = process;
        self.schedule.at(self.now + HEARTBEAT.beat_interval(), Happening::Beats(id));
        self.turn(id);
    }

    fn start_edge(
        &mut self,
        life: LifeId,
        name: &ProcessName,
        incarnation: Incarnation,
        place: usize,
        view: &TopologyView,
    ) -> Process {
        let address = self.nodes[self.lives[life.0].node.0].edges[place];
        let start = EdgeStart {
            life,
            name: name.clone(),
            incarnation,
            address,
            shown: self.lives[life.0].shown.clone(),
            keys: self.nodes[self.lives[life.0].node.0].keys.clone(),
            heartbeat: HEARTBEAT,
        };
        let instant = self.instant();
        let socket = self.sockets.get_mut(&address).expect("every edge has its socket");
        let mut around = edge_process::Surroundings {
            now: self.now,
            instant,
            streams: &mut self.streams,
            trace: &mut self.trace,
            socket,
            sent: &mut Vec::new(),
            found: &mut Vec::new(),
        };
        Process::Edge(Box::new(EdgeProcess::new(start, view, &mut around)))
    }

    fn start_container(
        &mut self,
        life: LifeId,
        name: &ProcessName,
        incarnation: Incarnation,
    ) -> Process {
        let settings = registrar::Settings {
            authenticate: false,
            ..registrar::Settings::for_domains(["example.com"])
        };
        let node = &self.nodes[self.lives[life.0].node.0];
        let store = self.store.of(life);
        let registrar =
            Registrar::new(settings, Arc::new(store.clone()), Arc::new(store.clone()), &node.keys)
                .expect("the settings are good");
        let transactions =
            TransactionSettings { timers: Timers::default(), transactions_max: 10_000 };
        let settings = ShardSettings {
            name: name.clone(),
            incarnation,
            node: node.name(),
            keys: node.keys.clone(),
            transactions,
            commit_conflicts_max: 8,
        };
        let mut around = container_process::Surroundings {
            now: self.now,
            instant: self.base + self.now,
            streams: &mut self.streams,
            trace: &mut self.trace,
        };
        let (interval, clock) = (HEARTBEAT.interval, node.clock.clone());
        let stores = (store, registrar);
        let container = ContainerProcess::new(
            life,
            settings,
            interval,
            clock,
            stores,
            self.lives[life.0].shown.clone(),
            &mut around,
        );
        Process::Container(Box::new(container))
    }

    /// The process is no more.
    pub(super) fn dies(&mut self, id: LifeId) {
        let life = &mut self.lives[id.0];
        if matches!(life.process, Process::Dead) {
            return;
        }
        life.process = Process::Dead;
        let (node, name, incarnation) = (life.node, life.name.clone(), life.incarnation);
        for question in std::mem::take(&mut life.held) {
            self.store.forget(question);
        }
        self.trace.note(&life.shown, format_args!("life {} is dead", id.0));
        self.streams.process_died(id, self.now);
        self.schedule_wakes();
        if !self.lives[id.0].is_disowned {
            self.news(node, process_table::Event::Exited { name, incarnation });
        }
    }

    /// One turn of a process's loop.
    pub(super) fn turn(&mut self, id: LifeId) {
        let (now, instant) = (self.now, self.instant());
        let life = &mut self.lives[id.0];
        if life.is_stopped {
            return;
        }
        let (mut sent, mut found) = (Vec::new(), Vec::new());
        let words = std::mem::take(&mut life.words);
        let (turned, next) = match &mut life.process {
            Process::Edge(edge) => {
                let socket =
                    self.sockets.get_mut(&edge.address()).expect("every edge has a socket");
                let mut around = edge_process::Surroundings {
                    now,
                    instant,
                    streams: &mut self.streams,
                    trace: &mut self.trace,
                    socket,
                    sent: &mut sent,
                    found: &mut found,
                };
                (edge.turn(words, &mut around), edge.next_turn(now, instant))
            }
            Process::Container(container) => {
                let mut around = container_process::Surroundings {
                    now,
                    instant,
                    streams: &mut self.streams,
                    trace: &mut self.trace,
                };
                (container.turn(words, &mut around), container.next_turn(now, instant))
            }
            Process::Booting | Process::Dead => return,
        };
        let (name, incarnation) = (life.name.clone(), life.incarnation);
        if life.armed.is_none_or(|armed| armed <= now || next < armed) {
            life.armed = Some(next);
            self.schedule.at(next.max(now), Happening::Wake(id));
        }
        for datagram in sent {
            self.leaves(datagram);
        }
        for finding in found {
            self.found(id, name.clone(), finding);
        }
        self.schedule_wakes();
        self.schedule_questions();
        match turned {
            Turned::GoesOn => {}
            Turned::Serves => {
                self.tell_manager(id, process_table::Event::Ready { name, incarnation });
            }
            Turned::Ends => self.dies(id),
        }
    }

    /// A container of a cluster says where edges of other nodes reach it, if the view does not.
    pub(super) fn says_where(&mut self, id: LifeId, view: &TopologyView) {
        let life = &self.lives[id.0];
        let own = view.process(&life.name);
        let is_known = own.is_some_and(|own| own.link_address.is_some());
        let is_container = own.is_some_and(|own| own.process_type == ProcessType::Container);
        if view.nodes.is_empty() || is_known || !is_container {
            return;
        }
        let (name, incarnation) = (life.name.clone(), life.incarnation);
        let address = self.nodes[life.node.0].link_address(id);
        self.tell_manager(id, process_table::Event::ServesNodes { name, incarnation, address });
    }

    fn found(&mut self, by: LifeId, reporter: ProcessName, finding: Finding) {
        let Finding { name, incarnation, responds } = finding;
        let event = match responds {
            true => process_table::Event::Responsive { reporter, name, incarnation },
            false => process_table::Event::Unresponsive { reporter, name, incarnation },
        };
        self.tell_manager(by, event);
    }

    /// The process says that it lives, if its loop goes round.
    pub(super) fn beats(&mut self, id: LifeId) {
        let life = &self.lives[id.0];
        if matches!(life.process, Process::Dead) {
            return;
        }
        if !life.is_stopped && !life.is_disowned {
            let (name, incarnation) = (life.name.clone(), life.incarnation);
            let left = match &life.process {
                Process::Container(container) => container.calls_left(),
                Process::Edge(_) | Process::Booting | Process::Dead => 0,
            };
            self.tell_manager(id, process_table::Event::Alive { name, incarnation, left });
        }
        self.schedule.at(self.now + HEARTBEAT.beat_interval(), Happening::Beats(id));
    }

    pub(super) fn schedule_wakes(&mut self) {
        for (at, life) in std::mem::take(&mut self.streams.wakes) {
            self.schedule.at(at, Happening::Wake(life));
        }
    }

    fn schedule_questions(&mut self) {
        for question in self.store.unscheduled() {
            let most = STORE.1.max(self.trouble.delay_max);
            let at = self.now + self.store_random.between(STORE.0, most);
            self.schedule.at(at, Happening::StoreTakesEffect(question));
        }
    }

    pub(super) fn store_takes_effect(&mut self, question: QuestionId) {
        let Some(asker) = self.store.asker(question) else { return };
        let life = &mut self.lives[asker.0];
        if life.is_stopped {
            // The engine runs in the process; it goes on when that does.
            return life.held.push(question);
        }
        let is_dead = matches!(life.process, Process::Dead);
        // The writer of a killed process had it in hand, or not yet.
        if is_dead && self.store_random.chance(500) {
            return self.store.forget(question);
        }
        let is_commit = self.store.is_commit(question);
        let reached = self.reaches_store(question, asker);
        let per_mille = if is_commit { self.trouble.per_mille } else { 0 };
        let fate = match reached {
            Reached::No if is_dead => return self.store.forget(question),
            Reached::No => return,
            Reached::With(fate) => fate,
            Reached::Yes if !self.store_random.chance(per_mille) => CommitFate::Done,
            Reached::Yes => match self.store_random.below(4) {
                0 => CommitFate::Conflict,
                1 => CommitFate::AppliedButUnknown,
                2 => CommitFate::LostAndUnknown,
                _ => CommitFate::Busy,
            },
        };
        if self.scenario.is_cluster()
            && let Some((space, key)) = self.store.reads(question)
        {
            self.invariants.read(asker, &space, key.as_ref());
        }
        if let Some(applied) = self.store.take_effect(question, fate) {
            for (key, _) in &applied.writes {
                self.trace.note(&self.lives[asker.0].shown, format_args!("wrote {key}"));
            }
            let judged_at = Clock::now(&self.store_clock);
            self.invariants.applied(self.now, &applied, self.store.engine(), judged_at);
        }
        if is_dead {
            return self.store.forget(question);
        }
        if !is_commit {
            // Nothing can come between a read and its answer that could not come before the read.
            self.store.answer(question);
            return self.turn(asker);
        }
        let most = STORE.1.max(self.trouble.delay_max);
        let at = self.now + self.store_random.between(STORE.0, most);
        self.schedule.at(at, Happening::StoreAnswers(question));
    }
}
