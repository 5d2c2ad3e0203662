//! Messages of sessions, whose tokens stand in Request-URI, Route and the branches of their requests: to the owner while
//! it serves, else by session id.

use super::*;

fn three() -> Rig {
    let mut rig = Rig::new();
    rig.open("container3", 13);
    rig
}

/// The messages of one session that name container1's first life, each in its place.
fn messages(rig: &Rig, session: u8) -> [(&'static str, String); 3] {
    let token = rig.session_token(11, session);
    let uri = format!("sip:{token}@container1.node1.outlast.invalid");
    [
        ("Request-URI", request("BYE", &uri, "")),
        ("Route", request("BYE", "sip:bob@203.0.113.9", &format!("Route: <{uri};lr>"))),
        (
            "branch",
            format!(
                "SIP/2.0 200 OK
                Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKedge
                Via: SIP/2.0/TCP container1.node1.outlast.invalid;branch=z9hG4bK{token}mac
                From: <sip:alice@example.com>;tag=a
                To: <sip:bob@example.com>;tag=b
                Call-ID: leg-b
                CSeq: 1 INVITE
                Content-Length: 0"
            ),
        ),
    ]
}

#[test]
fn a_sessions_messages_go_to_its_owner_while_it_serves() {
    let rig = three();
    for session in 0..20 {
        for (place, text) in messages(&rig, session) {
            assert_eq!(rig.offered(rig.receive(&text, PHONE)).0, "container1", "{place}");
        }
    }
}

#[test]
fn a_dead_owners_messages_go_by_session_id_whatever_their_call_id() {
    let mut rig = three();
    rig.close("container1", 11);
    rig.open("container1", 14); // restarted: it may be the heir of some
    let heirs: std::collections::BTreeSet<_> = (0..40)
        .map(|session| {
            let heir = rig.heir(session);
            for (place, text) in messages(&rig, session) {
                assert_eq!(rig.offered(rig.receive(&text, PHONE)).0, heir, "{place}");
            }
            heir
        })
        .collect();
    assert_eq!(heirs.len(), 3, "the sessions are spread: {heirs:?}");
}

#[test]
fn what_a_dead_owner_did_not_take_goes_by_session_id_too() {
    let mut rig = three();
    let sessions = 0..40;
    let offered: Vec<_> = sessions
        .clone()
        .flat_map(|session| messages(&rig, session))
        .map(|(_, text)| rig.offered(rig.receive(&text, PHONE)).1)
        .collect();
    rig.close("container1", 11);
    for (session, messages) in sessions.zip(offered.chunks(3)) {
        for message in messages {
            let again = offer_again(message, Attempt::First, 1, &rig.view(), &mut BytesMut::new());
            assert_eq!(rig.offered(again).0, rig.heir(session));
        }
    }
}

#[test]
fn what_was_not_taken_goes_back_to_an_owner_that_serves_again() {
    let rig = three();
    for (place, text) in messages(&rig, 5) {
        let (_, message) = rig.offered(rig.receive(&text, PHONE));
        let again = offer_again(&message, Attempt::First, 1, &rig.view(), &mut BytesMut::new());
        assert_eq!(rig.offered(again).0, "container1", "{place}");
    }
}

#[test]
fn a_forged_session_token_names_nobody() {
    let rig = three();
    for (place, text) in messages(&rig, 5) {
        let token = rig.session_token(11, 5);
        let forged = rig.session_token(11, 6).replace(&token[..40], "");
        let text =
            text.replace(&token, &format!("{}{}", &token[..40], &forged[forged.len() - 12..]));
        match place {
            "branch" => assert_eq!(
                rig.receive(&text, PHONE),
                Decision::Drop(DropReason::ForgedVia),
                "a response that we asked for has our token"
            ),
            // Nobody is named, so the Call-ID chooses, as for any request of a stranger.
            _ => {
                let chosen = rig.routing.choose(ChoiceKey::CallId(b"c1@10.0.0.1")).first.unwrap();
                let expected = rig.routing.routes()[chosen].name.to_string();
                assert_eq!(rig.offered(rig.receive(&text, PHONE)).0, expected, "{place}");
            }
        }
    }
}

/// Two edges of one node that know of each other.
fn edges() -> [Rig; 2] {
    ["192.0.2.1:5060", "192.0.2.2:5060"].map(|own| {
        let own: SocketAddr = own.parse().unwrap();
        let mut rig = Rig::with_listeners(vec![Listener::direct(Transport::Udp, own)]);
        let addresses = ["192.0.2.1:5060", "192.0.2.2:5060"].map(|text| text.parse().unwrap());
        let others = addresses.into_iter().filter(|address| *address != own).collect();
        rig.fellows = FellowEdges::new(others, Vec::new());
        rig
    })
}

/// What `text` of a session is when it has left by one edge for the address of another.
fn through(rig: &Rig, door: &Rig, text: &str) -> (Flow, Source, String) {
    let own = |rig: &Rig| rig.listeners.iter().next().unwrap().own;
    let to_door = Destination::Address { transport: Transport::Udp, address: own(door) };
    let (hop, message) = sent(rig.send(text, to_door).unwrap());
    assert_eq!(hop, Hop::Datagram { local: own(rig), remote: own(door) });
    let source = if own(rig) == own(door) { Source::Outside } else { Source::OtherEdge };
    let text = String::from_utf8(message.buffer().to_vec()).unwrap();
    (Flow::new(Transport::Udp, own(door), own(rig)), source, text.trim_end().to_owned())
}

/// A session's request to the node itself, from container1.
fn to_ourselves(rig: &Rig, method: &str, to_tag: &str) -> String {
    let token = rig.session_token(11, 7);
    request(method, "sip:bob@example.com", "")
        .replace(
            "SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bK776",
            &format!("SIP/2.0/TCP container1.node1.outlast.invalid;branch=z9hG4bK{token}mac"),
        )
        .replace("To: <sip:bob@example.com>", &format!("To: <sip:bob@example.com>{to_tag}"))
}

// RFC 3261 §16.11, §17.2.3: what matches a transaction does not depend on the edge it came by
#[test]
fn a_sessions_request_to_the_node_itself_is_one_transaction_by_whichever_edges_it_goes() {
    let edges = edges();
    let mut found = Vec::new();
    for (from, door) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for (method, to_tag) in [("INVITE", ""), ("CANCEL", ""), ("ACK", ";tag=404")] {
            let text = to_ourselves(&edges[from], method, to_tag);
            let (flow, source, text) = through(&edges[from], &edges[door], &text);
            let decision = edges[door].receive_from(flow, source, Attempt::First, &text);
            let (container, message) = edges[door].offered(decision);
            let branch = message.top_via().unwrap().branch().unwrap().to_vec();
            found.push((container, branch));
        }
    }
    found.dedup();
    assert_eq!(found.len(), 1, "{found:?}");
}

