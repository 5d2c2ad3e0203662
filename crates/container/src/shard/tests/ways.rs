//! Where requests go: by which edge, over what, and what becomes of them when that is gone.

use topology::{ListenerTransport, ProcessEntry, ProcessState, ProcessType};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::ways::Found;
use super::*;
use crate::proxy::{NextHop, TransportFailure};

/// What an edge at `host` writes into Record-Route of a dialog toward a phone.
pub(in crate::shard) fn route_of_dialog(host: &str, phone: &str, call_id: &str) -> String {
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:5060") };
    let flow = Flow::new(Transport::Udp, address.parse().unwrap(), phone.parse().unwrap());
    let payload = [&[0x14], &flow.to_bytes()[..]].concat();
    let key = KeyRing::new([1; 32]).derive("dialog");
    let tag = key.tag::<10>(&[&payload, call_id.as_bytes()].concat());
    let token = URL_SAFE_NO_PAD.encode([&payload[..], &tag].concat());
    format!("<sip:{token}@{host};lr>")
}

/// Where a request of ours goes whose route set begins so.
fn way(bench: &Bench, route: &str, is_in_dialog: bool) -> String {
    let tag = if is_in_dialog { ";tag=b" } else { "" };
    let text = format!(
        "BYE sip:bob@10.0.0.8 SIP/2.0\r\nVia: SIP/2.0/UDP c.invalid;branch=z9hG4bKx\r\n\
         From: <sip:alice@example.com>;tag=a\r\nTo: <sip:bob@example.com>{tag}\r\nCall-ID: c1\r\n\
         CSeq: 2 BYE\r\nMax-Forwards: 70\r\nRoute: {route}\r\nContent-Length: 0\r\n\r\n"
    );
    match bench.shard.find_way(&text.into(), NextHop::Route, LinkId(1)) {
        Ok(Found::Way(way)) => {
            let by = if way.by_front_door { "front door" } else { "link" };
            format!("{by} {}: {:?}", way.link.0, way.destination)
        }
        Ok(Found::Awaited(_)) => "waits".to_owned(),
        Ok(Found::Unlinked | Found::Name(..) | Found::StreamElseDatagram(..)) => panic!("{route}"),
        Err(failure) => format!("{failure:?}"),
    }
}

// RFC 3261 §12.2.1.1: the route set is that of the dialog, whoever is left of it.
#[test]
fn a_dialog_outlives_the_edge_that_its_route_names() {
    const PHONE: &str = "198.51.100.7:5060";
    const FORGOTTEN: &str = "192.0.2.77:5060";
    let mut bench = Bench::new();
    let route = |edge| route_of_dialog(edge, PHONE, "c1");
    let [inner, path] = ["", "token@"].map(|user| format!("<sip:{user}{EDGE_2};lr>"));
    assert_eq!(way(&bench, &route(EDGE_2), true), "link 2: Route");
    bench.link_down(2);
    bench.topology(&view_with_edge_2(ProcessState::Backoff));
    assert_eq!(way(&bench, &route(EDGE_2), true), "waits");
    bench.topology(&view_with_edge_2(ProcessState::Down));
    let door = format!("Address {{ transport: Udp, address: {EDGE_1} }}");
    // The second writes a value without a token, too; the third is known by its token alone.
    for route in [route(EDGE_2), inner.clone(), route(FORGOTTEN)] {
        assert_eq!(way(&bench, &route, true), format!("front door 1: {door}"), "{route}");
    }
    let gone = format!("{:?}", TransportFailure::FlowGone);
    assert_eq!(way(&bench, &path, true), gone, "a Path is of no dialog");
    assert_eq!(way(&bench, &route_of_dialog(EDGE_2, PHONE, "c2"), true), gone, "of another dialog");
    assert_eq!(way(&bench, &route(EDGE_2), false), gone, "outside of a dialog");
    // A stranger's host is a stranger's, whatever stands before it.
    let strange = route(FORGOTTEN).replace("192.0.2.77", "203.0.113.9");
    for route in [strange.as_str(), "<sip:203.0.113.9:5060;lr>"] {
        let there = "link 1: Address { transport: Udp, address: 203.0.113.9:5060 }";
        assert_eq!(way(&bench, route, true), there);
    }
}

