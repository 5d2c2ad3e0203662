//! Which nodes run a member of the repository: an odd number, at most five, and no more than are of use. Pure.
//!
//! A majority of members must be up for changes, so an even number survives no more failures than the odd one below it, and
//! two no more than one. Members are moved one at a time, the new one first added when the lost one is gone: etcd counts
//! both until then. Who is a member stays one, so that data is copied only when it must be. A node that leaves the cluster
//! first gives its seat to another one; none is taken away that the majority needs.

use std::collections::BTreeSet;

/// A node of the cluster, as far as members are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The node's number.
    pub node: u16,
    /// It is there.
    pub is_up: bool,
    /// It runs a member, or did when it was last seen.
    pub is_member: bool,
    /// It is about to leave the cluster, or has left it.
    pub is_leaving: bool,
}

/// What to do next; after it is done, ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This node shall run a member.
    Add(u16),
    /// This node's member is taken away: it is lost, leaves, or is one too many.
    Remove(u16),
}

/// How many members a cluster of so many nodes has.
#[must_use]
pub fn members_wanted(nodes: usize) -> usize {
    match nodes {
        0..=2 => nodes.min(1),
        3 | 4 => 3,
        _ => 5,
    }
}

/// The next step towards as many members as there should be, all of them up; `None` when there is nothing to do, or
/// nothing can be done: without a majority of members etcd changes none. A node that is lost is in `nodes`, and its member
/// is replaced only if somebody can take its place; one that was removed from the cluster is there as leaving for as long
/// as it has a member.
#[must_use]
pub fn next_step(nodes: &[Seat]) -> Option<Step> {
    let of = |is_like: fn(&Seat) -> bool| -> BTreeSet<u16> {
        nodes.iter().filter(|seat| is_like(seat)).map(|seat| seat.node).collect()
    };
    let free = of(|seat| !seat.is_member && seat.is_up && !seat.is_leaving);
    let present = of(|seat| seat.is_member && seat.is_up);
    let staying = of(|seat| seat.is_member && !seat.is_leaving);
    let members = of(|seat| seat.is_member).len();
    // The very first member.
    if members == 0 {
        return free.first().copied().map(Step::Add);
    }
    if present.len() * 2 <= members {
        return None;
    }
    // Nobody who votes: what is counted and missing goes first.
    if let Some(gone) = of(|seat| seat.is_member && seat.is_leaving && !seat.is_up).first() {
        return Some(Step::Remove(*gone));
    }
    let wanted = members_wanted(nodes.iter().filter(|seat| !seat.is_leaving).count());
    let lost = of(|seat| seat.is_member && !seat.is_leaving && !seat.is_up);
    if staying.len() < wanted && !free.is_empty() {
        return free.first().copied().map(Step::Add);
    }
    if staying.len() > wanted && !lost.is_empty() {
        return lost.last().copied().map(Step::Remove);
    }
    let leaving = of(|seat| seat.is_member && seat.is_leaving && seat.is_up);
    // The youngest: the oldest nodes are known best to the others.
    let spare = if staying.len() > wanted { staying.last() } else { None };
    if let Some(one) = leaving.first().or(spare) {
        let is_majority_left = (present.len() - 1) * 2 > members - 1;
        return (is_majority_left && !staying.is_empty()).then_some(Step::Remove(*one));
    }
    // Removed before another is added: with the lost one still counted, one more member would need one more vote.
    if free.is_empty() { None } else { lost.first().copied().map(Step::Remove) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seats(members: &[u16], up: &[u16], nodes: u16) -> Vec<Seat> {
        let seat = |node| Seat {
            node,
            is_up: up.contains(&node),
            is_member: members.contains(&node),
            is_leaving: false,
        };
        (0..nodes).map(seat).collect()
    }

    fn leaving(mut nodes: Vec<Seat>, leaving: &[usize]) -> Vec<Seat> {
        leaving.iter().for_each(|node| nodes[*node].is_leaving = true);
        nodes
    }

    fn has_majority(nodes: &[Seat]) -> bool {
        let members = nodes.iter().filter(|seat| seat.is_member);
        let present = members.clone().filter(|seat| seat.is_up).count();
        present * 2 > members.count()
    }

    fn done(mut nodes: Vec<Seat>) -> Vec<u16> {
        let had_majority = has_majority(&nodes);
        for _ in 0..20 {
            assert!(
                !had_majority || has_majority(&nodes),
                "it never gives up a majority: {nodes:?}"
            );
            match next_step(&nodes) {
                None => break,
                Some(Step::Add(node)) => {
                    assert!(nodes[usize::from(node)].is_up && !nodes[usize::from(node)].is_member);
                    nodes[usize::from(node)].is_member = true;
                }
                Some(Step::Remove(node)) => {
                    assert!(nodes[usize::from(node)].is_member);
                    nodes[usize::from(node)].is_member = false;
                }
            }
        }
        assert_eq!(next_step(&nodes), None, "it comes to rest: {nodes:?}");
        nodes.iter().filter(|seat| seat.is_member).map(|seat| seat.node).collect()
    }

    #[test]
    fn a_growing_cluster_has_one_then_three_then_five_members() {
        let mut members = vec![];
        for (nodes, wanted) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
            let all: Vec<u16> = (0..nodes).collect();
            members = done(seats(&members, &all, nodes));
            assert_eq!(members.len(), wanted, "{nodes} nodes");
            assert_eq!(members_wanted(usize::from(nodes)), wanted);
        }
        assert_eq!(members, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_lost_member_is_replaced_by_a_node_without_one() {
        assert_eq!(next_step(&seats(&[0, 1, 2], &[0, 2, 3], 4)), Some(Step::Remove(1)));
        assert_eq!(done(seats(&[0, 1, 2], &[0, 2, 3], 4)), [0, 2, 3]);
    }

    #[test]
    fn a_lost_member_that_nobody_can_replace_keeps_its_seat() {
        assert_eq!(next_step(&seats(&[0, 1, 2], &[0, 2], 3)), None);
    }

    #[test]
    fn without_a_majority_nothing_is_changed() {
        assert_eq!(next_step(&seats(&[0, 1, 2], &[0, 3, 4], 5)), None);
        assert_eq!(next_step(&seats(&[0], &[1, 2], 3)), None);
    }

    #[test]
    fn nodes_that_left_leave_an_odd_number() {
        // Two of five nodes were removed, with their members: three nodes, three members.
        assert_eq!(done(seats(&[0, 1, 2, 3], &[0, 1, 2, 3], 4)), [0, 1, 2]);
        assert_eq!(done(seats(&[0, 1], &[0, 1], 2)), [0]);
    }

    #[test]
    fn who_leaves_first_gives_its_seat_to_another() {
        // Of two nodes the one with the only member.
        let two = leaving(seats(&[0], &[0, 1], 2), &[0]);
        assert_eq!(next_step(&two), Some(Step::Add(1)));
        assert_eq!(done(two), [1]);
        // Nobody is there to take it.
        assert_eq!(next_step(&leaving(seats(&[0], &[0], 2), &[0])), None);
        // Of three, one of which is lost: the two that vote stay until the lost one is not counted any more.
        let three = leaving(seats(&[0, 1, 2], &[0, 2], 3), &[2]);
        assert_eq!(next_step(&three), Some(Step::Remove(1)));
        assert_eq!(done(three), [0]);
        // Of four.
        assert_eq!(done(leaving(seats(&[0, 1, 2], &[0, 1, 2, 3], 4), &[1])), [0, 2, 3]);
    }

    #[test]
    fn members_of_removed_nodes_are_taken_away_before_others_come() {
        let nodes = leaving(seats(&[0, 1, 2], &[0, 1, 3], 4), &[2]);
        assert_eq!(next_step(&nodes), Some(Step::Remove(2)));
        assert_eq!(done(nodes), [0, 1, 3]);
    }

    proptest! {
        #[test]
        fn every_cluster_comes_to_rest_with_a_majority_up(
            nodes in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..9)
        ) {
            let seat = |(node, (is_up, is_member, is_leaving))| Seat { node, is_up, is_member, is_leaving };
            let nodes: Vec<Seat> = (0..).zip(nodes).map(seat).collect();
            let had = |nodes: &[Seat]| nodes.iter().filter(|seat| seat.is_member).count();
            let up = |nodes: &[Seat]| nodes.iter().filter(|seat| seat.is_member && seat.is_up).count();
            let could = had(&nodes) == 0 || up(&nodes) * 2 > had(&nodes);
            let (count, all_up) = (nodes.iter().filter(|seat| !seat.is_leaving).count(), nodes.iter().all(|seat| seat.is_up));
            let members = done(nodes.clone());
            if could && all_up && count > 0 {
                prop_assert_eq!(members.len(), members_wanted(count));
            }
            if !could {
                prop_assert_eq!(members.len(), had(&nodes));
            }
        }
    }
}
