//! Dialogs whose route set names an edge that has departed: a dialog outlives the edges that it was set up through.

use super::dialogs::bye;
use super::*;

/// The edge of a lost node, and one that lives.
const DEPARTED: &str = "192.0.2.9:5060";
const OTHER: &str = "192.0.2.2:5060";

impl Rig {
    /// The topology knows of the lost node, or has forgotten it since.
    fn with_lost_node(is_known: bool) -> Rig {
        let lost =
            Listener::new(Transport::Udp, DEPARTED.parse().unwrap(), "lost.example.com").unwrap();
        let departed = if is_known { vec![lost] } else { Vec::new() };
        let fellows = FellowEdges::new(vec![OTHER.parse().unwrap()], departed);
        Rig { fellows, ..Rig::new() }
    }

    /// What an edge with that own address wrote into the Record-Route of the dialog.
    fn written_at(
        &self,
        host: &str,
        edge: &str,
        kind: TokenKind,
        transport: Transport,
        to: &str,
    ) -> String {
        let flow = Flow::new(transport, edge.parse().unwrap(), to.parse().unwrap());
        format!("<sip:{}@{host};lr>", self.token(kind, flow))
    }

    fn departed(&self, kind: TokenKind, transport: Transport, to: &str) -> String {
        self.written_at(DEPARTED, DEPARTED, kind, transport, to)
    }

    fn other(&self) -> String {
        self.written_at(OTHER, OTHER, TokenKind::Dialog, Transport::Udp, OTHER_PHONE)
    }
}

// RFC 3261 §16.4: nobody else will take these values off.
#[test]
fn what_a_departed_edge_wrote_is_consumed_whether_or_not_it_is_remembered() {
    for rig in [Rig::with_lost_node(true), Rig::with_lost_node(false)] {
        // A session's call went by its front door: toward itself, from itself, to the phone's edge.
        let door = [
            rig.departed(TokenKind::Relay, Transport::Udp, DEPARTED),
            rig.departed(TokenKind::Dialog, Transport::Udp, DEPARTED),
        ];
        let to_phone = bye("sip:bob@10.0.0.2", &[&door[..], &[rig.other()]].concat());
        let (hop, message) = sent(rig.receive(&to_phone, "192.0.2.1:5060"));
        assert_eq!(hop, datagram(OTHER));
        assert_eq!(values(&message, HeaderName::Route), [rig.other()]);
        // And back: the phone's own edge, then the two, then the session itself.
        let alice = rig.written_at(
            "192.0.2.1:5060",
            "192.0.2.1:5060",
            TokenKind::Dialog,
            Transport::Udp,
            PHONE,
        );
        let session = format!("sip:{}@c.n.outlast.invalid", rig.session_token(12, 7));
        let back = [alice, door[1].clone(), door[0].clone()];
        let (name, message) = rig.offered(rig.receive(&bye(&session, &back), PHONE));
        assert_eq!(name, "container2");
        assert_eq!(message.field(HeaderName::Route), None);
        // A phone whose edge has departed sends to another one what goes by the first.
        let mine = rig.departed(TokenKind::Dialog, Transport::Udp, PHONE);
        let text = bye("sip:bob@10.0.0.2", &[mine.clone(), rig.other()]);
        let (hop, message) = sent(rig.receive(&text, PHONE));
        assert_eq!(
            (hop, values(&message, HeaderName::Route)),
            (datagram(OTHER), vec![rig.other()])
        );
        assert_eq!(rig.offered(rig.receive(&bye(&session, &[mine]), PHONE)).0, "container2");
    }
}

// The registrar knows where the phone is registered now, and a relayed target is reached from anywhere.
#[test]
fn a_flow_of_a_departed_edge_is_gone_and_a_relayed_target_is_not() {
    let rig = Rig::with_lost_node(false);
    let contact = "sip:bob@203.0.113.9:5070";
    let flow = rig.departed(TokenKind::Dialog, Transport::Udp, OTHER_PHONE);
    let (_, message) = rig.offered(rig.receive(&bye(contact, &[flow]), PHONE));
    assert_eq!(message.field(HeaderName::Route), None);
    assert_eq!(message.request_uri(), Some(contact.as_bytes()));
    let relayed = rig.departed(TokenKind::Relay, Transport::Udp, "203.0.113.9:5070");
    let (hop, message) = sent(rig.receive(&bye(contact, &[relayed]), PHONE));
    assert_eq!((hop, message.field(HeaderName::Route)), (datagram("203.0.113.9:5070"), None));
    // A connection from or to that edge ended with it: asked for, it is found to be gone.
    let flow = rig.departed(TokenKind::Dialog, Transport::Tcp, OTHER_PHONE);
    let text = bye(contact, &[flow]);
    assert!(matches!(sent(rig.receive(&text, PHONE)).0, Hop::Connection { reopen: None, .. }));
    rig.offered(rig.receive_without_flow(&text));
}