#[test]
fn path_leads_by_the_edge_it_names_and_to_430_when_that_is_gone() {
    let through_edge_2 = || {
        let mut target = Target::new("sip:bob@10.0.0.8");
        target.route = vec![format!("<sip:token@{EDGE_2};lr>").into()];
        Effects::proxy(ProxyPlan::to_targets(vec![target]))
    };
    let mut bench = Bench::new();
    bench.incoming(request("MESSAGE", "aaa", ""));
    bench.done(through_edge_2());
    assert_eq!(bench.words(), ["handle 0", "2: MESSAGE by route", "taken 1"]);
    bench.link_down(2);
    bench.incoming(request("MESSAGE", "bbb", ""));
    bench.done(through_edge_2());
    // RFC 5626 §11.1: the caller does not see the 430.
    assert_eq!(bench.words(), ["handle 0", "1: 480", "taken 2"]);
}

#[test]
fn datagram_is_repeated_by_another_edge_and_stream_dies_when_its_link_does() {
    let mut bench = Bench::new();
    bench.proxied("sip:bob@198.51.100.8");
    bench.link_down(1);
    bench.pass(Duration::from_millis(600));
    assert_eq!(bench.words(), ["2: INVITE to Udp 198.51.100.8:5060"]);

    let mut bench = Bench::new();
    bench.proxied("sip:bob@198.51.100.8;transport=tcp");
    bench.link_down(1);
    // FlowGone counts as 430, which the caller sees as 480; by whatever edge is left.
    assert_eq!(bench.words(), ["2: 480"]);
}

#[test]
fn a_stream_outlives_its_link_while_its_edge_has_another() {
    let mut bench = Bench::new();
    bench.frame(3, hello(EDGE_1)).unwrap(); // another worker's
    bench.effects.clear();
    bench.proxied("sip:bob@198.51.100.8;transport=tcp");
    bench.link_down(1);
    // It may have been lost with the link; the callee absorbs the repetition.
    assert_eq!(bench.words(), ["3: INVITE to Tcp 198.51.100.8:5060"]);
    bench.link_down(3);
    assert_eq!(bench.words(), ["2: 480"], "the edge is gone, and its streams");
}

#[test]
fn streams_that_die_with_a_link_fail_in_the_order_of_their_beginning() {
    let mut bench = Bench::new();
    for number in 0..8 {
        bench.incoming(request("MESSAGE", &format!("n{number}"), ""));
        bench.done(target("sip:bob@198.51.100.8;transport=tcp"));
    }
    bench.effects.clear();
    bench.link_down(1);
    let branches: Vec<String> = bench
        .effects
        .iter()
        .filter_map(|effect| match effect {
            ShardEffect::Send { frame: LinkFrame::Outgoing { bytes, .. }, .. } => {
                let response = Message::parse(bytes.clone()).unwrap();
                let via = response.top_via().unwrap();
                Some(String::from_utf8_lossy(via.branch().unwrap()).into_owned())
            }
            _ => None,
        })
        .collect();
    let expected: Vec<String> = (0..8).map(|number| format!("z9hG4bKn{number}")).collect();
    assert_eq!(branches, expected);
}

