//! What lies between the hosts of a cluster: cables that are cut and mended, in one direction or both.
//!
//! There are two networks, as nodes may have: one for links, managers and edges, one for the store's servers and clients.
//! A host that has lost its power is on neither.

use std::collections::{BTreeMap, BTreeSet};

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Net {
    /// Links, managers, datagrams between edges.
    Nodes,
    /// The store's.
    Store,
}

/// From whom to whom on which network.
pub type Way = (Net, usize, usize);

/// Names a cut; never given twice in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CutId(u64);

/// All cables of a world.
#[derive(Debug, Default)]
pub struct Cables {
    cuts: BTreeMap<CutId, Vec<Way>>,
    dark: BTreeSet<usize>,
    next: u64,
}

impl Cables {
    /// Nothing goes these ways any more.
    pub fn cut(&mut self, ways: Vec<Way>) -> CutId {
        self.next += 1;
        self.cuts.insert(CutId(self.next), ways);
        CutId(self.next)
    }

    /// What was cut is mended; whether it had not been already.
    pub fn mend(&mut self, cut: CutId) -> bool {
        self.cuts.remove(&cut).is_some()
    }

    /// Whether it is cut still.
    pub fn is_cut(&self, cut: CutId) -> bool {
        self.cuts.contains_key(&cut)
    }

    /// Whether any cable is cut.
    pub fn are_cut(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// Everything is mended.
    pub fn mend_all(&mut self) {
        self.cuts.clear();
    }

    /// The host has lost its power, or has it again.
    pub fn set_dark(&mut self, host: usize, is_dark: bool) {
        if is_dark {
            self.dark.insert(host);
        } else {
            self.dark.remove(&host);
        }
    }

    /// Whether the host is without power.
    pub fn is_dark(&self, host: usize) -> bool {
        self.dark.contains(&host)
    }

    /// Whether what one sends reaches the other.
    pub fn carry(&self, net: Net, from: usize, to: usize) -> bool {
        let is_cut = |way: &Way| *way == (net, from, to);
        !self.is_dark(from)
            && !self.is_dark(to)
            && (from == to || !self.cuts.values().flatten().any(is_cut))
    }

    /// Whether the two can speak with each other, as a stream must.
    pub fn join(&self, net: Net, one: usize, other: usize) -> bool {
        self.carry(net, one, other) && self.carry(net, other, one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_open_when_every_cut_of_it_is_mended_and_both_hosts_have_power() {
        let mut cables = Cables::default();
        let first = cables.cut(vec![(Net::Nodes, 0, 1)]);
        let second = cables.cut(vec![(Net::Nodes, 0, 1), (Net::Nodes, 1, 0)]);
        assert!(cables.carry(Net::Store, 0, 1) && !cables.carry(Net::Nodes, 0, 1));
        assert!(cables.mend(second) && !cables.mend(second));
        assert!(!cables.carry(Net::Nodes, 0, 1) && cables.carry(Net::Nodes, 1, 0));
        assert!(!cables.join(Net::Nodes, 1, 0));
        cables.mend(first);
        assert!(cables.join(Net::Nodes, 1, 0));
        cables.set_dark(1, true);
        assert!(!cables.carry(Net::Nodes, 0, 1) && !cables.carry(Net::Store, 1, 1));
        assert!(cables.carry(Net::Nodes, 0, 0));
    }
}