// RFC 3261 §17.2.3: a phone that has answered it answers again, and does not take it for another request
#[test]
fn a_sessions_request_to_a_phone_has_one_branch_by_however_many_edges_it_goes() {
    let edges = edges();
    let phone = edges[1].flow(Transport::Udp, OTHER_PHONE);
    let of_phone = format!("<sip:{}@192.0.2.2;lr>", edges[1].token(TokenKind::Dialog, phone));
    let text = to_ourselves(&edges[0], "INFO", ";tag=b")
        .replace("Max-Forwards: 70", &format!("Max-Forwards: 70\nRoute: {of_phone}"));
    // The last one sends it to the phone.
    let branch_by = |from: usize, doors: &[usize]| {
        let (flow, source, text) = through(&edges[from], &edges[doors[0]], &text);
        let arrived = |at: usize, flow, source, text: &str| {
            sent(edges[at].receive_from(flow, source, Attempt::First, text))
        };
        let (mut hop, mut message) = arrived(doors[0], flow, source, &text);
        for (before, at) in doors.iter().zip(&doors[1..]) {
            let own = |at: usize| edges[at].listeners.iter().next().unwrap().own;
            assert_eq!(hop, Hop::Datagram { local: own(*before), remote: own(*at) });
            let text = String::from_utf8(message.buffer().to_vec()).unwrap();
            let flow = Flow::new(Transport::Udp, own(*at), own(*before));
            (hop, message) = arrived(*at, flow, Source::OtherEdge, text.trim_end());
        }
        assert_eq!(
            hop,
            Hop::from(ReplyAddress::Datagram { local: phone.local, remote: phone.remote })
        );
        message.top_via().unwrap().branch().unwrap().to_vec()
    };
    let straight = branch_by(0, &[1]);
    assert_eq!(branch_by(0, &[0, 1]), straight);
    assert_eq!(branch_by(1, &[1]), straight);
    assert_eq!(branch_by(1, &[0, 1]), straight);
}

// RFC 3261 §12.2.2: a phone that had answered it by an edge that has gone says something to the one that asks now
#[test]
fn a_request_that_another_edge_sends_to_a_phone_is_another_transaction_unless_it_is_of_an_invite() {
    let edges = edges();
    let branch_by = |method: &str, at: usize| {
        let phone = edges[at].flow(Transport::Udp, OTHER_PHONE);
        let address = edges[at].listeners.iter().next().unwrap().own;
        let of_phone = format!("<sip:{}@{address};lr>", edges[at].token(TokenKind::Dialog, phone));
        let text = to_ourselves(&edges[0], method, ";tag=b")
            .replace("Max-Forwards: 70", &format!("Max-Forwards: 70\nRoute: {of_phone}"));
        let (flow, source, text) = through(&edges[0], &edges[at], &text);
        let (_, message) = sent(edges[at].receive_from(flow, source, Attempt::First, &text));
        message.top_via().unwrap().branch().unwrap().to_vec()
    };
    for (method, is_one) in [("INFO", false), ("BYE", false), ("INVITE", true), ("ACK", true)] {
        assert_eq!(branch_by(method, 0) == branch_by(method, 1), is_one, "{method}");
        assert_eq!(branch_by(method, 1), branch_by(method, 1), "{method}");
    }
}

