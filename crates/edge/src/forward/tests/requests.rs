//! Requests that belong to no dialog yet.

use sip::AddressOfRecord;

use super::*;

// RFC 3261 §18.2.1, RFC 3581 §4
#[test]
fn a_request_reaches_a_container_with_our_via_above_the_filled_in_one() {
    let rig = Rig::new();
    let (_, message) =
        rig.offered(rig.receive(&request("OPTIONS", "sip:bob@example.com", ""), PHONE));
    let vias = values(&message, HeaderName::Via);
    assert!(vias[0].starts_with("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK"), "{}", vias[0]);
    assert!(vias[0].contains(";flow="), "{}", vias[0]);
    assert_eq!(
        vias[1],
        "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK776;received=198.51.100.7;rport=49152"
    );
    assert_eq!(vias.len(), 2);
}

// RFC 3261 §16.6(3)
#[test]
fn max_forwards_is_counted_down_and_begins_at_70() {
    let rig = Rig::new();
    for (line, left) in
        [("Max-Forwards: 70", "69"), ("Max-Forwards: 1", "0"), ("X-None: here", "70")]
    {
        let text = request("OPTIONS", "sip:bob@example.com", "").replace("Max-Forwards: 70", line);
        let (_, message) = rig.offered(rig.receive(&text, PHONE));
        assert_eq!(message.field(HeaderName::MaxForwards), Some(left.as_bytes()), "{line}");
    }
}

// RFC 3261 §16.3
#[test]
fn what_must_not_be_forwarded_is_refused_with_its_status() {
    let rig = Rig::new();
    let ok = request("OPTIONS", "sip:bob@example.com", "");
    for (text, status, section) in [
        (ok.replace("CSeq: 1 OPTIONS", "CSeq: 1 INVITE"), 400, "§16.3(1)"),
        (ok.replace("Call-ID: c1@10.0.0.1", "X: y"), 400, "§16.3(1)"),
        (ok.replacen("SIP/2.0", "SIP/7.0", 1), 505, "§21.5.6"),
        (ok.replace("sip:bob@example.com SIP", "nobodyKnowsThisScheme:x SIP"), 416, "§16.3(2)"),
        (ok.replace("Max-Forwards: 70", "Max-Forwards: 0"), 483, "§16.3(3)"),
        (
            ok.replace("Max-Forwards: 70", "Max-Forwards: 7\nProxy-Require: foo, bar"),
            420,
            "§16.3(5)",
        ),
    ] {
        let (found, response) = refused(rig.receive(&text, PHONE));
        assert_eq!((found, response.status()), (status, Some(status)), "{section}");
        assert!(response.to().unwrap().tag().is_some(), "{section}");
        if status == 420 {
            assert_eq!(values(&response, HeaderName::Unsupported), ["foo", "bar"]);
        }
    }
}

#[test]
fn sip_sips_and_tel_are_known_schemes() {
    let rig = Rig::new();
    for uri in ["sip:bob@example.com", "sips:bob@example.com", "tel:+1-212-555-0101"] {
        rig.offered(rig.receive(&request("INVITE", uri, ""), PHONE));
    }
}

// RFC 3261 §8.2.7, §17.1.1.1
#[test]
fn a_refusal_goes_back_as_the_via_says_and_is_the_same_for_a_retransmission() {
    let rig = Rig::new();
    let text =
        request("INVITE", "sip:bob@example.com", "").replace("Max-Forwards: 70", "Max-Forwards: 0");
    let first = rig.receive(&text, PHONE);
    assert_eq!(first, rig.receive(&text, PHONE));
    let Decision::Reply { hop, bytes, .. } = first else { panic!("no reply") };
    assert_eq!(hop, datagram(PHONE));
    let response = Message::parse(bytes).unwrap();
    assert_eq!(
        values(&response, HeaderName::Via),
        ["SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK776;received=198.51.100.7;rport=49152"]
    );
}

// RFC 3261 §17.1.1.3: nobody waits for a response to an ACK
#[test]
fn an_ack_is_never_answered() {
    let rig = Rig::new();
    for line in ["Max-Forwards: 0", "Max-Forwards: x", "Proxy-Require: foo"] {
        let text = request("ACK", "sip:bob@example.com", "").replace("Max-Forwards: 70", line);
        assert_eq!(rig.receive(&text, PHONE), Decision::Drop(DropReason::UnansweredAck), "{line}");
    }
    let nobody = Rig::new().without_containers();
    let ack = request("ACK", "sip:bob@example.com", "");
    assert_eq!(nobody.receive(&ack, PHONE), Decision::Drop(DropReason::UnansweredAck));
}

