//! Responses: followed by our own Via only.

use super::*;

fn response(vias: &[String]) -> String {
    let vias: Vec<String> = vias.iter().map(|via| format!("Via: {via}")).collect();
    format!(
        "SIP/2.0 200 OK
        {}
        From: <sip:alice@example.com>;tag=a
        To: <sip:bob@example.com>;tag=b
        Call-ID: c1@10.0.0.1
        CSeq: 1 INVITE
        Content-Length: 0",
        vias.join("\n")
    )
}

fn phone_via() -> String {
    "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK776;received=198.51.100.7;rport=49152".to_owned()
}

impl Rig {
    fn own_via(&self, flow: Flow) -> String {
        let token = self.token(TokenKind::Response, flow);
        format!("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKedge;flow={token}")
    }

    fn container_via(&self, incarnation: u64) -> String {
        format!(
            "SIP/2.0/TCP c.node.outlast.invalid;branch=z9hG4bK{}xyz",
            self.owner_token(incarnation)
        )
    }
}

// RFC 3261 §16.7(3), §18.2.2, RFC 3581 §4
#[test]
fn a_containers_response_goes_back_by_the_flow_in_our_via() {
    let rig = Rig::new();
    let flow = rig.flow(Transport::Udp, PHONE);
    let text = response(&[rig.own_via(flow), phone_via()]);
    let (hop, message) = sent(rig.send(&text, Destination::Via).unwrap());
    assert_eq!(hop, datagram(PHONE));
    assert_eq!(values(&message, HeaderName::Via), [phone_via()]);

    let without_rport =
        "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK776;received=198.51.100.7".to_owned();
    let (hop, _) =
        sent(rig.send(&response(&[rig.own_via(flow), without_rport]), Destination::Via).unwrap());
    assert_eq!(hop, datagram("198.51.100.7:5070"));

    let flow = rig.flow(Transport::Tcp, PHONE);
    let (hop, _) =
        sent(rig.send(&response(&[rig.own_via(flow), phone_via()]), Destination::Via).unwrap());
    assert_eq!(hop, Hop::Connection { flow, reopen: Some("198.51.100.7:5070".parse().unwrap()) });
}

#[test]
fn a_phones_response_reaches_the_container_that_its_via_names() {
    let mut rig = Rig::new();
    let own = "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKedge".to_owned();
    for (name, incarnation) in [("container1", 11), ("container2", 12)] {
        let text = response(&[own.clone(), rig.container_via(incarnation), phone_via()]);
        let (container, message) = rig.offered(rig.receive(&text, OTHER_PHONE));
        assert_eq!(container, name);
        assert_eq!(message.values(HeaderName::Via).count(), 2);
    }
    // a dead owner's responses reach its successor
    rig.close("container1", 11);
    let text = response(&[own, rig.container_via(11), phone_via()]);
    assert_eq!(rig.offered(rig.receive(&text, OTHER_PHONE)).0, "container2");
}

// RFC 3261 §16.7(3), RFC 4475 §3.3.10
#[test]
fn a_response_that_is_not_ours_to_forward_is_dropped() {
    let rig = Rig::new();
    let flow = rig.flow(Transport::Udp, PHONE);
    let own = rig.own_via(flow);
    let bare = "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKedge".to_owned();
    let mut forged_owner = rig.container_via(11);
    let at = forged_owner.find("z9hG4bK").unwrap() + 12;
    forged_owner.replace_range(at..=at, if &forged_owner[at..=at] == "A" { "B" } else { "A" });
    let other_kind = format!("{bare};flow={}", rig.token(TokenKind::Flow, flow));
    for (vias, reason) in [
        (vec![phone_via(), own.clone()], DropReason::NotOurVia),
        (vec![own.clone()], DropReason::NoSecondVia),
        (vec![bare.clone(), phone_via()], DropReason::ForgedVia),
        (vec![bare.clone(), forged_owner], DropReason::ForgedVia),
        (vec![format!("{bare};flow=abc"), phone_via()], DropReason::ForgedVia),
        (vec![other_kind, phone_via()], DropReason::ForgedVia),
        (
            vec![bare.clone(), "SIP/2.0/UDP 255.255.255.255;branch=z9hG4bKx".to_owned()],
            DropReason::MalformedResponse,
        ),
    ] {
        assert_eq!(rig.receive(&response(&vias), OTHER_PHONE), Decision::Drop(reason), "{vias:?}");
    }
    let nobody = Rig::new().without_containers();
    let text = response(&[bare, nobody.container_via(11)]);
    assert_eq!(nobody.receive(&text, OTHER_PHONE), Decision::Drop(DropReason::NoContainer));
}

