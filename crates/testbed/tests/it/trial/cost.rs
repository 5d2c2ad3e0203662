//! What an operation costs all nodes of a cluster together in processor time, by how many nodes there are.
//!
//! Without more said, a single node beside clusters of one and two. `OUTLAST_COST_NODES=8` goes on to so many,
//! and `OUTLAST_WRITE_DOCS=1` writes what came of it to `docs/reports/cost.md`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use testbed::crowd;
use testbed::lab::{self, Host, Lab};
use testbed::members::Members;
use testbed::node::NodeOptions;
use testbed::stores::Stores;

use super::whole;
use crate::faults::number;
use crate::kills::calls::{Callers, Calls, Way};
use crate::kills::report::{commit, machine, repository};
use crate::lab::nodes;
use crate::world::{DOMAIN, has_etcd};

const LIMIT: Duration = Duration::from_secs(900);
const HOSTS: [&str; 9] =
    ["node1", "node2", "node3", "node4", "node5", "node6", "node7", "node8", "phones"];
/// Sizes that are measured, as far as they are asked for.
const SIZES: [usize; 5] = [1, 2, 3, 5, 8];
/// How long nodes are watched that have nothing to do.
const IDLE: Duration = Duration::from_secs(4);
/// No operation of the second size may cost more than this times what it costs in a cluster of one; that has no copies to
/// write.
const RATIO_MAX: f64 = 4.0;

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Work {
    registrations: usize,
    pairs: usize,
    calls_for: Duration,
}

/// What was measured of one size.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Cores in use while nothing is asked for.
    idle: f64,
    /// Microseconds, less those that pass without it: a REGISTER, a call through the registrar or the agent.
    register: f64,
    call: f64,
    calls: usize,
}

/// Processor time that all processes on these hosts have had so far. Of those that ended meanwhile it is missing.
fn spent(hosts: &[&Host]) -> Duration {
    let of = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(2);
        Some(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>())
    };
    let ticks: u64 = hosts.iter().flat_map(|host| host.pids()).filter_map(of).sum();
    // Hundredths of a second.
    Duration::from_millis(ticks * 10)
}

/// What `work` costs these hosts beyond what passes without it, and how many operations it were.
fn cost(hosts: &[&Host], idle: f64, work: impl FnOnce() -> usize) -> (f64, usize) {
    let (began, before) = (Instant::now(), spent(hosts));
    let operations = work();
    let spent = spent(hosts).saturating_sub(before).as_secs_f64();
    let beyond = spent - idle * began.elapsed().as_secs_f64();
    (beyond * 1e6 / operations as f64, operations)
}

fn measure(lab: &Lab, members: &Members<'_>, work: Work) -> Cost {
    let phones = lab.host("phones");
    let hosts: Vec<&Host> = (0..members.count()).map(|number| members.host(number)).collect();
    let edges: Vec<SocketAddr> =
        (0..members.count()).map(|number| members.node(number).sip("udp")).collect();
    let (began, before) = (Instant::now(), spent(&hosts));
    thread::sleep(IDLE);
    let idle = (spent(&hosts) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    let share = work.registrations.div_ceil(edges.len());
    let register = |round| {
        phones.block_on(async {
            let mut registered = 0;
            for (number, edge) in edges.iter().enumerate() {
                let users = number * share..(number + 1) * share;
                let outcome = crowd::register(*edge, DOMAIN, users, round, 3_600).await;
                registered += outcome.registered;
            }
            registered
        })
    };
    // Not measured; as soon as every part of the state answers.
    let rounds = (1..10).find(|round| register(*round) == share * edges.len());
    let round = rounds.expect("all are registered") + 1;
    let (register, _) = cost(&hosts, idle, || register(round));
    let next = edges.iter().cycle().skip(1);
    let ways: Vec<Way> =
        edges.iter().zip(next).map(|(a, b)| Way { caller: *a, callee: vec![*b] }).collect();
    let agent = format!("b2b.{DOMAIN}");
    let calls = phones.block_on(Calls::begin(&ways, &agent, work.pairs, Callers::Persistent));
    let (call, calls) = cost(&hosts, idle, || {
        thread::sleep(work.calls_for);
        let tally = phones.block_on(calls.end());
        assert!(tally.losses.is_empty(), "{:?}", tally.losses);
        tally.whole
    });
    Cost { idle, register, call, calls }
}

fn options(host: &Host) -> NodeOptions {
    let mut options = nodes::options(host);
    let more = "[container]\napplications = [\"registrar\", \"back-to-back\"]\nhttp = \"off\"\n\n";
    options.config = options.config.map(|config| format!("{more}{config}"));
    options
}

/// Costs by what they are of; the ratios are to the cluster of one.
fn table(costs: &[(String, Cost)]) -> String {
    let of_one = costs.get(1).map(|(_, cost)| *cost);
    let ratio =
        |cost: f64, one: Option<f64>| one.map_or(String::new(), |one| format!("{:.2}", cost / one));
    let mut text = "| nodes | cores while idle | REGISTER | of one | call | of one | calls |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for (what, cost) in costs {
        writeln!(
            text,
            "| {what} | {:.2} | {:.0} µs | {} | {:.0} µs | {} | {} |",
            cost.idle,
            cost.register,
            ratio(cost.register, of_one.map(|one| one.register)),
            cost.call,
            ratio(cost.call, of_one.map(|one| one.call)),
            cost.calls,
        )
        .expect("a String takes it all");
    }
    text
}

