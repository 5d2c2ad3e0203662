//! Faults carried out.

use super::*;

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.trace.note("fault", format_args!("{fault:?}"));
        match fault {
            Fault::Kill(victim) => {
                if let Some(life) = self.victim(victim) {
                    self.dies(life);
                }
            }
            Fault::Stop(victim, lasting) => {
                if let Some(life) = self.victim(victim) {
                    self.lives[life.0].is_stopped = true;
                    self.schedule.at(self.now + lasting, Happening::Continue(life));
                }
            }
            Fault::DeclareDead(place, heard_within, lasting) => {
                if let Some(life) = self.victim(Victim::Container(place)) {
                    let views_late = std::mem::replace(&mut self.views_late, heard_within);
                    self.disown(life);
                    self.views_late = views_late;
                    self.schedule.at(self.now + lasting, Happening::DiesAtLast(life));
                }
            }
            Fault::CutLink => {
                let open = self.streams.open();
                if !open.is_empty() {
                    let link = open[self.faults.place(open.len())];
                    self.streams.cut(link, self.now);
                    self.schedule_wakes();
                }
            }
            Fault::SlowStore(delay_max, lasting) => {
                self.ail_store(StoreTrouble { delay_max, ..self.trouble });
                self.schedule.at(self.now + lasting, Happening::StoreRecovers);
            }
            Fault::TroubledStore(per_mille, lasting) => {
                self.ail_store(StoreTrouble { per_mille, ..self.trouble });
                self.schedule.at(self.now + lasting, Happening::StoreRecovers);
            }
            Fault::LateViews(delay_max, lasting) => {
                self.views_late = delay_max;
                self.schedule.at(self.now + lasting, Happening::ViewsRecover);
            }
            Fault::Restart(victim) => self.restart(victim),
            Fault::KillManager(node) => self.manager_dies(NodeId(node)),
            Fault::KillManagerRestarting(place, after) => {
                let victim = Victim::Container(place);
                let node = node::process_of(victim, &self.scenario).node;
                self.nodes[node.0].manager_dies_after = Some(after);
                self.restart(victim);
            }
            Fault::ClockStep(direction, by) => self.step_clock(direction, by),
            Fault::Wedge(place, lasting) => {
                if let Some(life) = self.victim(Victim::Container(place)) {
                    self.set_wedged(life, true);
                    self.schedule.at(self.now + lasting, Happening::Unwedge(life));
                }
            }
            Fault::LoseNode(..)
            | Fault::CutOff(..)
            | Fault::OneWayLoss(..)
            | Fault::LateSnapshots(..)
            | Fault::KillPrimary(_) => self.fault_between_nodes(fault),
        }
    }

    fn step_clock(&mut self, direction: Direction, by: Duration) {
        let clock = &self.nodes[0].clock;
        // Whoever looks at the clock often, as a store does, has seen the old time.
        let _ = Clock::now(clock);
        match direction {
            Direction::Forward => {
                clock.step_forward(by);
                self.invariants.clock_stepped_forward(self.now);
            }
            Direction::Back => clock.step_back(by),
        }
    }

    /// The process goes on where it was stopped.
    pub(super) fn goes_on(&mut self, id: LifeId) {
        let life = &mut self.lives[id.0];
        if !std::mem::take(&mut life.is_stopped) {
            return;
        }
        life.stood_until = Some(self.now);
        for question in std::mem::take(&mut life.held) {
            self.schedule.at(self.now, Happening::StoreTakesEffect(question));
        }
        self.trace.note(&life.shown, "goes on");
        self.looks_for_manager(id);
        self.turn(id);
    }

    /// The SIP of a container stands still, or goes on.
    pub(super) fn set_wedged(&mut self, id: LifeId, is_wedged: bool) {
        if let Process::Container(container) = &mut self.lives[id.0].process {
            container.set_wedged(is_wedged);
            self.turn(id);
        }
    }

    /// The keys are rotated; whoever starts from now on has the new ones, and the other nodes hear of them.
    pub(super) fn rotate_keys(&mut self) {
        let first = NodeId(0);
        let keys = self.nodes[first.0].keys.rotated([8; 32], 1);
        self.use_keys(first, keys);
    }

    /// Everybody hears that it is dead; it does not hear anything any more, and lives.
    fn disown(&mut self, id: LifeId) {
        let node = self.lives[id.0].node;
        if self.nodes[node.0].table.is_none() {
            return; // nobody is there to be told so
        }
        let life = &mut self.lives[id.0];
        life.is_disowned = true;
        let (name, incarnation) = (life.name.clone(), life.incarnation);
        self.manager(node, |table, now, effects| {
            table.handle(process_table::Event::Exited { name, incarnation }, now, effects);
        });
    }

    fn restart(&mut self, victim: Victim) {
        self.tickets += 1;
        let ProcessId { node, name } = node::process_of(victim, &self.scenario);
        let ticket = Ticket(self.tickets);
        let request = Request::Restart { name };
        self.manager(node, |table, now, effects| {
            table.handle(process_table::Event::Requested { ticket, request }, now, effects);
        });
    }

    fn victim(&self, victim: Victim) -> Option<LifeId> {
        self.current(&node::process_of(victim, &self.scenario))
    }
}