#[test]
fn a_refusal_of_it_is_one_response_by_whichever_edges_it_goes() {
    let edges = edges();
    let mut tags: Vec<_> = [(0, 0), (0, 1), (1, 0), (1, 1)]
        .into_iter()
        .map(|(from, door)| {
            let text = to_ourselves(&edges[from], "INVITE", "");
            let (flow, source, text) = through(&edges[from], &edges[door], &text);
            let text = text.replace("Max-Forwards: 70", "Max-Forwards: 0");
            let (_, response) =
                refused(edges[door].receive_from(flow, source, Attempt::First, &text));
            response.to().unwrap().tag().unwrap().to_vec()
        })
        .collect();
    tags.dedup();
    assert_eq!(tags.len(), 1);
}

#[test]
fn an_own_edges_branch_is_not_a_strangers_and_two_strangers_are_told_apart() {
    let [edge, _] = edges();
    let branch_by = |sent_by: &str, remote: &str, source: Source| {
        let text =
            request("INVITE", "sip:bob@example.com", "").replace("10.0.0.1:5060;rport", sent_by);
        let flow = edge.flow(Transport::Udp, remote);
        let (_, message) = edge.offered(edge.receive_from(flow, source, Attempt::First, &text));
        message.top_via().unwrap().branch().unwrap().to_vec()
    };
    // 5060 is the port of a sent-by that names none: both are edge 2.
    let by_edge = ["192.0.2.2:5060", "192.0.2.2"]
        .map(|sent_by| branch_by(sent_by, "192.0.2.2:5060", Source::OtherEdge));
    assert_eq!(by_edge[0], by_edge[1]);
    // Whoever has got a request of an edge knows its branch, and can write all of its Via.
    let strangers = ["192.0.2.2:5060", "192.0.2.1:5060", "192.0.2.3:5060", "192.0.2.2:5061"]
        .map(|sent_by| branch_by(sent_by, PHONE, Source::Outside));
    let mut branches = [&by_edge[..1], &strangers].concat();
    branches.sort();
    branches.dedup();
    assert_eq!(branches.len(), 5);
}

#[test]
fn an_own_edges_branch_comes_by_whatever_connection_that_edge_opened() {
    let [edge, _] = edges();
    let text = request("INVITE", "sip:bob@example.com", "")
        .replace("UDP 10.0.0.1:5060;rport", "TCP 192.0.2.2:5060");
    let mut branches: Vec<_> = ["192.0.2.2:5060", "192.0.2.2:40000", "192.0.2.7:40000"]
        .into_iter()
        .map(|remote| {
            let flow = edge.flow(Transport::Tcp, remote);
            let decision = edge.receive_from(flow, Source::Outside, Attempt::First, &text);
            let (_, message) = edge.offered(decision);
            message.top_via().unwrap().branch().unwrap().to_vec()
        })
        .collect();
    branches.dedup();
    assert_eq!(branches.len(), 2, "the last one is a stranger's");
}

// RFC 3261 §16.7: the response to a request that came in again finds the session by either edge
#[test]
fn the_answer_to_it_comes_back_by_the_edges_it_went_and_to_its_session() {
    let edges = edges();
    for (from, door, container_links) in [(0, 0, 0), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1)] {
        let text = to_ourselves(&edges[from], "INVITE", "");
        let (flow, source, text) = through(&edges[from], &edges[door], &text);
        let decision = edges[door].receive_from(flow, source, Attempt::First, &text);
        let (_, invite) = edges[door].offered(decision);
        let answer = sip::ResponseBuilder::new(&invite, 180).build();
        let mut answer = String::from_utf8(answer.to_vec()).unwrap().trim_end().to_owned();
        // The container has lost the link to the edge that it came by, and takes the other's.
        if container_links != door {
            let (hop, passed) =
                sent(edges[container_links].send(&answer, Destination::Via).unwrap());
            assert!(matches!(hop, Hop::Datagram { remote, .. } if remote == flow.local), "{hop:?}");
            answer = String::from_utf8(passed.buffer().to_vec()).unwrap().trim_end().to_owned();
        }
        let (hop, popped) = sent(edges[door].send(&answer, Destination::Via).unwrap());
        assert_eq!(hop, Hop::Datagram { local: flow.local, remote: flow.remote });
        let text = String::from_utf8(popped.buffer().to_vec()).unwrap();
        let back = Flow::new(Transport::Udp, flow.remote, flow.local);
        let decision =
            edges[from].receive_from(back, Source::OtherEdge, Attempt::First, text.trim_end());
        assert_eq!(edges[from].offered(decision).0, "container1");
    }
}
