//! Messages of a call that another container owns, one message at a time.

use topology::{ProcessEntry, ProcessState, ProcessType};

use super::*;

/// The view of two containers: c1 in life 7, which is in this state, and c2 in life 8.
fn view(state: ProcessState) -> TopologyView {
    let entry = |(name, incarnation, state): (&str, u64, ProcessState)| ProcessEntry {
        name: ProcessName::new(name),
        process_type: ProcessType::Container,
        incarnation: Incarnation(incarnation),
        pid: None,
        state,
        restarts: 0,
        link: None,
        link_address: None,
        addresses: Vec::new(),
        weight: 100,
        is_silent: false,
        http: None,
    };
    let containers = [("c1", 7, state), ("c2", 8, ProcessState::Ready)];
    TopologyView {
        processes: containers.into_iter().map(entry).collect(),
        ..TopologyView::default()
    }
}

/// A call that rings by way of c1, and c2, which takes c1 for alive.
fn ringing() -> (Message, Bench) {
    let mut one = Bench::new();
    let (_, invite) = one.proxied("sip:bob@198.51.100.8");
    let mut two = Bench::of("c2", 8, &one);
    two.topology(&view(ProcessState::Ready));
    two.words();
    (invite, two)
}

#[test]
fn message_of_a_living_containers_call_goes_there() {
    let (invite, mut two) = ringing();
    for text in [
        request("CANCEL", "aaa", ""),
        answer(&invite, 486),
        request("ACK", "aaa", "").replace("bob@example.com>", "bob@example.com>;tag=t"),
    ] {
        two.incoming(text);
        assert_eq!(two.words()[0], "1: hand on to 7");
    }
    // An INVITE is found out when its record cannot be begun.
    two.incoming(request("INVITE", "aaa", ""));
    two.done(target("sip:bob@198.51.100.8"));
    assert_eq!(two.words(), ["handle 0", "1: hand on to 7", "taken 4"]);
    assert!(two.shard.transactions.is_empty());
}

#[test]
fn what_was_handed_on_to_a_container_that_turns_out_to_be_dead_is_not_lost() {
    let (invite, mut two) = ringing();
    two.incoming(request("CANCEL", "aaa", ""));
    two.words();
    two.topology(&view(ProcessState::Backoff));
    assert_eq!(two.words(), ["1: 100", "1: INVITE to Udp 198.51.100.8:5060", "1: 200"]);
    two.incoming(answer(&invite, 180));
    let words = two.words();
    assert!(words.contains(&"1: CANCEL to Udp 198.51.100.8:5060".to_owned()), "{words:?}");
}

#[test]
fn message_of_a_dead_containers_call_takes_the_call_over() {
    let (invite, mut two) = ringing();
    two.shard.drain(); // so that it inherits nothing by itself
    two.topology(&view(ProcessState::Backoff));
    assert_eq!(two.words(), Vec::<String>::new());
    two.incoming(answer(&invite, 200));
    let words = two.words();
    assert_eq!(words[0], "1: 100");
    assert!(words.contains(&"1: 200".to_owned()), "{words:?}");
}

#[test]
fn message_that_was_handed_on_twice_waits_for_its_owners_end() {
    let (_, mut two) = ringing();
    two.sequence += 1;
    let incoming = Incoming {
        sequence: two.sequence,
        hops: 2,
        flow: flow(Transport::Udp),
        bytes: request("CANCEL", "aaa", "").into_bytes().into(),
    };
    two.frame(1, LinkFrame::Incoming(incoming)).unwrap();
    assert_eq!(two.words(), ["taken 1"]);
}

#[test]
fn message_of_no_call_is_treated_as_ever() {
    let mut bench = Bench::new();
    bench.incoming(request("CANCEL", "bbb", ""));
    assert_eq!(bench.words(), ["1: 481", "taken 1"]);
}
