//! `outlast state duplicate`: a store that has a copy forgets it and gets everything again.
//!
//! The store is emptied here; that it meets the others again and follows the same part or another one that needs a copy is what
//! the managers do by themselves, as for any empty store. What is refused and why is decided by [`judge`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use state::engine::cluster::servers::{self, Report};
use topology::{NodeState, StoreList, TopologyView};

use super::view;
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, cluster};

/// So long nothing may happen until whoever waits is told to look by himself.
const PATIENCE: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn duplicate(directory: &Path, name: &str, force: bool) -> Result<(), Failure> {
    cluster::must_be_run_by_managers(directory)?;
    let Some(list) = cluster::list(directory)? else {
        return refuse("the state lies in this node's own directory, and has no copies");
    };
    let Some(view) = view(directory) else {
        return refuse("the node is down, and only managers make copies; start it: outlast up");
    };
    let lost = view.nodes.iter().filter(|node| node.state == NodeState::Lost).count();
    if 2 * lost >= view.nodes.len() {
        let all = view.nodes.len();
        return refuse(&format!(
            "{lost} of {all} nodes are lost, and no manager may order anything; bring them up first"
        ));
    }
    let places = StoreList::of(&view).and_then(&list).stores;
    let Some(store) = place(&view, &places, name) else {
        return refuse(&format!("no store is named {name}; outlast state status shows them"));
    };
    let options = manager::store_options(directory, None).map_err(anyhow::Error::from)?;
    stores::runtime()?.block_on(async {
        let mut reports = BTreeMap::new();
        for at in places {
            if let Ok(report) = servers::report(at, &options).await {
                reports.insert(at, report);
            }
        }
        let own_host_counts = cluster::settings(directory).is_some_and(|it| it.allow_colocation);
        if let Err(Refusal { told, may_be_forced }) = judge(store, &reports, own_host_counts)
            && !(force && may_be_forced)
        {
            return refuse(&told);
        }
        let began = Instant::now();
        servers::reset(store, &options).await.map_err(anyhow::Error::from)?;
        output::remark(&format!("{name} is empty now, and is sent everything again"));
        while began.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK_EVERY).await;
            let report = servers::report(store, &options).await.ok();
            if report.is_some_and(|report| report.is_synced) {
                let took = began.elapsed().as_secs_f64();
                output::line(&format!("{name} is a copy again, made anew in {took:.1} s"));
                return Ok(());
            }
        }
        refuse(&format!("{name} is not whole yet; watch it with outlast state status"))
    })
}

fn refuse(told: &str) -> Result<(), Failure> {
    Err(anyhow::Error::msg(told.to_owned()).into())
}

/// Where the store of that name is, or at that address.
fn place(view: &TopologyView, places: &[SocketAddr], name: &str) -> Option<SocketAddr> {
    let is_it = |store: &&topology::ProcessEntry| {
        store.name.as_str() == name || view.cluster_name(&store.name).as_str() == name
    };
    let named = view.stores().find(is_it).and_then(|store| store.link_address);
    named.or_else(|| name.parse().ok().filter(|address| places.contains(address)))
}

/// Why a copy is not made anew.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    told: String,
    /// If whoever asks is told that he takes a risk.
    may_be_forced: bool,
}

/// Whether nothing is lost if that store has nothing for a while.
fn judge(
    store: SocketAddr,
    reports: &BTreeMap<SocketAddr, Report>,
    own_host_counts: bool,
) -> Result<(), Refusal> {
    let never = |told: String| Err(Refusal { told, may_be_forced: false });
    let Some(report) = reports.get(&store) else {
        return never(format!(
            "{store} does not answer; when it is back it gets what it lacks by itself"
        ));
    };
    let Some(primary) = &report.replica_of else {
        return never(match report.slots.is_empty() {
            true => format!("{store} has nothing; the managers make it a copy where one is wanted"),
            false => format!(
                "{store} serves a part of the state, and others have copies of it; name one of these (outlast state status)"
            ),
        });
    };
    let Some((serves, primary)) = reports.iter().find(|(_, other)| &other.id == primary) else {
        return never(format!(
            "who serves what {store} has a copy of does not answer: it may be the last one that has it"
        ));
    };
    let counts = |(at, is_online): &&(SocketAddr, bool)| {
        *is_online && *at != store && (own_host_counts || at.ip() != serves.ip())
    };
    if primary.followers.iter().any(|follower| counts(&follower)) {
        return Ok(());
    }
    let told = format!(
        "{store} has the only copy of what {serves} serves: until it is made anew the loss of that host loses records, and writes \
         may be refused; have a further copy made first ([cluster] stores), or take the risk with --force"
    );
    Err(Refusal { told, may_be_forced: true })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(host: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, host], port).into()
    }

    fn replica(primary: &str) -> Report {
        Report { replica_of: Some(primary.to_owned()), is_synced: true, ..Report::default() }
    }

    fn reports(followers: &[(SocketAddr, bool)]) -> BTreeMap<SocketAddr, Report> {
        let primary = Report {
            id: "aa".to_owned(),
            slots: vec![0..=16_383],
            followers: followers.to_vec(),
            ..Report::default()
        };
        BTreeMap::from([(at(1, 6220), primary), (at(2, 6222), replica("aa"))])
    }

    fn told(store: SocketAddr, reports: &BTreeMap<SocketAddr, Report>) -> Refusal {
        judge(store, reports, false).unwrap_err()
    }

    #[test]
    fn a_copy_is_made_anew_while_there_is_another_one_elsewhere() {
        let copy = (at(2, 6222), true);
        assert_eq!(judge(copy.0, &reports(&[copy, (at(3, 6222), true)]), false), Ok(()));
        for other in [(at(3, 6222), false), (at(1, 6222), true)] {
            let refusal = told(copy.0, &reports(&[copy, other]));
            assert!(refusal.told.contains("only copy") && refusal.may_be_forced, "{refusal:?}");
        }
        let on_own_host = reports(&[copy, (at(1, 6222), true)]);
        assert_eq!(judge(copy.0, &on_own_host, true), Ok(()));
    }

    #[test]
    fn what_serves_or_may_be_the_last_of_its_kind_is_never_emptied() {
        let mut all = reports(&[(at(2, 6222), true)]);
        assert!(told(at(1, 6220), &all).told.contains("serves a part"));
        assert!(told(at(9, 6222), &all).told.contains("does not answer"));
        all.insert(at(3, 6220), Report::default());
        assert!(told(at(3, 6220), &all).told.contains("has nothing"));
        all.remove(&at(1, 6220));
        let refusal = told(at(2, 6222), &all);
        assert!(refusal.told.contains("the last one") && !refusal.may_be_forced, "{refusal:?}");
    }
}