// RFC 3261 §16.11
#[test]
fn retransmission_cancel_and_ack_have_the_branch_and_the_container_of_their_invite_on_every_edge() {
    let edges = [
        Rig::new(),
        Rig::with_listeners(vec![Listener::direct(
            Transport::Udp,
            "192.0.2.2:5060".parse().unwrap(),
        )]),
    ];
    for branch in ["branch=z9hG4bK776", "branch=1", "ttl=1"] {
        let invite =
            request("INVITE", "sip:bob@example.com", "").replace("branch=z9hG4bK776", branch);
        let of = |edge: &Rig, method: &str, to: &str| {
            let text = request(method, "sip:bob@example.com", "")
                .replace("branch=z9hG4bK776", branch)
                .replace("To: <sip:bob@example.com>", to);
            let (container, message) = edge.offered(edge.receive(&text, PHONE));
            (container, message.top_via().unwrap().branch().unwrap().to_vec())
        };
        let (container, message) = edges[0].offered(edges[0].receive(&invite, PHONE));
        let expected = (container, message.top_via().unwrap().branch().unwrap().to_vec());
        for edge in &edges {
            for (method, to) in [
                ("INVITE", "To: <sip:bob@example.com>"),
                ("CANCEL", "To: <sip:bob@example.com>"),
                ("ACK", "To: <sip:bob@example.com>;tag=404"),
            ] {
                assert_eq!(of(edge, method, to), expected, "{branch} {method}");
            }
        }
    }
}

#[test]
fn two_requests_and_two_senders_have_two_branches() {
    let rig = Rig::new();
    let branch = |text: &str| {
        let (_, message) = rig.offered(rig.receive(text, PHONE));
        message.top_via().unwrap().branch().unwrap().to_vec()
    };
    let one = request("INVITE", "sip:bob@example.com", "");
    assert_ne!(branch(&one), branch(&one.replace("z9hG4bK776", "z9hG4bK777")));
    assert_ne!(branch(&one), branch(&one.replace("10.0.0.1:5060;rport", "10.0.0.2:5060;rport")));
}

// RFC 3327 §5.1, RFC 5626 §5.1
#[test]
fn a_register_gets_a_path_with_a_flow_token_and_ob_for_the_first_hop_with_reg_id() {
    let rig = Rig::new();
    let path = |rig: &Rig, text: &str| {
        let (_, message) = rig.offered(rig.receive(text, PHONE));
        values(&message, HeaderName::Path)
    };
    let token = rig.token(TokenKind::Flow, rig.flow(Transport::Udp, PHONE));
    let plain = request("REGISTER", "sip:example.com", "Contact: <sip:alice@10.0.0.1>");
    let outbound = request(
        "REGISTER",
        "sip:example.com",
        "Contact: <sip:alice@10.0.0.1>;reg-id=1;+sip.instance=\"<urn:x>\"",
    );
    let second_hop = outbound.replace("From:", "Via: SIP/2.0/UDP 10.9.9.9;branch=z9hG4bKup\nFrom:");
    assert_eq!(path(&rig, &plain), [format!("<sip:{token}@192.0.2.1:5060;lr>")]);
    assert_eq!(path(&rig, &outbound), [format!("<sip:{token}@192.0.2.1:5060;lr;ob>")]);
    assert_eq!(path(&rig, &second_hop), [format!("<sip:{token}@192.0.2.1:5060;lr>")]);
    let above = request("REGISTER", "sip:example.com", "Path: <sip:10.9.9.9;lr>");
    assert_eq!(
        path(&rig, &above),
        [format!("<sip:{token}@192.0.2.1:5060;lr>"), "<sip:10.9.9.9;lr>".to_owned()]
    );

    let off = Rig { nat_traversal: NatTraversal::Off, ..Rig::new() };
    assert!(path(&off, &outbound).is_empty());
    let (_, invite) =
        rig.offered(rig.receive(&request("INVITE", "sip:bob@example.com", ""), PHONE));
    assert!(values(&invite, HeaderName::Path).is_empty());
}

#[test]
fn a_path_by_tcp_says_so() {
    let rig = Rig::new();
    let (_, message) = rig.offered(rig.receive_by(
        Transport::Tcp,
        &request("REGISTER", "sip:example.com", ""),
        PHONE,
    ));
    assert!(values(&message, HeaderName::Path)[0].ends_with("@192.0.2.1:5060;transport=tcp;lr>"));
}

