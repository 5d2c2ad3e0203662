//! `outlast state recover`: copies take the place of primaries that are gone for good, where no manager may order it.
//!
//! What is refused and why is decided by [`lost`], from what the stores that answer say. A write was acknowledged when so many
//! copies had it as the quota asks for; so as long as fewer copies than that are out of reach, one of those that
//! answer has all of them, and the one with the highest offset is it. What has no copy at all is given up when that is
//! asked for: its slots go, empty, to a primary that lives, so that everything is served again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use state::engine::cluster::servers::{Place, Report, move_slots, report, take_slots};
use state::engine::cluster::{Options, failover};
use topology::{NodeState, StoreList, TopologyView};

use super::view;
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, cluster};

/// A primary that is cut off has stopped by itself after so long.
const STOPPED_AFTER: Duration = Duration::from_secs(3);

const PROMOTED_WITHIN: Duration = Duration::from_secs(10);

const MOVED_WITHIN: Duration = Duration::from_secs(20);

const MOVE_INTERVAL: Duration = Duration::from_millis(100);

/// How many the stores have in all.
const SLOTS: u16 = manager::stores::SLOTS;

/// A part of the state that nobody serves.
#[derive(Debug, PartialEq, Eq)]
struct Lost {
    /// Who served it, where that is known.
    primary: Option<SocketAddr>,
    /// Its name among the stores.
    id: String,
    /// Which.
    slots: Vec<u16>,
    /// Its copies that answer.
    copies: Vec<SocketAddr>,
    /// Why promoting one of these may lose writes.
    risk: Option<String>,
}

pub(super) fn recover(directory: &Path, force: bool) -> Result<(), Failure> {
    cluster::must_be_run_by_managers(directory)?;
    let Some(list) = cluster::list(directory)? else {
        return Err(refusal(
            "the state lies in this node's own directory: nobody else has a part of it",
        ));
    };
    let view = view(directory);
    let seen = view.as_ref().map(StoreList::of).unwrap_or_default();
    let places = seen.and_then(&list).stores;
    let options = manager::store_options(directory, None).map_err(anyhow::Error::from)?;
    stores::runtime()?.block_on(async {
        let mut reports = BTreeMap::new();
        for at in places {
            reports.insert(at, report(at, &options).await.ok());
        }
        let lost = lost(&reports, list.copies, view.as_ref().map(hosts).as_ref())?;
        let (moves, stuck) = half_done(&reports);
        if lost.is_empty() && moves.is_empty() {
            let stuck: String = stuck.iter().map(|told| format!(", but {told}")).collect();
            let told = format!("every part of the state is served{stuck}; see outlast state status");
            return Err(refusal(&told));
        }
        for part in &lost {
            let name = part.name();
            if let Some(node) = part.primary.and_then(|at| node_up(view.as_ref(), at)) {
                return Err(refusal(&format!(
                    "{node}, which has {name}, is up: its manager starts it again, or puts a copy in its place"
                )));
            }
            if part.copies.is_empty() && !force {
                return Err(refusal(&format!(
                    "no copy of what {name} served answers: start its node, or the node of a copy; if none of them comes back, \
                     --force gives that part up, with {} of {SLOTS} slots and their records",
                    part.slots.len()
                )));
            }
            if let Some(risk) = part.risk.as_ref().filter(|_| !force) {
                return Err(refusal(&format!("{name} would lose writes: {risk}; --force loses them")));
            }
        }
        bring_back(&lost.iter().collect::<Vec<_>>(), &reports, &options).await
    })
}

/// Has copies serve what nobody serves, or, where there is none, a primary that lives begin with nothing; then has moves of
/// records end that were under way. What cannot be brought back keeps nothing else from it.
///
/// # Errors
/// What could not be done, and what to do about it.
async fn bring_back(
    lost: &[&Lost],
    reports: &BTreeMap<SocketAddr, Option<Report>>,
    options: &Options,
) -> Result<(), Failure> {
    for primary in lost.iter().filter_map(|part| part.primary) {
        failover::fence(primary, options).await;
    }
    if !lost.is_empty() {
        tokio::time::sleep(STOPPED_AFTER).await;
    }
    let mut failed = Vec::new();
    for part in lost {
        match serve_again(part, reports, options).await {
            Ok(told) => output::line(&told),
            Err(reason) => failed.push(format!("{} is served by nobody: {reason}", part.name())),
        }
    }
    failed.extend(end_moves(reports, options).await);
    if failed.is_empty() { Ok(()) } else { Err(refusal(&failed.join("; "))) }
}

