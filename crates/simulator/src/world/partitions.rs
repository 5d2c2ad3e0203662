//! Nodes that lose their power or are cut off, the store that goes on without them, and how everything is mended.

use super::*;
use crate::cables::{CutId, Way};
use crate::scenario::CutFrom;
use crate::shards::{Access, PATIENCE, TRIES_EVERY};

impl World {
    pub(super) fn fault_between_nodes(&mut self, fault: Fault) {
        match fault {
            Fault::LoseNode(node, lasting) => self.loses_power(NodeId(node), lasting),
            Fault::CutOff(node, from, lasting) => self.cut_off(NodeId(node), from, lasting),
            Fault::OneWayLoss(from, to, lasting) => {
                self.cut(vec![(Net::Nodes, from, to), (Net::Store, from, to)], lasting);
            }
            Fault::LateSnapshots(delay_max, lasting) => {
                self.snapshots_late = delay_max;
                self.schedule.at(self.now + lasting, Happening::ViewsRecover);
            }
            Fault::KillPrimary(shard) => {
                if let Some(shards) = &mut self.shards {
                    shards.kill_primary(shard);
                }
            }
            other => unreachable!("{other:?} is a fault of one node"),
        }
    }

    /// All processes of the node are gone at once, and nobody is told.
    pub(super) fn loses_power(&mut self, node: NodeId, lasting: Duration) {
        if self.streams.cables.is_dark(node.0) {
            return;
        }
        self.streams.cables.set_dark(node.0, true);
        self.manager_ends(node);
        // Whoever waits for it gives up, or hears from the host that it knows nothing of this.
        let found_out_at = self.now + lasting.min(HEARTBEAT.silence_max());
        for id in self.lives_of(node) {
            let life = &mut self.lives[id.0];
            if matches!(life.process, Process::Dead) {
                continue;
            }
            (life.process, life.is_stopped) = (Process::Dead, false);
            for question in std::mem::take(&mut life.held) {
                self.store.forget(question);
            }
            self.streams.vanish(id, self.now, found_out_at);
        }
        for edge in self.nodes[node.0].edges.clone() {
            self.sockets.entry(edge).or_default().clear();
        }
        self.schedule_wakes();
        self.schedule.at(self.now + lasting, Happening::PowerReturns(node));
        self.mended();
    }

    pub(super) fn power_returns(&mut self, node: NodeId) {
        if !self.streams.cables.is_dark(node.0) {
            return;
        }
        self.trace.note(self.nodes[node.0].name(), "has power again");
        self.streams.cables.set_dark(node.0, false);
        self.mended();
        self.manager_revived(node);
    }

    pub(super) fn cut_off(&mut self, node: NodeId, from: CutFrom, lasting: Duration) {
        let nets: &[Net] = match from {
            CutFrom::Nodes => &[Net::Nodes],
            CutFrom::Store => &[Net::Store],
            CutFrom::Everything => &[Net::Nodes, Net::Store],
        };
        let hosts = self.shards.as_ref().map_or(self.nodes.len(), Shards::hosts);
        let others = (0..hosts).filter(|other| *other != node.0);
        let ways = others.flat_map(|other| {
            nets.iter().flat_map(move |net| [(*net, node.0, other), (*net, other, node.0)])
        });
        let ways = ways.collect();
        self.cut(ways, lasting);
    }

    pub(super) fn cut(&mut self, ways: Vec<Way>, lasting: Duration) {
        let cut = self.streams.cables.cut(ways);
        self.schedule.at(self.now + HEARTBEAT.silence_max(), Happening::GivenUp(cut));
        self.schedule.at(self.now + lasting, Happening::Mended(cut));
        self.mended();
    }

    pub(super) fn is_mended(&mut self, cut: CutId) {
        if self.streams.cables.mend(cut) {
            self.trace.note("cables", "are mended");
            self.mended();
        }
    }

    /// Who waits behind the cut has waited for long enough.
    pub(super) fn given_up(&mut self, cut: CutId) {
        if self.streams.cables.is_cut(cut) {
            self.streams.give_up(self.now);
            self.schedule_wakes();
        }
    }

    /// The cables are others than before.
    fn mended(&mut self) {
        if let Some(shards) = &mut self.shards {
            shards.look(self.now, &self.streams.cables);
        }
        self.streams.go_on(self.now);
        self.schedule_wakes();
    }

    /// Those who watch know what is cut and dark.
    pub(super) fn look_at_cables(&mut self) {
        let cables = &self.streams.cables;
        if cables.are_cut() {
            self.invariants.cables_are_cut(self.now);
        }
        for node in self.nodes.iter().filter(|node| cables.is_dark(node.id.0)) {
            for (phone, _) in self.registered_by.iter().filter(|(_, by)| node.edges.contains(by)) {
                self.invariants.flow_is_broken(self.now, *phone);
            }
        }
    }

    pub(super) fn mend_everything(&mut self) {
        self.streams.cables.mend_all();
        self.mended();
        for node in (0..self.nodes.len()).map(NodeId) {
            self.power_returns(node);
        }
    }

    /// Whether the question is let through to the store now; else it is tried again later, or has been answered.
    pub(super) fn reaches_store(&mut self, question: QuestionId, asker: LifeId) -> Reached {
        let Some(shards) = &mut self.shards else { return Reached::Yes };
        let Some((asked_at, shard)) = self.store.asked(question) else { return Reached::No };
        let is_commit = self.store.is_commit(question);
        let from = self.lives[asker.0].node.0;
        let access = shards.access(from, shard, is_commit, self.now, &self.streams.cables);
        let is_patient = self.now < asked_at + PATIENCE;
        match access {
            Access::Granted => Reached::Yes,
            Access::BelowQuota => Reached::With(CommitFate::BelowQuota),
            Access::InDoubt if self.store_random.chance(500) => {
                Reached::With(CommitFate::AppliedButUnknown)
            }
            Access::InDoubt => Reached::With(CommitFate::LostAndUnknown),
            Access::Later if is_patient => {
                let at = self.now + self.store_random.between(TRIES_EVERY / 2, TRIES_EVERY);
                self.schedule.at(at, Happening::StoreTakesEffect(question));
                Reached::No
            }
            Access::Later => {
                self.store.give_up(question);
                self.schedule.at(self.now, Happening::StoreAnswers(question));
                Reached::No
            }
        }
    }
}

/// What becomes of a question to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// It takes effect, or meets what ails the store.
    Yes,
    /// It takes effect so.
    With(CommitFate),
    /// Not now.
    No,
}