#[test]
fn datagram_under_way_waits_for_its_edge_to_be_revived() {
    let mut bench = Bench::new();
    bench.incoming(request("INVITE", "aaa", ""));
    let mut target = Target::new("sip:bob@10.0.0.8");
    target.route = vec![format!("<sip:token@{EDGE_2};lr>").into()];
    bench.done(Effects::proxy(ProxyPlan::to_targets(vec![target])));
    bench.topology(&view_with_edge_2(ProcessState::Ready));
    bench.link_down(2);
    bench.words();
    bench.pass(Duration::from_millis(600));
    assert_eq!(bench.words(), Vec::<String>::new());
    bench.frame(3, hello(EDGE_2)).unwrap();
    bench.words();
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.words(), ["3: INVITE by route"]);

    // Nobody revives one that was stopped by hand.
    bench.link_down(3);
    bench.topology(&view_with_edge_2(ProcessState::Down));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.words(), ["1: 480"]);
}

fn view_with_edge_2(state: ProcessState) -> TopologyView {
    let own = EDGE_2.parse().unwrap();
    let edge = ProcessEntry {
        name: ProcessName::new("edge2"),
        process_type: ProcessType::Edge,
        incarnation: Incarnation(2),
        pid: None,
        state,
        restarts: 0,
        link: None,
        link_address: None,
        addresses: vec![topology::EdgeAddress {
            transport: ListenerTransport::Udp,
            own,
            public: EDGE_2.to_owned(),
        }],
        weight: 100,
        is_silent: false,
        http: None,
    };
    TopologyView {
        version: 1,
        node: "n1".to_owned(),
        processes: vec![edge],
        ..TopologyView::default()
    }
}

#[test]
fn new_call_waits_for_a_crashed_edge_unless_the_phone_has_another_flow() {
    let flow = |uri: &str, edge: &str| Target {
        route: vec![format!("<sip:token@{edge};lr>").into()],
        instance: Some("urn:uuid:1".into()),
        ..Target::new(uri.to_owned())
    };
    let to = |targets| Effects::proxy(ProxyPlan::to_targets(targets));
    let mut bench = Bench::new();
    bench.link_down(2);
    bench.topology(&view_with_edge_2(ProcessState::Backoff));
    bench.incoming(request("INVITE", "aaa", ""));
    bench.done(to(vec![flow("sip:bob@10.0.0.8", EDGE_2)]));
    assert_eq!(bench.words(), ["handle 0", "1: 100", "taken 1"]);
    bench.frame(3, hello(EDGE_2)).unwrap();
    bench.words();
    bench.pass(Duration::from_millis(600));
    assert_eq!(bench.words(), ["3: INVITE by route"]);

    bench.link_down(3);
    bench.incoming(request("INVITE", "bbb", ""));
    bench.done(to(vec![flow("sip:bob@10.0.0.8", EDGE_2), flow("sip:bob@10.0.0.9", EDGE_1)]));
    assert_eq!(bench.words(), ["handle 0", "1: 100", "taken 2", "1: INVITE by route"]);

    // Neither does a stream, which died with its edge, nor an edge that was stopped.
    bench.incoming(request("INVITE", "ccc", ""));
    let mut stream = flow("sip:bob@10.0.0.8", EDGE_2);
    stream.route = vec![format!("<sip:token@{EDGE_2};transport=tcp;lr>").into()];
    bench.done(to(vec![stream]));
    assert_eq!(bench.words(), ["handle 0", "1: 100", "taken 3", "1: 480"]);
    bench.topology(&view_with_edge_2(ProcessState::Down));
    bench.incoming(request("INVITE", "ddd", ""));
    bench.done(to(vec![flow("sip:bob@10.0.0.8", EDGE_2)]));
    assert_eq!(bench.words(), ["handle 0", "1: 100", "taken 4", "1: 480"]);
}

#[test]
fn reports_of_the_edge_become_what_the_caller_hears() {
    for (error, status) in [
        (SendError::FlowGone, 480),
        // RFC 3261 §16.7(6): 503 becomes 500.
        (SendError::Unreachable, 500),
        (SendError::Refused, 500),
    ] {
        let mut bench = Bench::new();
        let (id, _) = bench.proxied("sip:bob@198.51.100.8");
        bench.send_failed(id, error);
        assert_eq!(bench.words(), [format!("1: {status}")], "{error:?}");
        // Reports about what is over, or was never sent, are nobody's.
        bench.send_failed(id, error);
        bench.send_failed(0, error);
        assert_eq!(bench.words(), Vec::<String>::new());
    }
}

