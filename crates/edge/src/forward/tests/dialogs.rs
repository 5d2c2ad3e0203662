//! Requests inside dialogs: the route sets that our own Record-Routes make.

use super::*;

/// A request with that route set.
pub(super) fn bye(uri: &str, routes: &[String]) -> String {
    let routes: Vec<String> = routes.iter().map(|route| format!("Route: {route}")).collect();
    request("BYE", uri, &routes.join("\n"))
        .replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=b")
}

impl Rig {
    fn by_flow(&self, transport: Transport, remote: &str) -> String {
        format!(
            "<sip:{}@192.0.2.1:5060;lr>",
            self.token(TokenKind::Dialog, self.flow(transport, remote))
        )
    }

    fn relayed(&self) -> String {
        format!(
            "<sip:{}@192.0.2.1:5060;lr>",
            self.token(TokenKind::Relay, self.flow(Transport::Udp, "203.0.113.9:5060"))
        )
    }
}

// RFC 5658 §3, RFC 5626 §5.3
#[test]
fn all_our_values_are_consumed_and_the_last_token_is_the_target() {
    let rig = Rig::new();
    let (alice, bob) =
        (rig.by_flow(Transport::Udp, PHONE), rig.by_flow(Transport::Udp, OTHER_PHONE));
    let own = "<sip:192.0.2.1:5060;lr>".to_owned();
    for (routes, from, to) in [
        (vec![alice.clone(), bob.clone()], PHONE, OTHER_PHONE),
        (vec![bob.clone(), alice.clone()], OTHER_PHONE, PHONE),
        (vec![alice.clone(), own.clone(), own.clone(), bob.clone()], PHONE, OTHER_PHONE),
        (vec![own.clone(), bob.clone()], "192.0.2.2:5060", OTHER_PHONE),
        // a phone that calls itself
        (vec![alice.clone(), alice.clone()], PHONE, PHONE),
    ] {
        let (hop, message) = sent(rig.receive(&bye("sip:bob@10.0.0.2", &routes), from));
        assert_eq!(hop, datagram(to), "{routes:?}");
        assert_eq!(message.field(HeaderName::Route), None, "{routes:?}");
        assert_eq!(message.request_uri(), Some(&b"sip:bob@10.0.0.2"[..]));
        assert_eq!(message.values(HeaderName::Via).count(), 2);
    }
}

// RFC 5626 §5.3: a TCP flow is the connection itself
#[test]
fn a_stream_flow_is_its_connection_and_never_another() {
    let rig = Rig::new();
    let flow = rig.flow(Transport::Tcp, OTHER_PHONE);
    let routes = [rig.by_flow(Transport::Udp, PHONE), rig.by_flow(Transport::Tcp, OTHER_PHONE)];
    let (hop, _) = sent(rig.receive(&bye("sip:bob@10.0.0.2", &routes), PHONE));
    assert_eq!(hop, Hop::Connection { flow, reopen: None });
}

// RFC 5626 §5.3
#[test]
fn a_tampered_token_is_forbidden() {
    let rig = Rig::new();
    let mut route = rig.by_flow(Transport::Udp, OTHER_PHONE);
    let changed = if &route[20..=20] == "A" { "B" } else { "A" };
    route.replace_range(20..=20, changed);
    assert_eq!(refused(rig.receive(&bye("sip:bob@10.0.0.2", &[route.clone()]), PHONE)).0, 403);
    let response_token = rig.token(TokenKind::Response, rig.flow(Transport::Udp, OTHER_PHONE));
    let replayed = format!("<sip:{response_token}@192.0.2.1;lr>");
    assert_eq!(refused(rig.receive(&bye("sip:bob@10.0.0.2", &[replayed]), PHONE)).0, 403);
    assert_eq!(
        rig.send(&bye("sip:bob@10.0.0.2", &[route]), Destination::Route),
        Err(SendError::FlowGone)
    );
}

