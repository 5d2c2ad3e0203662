//! Nodes of several hosts that are one cluster: what each sees of the others, and a stranger of all of them.

use std::time::{Duration, Instant};

use testbed::lab::{self, Lab};
use testbed::members::{ClusterView, Members};
use testbed::pace::Pace;

use crate::lab::nodes::options;
use crate::world::has_etcd;

mod calls;
mod strangers;

/// A member that cannot be reached is lost within this (DESIGN: what survives what).
const LOST_WITHIN: Duration = Duration::from_secs(2);
/// A cluster of three with all its processes comes up in this, a few times over.
const LIMIT: Duration = Duration::from_secs(240);
/// The commands that ask take their time, too.
const ASKING: Duration = Duration::from_secs(1);

const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn is_whole(view: &ClusterView) -> bool {
    view.is_whole(&NODES)
}

fn cluster(lab: &Lab) -> Members<'_> {
    Members::cluster(lab, &NODES, options)
}

#[test]
fn three_hosts_become_one_cluster_and_a_member_without_power_comes_back() {
    if !has_etcd() {
        return;
    }
    lab::run_within(LIMIT, &NODES, |lab| {
        let mut members = cluster(lab);
        let numbers: Vec<u16> = members.view_of(2).nodes.iter().map(|node| node.number).collect();
        assert_eq!(numbers, [0, 1, 2]);

        let pace = Pace::watch();
        members.power_off(2);
        let began = Instant::now();
        members.until_all_see("node3 lost", |view| view.state("node3") == Some("lost"));
        let (took, bound) = (began.elapsed(), pace.end().allows(LOST_WITHIN + ASKING));
        assert!(took < bound, "after {took:?}, not within {bound:?}");
        members.power_on(2);
        members.until_all_see("the whole cluster", is_whole);
    });
}

#[test]
fn a_member_that_is_cut_off_is_lost_to_the_others_and_they_to_it_until_it_is_healed() {
    if !has_etcd() {
        return;
    }
    lab::run_within(LIMIT, &NODES, |lab| {
        let members = cluster(lab);
        let before = members.node(0).pids();
        let cut = lab.cut("node1");
        for other in [1, 2] {
            members.until_sees(other, "node1 lost", |view| view.state("node1") == Some("lost"));
        }
        members.until_sees(0, "both others lost", |view| {
            ["node2", "node3"].into_iter().all(|name| view.state(name) == Some("lost"))
        });
        cut.heal();
        members.until_all_see("the whole cluster", is_whole);
        assert_eq!(members.node(0).pids(), before, "nothing was started anew");
    });
}
