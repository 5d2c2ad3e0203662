//! The manager: its table, what it says and hears, its death, and the next one.
//!
//! What a process says to a manager that is dead by then is lost; what that one had said before arrives. The next one
//! goes on from the record, which stands before any effect is carried out, and hears of each process as soon as that has
//! found it. Deliberately absent: a manager that hangs. To everybody else it has died, and is missed for longer.

use std::sync::Arc;

use super::*;

/// How long news between manager and process take.
pub(super) const NEWS: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(5));
/// How long the guardian takes to have another manager: at once when one died, after its silence when it hung.
const REVIVAL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(900));
/// How often a process looks for a manager.
const LOOKS_FOR_MANAGER_EVERY: Duration = Duration::from_millis(50);
/// Whoever stood still so lately may be taken for silent.
const SILENCE_FELT: Duration = Duration::from_secs(1);

/// Counts managers and the times without one: what was said to another one reaches nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reign(u32);

impl World {
    /// Lets the manager's table act, and carries out what it wants; nothing happens while there is none.
    pub(super) fn manager(
        &mut self,
        node: NodeId,
        act: impl FnOnce(&mut ProcessTable, Instant, &mut Vec<Effect>),
    ) {
        let mut effects = Vec::new();
        let now = self.instant();
        let Some(table) = &mut self.nodes[node.0].table else { return };
        act(table, now, &mut effects);
        while !effects.is_empty() {
            let mut outcomes = Vec::new();
            for effect in effects.drain(..) {
                match &mut self.nodes[node.0].manager_dies_after {
                    Some(0) => return self.manager_dies(node),
                    Some(effects) => *effects -= 1,
                    None => {}
                }
                outcomes.extend(self.carry_out(node, effect));
            }
            let Some(table) = &mut self.nodes[node.0].table else { return };
            for outcome in outcomes {
                table.handle(outcome, now, &mut effects);
            }
        }
        let managed = &mut self.nodes[node.0];
        let deadline = managed.table.as_ref().and_then(ProcessTable::next_deadline);
        if let Some(deadline) = deadline {
            let at = self.now + deadline.saturating_duration_since(now);
            if managed.manager_armed.is_none_or(|armed| at < armed) {
                managed.manager_armed = Some(at);
                self.schedule.at(at, Happening::ManagerTick(node));
            }
        }
    }

    /// Gives back what the table hears before anything else, as from the manager's loop: that a program was started.
    fn carry_out(&mut self, node: NodeId, effect: Effect) -> Option<process_table::Event> {
        match effect {
            Effect::Spawn { name, incarnation } => {
                return Some(self.spawned(ProcessId { node, name }, incarnation));
            }
            Effect::Tell { name, command } => {
                let process = ProcessId { node, name };
                if let Some(life) = self.current(&process) {
                    let name = &process.name;
                    let shown = self.manager_of(process.node);
                    self.trace.note(shown, format_args!("tells {name} to {command:?}"));
                    let word = match command {
                        Command::Drain { deadline_ms } => {
                            Word::Drain(Duration::from_millis(deadline_ms))
                        }
                        Command::Stop => Word::Stop,
                    };
                    self.say(life, word);
                }
            }
            Effect::Kill { name, pid, reason } => {
                self.trace.note(self.manager_of(node), format_args!("kills {name}: {reason}"));
                let life = LifeId(pid as usize);
                if matches!(reason, KillReason::Silent { .. }) && self.is_well(life) {
                    let what = format!("{name} is killed for its silence, and has not been silent");
                    self.invariants.violated_by(self.now, name.as_str(), what);
                }
                self.dies(life);
            }
            Effect::Publish => {
                self.show(node);
                self.tell_members(node);
            }
            Effect::Prepare { .. } => unreachable!("the simulated node has no servers"),
            Effect::Answer { .. } | Effect::Serving | Effect::Ended => {}
        }
        None
    }

    fn is_well(&self, id: LifeId) -> bool {
        let life = &self.lives[id.0];
        !life.is_stopped && life.stood_until.is_none_or(|at| self.now > at + SILENCE_FELT)
    }

    /// The lives that began on that node.
    pub(super) fn lives_of(&self, node: NodeId) -> Vec<LifeId> {
        let lives = self.lives.iter().enumerate().filter(|(_, life)| life.node == node);
        lives.map(|(place, _)| LifeId(place)).collect()
    }

    /// The picture as the node's manager has it.
    pub(super) fn view(&mut self, id: NodeId) -> Option<Arc<TopologyView>> {
        let node = &mut self.nodes[id.0];
        let table = node.table.as_ref()?;
        let view = match &mut node.member {
            Some(member) => member.view(table, id),
            None => table.view(),
        };
        Some(Arc::new(view))
    }

    /// Who speaks when the node's manager does.
    pub(super) fn manager_of(&self, node: NodeId) -> ProcessName {
        self.nodes[node.0].process_name(&ProcessName::new("manager"))
    }

    /// The manager says something to a process that it has welcomed; it arrives in order, and some time.
    pub(super) fn say(&mut self, id: LifeId, word: Word) {
        let life = &mut self.lives[id.0];
        let is_welcomed = matches!(life.process, Process::Edge(_) | Process::Container(_));
        if life.is_disowned || !is_welcomed || life.reign != Some(self.nodes[life.node.0].reign) {
            return;
        }
        let most = match word {
            Word::View(_) => NEWS.1.max(self.views_late),
            Word::Keys(_) | Word::Drain(_) | Word::Stop => NEWS.1,
        };
        let delay = self.manager_random.between(NEWS.0, most);
        let at = (self.now + delay).max(life.last_word_at);
        life.last_word_at = at;
        self.schedule.at(at, Happening::Said(id, word));
    }