#[test]
fn datagram_that_found_a_full_link_is_sent_again_and_a_stream_fails() {
    let mut bench = Bench::new();
    let (id, _) = bench.proxied("sip:bob@198.51.100.8");
    bench.send_failed(id, SendError::Full);
    assert_eq!(bench.words(), Vec::<String>::new());
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.words(), ["1: INVITE to Udp 198.51.100.8:5060"]);
    let mut bench = Bench::new();
    let (id, _) = bench.proxied("sip:bob@198.51.100.8;transport=tcp");
    bench.send_failed(id, SendError::Full);
    assert_eq!(bench.words(), ["1: 500"]);
}

#[test]
fn large_request_goes_over_tcp_and_as_a_datagram_when_that_is_refused() {
    // RFC 3261 §18.1.1
    let mut bench = Bench::new();
    let extra = format!("Subject: {}\r\n", "x".repeat(1_300));
    bench.incoming(request("MESSAGE", "aaa", &extra));
    bench.done(target("sip:bob@198.51.100.8"));
    let words: Vec<String> = bench.effects.iter().map(word).collect();
    assert_eq!(words[1], "1: MESSAGE to Tcp 198.51.100.8:5060");
    let (id, over_tcp) = bench.sent().pop().unwrap();
    bench.send_failed(id, SendError::Unreachable);
    assert_eq!(
        bench.effects.iter().map(word).collect::<Vec<_>>(),
        ["1: MESSAGE to Udp 198.51.100.8:5060"]
    );
    let (id, over_udp) = bench.sent().pop().unwrap();
    assert_eq!(over_tcp.buffer(), over_udp.buffer());
    // Now it is a datagram like any other: repeated, and answered to the same context.
    bench.pass(Duration::from_millis(600));
    assert_eq!(bench.words(), ["1: MESSAGE to Udp 198.51.100.8:5060"]);
    bench.send_failed(id, SendError::Unreachable);
    assert_eq!(bench.words(), ["1: 500"]);
}

#[test]
fn large_request_by_a_flow_stays_on_the_flow() {
    let mut bench = Bench::new();
    let extra = format!("Subject: {}\r\n", "x".repeat(1_300));
    bench.incoming(request("MESSAGE", "aaa", &extra));
    let mut target = Target::new("sip:bob@10.0.0.8");
    target.route = vec![format!("<sip:token@{EDGE_1};lr>").into()];
    bench.done(Effects::proxy(ProxyPlan::to_targets(vec![target])));
    assert_eq!(bench.words()[1], "1: MESSAGE by route");
}

#[test]
fn name_is_resolved_before_the_request_leaves() {
    for (addresses, expected) in [
        (vec!["198.51.100.8:5070".parse().unwrap()], "1: MESSAGE to Udp 198.51.100.8:5070"),
        // No edge speaks IPv6 here, so the second address is taken.
        (
            vec!["[2001:db8::8]:5070".parse().unwrap(), "198.51.100.9:5070".parse().unwrap()],
            "1: MESSAGE to Udp 198.51.100.9:5070",
        ),
        (Vec::new(), "1: 500"),
    ] {
        let mut bench = Bench::new();
        bench.incoming(request("MESSAGE", "aaa", ""));
        bench.done(target("sip:bob@phones.example.com:5070"));
        assert_eq!(bench.words(), ["handle 0", "resolve phones.example.com:5070", "taken 1"]);
        let lookup = *bench.shard.lookups.keys().next().unwrap();
        bench.shard.resolved(lookup, &addresses, bench.now, &mut bench.effects);
        assert_eq!(bench.words(), [expected]);
    }
}

