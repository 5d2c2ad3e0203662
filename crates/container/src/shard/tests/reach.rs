//! What waits for links, how long, and what it comes to.

use topology::{ListenerTransport, ProcessEntry, ProcessState, ProcessType};

use super::*;

const PATIENCE: Duration = Duration::from_secs(2);

fn entry(name: &str, process_type: ProcessType, life: u64, state: ProcessState) -> ProcessEntry {
    ProcessEntry {
        name: ProcessName::new(name),
        process_type,
        incarnation: Incarnation(life),
        pid: None,
        state,
        restarts: 0,
        link: None,
        link_address: None,
        addresses: Vec::new(),
        weight: 100,
        is_silent: false,
        http: None,
    }
}

fn edge(name: &str, own: &str, state: ProcessState) -> ProcessEntry {
    let address = |transport| topology::EdgeAddress {
        transport,
        own: own.parse().unwrap(),
        public: own.to_owned(),
    };
    let addresses = [ListenerTransport::Udp, ListenerTransport::Tcp].map(address).to_vec();
    ProcessEntry { addresses, ..entry(name, ProcessType::Edge, 1, state) }
}

/// The second life of the only container, and two edges.
fn view(second_edge: ProcessState) -> TopologyView {
    TopologyView {
        processes: vec![
            entry("c1", ProcessType::Container, 8, ProcessState::Ready),
            edge("edge1", EDGE_1, ProcessState::Ready),
            edge("edge2", EDGE_2, second_edge),
        ],
        ..TopologyView::default()
    }
}

/// A phone behind a flow of edge 2.
fn by_edge_2(transport: &str) -> Effects {
    let mut target = Target::new("sip:bob@10.0.0.8");
    target.route = vec![format!("<sip:token@{EDGE_2};transport={transport};lr>").into()];
    Effects::proxy(ProxyPlan::to_targets(vec![target]))
}

/// A container that has begun after the death of another one, which had a call; without links.
fn successor(transport: &str) -> Bench {
    let mut dead = Bench::new();
    dead.incoming(request("INVITE", "aaa", ""));
    dead.done(by_edge_2(transport));
    assert_eq!(dead.words(), ["handle 0", "1: 100", "2: INVITE by route", "taken 1"]);
    let mut bench = Bench::unlinked("c1", 8, dead.store);
    bench.now = dead.now;
    bench
}

/// One link after the other; what follows from the last.
fn link(bench: &mut Bench, links: &[(u64, &str)]) -> Vec<String> {
    for (link, own) in links {
        bench.words();
        bench.frame(*link, hello(own)).unwrap();
        bench.pass(Duration::ZERO);
    }
    bench.words().split_off(2) // behind the answers to the hello
}

#[test]
fn a_dead_containers_call_is_taken_over_once_its_phones_are_within_reach() {
    let taken_over = ["1: 100", "2: INVITE by route"];
    // Links first, and the news of the death then.
    let mut bench = successor("tcp");
    assert!(link(&mut bench, &[(1, EDGE_1), (2, EDGE_2)]).is_empty());
    bench.topology(&view(ProcessState::Ready));
    assert_eq!(bench.words(), taken_over);

    // The news first, and one edge after the other then.
    let mut bench = successor("tcp");
    bench.topology(&view(ProcessState::Ready));
    assert!(bench.words().is_empty());
    assert!(link(&mut bench, &[(1, EDGE_1)]).is_empty());
    bench.shard.look_for_estates(bench.now, &mut bench.effects);
    bench.serve();
    assert!(bench.words().is_empty());
    assert_eq!(link(&mut bench, &[(2, EDGE_2)]), taken_over);

    // An edge that is no more is not waited for: its streams are gone.
    let mut bench = successor("tcp");
    bench.topology(&view(ProcessState::Ready));
    link(&mut bench, &[(1, EDGE_1)]);
    bench.topology(&view(ProcessState::Backoff));
    assert_eq!(bench.words(), ["1: 100", "1: 480"]);
}

#[test]
fn an_edge_that_never_links_strands_no_calls() {
    let mut bench = successor("tcp");
    bench.topology(&view(ProcessState::Ready));
    link(&mut bench, &[(1, EDGE_1)]);
    bench.pass(PATIENCE - Duration::from_millis(1));
    assert!(bench.words().is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.words(), ["1: 100"]);
    // Its phone is waited for as that of any other call.
    bench.pass(PATIENCE);
    assert_eq!(bench.words(), ["1: 480"]);
}