// DESIGN, "choosing a container", rule 2
#[test]
fn a_register_is_chosen_by_its_address_and_everything_else_by_its_call_id() {
    let rig = Rig::new();
    let name_of = |candidate: Option<usize>| {
        rig.routing.buckets().candidates()[candidate.unwrap()].name.to_string()
    };
    for n in 0..20 {
        let address =
            AddressOfRecord::parse(format!("sip:user{n}@example.com").as_bytes()).unwrap();
        let chosen =
            rig.routing.buckets().choose(ChoiceKey::AddressOfRecord(address.as_str().as_bytes()));
        let to = format!("To: \"U\" <sip:user{n}@EXAMPLE.com;x=y>");
        let text =
            request("REGISTER", "sip:example.com", "").replace("To: <sip:bob@example.com>", &to);
        assert_eq!(rig.offered(rig.receive(&text, PHONE)).0, name_of(chosen.first));

        let text =
            request("OPTIONS", "sip:x@example.com", "").replace("c1@10.0.0.1", &format!("call{n}"));
        let chosen = rig.routing.buckets().choose(ChoiceKey::CallId(format!("call{n}").as_bytes()));
        assert_eq!(rig.offered(rig.receive(&text, PHONE)).0, name_of(chosen.first));
    }
}

// RFC 3261 §21.5.4
#[test]
fn the_second_candidate_follows_the_first_and_503_with_retry_after_follows_both() {
    let rig = Rig::new();
    let text = request("INVITE", "sip:bob@example.com", "");
    let ask = |attempt| {
        rig.receive_from(rig.flow(Transport::Udp, PHONE), Source::Outside, attempt, &text)
    };
    let (first, _) = rig.offered(ask(Attempt::First));
    let (second, _) = rig.offered(ask(Attempt::Second));
    assert_ne!(first, second);
    let (status, response) = refused(ask(Attempt::Exhausted));
    assert_eq!(status, 503);
    let retry_after: u8 = std::str::from_utf8(response.field(HeaderName::RetryAfter).unwrap())
        .unwrap()
        .parse()
        .unwrap();
    assert!((2..=10).contains(&retry_after));
    assert_eq!(refused(Rig::new().without_containers().receive(&text, PHONE)).0, 503);
}

#[test]
fn a_stranger_cannot_relay_through_the_edge() {
    let rig = Rig::new();
    for text in [
        request("INVITE", "sip:victim@203.0.113.9:5060", ""),
        request("INVITE", "sip:bob@example.com", "Route: <sip:203.0.113.9;lr>"),
        request("INVITE", "sip:victim@203.0.113.9", "Route: <sip:192.0.2.1;lr>"),
        request(
            "INVITE",
            "sip:victim@203.0.113.9",
            "Route: <sip:alice@192.0.2.1;lr>, <sip:203.0.113.9;lr>",
        ),
    ] {
        rig.offered(rig.receive(&text, PHONE));
    }
}

#[test]
fn a_preloaded_route_to_the_edge_is_consumed_and_the_rest_is_kept() {
    let rig = Rig::new();
    let text = request(
        "INVITE",
        "sip:bob@example.com",
        "Route: <sip:192.0.2.1;lr>, <sip:x.example.com;lr>\nRoute: <sip:y.example.com;lr>",
    );
    let (_, message) = rig.offered(rig.receive(&text, PHONE));
    assert_eq!(
        values(&message, HeaderName::Route),
        ["<sip:x.example.com;lr>", "<sip:y.example.com;lr>"]
    );
}