    /// A process says something to the manager, if it has one.
    pub(super) fn tell_manager(&mut self, by: LifeId, event: process_table::Event) {
        let life = &self.lives[by.0];
        let node = life.node;
        if life.reign == Some(self.nodes[node.0].reign) {
            self.news(node, event);
        }
    }

    /// Something reaches the manager that is there now.
    pub(super) fn news(&mut self, node: NodeId, event: process_table::Event) {
        let at = self.now + self.manager_random.between(NEWS.0, NEWS.1);
        self.schedule.at(at, Happening::Manager(node, self.nodes[node.0].reign, event));
    }

    pub(super) fn manager_dies(&mut self, id: NodeId) {
        if self.manager_ends(id) {
            let revival = self.manager_random.between(REVIVAL.0, REVIVAL.1);
            self.schedule.at(self.now + revival, Happening::ManagerRevived(id));
        }
    }

    /// There is no manager any more; whether there was one.
    pub(super) fn manager_ends(&mut self, id: NodeId) -> bool {
        let shown = self.manager_of(id);
        let node = &mut self.nodes[id.0];
        node.manager_dies_after = None;
        let Some(table) = node.table.take() else { return false };
        self.trace.note(shown, "is dead");
        node.record = (table.record(), table.numbers_used());
        (node.manager_armed, node.member) = (None, None);
        node.reign.0 += 1;
        true
    }

    pub(super) fn manager_revived(&mut self, id: NodeId) {
        if self.nodes[id.0].table.is_some() || self.streams.cables.is_dark(id.0) {
            return; // the node was started meanwhile, or will be
        }
        let (mut recorded, numbers_used) = std::mem::take(&mut self.nodes[id.0].record);
        let lives = |pid: u32| {
            let life = self.lives.get(pid as usize);
            life.is_some_and(|life| !life.is_disowned && !matches!(life.process, Process::Dead))
        };
        for process in &mut recorded {
            process.pid = process.pid.filter(|pid| lives(*pid));
        }
        let now = self.instant();
        let node = &mut self.nodes[id.0];
        let mut table = node.table_from(numbers_used);
        table.resume(recorded, now);
        node.table = Some(table);
        node.member = node.member_from(now);
        node.reign.0 += 1;
        let reign = node.reign;
        let shown = self.manager_of(id);
        self.trace.note(shown, "goes on as another one");
        self.manager(id, |table, now, effects| {
            table.handle(process_table::Event::NodeStarts, now, effects);
        });
        for life in self.lives_of(id) {
            self.looks_for_manager(life);
        }
        if self.scenario.is_cluster() {
            self.speaks(id, reign);
        }
    }

    /// A process that has lost its manager looks for another one.
    pub(super) fn looks_for_manager(&mut self, id: LifeId) {
        let at = self.now + self.manager_random.between(NEWS.0, LOOKS_FOR_MANAGER_EVERY);
        self.schedule.at(at, Happening::FindsManager(id));
    }

    /// It has found one, which welcomes it or not.
    pub(super) fn finds_manager(&mut self, life_id: LifeId) {
        let life = &self.lives[life_id.0];
        let state = match &life.process {
            Process::Edge(edge) => edge.state(),
            Process::Container(container) => container.state(),
            Process::Booting | Process::Dead => return,
        };
        let node = &self.nodes[life.node.0];
        let (id, reign) = (node.id, node.reign);
        let is_connected = life.reign == Some(reign);
        let Some(table) = &node.table else { return };
        if life.is_stopped || life.is_disowned || is_connected {
            return;
        }
        let (name, incarnation) = (life.name.clone(), life.incarnation);
        if !table.knows(&name, life_id.0 as u32, incarnation) {
            let shown = self.manager_of(id);
            self.trace.note(shown, format_args!("does not know life {} of {name}", life_id.0));
            return self.schedule.at(self.now, Happening::Said(life_id, Word::Stop));
        }
        self.trace.note(&life.shown, format_args!("has come back {state}"));
        self.lives[life_id.0].reign = Some(reign);
        self.say(life_id, Word::Keys(self.nodes[id.0].keys.clone()));
        if let Some(view) = self.view(id) {
            self.say(life_id, Word::View(view));
        }
        self.news(id, process_table::Event::Returned { name, incarnation, state });
    }

    /// A program that was started finds the manager; whether it is welcomed. None: nobody is there yet.
    pub(super) fn is_expected(&mut self, id: LifeId) -> Option<bool> {
        let life = &mut self.lives[id.0];
        let node = &self.nodes[life.node.0];
        let is_expected = node.table.as_ref()?.expects(&life.name, id.0 as u32).is_some();
        life.reign = Some(node.reign);
        Some(is_expected)
    }

    /// Another program of that name is started, so no other life of it may serve.
    pub(super) fn serves_alone(&mut self, started: &ProcessId) {
        let serves = |life: &Life| {
            let process = matches!(life.process, Process::Edge(_) | Process::Container(_));
            life.is_of(started) && process && !life.is_disowned
        };
        if self.lives.iter().any(serves) {
            let name = &started.name;
            let what = format!("{name} is started although it lives");
            self.invariants.violated_by(self.now, name.as_str(), what);
        }
    }
}

impl World {
    pub(super) fn instant(&self) -> Instant {
        self.base + self.now
    }
}