#[test]
fn a_request_to_a_containers_contact_or_route_reaches_that_container() {
    let mut rig = Rig::new();
    for (name, incarnation) in [("container1", 11), ("container2", 12)] {
        let uri = format!("sip:{}@{name}.node.outlast.invalid", rig.owner_token(incarnation));
        let alice = rig.by_flow(Transport::Udp, PHONE);
        // also after the phone's NAT gave it another port
        for from in [PHONE, "198.51.100.7:50000"] {
            let (container, _) =
                rig.offered(rig.receive(&bye(&uri, std::slice::from_ref(&alice)), from));
            assert_eq!(container, name);
            let route = format!("<{uri};lr>");
            let text = bye("sip:bob@10.0.0.2", &[alice.clone(), route.clone()]);
            let (container, message) = rig.offered(rig.receive(&text, from));
            assert_eq!(container, name);
            assert_eq!(values(&message, HeaderName::Route), [route]);
        }
    }
    rig.close("container1", 11);
    let uri = format!("sip:{}@container1.node.outlast.invalid", rig.owner_token(11));
    assert_eq!(rig.offered(rig.receive(&bye(&uri, &[]), PHONE)).0, "container2");
}

#[test]
fn a_full_owner_has_no_second_candidate() {
    let rig = Rig::new();
    let uri = format!("sip:{}@container1.node.outlast.invalid", rig.owner_token(11));
    let flow = rig.flow(Transport::Udp, PHONE);
    let decision = rig.receive_from(flow, Source::Outside, Attempt::Second, &bye(&uri, &[]));
    assert_eq!(refused(decision).0, 503);
}

#[test]
fn only_proof_that_the_dialog_passed_us_leads_to_a_numeric_request_uri() {
    let rig = Rig::new();
    let uri = "sip:bob@203.0.113.9:5070";
    let (hop, _) =
        sent(rig.receive(&bye(uri, &[rig.by_flow(Transport::Udp, PHONE), rig.relayed()]), PHONE));
    assert_eq!(hop, datagram("203.0.113.9:5070"));
    let (hop, _) =
        sent(rig.receive(&bye(&format!("{uri};transport=tcp"), &[rig.relayed()]), PHONE));
    let local = "192.0.2.1".parse().unwrap();
    assert_eq!(hop, Hop::Connect { local, remote: "203.0.113.9:5070".parse().unwrap() });
    rig.offered(rig.receive(&bye(uri, &[rig.by_flow(Transport::Udp, PHONE)]), PHONE));
    rig.offered(rig.receive(&bye(uri, &["<sip:192.0.2.1;lr>".to_owned()]), PHONE));
    rig.offered(rig.receive(&bye("sip:bob@255.255.255.255", &[rig.relayed()]), PHONE));
}

// RFC 3261 §16.4
#[test]
fn a_strict_router_before_us_gets_its_request_uri_restored() {
    let rig = Rig::new();
    let token = rig.token(TokenKind::Dialog, rig.flow(Transport::Udp, PHONE));
    let ours = format!("sip:{token}@192.0.2.1:5060;lr");
    let text =
        bye(&ours, &[rig.by_flow(Transport::Udp, OTHER_PHONE), "<sip:bob@10.0.0.2>".to_owned()]);
    let (hop, message) = sent(rig.receive(&text, PHONE));
    assert_eq!(hop, datagram(OTHER_PHONE));
    assert_eq!(message.request_uri(), Some(&b"sip:bob@10.0.0.2"[..]));
    assert_eq!(message.field(HeaderName::Route), None);
}

// RFC 3261 §16.6(6)
#[test]
fn a_strict_router_behind_us_gets_its_own_request_uri() {
    let rig = Rig::new();
    let strict = "<sip:strict@203.0.113.9>".to_owned();
    let text =
        bye("sip:bob@10.0.0.2", &[rig.relayed(), strict, "<sip:203.0.113.10;lr>".to_owned()]);
    let (hop, message) = sent(rig.receive(&text, PHONE));
    assert_eq!(hop, datagram("203.0.113.9:5060"));
    assert_eq!(message.request_uri(), Some(&b"sip:strict@203.0.113.9"[..]));
    assert_eq!(
        values(&message, HeaderName::Route),
        ["<sip:203.0.113.10;lr>", "<sip:bob@10.0.0.2>"]
    );
}