#[test]
fn a_containers_response_for_another_edges_via_goes_to_that_edge() {
    let mut rig = Rig::new();
    rig.fellows = FellowEdges::new(vec!["192.0.2.2:5060".parse().unwrap()], Vec::new());
    let text =
        response(&["SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bKedge;flow=x".to_owned(), phone_via()]);
    let (hop, message) = sent(rig.send(&text, Destination::Via).unwrap());
    assert_eq!(hop, datagram("192.0.2.2:5060"));
    assert_eq!(message.values(HeaderName::Via).count(), 2);
    let stranger =
        response(&["SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKedge".to_owned(), phone_via()]);
    assert_eq!(rig.send(&stranger, Destination::Via), Err(SendError::Refused));
    // The token tells that an edge of the node wrote it: the view will show that one soon.
    let unknown = rig.own_via(rig.flow(Transport::Udp, PHONE)).replace("192.0.2.1", "192.0.2.3");
    assert_eq!(
        rig.send(&response(&[unknown, phone_via()]), Destination::Via),
        Err(SendError::Full)
    );
}

#[test]
fn a_response_to_a_containers_request_comes_back_although_the_edge_it_left_by_has_departed() {
    const DEPARTED: &str = "192.0.2.9:5060";
    let mut rig = Rig::new();
    let via = |rig: &Rig| {
        let by_departed = rig.own_via(rig.flow(Transport::Udp, DEPARTED));
        let departed = format!("SIP/2.0/UDP {DEPARTED};branch=z9hG4bKedge");
        [by_departed, departed, rig.container_via(12), phone_via()]
    };
    // While it is there, it is its response.
    rig.fellows = FellowEdges::new(vec![DEPARTED.parse().unwrap()], Vec::new());
    let (hop, message) = sent(rig.receive(&response(&via(&rig)), OTHER_PHONE));
    assert_eq!((hop, message.values(HeaderName::Via).count()), (datagram(DEPARTED), 3));
    let departed = Listener::direct(Transport::Udp, DEPARTED.parse().unwrap());
    rig.fellows = FellowEdges::new(Vec::new(), vec![departed]);
    let (container, message) = rig.offered(rig.receive(&response(&via(&rig)), OTHER_PHONE));
    assert_eq!((container.as_str(), message.values(HeaderName::Via).count()), ("container2", 2));
    // What it had from elsewhere only it can give back; and nobody is believed who only wrote its address.
    let back = format!(
        "{};flow={}",
        via(&rig)[1],
        rig.token(TokenKind::Response, rig.flow(Transport::Udp, PHONE))
    );
    let (hop, _) =
        sent(rig.receive(&response(&[via(&rig)[0].clone(), back, phone_via()]), OTHER_PHONE));
    assert_eq!(hop, datagram(DEPARTED));
    let [top, departed, ..] = via(&rig);
    for (vias, reason) in [
        (vec![top.clone(), departed.clone(), phone_via()], DropReason::ForgedVia),
        (vec![top, departed], DropReason::NoSecondVia),
    ] {
        assert_eq!(rig.receive(&response(&vias), OTHER_PHONE), Decision::Drop(reason));
    }
}

