//! Who is alive, and which part of a dead container's estate falls to us, as the topology has it.
//!
//! The heirs are the containers that accept work and are not silent; they share an estate by the choice hash of each record, as the
//! edges share the messages, so that records and messages meet.

use std::sync::Arc;

use topology::{
    BucketTable, Candidate, ChoiceHash, Incarnation, ProcessEntry, ProcessName, ProcessState,
    TopologyView,
};

use crate::application::Ownership;

/// In whose hands a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In ours.
    Mine,
    /// In those of another container, that lives as far as we know.
    Living,
    /// In those of a container that is gone: anybody may take it over.
    Dead,
}

/// The containers around us, of all nodes.
#[derive(Debug, Clone)]
pub struct Neighbours {
    name: ProcessName,
    incarnation: Incarnation,
    view: TopologyView,
    share: Ownership,
    is_draining: bool,
}

/// What a new view has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Somebody's estate may be ours to claim: a life has ended, or we have begun to accept work.
    Estates,
    /// Somebody has fallen silent: what is due in its sessions may be ours to do.
    Silence,
    /// Nothing of that kind.
    Nothing,
}

impl Neighbours {
    /// A container that knows of nobody yet.
    pub fn new(name: ProcessName, incarnation: Incarnation) -> Neighbours {
        Neighbours {
            name,
            incarnation,
            view: TopologyView::default(),
            share: Ownership::Everything,
            is_draining: false,
        }
    }

    /// The topology has changed.
    pub fn learn(&mut self, view: &TopologyView) -> News {
        let had_part = self.has_part();
        let somebody_died = self.view.lives().any(|life| view.is_dead(life));
        let newly_silent =
            |process: &ProcessEntry| process.is_silent && !self.is_silent(process.incarnation);
        let somebody_fell_silent = view.containers().any(newly_silent);
        self.view = view.clone();
        self.divide();
        if somebody_died || (!had_part && self.has_part()) {
            News::Estates
        } else if somebody_fell_silent {
            News::Silence
        } else {
            News::Nothing
        }
    }

    /// We want no new work from now on, so we inherit nothing either.
    pub fn drain(&mut self) {
        self.is_draining = true;
        self.divide();
    }

    /// In whose hands a record of `owner` is.
    pub fn standing(&self, owner: Incarnation) -> Standing {
        if owner == self.incarnation {
            Standing::Mine
        } else if self.view.is_dead(owner) {
            Standing::Dead
        } else {
            Standing::Living
        }
    }

    /// Whether that life goes on, and has not been heard of for longer than it should.
    pub fn is_silent(&self, owner: Incarnation) -> bool {
        let mut silent = self.view.containers().filter(|process| process.is_silent);
        silent.any(|process| process.incarnation == owner)
    }

    /// Whether what a dead container has left with this hash is ours to claim. Everybody who is asked may take it
    /// over all the same: this only keeps the heirs out of each other's way.
    pub fn inherits(&self, choice: ChoiceHash) -> bool {
        self.share.owns_hash(choice)
    }

    /// Which keys are ours to look after.
    pub fn share(&self) -> &Ownership {
        &self.share
    }

    fn has_part(&self) -> bool {
        match &self.share {
            Ownership::Everything => false, // nobody has told us anything yet
            Ownership::Nothing => false,
            Ownership::Share { table, name, incarnation } => {
                let is_us = |candidate: &Candidate| {
                    candidate.name == *name && candidate.incarnation == *incarnation
                };
                table.candidates().iter().any(is_us)
            }
        }
    }

    fn divide(&mut self) {
        if self.is_draining {
            self.share = Ownership::Nothing;
            return;
        }
        let containers = self.view.containers();
        let ready =
            containers.filter(|process| process.state == ProcessState::Ready && !process.is_silent);
        let candidates: Vec<Candidate> = ready
            .map(|process| Candidate {
                name: self.view.cluster_name(&process.name),
                incarnation: process.incarnation,
                weight: process.weight,
            })
            .collect();
        self.share = Ownership::Share {
            table: Arc::new(BucketTable::build(&candidates)),
            name: self.view.cluster_name(&self.name),
            incarnation: self.incarnation,
        };
    }
}

#[cfg(test)]
mod tests {
    use topology::view::WEIGHT_DEFAULT;
    use topology::{ChoiceKey, NodeEntry, NodeNumber, NodeState, ProcessType};

    use super::*;

    fn view(containers: &[(&str, u64, ProcessState)]) -> TopologyView {
        let entry = |(name, incarnation, state): &(&str, u64, ProcessState)| ProcessEntry {
            name: ProcessName::new(*name),
            process_type: ProcessType::Container,
            incarnation: Incarnation(*incarnation),
            pid: None,
            state: *state,
            restarts: 0,
            link: None,
            link_address: None,
            addresses: Vec::new(),
            weight: WEIGHT_DEFAULT,
            is_silent: false,
            http: None,
        };
        TopologyView {
            processes: containers.iter().map(entry).collect(),
            ..TopologyView::default()
        }
    }