// RFC 3261 §16.6(4); RFC 5658 §3: one value when both sides are alike, two when they are not
#[test]
fn dialog_forming_requests_get_one_record_route_or_two() {
    let rig = Rig::new();
    let record_routes = |rig: &Rig, transport, method: &str| {
        let text = request(method, "sip:bob@example.com", "");
        let decision = rig.receive_by(transport, &text, PHONE);
        let message = match decision {
            Decision::Offer { .. } => rig.offered(decision).1,
            other => sent(other).1,
        };
        values(&message, HeaderName::RecordRoute)
    };
    let udp = rig.token(TokenKind::Dialog, rig.flow(Transport::Udp, PHONE));
    let tcp = rig.token(TokenKind::Dialog, rig.flow(Transport::Tcp, PHONE));
    for method in ["INVITE", "SUBSCRIBE", "REFER", "NOTIFY"] {
        assert_eq!(
            record_routes(&rig, Transport::Udp, method),
            [format!("<sip:{udp}@192.0.2.1:5060;lr>")]
        );
    }
    for method in ["REGISTER", "OPTIONS", "MESSAGE", "BYE", "CANCEL", "PUBLISH"] {
        assert!(record_routes(&rig, Transport::Udp, method).is_empty(), "{method}");
    }
    assert_eq!(
        record_routes(&rig, Transport::Tcp, "INVITE"),
        [format!("<sip:{tcp}@192.0.2.1:5060;transport=tcp;lr>")]
    );

    let public = Rig::with_public_address();
    assert_eq!(
        record_routes(&public, Transport::Udp, "INVITE"),
        ["<sip:192.0.2.1:5060;lr>".to_owned(), format!("<sip:{udp}@sip.example.com;lr>"),]
    );
    let peer = Rig::new().without_containers().with_peer(Transport::Udp, "192.0.2.80:5080");
    assert_eq!(
        record_routes(&peer, Transport::Tcp, "INVITE"),
        [
            "<sip:192.0.2.1:5060;lr>".to_owned(),
            format!("<sip:{tcp}@192.0.2.1:5060;transport=tcp;lr>"),
        ]
    );
    assert_eq!(record_routes(&peer, Transport::Udp, "INVITE").len(), 1);
}

// RFC 3261 §16.6(9)
#[test]
fn content_length_is_added_for_a_stream_next_hop() {
    let rig = Rig::new().without_containers().with_peer(Transport::Tcp, "192.0.2.80:5080");
    let text = request("OPTIONS", "sip:bob@example.com", "").replace("Content-Length: 0", "X: y");
    let (hop, message) = sent(rig.receive(&text, PHONE));
    assert_eq!(
        hop,
        Hop::Connect {
            local: "192.0.2.1".parse().unwrap(),
            remote: "192.0.2.80:5080".parse().unwrap()
        }
    );
    assert_eq!(message.field(HeaderName::ContentLength), Some(&b"0"[..]));
}

#[test]
fn a_datagram_that_comes_again_is_not_refused_as_long_as_the_next_life_may_be_coming() {
    let text = request("INVITE", "sip:bob@example.com", "");
    let mut rig = Rig::new();
    rig.close("container1", 11);
    rig.close("container2", 12);
    assert_eq!(rig.receive(&text, PHONE), Decision::Drop(DropReason::Vacancy));
    // A stream repeats nothing.
    let by_stream = rig.receive_by(Transport::Tcp, &text, PHONE);
    assert_eq!(refused(by_stream).0, 503);
    rig.open("container2", 13);
    assert!(matches!(rig.receive(&text, PHONE), Decision::Offer { .. }));
    rig.close("container2", 13);
    rig.pass(Duration::from_secs(2));
    assert_eq!(refused(rig.receive(&text, PHONE)).0, 503);
}

#[test]
fn what_is_not_new_or_over_at_once_finds_the_draining_container_when_nobody_accepts() {
    let mut rig = Rig::new();
    let drain = |rig: &mut Rig, name: &str, life| {
        let (name, life) = (ProcessName::new(name), Incarnation(life));
        rig.routing.heartbeat(&name, life, Accepting::Draining, 0, Instant::now(), &mut Vec::new());
    };
    let calls = || (0..20).map(|n| format!("call{n}"));
    let cancel = |rig: &Rig, call: &str| {
        let text = request("CANCEL", "sip:bob@example.com", "").replace("c1@10.0.0.1", call);
        rig.offered(rig.receive(&text, PHONE)).0
    };
    let rang: Vec<String> = calls().map(|call| cancel(&rig, &call)).collect();
    drain(&mut rig, "container1", 11);
    assert!(calls().all(|call| cancel(&rig, &call) == "container2"), "which hands it on");
    drain(&mut rig, "container2", 12);
    let found: Vec<String> = calls().map(|call| cancel(&rig, &call)).collect();
    assert_eq!(found, rang, "each at the container that it rings at");
    let new = request("INVITE", "sip:bob@example.com", "");
    assert_eq!(refused(rig.receive(&new, PHONE)).0, 503);
    // A registration leaves nothing to be done there.
    let register = request("REGISTER", "sip:example.com", "");
    assert!(matches!(rig.receive(&register, PHONE), Decision::Offer { .. }));
}