#[test]
fn a_response_comes_back_past_all_edges_that_have_departed_since() {
    const DEPARTED: &str = "192.0.2.9:5060";
    const OTHER: &str = "192.0.2.2:5060";
    let mut rig = Rig::new();
    let departed = Listener::direct(Transport::Udp, DEPARTED.parse().unwrap());
    rig.fellows = FellowEdges::new(vec![OTHER.parse().unwrap()], vec![departed]);
    let from = |rig: &Rig, address: &str| rig.own_via(rig.flow(Transport::Udp, address));
    let departed = format!("SIP/2.0/UDP {DEPARTED};branch=z9hG4bKedge");
    let departed_from = |rig: &Rig, address: &str| {
        let token = rig.token(TokenKind::Response, rig.flow(Transport::Udp, address));
        format!("{departed};flow={token}")
    };
    // It let the request in by its own front door, or had it from this edge; another one is there still.
    let own_door = || [from(&rig, DEPARTED), departed_from(&rig, DEPARTED), departed.clone()];
    let own = "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKedge".to_owned();
    let of_own = || [from(&rig, DEPARTED), departed_from(&rig, "192.0.2.1:5060"), own.clone()];
    for vias in [own_door(), of_own()] {
        let vias = [&vias[..], &[rig.container_via(12), phone_via()]].concat();
        let (container, message) = rig.offered(rig.receive(&response(&vias), OTHER_PHONE));
        assert_eq!(
            (container.as_str(), message.values(HeaderName::Via).count()),
            ("container2", 2)
        );
    }
    let other = format!("SIP/2.0/UDP {OTHER};branch=z9hG4bKedge");
    let vias = [from(&rig, DEPARTED), departed_from(&rig, OTHER), other, rig.container_via(12)];
    let (hop, message) = sent(rig.receive(&response(&vias), OTHER_PHONE));
    assert_eq!((hop, message.values(HeaderName::Via).count()), (datagram(OTHER), 2));
}

#[test]
fn a_response_that_another_edge_is_to_have_goes_there_or_past_it_when_it_has_departed() {
    const OTHER: &str = "192.0.2.2:5060";
    let mut rig = Rig::new();
    let other = OTHER.parse().unwrap();
    rig.fellows = FellowEdges::new(vec![other], Vec::new());
    let from_phone = rig.own_via(rig.flow(Transport::Udp, PHONE)).replace("192.0.2.1", "192.0.2.2");
    let of_container = format!("SIP/2.0/UDP {OTHER};branch=z9hG4bKedge");
    let by_container = [of_container.clone(), rig.container_via(12), phone_via()];
    for vias in [&[from_phone.clone(), phone_via()][..], &by_container] {
        let (hop, message) = sent(rig.receive(&response(vias), OTHER_PHONE));
        assert_eq!((hop, message.values(HeaderName::Via).count()), (datagram(OTHER), vias.len()));
        // Once: the two may not agree whose address it is.
        let flow = rig.flow(Transport::Udp, OTHER);
        let again = rig.receive_from(flow, Source::OtherEdge, Attempt::First, &response(vias));
        assert_eq!(again, Decision::Drop(DropReason::NotOurVia));
    }
    let foreign = Decision::Drop(DropReason::NotOurVia);
    assert_eq!(rig.receive(&response(&[of_container, phone_via()]), OTHER_PHONE), foreign);

    let departed = Listener::direct(Transport::Udp, other);
    rig.fellows = FellowEdges::new(Vec::new(), vec![departed]);
    let (container, message) = rig.offered(rig.receive(&response(&by_container), OTHER_PHONE));
    assert_eq!((container.as_str(), message.values(HeaderName::Via).count()), ("container2", 2));
    assert_eq!(rig.receive(&response(&[from_phone, phone_via()]), OTHER_PHONE), foreign);
}