#[test]
fn call_cancelled_while_its_way_is_sought_rings_nobody() {
    let cancel = || request("CANCEL", "aaa", "");
    let mut bench = Bench::new();
    bench.incoming(request("INVITE", "aaa", ""));
    bench.done(target("sip:bob@phones.example.com"));
    bench.incoming(cancel());
    bench.words();
    let lookup = *bench.shard.lookups.keys().next().unwrap();
    let addresses = vec!["198.51.100.8:5060".parse().unwrap()];
    bench.shard.resolved(lookup, &addresses, bench.now, &mut bench.effects);
    bench.serve();
    assert_eq!(bench.words(), ["1: 487"]);

    // Nor is it sent again as a datagram when the stream that its size asked for is refused.
    let mut bench = Bench::new();
    bench.incoming(request("INVITE", "aaa", &format!("Subject: {}\r\n", "x".repeat(1_300))));
    bench.done(target("sip:bob@198.51.100.8"));
    bench.incoming(cancel());
    let (id, _) = bench.sent().into_iter().rfind(|(_, sent)| sent.is_request()).unwrap();
    bench.send_failed(id, SendError::Unreachable);
    assert_eq!(bench.words(), ["1: 487"]);
}

#[test]
fn targets_that_need_what_is_not_spoken_are_refused() {
    for uri in ["sips:bob@198.51.100.8", "tel:+1234", "sip:bob@198.51.100.8;transport=sctp"] {
        let mut bench = Bench::new();
        bench.incoming(request("MESSAGE", "aaa", ""));
        bench.done(target(uri));
        assert_eq!(bench.words(), ["handle 0", "1: 500", "taken 1"], "{uri}");
    }
}

#[test]
fn request_whose_link_went_down_before_it_was_taken_is_left_to_another_container() {
    let mut bench = Bench::new();
    bench.incoming(request("INVITE", "aaa", ""));
    bench.link_down(1);
    bench.done(target("sip:bob@198.51.100.8"));
    assert_eq!(bench.words(), ["handle 0", "taken 1"]);
    let mut bench = Bench::new();
    bench.incoming(request("MESSAGE", "aaa", ""));
    bench.link_down(1);
    bench.done(target("sip:bob@198.51.100.8"));
    assert_eq!(bench.words(), ["handle 0", "taken 1"]);
    // Should no edge offer it elsewhere, its repetition is a new request.
    bench.frame(3, hello(EDGE_1)).unwrap();
    bench.words();
    let incoming = Incoming {
        hops: 0,
        sequence: 1,
        flow: flow(Transport::Udp),
        bytes: request("MESSAGE", "aaa", "").into_bytes().into(),
    };
    bench.frame(3, LinkFrame::Incoming(incoming)).unwrap();
    assert_eq!(bench.words(), ["handle 0"]);
}

#[test]
fn request_that_fails_here_after_its_link_went_down_is_answered_by_another_container() {
    let ends = [
        HandlerEnd::TimedOut,
        HandlerEnd::Panicked,
        HandlerEnd::Done(Effects::respond(Response::new(503))),
    ];
    for end in ends {
        let mut bench = Bench::new();
        bench.incoming(request("INVITE", "aaa", ""));
        bench.link_down(1);
        bench.handled(end);
        assert_eq!(bench.words(), ["handle 0", "taken 1"]);
        assert!(bench.shard.transactions.is_empty());
    }
    let mut bench = Bench::new();
    bench.incoming(request("MESSAGE", "aaa", ""));
    bench.link_down(1);
    bench.done(ok_with_commit());
    bench.committed(Err(CommitError::Store(StoreError::Busy { waiting: 9 })));
    assert_eq!(bench.words(), ["handle 0", "commit", "taken 1"]);
    // What it decided is said.
    let mut bench = Bench::new();
    bench.incoming(request("MESSAGE", "aaa", ""));
    bench.link_down(1);
    bench.done(Effects::respond(Response::new(404)));
    assert_eq!(bench.words(), ["handle 0", "2: 404", "taken 1"]);
}