/// Has one part served again; by whom, for a person.
async fn serve_again(
    part: &Lost,
    reports: &BTreeMap<SocketAddr, Option<Report>>,
    options: &Options,
) -> Result<String, String> {
    let name = part.name();
    if part.copies.is_empty() {
        let taker = taker(reports).ok_or(
            "no store that holds data answers and could serve it; start a node with such stores first",
        )?;
        let taken = take_slots(&taker, &part.id, &part.slots, options).await;
        taken.map_err(|error| error.to_string())?;
        return Ok(format!(
            "{} serves what {name} served, empty: {} of {SLOTS} slots, their records are gone",
            taker.address,
            part.slots.len()
        ));
    }
    let serves =
        failover::promote_unasked(part.primary, &part.copies, options, PROMOTED_WITHIN).await;
    let serves = serves.map_err(|error| error.to_string())?;
    Ok(format!("{serves} serves what {name} served"))
}

/// Has the rest go where slots were on their way to: until then a part of them answers nobody, and managers that are too few to
/// decide move nothing. Looks anew: who was promoted has other slots, and those who wait for some say from whom. What does not end
/// between two stores that answer; what has lost an end is only told, for nobody could end it.
async fn end_moves(
    reports: &BTreeMap<SocketAddr, Option<Report>>,
    options: &Options,
) -> Vec<String> {
    let deadline = Instant::now() + MOVED_WITHIN;
    loop {
        let mut now = BTreeMap::new();
        for (at, _) in reports.iter().filter(|(_, report)| report.is_some()) {
            now.insert(*at, report(*at, options).await.ok());
        }
        let (moves, stuck) = half_done(&now);
        let mut unended = Vec::new();
        for Move { from, to, slots } in &moves {
            // The others hear in a moment who is a primary now, and move nothing from one that is not.
            if let Err(error) = move_slots(from, to, slots, options).await {
                unended.push(format!(
                    "{} slots were on their way from {} to {} and are not there yet ({error})",
                    slots.len(),
                    from.address,
                    to.address
                ));
            }
        }
        if unended.is_empty() {
            stuck.iter().for_each(|told| output::remark(told));
            return unended;
        }
        if Instant::now() >= deadline {
            unended.push(
                "slots that are on their way answer in part only: try again in a moment, and see outlast state status"
                    .to_owned(),
            );
            return unended;
        }
        tokio::time::sleep(MOVE_INTERVAL).await;
    }
}

/// Slots that are on their way, between two stores that answer.
#[derive(Debug, PartialEq, Eq)]
struct Move {
    from: Place,
    to: Place,
    slots: Vec<u16>,
}

/// The moves that are under way, by what both ends say; and those of which one end does not answer.
fn half_done(reports: &BTreeMap<SocketAddr, Option<Report>>) -> (Vec<Move>, Vec<String>) {
    let primaries = || {
        let answers = reports.iter().filter_map(|(at, report)| Some((*at, report.as_ref()?)));
        answers.filter(|(_, report)| report.replica_of.is_none())
    };
    let mut between: BTreeMap<(&str, &str), BTreeSet<u16>> = BTreeMap::new();
    for (_, report) in primaries() {
        for (slot, to) in &report.leaving {
            between.entry((&report.id, to)).or_default().insert(*slot);
        }
        for (slot, from) in &report.coming {
            // Whoever serves it now has what has not come: not only the one that it was to come from.
            let serves = |it: &Report| it.slots.iter().any(|slots| slots.contains(slot));
            let owner = primaries().find(|(_, it)| serves(it)).map(|(_, it)| it.id.as_str());
            let from = owner.unwrap_or(from);
            if from != report.id {
                between.entry((from, &report.id)).or_default().insert(*slot);
            }
        }
    }
    let place = |id: &str| {
        let found = primaries().find(|(_, report)| report.id == id);
        found.map(|(address, _)| Place { id: id.to_owned(), address })
    };
    let (mut moves, mut unended) = (Vec::new(), Vec::new());
    for ((from, to), slots) in between {
        match (place(from), place(to)) {
            (Some(from), Some(to)) => {
                moves.push(Move { from, to, slots: slots.into_iter().collect() });
            }
            (from, to) => {
                let end = |end: Option<Place>| {
                    end.map_or_else(
                        || "a store that does not answer".to_owned(),
                        |it| it.address.to_string(),
                    )
                };
                unended.push(format!(
                    "{} slots are on their way from {} to {}",
                    slots.len(),
                    end(from),
                    end(to)
                ));
            }
        }
    }
    (moves, unended)
}

