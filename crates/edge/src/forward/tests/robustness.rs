//! Whatever comes: no panic, and what RFC 4475 says.

use proptest::prelude::*;

use super::*;

fn decide(rig: &Rig, transport: Transport, bytes: Vec<u8>) -> Option<Decision> {
    let message = Message::parse(bytes.into()).ok()?;
    let flow = rig.flow(transport, PHONE);
    let arrival = Arrival {
        message: &message,
        flow,
        source: Source::Outside,
        attempt: Attempt::First,
        seed: 0,
    };
    let _ = from_link(&message, Destination::Route, &rig.view(), &mut BytesMut::new());
    let _ = from_link(&message, Destination::Via, &rig.view(), &mut BytesMut::new());
    Some(from_outside(&arrival, &rig.view(), &mut BytesMut::new()))
}

proptest! {
    #[test]
    fn any_octets_are_survived(bytes: Vec<u8>) {
        decide(&Rig::new(), Transport::Udp, bytes);
    }

    #[test]
    fn any_change_to_a_lawful_request_is_survived(at in 0..600_usize, to: u8, cut in 0..600_usize) {
        let rig = Rig::new();
        let route = format!("Route: <sip:{}@192.0.2.1;lr>", rig.token(TokenKind::Flow, rig.flow(Transport::Udp, PHONE)));
        let mut bytes = parse(&request("INVITE", "sip:bob@example.com", &route)).buffer().to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        decide(&rig, Transport::Udp, bytes.clone());
        bytes.truncate(cut);
        decide(&rig, Transport::Tcp, bytes);
    }

    #[test]
    fn every_edge_gives_a_transaction_one_branch(branch in "[a-zA-Z0-9.]{1,40}", cookie: bool, port: u16, call_id in "[a-z0-9]{1,20}") {
        let branch = format!("branch={}{branch}", if cookie { "z9hG4bK" } else { "" });
        let text = |method: &str| {
            request(method, "sip:bob@example.com", "")
                .replace("branch=z9hG4bK776", &branch)
                .replace("c1@10.0.0.1", &call_id)
                .replace("10.0.0.1:5060", &format!("10.0.0.1:{port}"))
        };
        let other = Rig::with_listeners(vec![Listener::direct(Transport::Udp, "192.0.2.2:5060".parse().unwrap())]);
        let mut branches = Vec::new();
        for rig in [Rig::new(), other] {
            for method in ["INVITE", "CANCEL", "ACK"] {
                let (_, message) = rig.offered(rig.receive(&text(method), PHONE));
                branches.push(message.top_via().unwrap().branch().unwrap().to_vec());
            }
        }
        branches.dedup();
        prop_assert_eq!(branches.len(), 1);
    }
}

/// What the edge may do with each message of RFC 4475, from the `proxy_expectation` of
/// `EXPECTED.tsv`.
fn is_as_expected(decision: Option<&Decision>, expectation: &str, kind: &str) -> bool {
    let status = match decision {
        Some(Decision::Reply { status, .. }) => Some(*status),
        _ => None,
    };
    let forwarded = matches!(
        decision,
        Some(Decision::Offer { .. } | Decision::Send { .. } | Decision::SendToPeer { .. })
    );
    if kind.starts_with("resp") {
        // Their top Vias name other proxies.
        return matches!(decision, None | Some(Decision::Drop(_)));
    }
    let named = expectation
        .split(|byte: char| !byte.is_ascii_digit())
        .filter_map(|word| word.parse::<u16>().ok())
        .filter(|code| (400..700).contains(code))
        .any(|code| status == Some(code));
    let mentions = |word| expectation.contains(word);
    let may_forward =
        ["forward", "accept", "ignore octets", "user part", "liberal"].into_iter().any(mentions);
    named || (forwarded && may_forward)
}

// RFC 4475
#[test]
fn the_torture_messages_are_forwarded_refused_or_dropped_as_expected() {
    let Some(directory) = std::env::var_os("OUTLAST_TESTDATA") else {
        eprintln!("skipped: OUTLAST_TESTDATA is not set (the directory that contains rfc4475/)");
        return;
    };
    let directory = std::path::Path::new(&directory).join("rfc4475");
    let table = std::fs::read_to_string(directory.join("EXPECTED.tsv")).unwrap_or_else(|error| {
        panic!("OUTLAST_TESTDATA is set, but {}: {error}", directory.display())
    });
    let rig = Rig::new();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let (name, kind, expectation) = (columns[1], columns[3], columns[5]);
        let bytes = std::fs::read(directory.join(format!("{name}.dat"))).unwrap();
        let decision = decide(&rig, Transport::Udp, bytes);
        count += 1;
        if !is_as_expected(decision.as_ref(), expectation, kind) {
            wrong.push(format!("{name}: expected {expectation:?}, found {decision:?}"));
        }
    }
    assert_eq!(count, 49);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