// RFC 5658: with two addresses an edge writes two values, one of them without a token.
#[test]
fn public_addresses_and_values_without_a_token_are_believed_of_edges_that_the_topology_knows() {
    let inner = format!("<sip:{DEPARTED};lr>");
    for is_known in [true, false] {
        let rig = Rig::with_lost_node(is_known);
        let token =
            rig.written_at("lost.example.com", DEPARTED, TokenKind::Dialog, Transport::Udp, PHONE);
        let owner = format!("sip:{}@c.n.outlast.invalid", rig.session_token(12, 7));
        let routes = [token.clone(), inner.clone()];
        let (name, message) = rig.offered(rig.receive(&bye(&owner, &routes), PHONE));
        if is_known {
            assert_eq!((name.as_str(), message.field(HeaderName::Route)), ("container2", None));
        } else {
            assert_eq!(values(&message, HeaderName::Route), [token, inner.clone()]);
        }
    }
}

#[test]
fn nobody_elses_route_is_taken_for_a_departed_edges() {
    let rig = Rig::with_lost_node(true);
    let stays = |route: &str| {
        let message = parse(&bye("sip:bob@10.0.0.2", &[route.to_owned()]));
        let dialog = Some(CALL_ID);
        let routes = message.values(HeaderName::Route);
        let own = OwnRoutes::read(routes, rig.view().spoken_for(), dialog, &rig.keys.flow);
        assert_eq!(own.map(|own| own.count), Ok(0), "{route}");
    };
    stays("<sip:203.0.113.9:5060;lr>");
    stays(&format!("<sip:{};lr>", DEPARTED.replace("5060", "5061")));
    stays(&format!("<sip:proxy@{DEPARTED};lr>"));
    // Whoever is there reads his own.
    stays(&rig.other());
    stays(&format!("<sip:{OTHER};lr>"));
    stays(&rig.written_at("far.example.com", OTHER, TokenKind::Dialog, Transport::Udp, PHONE));
    // A stranger's host beside a token of ours.
    let departed = |host| rig.written_at(host, DEPARTED, TokenKind::Dialog, Transport::Udp, PHONE);
    stays(&departed("203.0.113.9:5060"));
    stays(&departed("evil.example.com"));
    stays(&departed("192.0.2.9:5061"));
    let opened = "192.0.2.2:43210";
    stays(&rig.written_at(OTHER, opened, TokenKind::Dialog, Transport::Tcp, "203.0.113.9:5060"));
    // A token of a registration, which is of no dialog, of another dialog, with another tag.
    stays(&rig.departed(TokenKind::Flow, Transport::Udp, PHONE));
    let flow = Flow::new(Transport::Udp, DEPARTED.parse().unwrap(), PHONE.parse().unwrap());
    for (keys, call_id) in
        [(&rig.keys, &b"c2"[..]), (&Keys::derive(&KeyRing::new([8; 32])), CALL_ID)]
    {
        let token = FlowToken { kind: TokenKind::Dialog, flow }.encode(&keys.flow, call_id);
        stays(&format!("<sip:{}@{DEPARTED};lr>", String::from_utf8_lossy(&token)));
    }
}

#[test]
fn a_containers_request_leaves_what_departed_edges_wrote_to_a_front_door() {
    let rig = Rig::with_lost_node(true);
    let route = rig.departed(TokenKind::Dialog, Transport::Udp, OTHER_PHONE);
    let text = bye("sip:bob@10.0.0.2", std::slice::from_ref(&route));
    let door = Destination::Address {
        transport: Transport::Udp,
        address: "192.0.2.1:5060".parse().unwrap(),
    };
    let (hop, message) = sent(rig.send(&text, door).unwrap());
    assert_eq!(hop, datagram("192.0.2.1:5060"));
    assert_eq!(values(&message, HeaderName::Route), std::slice::from_ref(&route));
    // There it is as if the dialog had not begun on that flow.
    let flow = rig.flow(Transport::Udp, "192.0.2.1:5060");
    let arrival = Arrival {
        message: &message,
        flow,
        source: Source::Outside,
        attempt: Attempt::First,
        seed: 3,
    };
    let decision = from_outside(&arrival, &rig.view(), &mut BytesMut::new());
    assert_eq!(rig.offered(decision).1.field(HeaderName::Route), None);
}