/// Who may serve what is given up: of the primaries that answer the one that serves most. One slot alone is what a store has
/// that only votes, and holds no data.
fn taker(reports: &BTreeMap<SocketAddr, Option<Report>>) -> Option<Place> {
    let slots =
        |report: &Report| -> usize { report.slots.iter().map(ExactSizeIterator::len).sum() };
    let primaries = reports.iter().filter_map(|(at, report)| Some((*at, report.as_ref()?)));
    let primaries = primaries.filter(|(_, it)| it.replica_of.is_none() && slots(it) != 1);
    let (address, report) = primaries.max_by_key(|(at, it)| (slots(it), std::cmp::Reverse(*at)))?;
    Some(Place { id: report.id.clone(), address })
}

/// Refuses where nobody has what the stores of that host, whose node is lost, have served: to take the node out would give it up.
/// Told to do so all the same, it gives that up first.
pub(crate) fn must_be_elsewhere(
    directory: &Path,
    node: &str,
    host: IpAddr,
    force: bool,
) -> Result<(), Failure> {
    let Some(list) = cluster::list(directory)?.filter(|_| !cluster::is_own(directory)) else {
        return Ok(());
    };
    let view = view(directory);
    let seen = view.as_ref().map(StoreList::of).unwrap_or_default();
    let places = seen.and_then(&list).stores;
    let options = manager::store_options(directory, None).map_err(anyhow::Error::from)?;
    let runtime = stores::runtime()?;
    let reports = runtime.block_on(async {
        let mut reports = BTreeMap::new();
        for at in places {
            reports.insert(at, report(at, &options).await.ok());
        }
        reports
    });
    if reports.values().all(Option::is_none) {
        return Err(refusal(&format!(
            "no store answers, so nobody can tell what only {node} has; start the other nodes first"
        )));
    }
    // That everything is served is well here.
    let hosts = view.as_ref().map(hosts);
    let lost = lost(&reports, list.copies, hosts.as_ref()).unwrap_or_default();
    let of_it = lost.iter().filter(|part| part.primary.is_none_or(|at| at.ip() == host));
    let only_there: Vec<&Lost> =
        of_it.filter(|part| part.copies.is_empty() || part.risk.is_some()).collect();
    if force && !only_there.is_empty() {
        return runtime.block_on(bring_back(&only_there, &reports, &options));
    }
    if let Some(part) = only_there.first() {
        if part.copies.is_empty() {
            return Err(refusal(&format!(
                "only {node} has a part of the state, {} of {SLOTS} slots: no copy of it answers; start {node}, or the node of a \
                 copy; if {node} is gone for good, --force gives that part up: its records are gone",
                part.slots.len()
            )));
        } else {
            return Err(refusal(&format!(
                "records would be lost: {}; start that node, or lose them with --force",
                part.risk.as_deref().unwrap_or_default()
            )));
        }
    }
    Ok(())
}

impl Lost {
    /// Who served it, for a person.
    fn name(&self) -> String {
        self.primary.map_or_else(|| "a lost store".to_owned(), |at| at.to_string())
    }
}

fn refusal(told: &str) -> Failure {
    anyhow::Error::msg(told.to_owned()).into()
}

/// The node that has a store there, if it is up.
fn node_up(view: Option<&TopologyView>, store: SocketAddr) -> Option<String> {
    let node = view?.nodes.iter().find(|node| node.address.ip() == store.ip())?;
    (node.state == NodeState::Up).then(|| node.name.clone())
}