#[test]
fn a_message_of_a_dead_containers_call_waits_untaken_until_its_phones_are_within_reach() {
    let mut bench = successor("tcp");
    link(&mut bench, &[(1, EDGE_1)]);
    bench.topology(&view(ProcessState::Ready));
    bench.incoming(request("CANCEL", "aaa", ""));
    assert!(bench.words().is_empty());
    let took_over = link(&mut bench, &[(2, EDGE_2)]);
    assert!(took_over.contains(&"2: INVITE by route".to_owned()), "{took_over:?}");
    assert_eq!(took_over[took_over.len() - 2..], ["1: 200", "taken 1"]);

    let mut bench = successor("tcp");
    link(&mut bench, &[(1, EDGE_1)]);
    bench.topology(&view(ProcessState::Ready));
    bench.incoming(request("CANCEL", "aaa", ""));
    bench.pass(PATIENCE);
    assert_eq!(bench.words(), ["1: 100", "1: 200", "taken 1"]);
    bench.pass(PATIENCE);
    assert_eq!(bench.words(), ["1: 487"]);
}

#[test]
fn a_dead_containers_call_outlasts_the_restart_of_its_edge() {
    for states in [
        &[ProcessState::Draining, ProcessState::Stopping, ProcessState::Starting][..],
        &[ProcessState::Stopping, ProcessState::Starting],
        &[ProcessState::Hung, ProcessState::Backoff, ProcessState::Starting],
    ] {
        let mut bench = successor("udp");
        link(&mut bench, &[(1, EDGE_1)]);
        for state in states {
            bench.topology(&view(*state));
            bench.pass(PATIENCE);
        }
        assert_eq!(bench.words(), ["1: 100"], "{states:?}");
        bench.topology(&view(ProcessState::Ready));
        link(&mut bench, &[(2, EDGE_2)]);
        bench.pass(Duration::from_secs(8));
        assert_eq!(bench.words(), ["2: INVITE by route"], "{states:?}");
    }

    // One that was stopped by hand does not come back.
    let mut bench = successor("udp");
    link(&mut bench, &[(1, EDGE_1)]);
    bench.topology(&view(ProcessState::Stopping));
    assert_eq!(bench.words(), ["1: 100"]);
    bench.topology(&view(ProcessState::Down));
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.words(), ["1: 480"]);
}

/// A new call to a phone behind edge 2, which has no link yet.
fn call_by_edge_2(transport: &str) -> Bench {
    let mut bench = Bench::unlinked("c1", 8, FakeStore::default());
    bench.topology(&view(ProcessState::Ready));
    link(&mut bench, &[(1, EDGE_1)]);
    bench.incoming(request("INVITE", "aaa", ""));
    bench.done(by_edge_2(transport));
    assert_eq!(bench.words(), ["handle 0", "1: 100", "taken 1"]);
    bench
}

#[test]
fn a_request_over_a_stream_waits_for_the_link_of_an_edge_that_lives() {
    let mut bench = call_by_edge_2("tcp");
    bench.pass(PATIENCE / 2);
    assert_eq!(link(&mut bench, &[(2, EDGE_2)]), ["2: INVITE by route"]);
    bench.pass(PATIENCE);
    assert!(bench.words().is_empty(), "a stream repeats nothing");

    let mut bench = call_by_edge_2("tcp");
    bench.pass(PATIENCE - Duration::from_millis(1));
    assert!(bench.words().is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.words(), ["1: 480"]);
    assert!(link(&mut bench, &[(2, EDGE_2)]).is_empty());

    // The edge has died, and its streams with it.
    let mut bench = call_by_edge_2("tcp");
    bench.topology(&view(ProcessState::Backoff));
    assert_eq!(bench.words(), ["1: 480"]);

    // The caller gives up: nobody rings any more.
    let mut bench = call_by_edge_2("tcp");
    bench.incoming(request("CANCEL", "aaa", ""));
    assert_eq!(bench.words(), ["1: 200", "taken 2"]);
    assert_eq!(link(&mut bench, &[(2, EDGE_2)]), ["1: 487"]);
}

#[test]
fn a_datagram_is_repeated_until_its_edge_has_a_link() {
    let mut bench = call_by_edge_2("udp");
    bench.pass(PATIENCE + PATIENCE);
    assert!(bench.words().is_empty());
    link(&mut bench, &[(2, EDGE_2)]);
    bench.pass(Duration::from_secs(4));
    assert_eq!(bench.words(), ["2: INVITE by route"]);
}

#[test]
fn an_address_waits_for_an_edge_that_can_send_there() {
    let mut bench = Bench::unlinked("c1", 8, FakeStore::default());
    bench.topology(&view(ProcessState::Ready));
    let LinkFrame::Hello { peer_name, incarnation, worker, mut addresses } = hello(EDGE_1) else {
        unreachable!("a hello")
    };
    addresses.retain(|address| address.transport == Transport::Udp);
    bench.frame(1, LinkFrame::Hello { peer_name, incarnation, worker, addresses }).unwrap();
    bench.words();
    bench.incoming(request("MESSAGE", "aaa", ""));
    bench.done(target("sip:bob@198.51.100.8;transport=tcp"));
    assert_eq!(bench.words(), ["handle 0", "taken 1"]);
    assert_eq!(link(&mut bench, &[(2, EDGE_2)]), ["2: MESSAGE to Tcp 198.51.100.8:5060"]);
}
