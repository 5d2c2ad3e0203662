//! What containers and plain SIP peers send.

use super::*;

fn from_container(method: &str, extra: &str) -> String {
    request(method, "sip:bob@10.0.0.2", extra).replace(
        "SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bK776",
        "SIP/2.0/TCP c.node.outlast.invalid;branch=z9hG4bKc",
    )
}

#[test]
fn a_containers_request_leaves_by_the_flow_in_its_route() {
    let rig = Rig::new();
    let token = rig.token(TokenKind::Flow, rig.flow(Transport::Udp, PHONE));
    let shown = rig.token(TokenKind::Dialog, rig.flow(Transport::Udp, PHONE));
    let text = from_container("INVITE", &format!("Route: <sip:{token}@192.0.2.1:5060;lr>"));
    let (hop, message) = sent(rig.send(&text, Destination::Route).unwrap());
    assert_eq!(hop, datagram(PHONE));
    let vias = values(&message, HeaderName::Via);
    assert!(
        vias[0].starts_with("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK")
            && !vias[0].contains("flow="),
        "{}",
        vias[0]
    );
    assert_eq!(vias[1], "SIP/2.0/TCP c.node.outlast.invalid;branch=z9hG4bKc");
    assert_eq!(
        values(&message, HeaderName::RecordRoute),
        [format!("<sip:{shown}@192.0.2.1:5060;lr>")]
    );
    assert_eq!(message.field(HeaderName::Route), None);
    assert_eq!(message.field(HeaderName::MaxForwards), Some(&b"70"[..]));
}

// RFC 5658 §3
#[test]
fn toward_a_phone_the_public_address_stands_above_the_own_one() {
    let rig = Rig::with_public_address();
    let token = rig.token(TokenKind::Flow, rig.flow(Transport::Udp, PHONE));
    let shown = rig.token(TokenKind::Dialog, rig.flow(Transport::Udp, PHONE));
    let text = from_container("INVITE", &format!("Route: <sip:{token}@192.0.2.1:5060;lr>"));
    let (_, message) = sent(rig.send(&text, Destination::Route).unwrap());
    assert_eq!(
        values(&message, HeaderName::RecordRoute),
        [format!("<sip:{shown}@sip.example.com;lr>"), "<sip:192.0.2.1:5060;lr>".to_owned(),]
    );
}

#[test]
fn a_containers_request_to_an_address_leaves_from_a_listener_of_its_family_and_transport() {
    let rig = Rig::with_listeners(vec![
        Listener::direct(Transport::Udp, "192.0.2.1:5060".parse().unwrap()),
        Listener::direct(Transport::Udp, "[2001:db8::1]:5060".parse().unwrap()),
    ]);
    let address = "[2001:db8::9]:5060".parse().unwrap();
    let text = from_container("INVITE", "").replace("Content-Length: 0", "X: y");
    let (hop, message) =
        sent(rig.send(&text, Destination::Address { transport: Transport::Udp, address }).unwrap());
    assert_eq!(
        hop,
        Hop::Datagram { local: "[2001:db8::1]:5060".parse().unwrap(), remote: address }
    );
    assert!(message.top_via().unwrap().value.starts_with(b"SIP/2.0/UDP [2001:db8::1]:5060;"));
    let relay = rig.token(
        TokenKind::Relay,
        Flow::new(Transport::Udp, "[2001:db8::1]:5060".parse().unwrap(), address),
    );
    assert_eq!(
        values(&message, HeaderName::RecordRoute),
        [format!("<sip:{relay}@[2001:db8::1]:5060;lr>")]
    );
}

#[test]
fn what_names_no_way_is_refused_to_the_container() {
    let rig = Rig::new();
    let broadcast = Destination::Address {
        transport: Transport::Udp,
        address: "255.255.255.255:5060".parse().unwrap(),
    };
    for (text, destination) in [
        (from_container("INVITE", "Route: <sip:example.com;lr>"), Destination::Route),
        (
            from_container("INVITE", "").replace("sip:bob@10.0.0.2", "sip:bob@example.com"),
            Destination::Route,
        ),
        (from_container("INVITE", ""), Destination::Via),
        (from_container("INVITE", ""), broadcast),
    ] {
        assert_eq!(rig.send(&text, destination), Err(SendError::Refused), "{text}");
    }
}

#[test]
fn a_peers_request_leaves_by_route_or_address_and_never_comes_back_to_it() {
    let rig = Rig::new().without_containers().with_peer(Transport::Udp, "192.0.2.80:5080");
    let from_peer = rig.flow(Transport::Udp, "192.0.2.80:5080");
    let ask = |text: &str| rig.receive_from(from_peer, Source::Peer, Attempt::First, text);
    let token = rig.token(TokenKind::Flow, rig.flow(Transport::Udp, PHONE));
    let shown = rig.token(TokenKind::Dialog, rig.flow(Transport::Udp, PHONE));
    let (hop, message) = sent(ask(&request(
        "INVITE",
        "sip:bob@10.0.0.2",
        &format!("Route: <sip:{token}@192.0.2.1;lr>"),
    )));
    assert_eq!(hop, datagram(PHONE));
    // The response goes back to the peer by its flow.
    assert!(
        values(&message, HeaderName::Via)[0].contains(&rig.token(TokenKind::Response, from_peer))
    );
    assert_eq!(
        values(&message, HeaderName::RecordRoute),
        [format!("<sip:{shown}@192.0.2.1:5060;lr>")]
    );
    let (hop, _) = sent(ask(&request("INVITE", "sip:bob@203.0.113.9", "")));
    assert_eq!(hop, datagram("203.0.113.9:5060"));
    assert_eq!(refused(ask(&request("INVITE", "sip:bob@example.com", ""))).0, 503);
}

#[test]
fn what_a_dead_container_did_not_take_is_offered_to_the_next_one_or_answered_503() {
    let mut rig = Rig::new();
    let Decision::Offer { bytes, .. } =
        rig.receive(&request("INVITE", "sip:bob@example.com", ""), PHONE)
    else {
        panic!("not offered")
    };
    let offered_before = Message::parse(bytes.clone()).unwrap();
    rig.close("container1", 11);
    let decision =
        offer_again(&offered_before, Attempt::First, 0, &rig.view(), &mut BytesMut::new());
    let (name, again) = rig.offered(decision);
    assert_eq!((name.as_str(), again.buffer()), ("container2", &bytes));
    rig.close("container2", 12);
    // For a moment the phone is left to send it again.
    let decision =
        offer_again(&offered_before, Attempt::First, 0, &rig.view(), &mut BytesMut::new());
    assert_eq!(decision, Decision::Drop(DropReason::Vacancy));
    rig.pass(Duration::from_secs(2));
    match offer_again(&offered_before, Attempt::First, 0, &rig.view(), &mut BytesMut::new()) {
        Decision::Reply { hop, bytes, status } => {
            assert_eq!((hop, status), (datagram(PHONE), 503));
            let response = Message::parse(bytes).unwrap();
            assert_eq!(response.values(HeaderName::Via).count(), 1);
            assert!(response.field(HeaderName::RetryAfter).is_some());
        }
        other => panic!("expected 503, found {other:?}"),
    }
}