#[test]
fn a_dialog_over_two_edges_passes_both() {
    let mut rig = Rig::new();
    rig.fellows = FellowEdges::new(vec!["192.0.2.2:5060".parse().unwrap()], Vec::new());
    let elsewhere = "<sip:AAAA@192.0.2.2:5060;lr>".to_owned();
    for from in [PHONE, "198.51.100.7:50000"] {
        let text =
            bye("sip:bob@10.0.0.2", &[rig.by_flow(Transport::Udp, PHONE), elsewhere.clone()]);
        let (hop, message) = sent(rig.receive(&text, from));
        assert_eq!(hop, datagram("192.0.2.2:5060"));
        assert_eq!(values(&message, HeaderName::Route), std::slice::from_ref(&elsewhere));
    }
    let from_there = rig.flow(Transport::Udp, "192.0.2.2:5060");
    let text = bye("sip:alice@10.0.0.1", &[rig.by_flow(Transport::Udp, PHONE)]);
    let (hop, _) = sent(rig.receive_from(from_there, Source::OtherEdge, Attempt::First, &text));
    assert_eq!(hop, datagram(PHONE));
}

// Any edge may take any datagram: here the other edge passed on what its own phone shall get.
#[test]
fn a_dialog_over_two_edges_goes_on_when_its_datagram_came_to_the_edge_behind() {
    let mut rig = Rig::new();
    rig.fellows = FellowEdges::new(vec!["192.0.2.2:5060".parse().unwrap()], Vec::new());
    let elsewhere = "<sip:AAAA@192.0.2.2:5060;lr>".to_owned();
    let text = bye("sip:bob@10.0.0.2", &[rig.by_flow(Transport::Udp, PHONE), elsewhere.clone()]);
    let from_there = rig.flow(Transport::Udp, "192.0.2.2:5060");
    let (hop, message) =
        sent(rig.receive_from(from_there, Source::OtherEdge, Attempt::First, &text));
    assert_eq!(hop, datagram("192.0.2.2:5060"), "not back to the sender");
    assert_eq!(values(&message, HeaderName::Route), [elsewhere]);
}

// The order of the two values tells the direction, also after the phone's NAT gave it another port.
#[test]
fn a_relayed_dialog_goes_the_way_of_its_last_token() {
    let rig = Rig::new();
    let alice = rig.by_flow(Transport::Udp, PHONE);
    for from in [PHONE, "198.51.100.7:50000", "192.0.2.2:5060"] {
        let text = bye("sip:bob@203.0.113.9:5070", &[alice.clone(), rig.relayed()]);
        assert_eq!(sent(rig.receive(&text, from)).0, datagram("203.0.113.9:5070"), "from {from}");
    }
    let text = bye("sip:alice@10.0.0.1", &[rig.relayed(), alice]);
    assert_eq!(sent(rig.receive(&text, "203.0.113.9:5070")).0, datagram(PHONE));
}

#[test]
fn a_datagram_that_came_to_the_wrong_edge_reaches_the_one_its_route_names() {
    let mut rig = Rig::new();
    rig.fellows = FellowEdges::new(vec!["192.0.2.2:5060".parse().unwrap()], Vec::new());
    let elsewhere = "<sip:AAAA@192.0.2.2:5060;lr>".to_owned();
    let text = bye("sip:bob@10.0.0.2", std::slice::from_ref(&elsewhere));
    let (hop, message) = sent(rig.receive(&text, PHONE));
    assert_eq!(hop, datagram("192.0.2.2:5060"));
    assert_eq!(values(&message, HeaderName::Route), [elsewhere]);
    // What is meant for an edge itself is answered by a container, whichever edge it came to.
    rig.offered(rig.receive(&request("OPTIONS", "sip:192.0.2.2:5060", ""), PHONE));
}

#[test]
fn a_flow_of_another_edge_is_left_to_that_edge() {
    let mut rig = Rig::with_public_address();
    rig.fellows = FellowEdges::new(vec!["192.0.2.2:5060".parse().unwrap()], Vec::new());
    let theirs =
        Flow::new(Transport::Udp, "192.0.2.2:5060".parse().unwrap(), OTHER_PHONE.parse().unwrap());
    let ours = format!(
        "<sip:{}@sip.example.com;lr>",
        rig.token(TokenKind::Dialog, rig.flow(Transport::Udp, PHONE))
    );
    let route = format!("<sip:{}@sip.example.com;lr>", rig.token(TokenKind::Dialog, theirs));
    let (hop, message) = sent(rig.receive(&bye("sip:bob@10.0.0.2", &[ours, route.clone()]), PHONE));
    assert_eq!(hop, datagram("192.0.2.2:5060"));
    assert_eq!(values(&message, HeaderName::Route), [route]);
}