fn document(commit: &str, up_to: usize, work: Work, costs: &[(String, Cost)]) -> String {
    let profile = if cfg!(debug_assertions) { "" } else { "--release " };
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let Work { registrations, pairs, calls_for } = work;
    format!(
        "# Processor time per operation, by the number of nodes\n\n\
         Written by `crates/testbed/tests/it/trial/cost.rs`; do not edit it by hand.\n\n    \
         OUTLAST_COST_NODES={up_to} OUTLAST_WRITE_DOCS=1 cargo test {profile}-p testbed --test it trial::cost\n\n\
         User and system time of all processes of all nodes, stores and members of etcd among them, less what they use while \
         idle. Nodes are\non hosts of their own (network namespaces of one machine). First {registrations} registrations are \
         refreshed, each edge its share\nafter the other, 128 on their way at once; then {} calls a second for {} s, every \
         second one through the back-to-back agent, by the\nedges of two nodes, each with an INFO. A single node has the \
         embedded store, a cluster of one has nobody who could copy what it writes.\n\n\
         Commit {commit}, {build} build, {}.\n\n{}",
        pairs / 2,
        calls_for.as_secs(),
        machine(),
        table(costs),
    )
}

#[test]
fn an_operation_costs_a_cluster_little_more_than_one_node() {
    if !has_etcd() || !Stores::are_installed() {
        return;
    }
    lab::run_within(LIMIT, &HOSTS, |lab| {
        let commit = commit();
        let up_to = number("OUTLAST_COST_NODES").map(|number| number as usize);
        let work = match up_to {
            None => Work { registrations: 1_000, pairs: 20, calls_for: Duration::from_secs(4) },
            Some(_) => {
                Work { registrations: 20_000, pairs: 100, calls_for: Duration::from_secs(20) }
            }
        };
        let mut costs = Vec::new();
        let single = Members::start(lab, &HOSTS[..1], options);
        costs.push(("1, single".to_owned(), measure(lab, &single, work)));
        drop(single);
        for size in SIZES.into_iter().filter(|size| *size <= up_to.unwrap_or(2)) {
            let members = Members::cluster(lab, &HOSTS[..size], options);
            whole::wait(&members);
            costs.push((size.to_string(), measure(lab, &members, work)));
            println!("{}", table(&costs));
        }
        if std::env::var_os("OUTLAST_WRITE_DOCS").is_some() {
            let document = document(&commit, up_to.unwrap_or(2), work, &costs);
            let path = repository().join("docs/reports/cost.md");
            std::fs::write(path, document).expect("the repository is writable");
        }
        let (one, two) = (costs[1].1, costs[2].1);
        assert!(two.register < one.register * RATIO_MAX, "{costs:?}");
        assert!(two.call < one.call * RATIO_MAX, "{costs:?}");
    });
}