    const READY: ProcessState = ProcessState::Ready;

    fn neighbours(name: &str, incarnation: u64) -> Neighbours {
        Neighbours::new(ProcessName::new(name), Incarnation(incarnation))
    }

    #[test]
    fn estates_are_news_when_somebody_has_died_or_we_have_begun_to_accept() {
        let mut one = neighbours("c1", 1);
        assert_eq!(one.learn(&view(&[("c1", 1, ProcessState::Starting)])), News::Nothing);
        assert_eq!(one.learn(&view(&[("c1", 1, READY), ("c2", 2, READY)])), News::Estates);
        assert_eq!(one.learn(&view(&[("c1", 1, READY), ("c2", 2, READY)])), News::Nothing);
        let hung = view(&[("c1", 1, READY), ("c2", 2, ProcessState::Hung)]);
        assert_eq!(one.learn(&hung), News::Nothing);
        let dead = view(&[("c1", 1, READY), ("c2", 2, ProcessState::Backoff)]);
        assert_eq!(one.learn(&dead), News::Estates);
        assert_eq!(one.learn(&view(&[("c1", 1, READY), ("c2", 3, READY)])), News::Nothing);
        for (owner, standing) in
            [(1, Standing::Mine), (2, Standing::Dead), (3, Standing::Living), (4, Standing::Living)]
        {
            assert_eq!(one.standing(Incarnation(owner)), standing, "{owner}");
        }
    }

    #[test]
    fn the_heirs_of_all_nodes_share_alike_whatever_they_call_each_other() {
        let node = |number: u16| NodeEntry {
            name: format!("n{number}"),
            number: NodeNumber::new(number).unwrap_or_default(),
            state: NodeState::Up,
            address: ([192, 0, 2, 1], 6200).into(),
            last_life: Incarnation::NONE,
            runs_with: topology::RunsWith::default(),
        };
        let lives = [1, (1 << 52) + 1];
        let of_node = |own: usize| {
            let other = format!("c1@n{}", 1 - own);
            let mut view = view(&[("c1", lives[own], READY), (&other, lives[1 - own], READY)]);
            view.node = format!("n{own}");
            view.nodes = vec![node(0), node(1)];
            let mut neighbours = neighbours("c1", lives[own]);
            neighbours.learn(&view);
            neighbours
        };
        let (one, two) = (of_node(0), of_node(1));
        for hash in (0..1_000).map(ChoiceHash) {
            assert!(one.inherits(hash) != two.inherits(hash));
        }
        assert_eq!(one.standing(Incarnation(lives[1])), Standing::Living);
    }

    #[test]
    fn every_estate_has_exactly_one_heir_and_a_draining_container_is_none() {
        let both = view(&[("c1", 1, READY), ("c2", 2, READY)]);
        let (mut one, mut two) = (neighbours("c1", 1), neighbours("c2", 2));
        one.learn(&both);
        two.learn(&both);
        for hash in (0..1_000).map(ChoiceHash) {
            assert!(one.inherits(hash) != two.inherits(hash));
        }
        one.drain();
        assert!((0..1_000).map(ChoiceHash).all(|hash| !one.inherits(hash)));
        let down = view(&[("c1", 1, READY), ("c2", 2, ProcessState::Down)]);
        assert_eq!(one.learn(&down), News::Estates);
        assert!(!one.inherits(ChoiceHash(0)));
    }

    #[test]
    fn who_is_silent_inherits_nothing_and_its_silence_is_news_once() {
        let mut neighbours = Neighbours::new(ProcessName::new("c1"), Incarnation(1));
        let ready = |incarnation: u64, name| (name, incarnation, ProcessState::Ready);
        let mut both = view(&[ready(1, "c1"), ready(2, "c2")]);
        neighbours.learn(&both);
        let shares = |neighbours: &Neighbours| {
            let hashes = (0..100u64).map(|number| ChoiceKey::Session(&number.to_be_bytes()).hash());
            hashes.filter(|hash| neighbours.inherits(*hash)).count()
        };
        let half = shares(&neighbours);
        assert!((20..80).contains(&half), "{half}");
        both.processes[1].is_silent = true;
        assert_eq!(neighbours.learn(&both), News::Silence);
        assert_eq!(neighbours.learn(&both), News::Nothing);
        assert_eq!(shares(&neighbours), 100);
        assert!(neighbours.is_silent(Incarnation(2)) && !neighbours.is_silent(Incarnation(1)));
        assert_eq!(neighbours.standing(Incarnation(2)), Standing::Living);
        (both.processes[0].is_silent, both.processes[1].is_silent) = (true, false);
        assert_eq!(neighbours.learn(&both), News::Silence);
        assert_eq!(shares(&neighbours), 0, "who is silent itself helps nobody");
    }
}