// RFC 5626 §5.3: ;ob in Contact asks for the flow even where NAT traversal is off
#[test]
fn without_nat_traversal_record_route_leads_to_contacts_unless_ob_asks_for_the_flow() {
    let rig = Rig { nat_traversal: NatTraversal::Off, ..Rig::new() };
    let flow = rig.flow(Transport::Udp, PHONE);
    for (contact, kind) in
        [("<sip:alice@10.0.0.1>", TokenKind::Relay), ("<sip:alice@10.0.0.1;ob>", TokenKind::Dialog)]
    {
        let text = request("INVITE", "sip:bob@example.com", &format!("Contact: {contact}"));
        let (_, message) = rig.offered(rig.receive(&text, PHONE));
        let expected = format!("<sip:{}@192.0.2.1:5060;lr>", rig.token(kind, flow));
        assert_eq!(values(&message, HeaderName::RecordRoute), [expected]);
    }
}

// RFC 5626 §5.3: whatever rotates meanwhile, for however long the phones talk
#[test]
fn a_call_of_any_length_keeps_its_way() {
    let first = KeyRing::new([7; 32]);
    let later = first.rotated([8; 32], 0).rotated([9; 32], 0).rotated([10; 32], 0);
    let mut rig = Rig::new();
    let invite = request("INVITE", "sip:bob@example.com", "Contact: <sip:alice@10.0.0.1>");
    let (_, at_container) = rig.offered(rig.receive(&invite, PHONE));
    let path = rig.token(TokenKind::Flow, rig.flow(Transport::Udp, OTHER_PHONE));
    let onward = request(
        "INVITE",
        "sip:bob@10.0.0.2",
        &format!(
            "Route: <sip:{path}@192.0.2.1;lr>\nRecord-Route: {}",
            values(&at_container, HeaderName::RecordRoute)[0]
        ),
    );
    let (_, at_bob) = sent(rig.send(&onward, Destination::Route).unwrap());
    let of_bob = values(&at_bob, HeaderName::RecordRoute);
    let of_alice: Vec<String> = of_bob.iter().rev().cloned().collect();

    rig.keys = Keys::derive(&later);
    let (hop, _) = sent(rig.receive(&bye("sip:bob@10.0.0.2", &of_alice), PHONE));
    assert_eq!(hop, datagram(OTHER_PHONE));
    let (hop, _) = sent(rig.receive(&bye("sip:alice@10.0.0.1", &of_bob), OTHER_PHONE));
    assert_eq!(hop, datagram(PHONE));
    // What could be used again when the call is over is good for its dialog only.
    for stranger in [
        bye("sip:bob@10.0.0.2", &of_alice).replace("c1@10.0.0.1", "c2@10.0.0.1"),
        bye("sip:bob@10.0.0.2", &of_alice).replace(";tag=b", ""),
    ] {
        assert_eq!(refused(rig.receive(&stranger, PHONE)).0, 403, "{stranger}");
    }
}

impl Rig {
    pub(super) fn receive_without_flow(&self, text: &str) -> Decision {
        let message = parse(text);
        let flow = self.flow(Transport::Udp, PHONE);
        let (source, attempt) = (Source::Outside, Attempt::First);
        let arrival = Arrival { message: &message, flow, source, attempt, seed: 3 };
        without_flow(&arrival, &self.view(), &mut BytesMut::new())
    }
}