/// Where members are.
fn hosts(view: &TopologyView) -> BTreeSet<IpAddr> {
    view.nodes.iter().map(|node| node.address.ip()).collect()
}

/// What nobody serves, by what those stores say that answer; nothing, if all is served. Copies elsewhere than at these `hosts`, if they are known, were
/// those of a member that was removed: every write since had other ones.
fn lost(
    reports: &BTreeMap<SocketAddr, Option<Report>>,
    quota: usize,
    hosts: Option<&BTreeSet<IpAddr>>,
) -> Result<Vec<Lost>, Failure> {
    let answers: Vec<(&SocketAddr, &Report)> =
        reports.iter().filter_map(|(at, report)| Some((at, report.as_ref()?))).collect();
    let Some((_, newest)) = answers
        .iter()
        .max_by_key(|(_, report)| report.known.iter().map(|known| known.epoch).max().unwrap_or(0))
    else {
        return Err(refusal("no store answers: start the node first, and see outlast status"));
    };
    let is_there = |id: &str| answers.iter().any(|(_, report)| report.id == id);
    let mut lost = Vec::new();
    for primary in newest.known.iter().filter(|known| !known.slots.is_empty()) {
        if is_there(&primary.id) {
            continue;
        }
        let is_members = |at: SocketAddr| hosts.is_none_or(|hosts| hosts.contains(&at.ip()));
        let copies = newest.known.iter().filter(|it| it.replica_of.as_ref() == Some(&primary.id));
        let copies = copies.filter(|it| is_there(&it.id) || it.address.is_none_or(is_members));
        let (here, away): (Vec<_>, Vec<_>) = copies.partition(|copy| is_there(&copy.id));
        let is_whole = |report: &Report| report.is_synced || report.offset > 0;
        let copies: Vec<SocketAddr> = answers
            .iter()
            .filter(|(_, report)| here.iter().any(|copy| copy.id == report.id) && is_whole(report))
            .map(|(at, _)| **at)
            .collect();
        let risk = if quota == 0 {
            Some("writes had to have no copy, so its last ones may have none".to_owned())
        } else if away.len() + here.len() - copies.len() >= quota {
            let places: Vec<String> =
                away.iter().filter_map(|copy| copy.address).map(|at| at.to_string()).collect();
            Some(format!("another copy ({}) may have more, and does not answer", places.join(", ")))
        } else {
            None
        };
        let slots = primary.slots.iter().cloned().flatten().collect();
        lost.push(Lost { primary: primary.address, id: primary.id.clone(), slots, copies, risk });
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NODES: &str = "aa 192.0.2.1:6220@6221 master,fail - 0 0 5 disconnected 0-16383\n\
        bb 192.0.2.2:6222@6223 slave aa 0 0 5 connected\n\
        cc 192.0.2.3:6222@6223 slave aa 0 0 5 connected\n\
        dd 192.0.2.2:6220@6221 master - 0 0 2 connected\n";

    fn at(host: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, host], port).into()
    }

    /// Which of them answer: by host and port, what `INFO` says of their stream.
    fn reports(answering: &[(u8, u16, &str)]) -> BTreeMap<SocketAddr, Option<Report>> {
        let all = [(1, 6220), (2, 6222), (3, 6222), (2, 6220)].map(|(host, port)| at(host, port));
        let mut reports: BTreeMap<_, _> = all.into_iter().map(|at| (at, None)).collect();
        for (host, port, info) in answering {
            let at = at(*host, *port);
            let own = format!(" {at}@");
            let line = |line: &str| match line.contains(&own) {
                true => {
                    line.replacen("slave", "myself,slave", 1).replacen("master", "myself,master", 1)
                }
                false => line.to_owned(),
            };
            let nodes = NODES.lines().map(line).collect::<Vec<_>>().join("\n");
            reports.insert(at, Some(Report::of(&nodes, info, at)));
        }
        reports
    }

    const COPY: &str = "role:slave\r\nmaster_link_status:down\r\nslave_repl_offset:500\r\nmaster_repl_offset:500\r\n";

    #[test]
    fn copies_that_have_every_acknowledged_write_may_serve() {
        let both = lost(&reports(&[(2, 6222, COPY), (3, 6222, COPY)]), 1, None).unwrap();
        let copies = vec![at(2, 6222), at(3, 6222)];
        let (id, slots) = ("aa".to_owned(), (0..SLOTS).collect());
        assert_eq!(both, [Lost { primary: Some(at(1, 6220)), id, slots, copies, risk: None }]);
        // Two copies had each write, so either has all of them.
        assert_eq!(lost(&reports(&[(2, 6222, COPY)]), 2, None).unwrap()[0].risk, None);
    }

    #[test]
    fn what_may_lose_writes_is_told() {
        let one = lost(&reports(&[(2, 6222, COPY)]), 1, None).unwrap();
        assert!(one[0].risk.as_ref().unwrap().contains("192.0.2.3:6222"), "{one:?}");
        // Until its member has been removed.
        let hosts = [1, 2].map(|host| at(host, 0).ip()).into();
        let one = lost(&reports(&[(2, 6222, COPY)]), 1, Some(&hosts)).unwrap();
        assert_eq!(one[0].risk, None);
        let without = lost(&reports(&[(2, 6222, COPY), (3, 6222, COPY)]), 0, None).unwrap();
        assert!(without[0].risk.is_some());
        let none = lost(&reports(&[(2, 6220, "role:master\r\n")]), 1, None).unwrap();
        assert_eq!(none[0].copies, []);
    }

    #[test]
    fn what_is_given_up_goes_to_the_primary_that_serves_most_and_not_to_one_that_only_votes() {
        let primary = |id: &str, slots: Vec<std::ops::RangeInclusive<u16>>| {
            Some(Report { id: id.to_owned(), slots, ..Report::default() })
        };
        let copy = Report { replica_of: Some("aa".to_owned()), ..Report::default() };
        let mut reports = BTreeMap::from([
            (at(1, 6220), None),
            (at(2, 6222), Some(copy)),
            (at(3, 6220), primary("votes", vec![7..=7])),
        ]);
        assert_eq!(taker(&reports), None);
        reports.insert(at(2, 6220), primary("empty", vec![]));
        assert_eq!(taker(&reports).unwrap().id, "empty");
        reports.insert(at(4, 6220), primary("serves", vec![0..=3, 8..=9]));
        let place = Place { id: "serves".to_owned(), address: at(4, 6220) };
        assert_eq!(taker(&reports), Some(place));
    }

    #[test]
    fn a_move_is_found_by_whichever_end_knows_of_it() {
        let store = |id: &str, slots: std::ops::RangeInclusive<u16>| Report {
            id: id.to_owned(),
            slots: vec![slots],
            ..Report::default()
        };
        let on_its_way = |slot: u16, other: &str| vec![(slot, other.to_owned())];
        let source = Report { leaving: on_its_way(7, "to"), ..store("from", 0..=9) };
        // It waits for two, one of which was to come from a primary that another one has replaced.
        let coming = [on_its_way(7, "from"), on_its_way(8, "dead")].concat();
        let target = Report { coming, ..store("to", 10..=19) };
        let place = |id: &str, host| Place { id: id.to_owned(), address: at(host, 6220) };
        let both =
            BTreeMap::from([(at(1, 6220), Some(source.clone())), (at(2, 6220), Some(target))]);
        let expected = Move { from: place("from", 1), to: place("to", 2), slots: vec![7, 8] };
        assert_eq!(half_done(&both), (vec![expected], vec![]));
        let one = BTreeMap::from([(at(1, 6220), Some(source)), (at(2, 6220), None)]);
        let told = "1 slots are on their way from 192.0.2.1:6220 to a store that does not answer";
        assert_eq!(half_done(&one), (vec![], vec![told.to_owned()]));
        let whole = BTreeMap::from([(at(1, 6220), Some(store("from", 0..=9)))]);
        assert_eq!(half_done(&whole), (vec![], vec![]));
    }

    #[test]
    fn what_is_served_is_left_alone() {
        let served = reports(&[(1, 6220, "role:master\r\n"), (2, 6222, COPY)]);
        assert_eq!(lost(&served, 1, None).unwrap(), []);
        assert!(lost(&reports(&[]), 1, None).unwrap_err().to_string().contains("no store answers"));
    }
}