// The registrar knows the flow of a phone that has connected again, the edge does not.
#[test]
fn a_dialog_whose_flow_is_gone_goes_on_as_if_it_had_not_begun_on_it() {
    let mut rig = Rig::new();
    rig.fellows = FellowEdges::new(vec!["192.0.2.2:5060".parse().unwrap()], Vec::new());
    let (alice, bob) =
        (rig.by_flow(Transport::Udp, PHONE), rig.by_flow(Transport::Tcp, OTHER_PHONE));
    let contact = "sip:bob@10.0.0.2;transport=tcp";
    let (_, message) =
        rig.offered(rig.receive_without_flow(&bye(contact, &[alice.clone(), bob.clone()])));
    assert_eq!(message.request_uri(), Some(contact.as_bytes()));
    assert_eq!(message.field(HeaderName::Route), None);
    // What stands behind the flow is asked: a session's owner, an edge.
    let owner = format!("sip:{}@container2.node.outlast.invalid", rig.owner_token(12));
    let to_owner = bye(&owner, &[alice.clone(), bob.clone()]);
    assert_eq!(rig.offered(rig.receive_without_flow(&to_owner)).0, "container2");
    let elsewhere = "<sip:AAAA@192.0.2.2:5060;lr>".to_owned();
    let to_edge = bye(contact, &[alice, bob, elsewhere]);
    assert_eq!(sent(rig.receive_without_flow(&to_edge)).0, datagram("192.0.2.2:5060"));
}

// RFC 5626 §5.3
#[test]
fn a_registrations_flow_that_is_gone_is_answered_430() {
    let rig = Rig::new();
    let token = rig.token(TokenKind::Flow, rig.flow(Transport::Tcp, OTHER_PHONE));
    let text = bye("sip:bob@10.0.0.2", &[format!("<sip:{token}@192.0.2.1;lr>")]);
    assert_eq!(refused(rig.receive_without_flow(&text)).0, 430);
    // A datagram flow of an address that nobody has any more is gone as well.
    let lost =
        Flow::new(Transport::Udp, "192.0.2.77:5060".parse().unwrap(), OTHER_PHONE.parse().unwrap());
    let of = |kind| format!("<sip:{}@192.0.2.1;lr>", rig.token(kind, lost));
    let text = bye("sip:bob@10.0.0.2", &[of(TokenKind::Flow)]);
    assert_eq!(refused(rig.receive(&text, PHONE)).0, 430);
    rig.offered(rig.receive(&bye("sip:bob@10.0.0.2", &[of(TokenKind::Dialog)]), PHONE));
}

/// A session between a phone and a plain SIP peer stands in the route with an edge on either side; a container lets a later
/// request go on only if the next entry has a token of the dialog.
#[test]
fn a_peer_s_side_of_a_container_has_a_token_of_its_dialog() {
    const PEER: &str = "192.0.2.80:5080";
    let rig = Rig::new().with_peer(Transport::Udp, PEER);
    let flow = rig.flow(Transport::Udp, PEER);
    let entry = format!("<sip:{}@192.0.2.1:5060;lr>", rig.token(TokenKind::Relay, flow));
    // To the peer by a route, and from it.
    let out = request("INVITE", "sip:bob@example.org", &format!("Route: <sip:{PEER};lr>"));
    let (_, to_peer) = sent(rig.send(&out, Destination::Route).unwrap());
    assert_eq!(values(&to_peer, HeaderName::RecordRoute), [entry.as_str()]);
    let text = request("INVITE", &format!("sip:{}@c.n.outlast.invalid", rig.owner_token(11)), "");
    let (_, from_peer) = rig.offered(rig.receive_from(flow, Source::Peer, Attempt::First, &text));
    assert_eq!(values(&from_peer, HeaderName::RecordRoute), [entry.as_str()]);
    // A container sends on by it what the phone asks later.
    let (hop, message) = sent(
        rig.send(
            &bye(&format!("sip:bob@{PEER}"), std::slice::from_ref(&entry)),
            Destination::Route,
        )
        .unwrap(),
    );
    assert_eq!((hop, message.field(HeaderName::Route)), (datagram(PEER), None));
    // And what the peer asks comes to the container behind it.
    let session = format!("<sip:{}@c.n.outlast.invalid;lr>", rig.session_token(11, 7));
    let routes = [entry, session.clone()];
    let text = bye("sip:alice@10.0.0.1", &routes);
    let (name, message) = rig.offered(rig.receive_from(flow, Source::Peer, Attempt::First, &text));
    assert_eq!((name.as_str(), values(&message, HeaderName::Route)), ("container1", vec![session]));
}
