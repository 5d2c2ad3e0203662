//! What leaves a phone: its requests, as a server that knows nothing of it reads them.

#![allow(clippy::unwrap_used)]
use sip::{HeaderName, Message};

use super::*;

fn phones(transport: Transport) -> Phones {
    phones_of(transport, Outbound::No)
}

fn phones_of(transport: Transport, outbound: Outbound) -> Phones {
    let settings = PhoneSettings {
        run: RunId::new(7),
        domain: "example.org".to_owned(),
        transport,
        expires: 600,
        first_user: 100,
        outbound,
        echo_bytes: 500,
    };
    let mut phones = Phones::new(settings, 2);
    phones.set_address(FlowIndex(0), "127.0.0.1:4000".parse().unwrap());
    phones.set_address(FlowIndex(1), "127.0.0.1:4001".parse().unwrap());
    phones
}

fn key() -> Key {
    Key::parse(b"0000000300000004").unwrap()
}

fn request(bytes: Bytes) -> Message {
    let message = Message::parse(bytes).unwrap();
    message.check_request(sip::Framing::Stream).unwrap();
    message
}

fn field(message: &Message, name: HeaderName) -> String {
    String::from_utf8(message.field(name).unwrap_or_default().to_vec()).unwrap()
}

#[test]
fn a_register_names_its_user_contact_and_transaction() {
    let phones = phones(Transport::Tcp);
    let authorization = b"Authorization: Digest x=\"y\"\r\n";
    let values =
        Values { user: 3, contact: 2, line: 9, cseq: 12, authorization, ..Values::default() };
    let message = request(phones.register(phones.flow_of(3), key(), &values));
    assert_eq!(message.request_uri(), Some(phones.domain_uri()));
    assert_eq!(field(&message, HeaderName::To), "<sip:user103@example.org>");
    let contact = "<sip:user103.2@127.0.0.1:4001;transport=tcp>";
    assert_eq!(field(&message, HeaderName::Contact), contact);
    assert_eq!(message.top_via().unwrap().branch(), Some(&b"z9hG4bK000000070000000300000004"[..]));
    assert_eq!((message.cseq().unwrap().number, message.expires()), (12, Some(600)));
    assert_eq!(field(&message, HeaderName::Authorization), "Digest x=\"y\"");
}

#[test]
fn an_outbound_contact_names_its_phone_and_flow() {
    let phones = phones_of(Transport::Udp, Outbound::Yes);
    let values = Values { user: 3, line: 9, cseq: 1, ..Values::default() };
    let message = request(phones.register(FlowIndex(1), key(), &values));
    let contacts = message.contacts().unwrap();
    let sip::Contacts::List(contacts) = contacts else { panic!("a list") };
    let instance = contacts[0].instance().unwrap();
    assert_eq!(&*instance, b"<urn:uuid:00000000-0000-4000-8000-000000000009>");
    assert_eq!(contacts[0].reg_id(), Some(1));
    assert_eq!(field(&message, HeaderName::Supported), "path, outbound");
}

#[test]
fn the_contact_that_is_removed_is_every_one() {
    let phones = phones(Transport::Udp);
    let values = Values { user: 3, cseq: 1, ..Values::default() };
    let message = request(phones.unregister_all(FlowIndex(1), key(), &values));
    assert_eq!(field(&message, HeaderName::Contact), "*");
    assert_eq!(message.expires(), Some(0));
}

#[test]
fn an_invite_holds_its_call_and_an_offer_of_the_length_it_says() {
    let phones = phones(Transport::Udp);
    let values = Values { user: 0, peer: 1, cseq: 1, ..Values::default() };
    let call = Key::parse(b"0000000500000006").unwrap();
    let message = request(phones.invite(key(), call, &values));
    assert_eq!(message.request_uri().unwrap(), phones.address_of_record(1));
    assert_eq!(phones.call_of(message.call_id().unwrap()), Some(call));
    assert_eq!(phones.call_of(b"00000008c0000000500000006"), None, "another run's");
    assert_eq!(message.body(), session_description());
    assert_eq!(message.content_length().unwrap(), Some(session_description().len()));
    assert_eq!(field(&message, HeaderName::Contact).as_bytes(), phones.contact(0));
}

#[test]
fn requests_in_a_dialog_have_branches_of_their_own() {
    let phones = phones(Transport::Udp);
    let values = Values {
        cseq: 2,
        target: b"sip:user101@127.0.0.1:4001",
        route: b"Route: <sip:127.0.0.1;lr>\r\n",
        local: b"<sip:a@b>;tag=1",
        remote: b"<sip:b@b>;tag=2",
        ..Values::default()
    };
    let mut branches = Vec::new();
    for method in [Method::Ack, Method::Bye, Method::Info, Method::Invite] {
        let message = request(phones.in_dialog(method, key(), key(), &values));
        assert_eq!((message.method(), message.cseq().unwrap().method), (Some(method), method));
        assert_eq!(field(&message, HeaderName::Route), "<sip:127.0.0.1;lr>");
        assert_eq!(field(&message, HeaderName::To), "<sip:b@b>;tag=2");
        assert_eq!(message.field(HeaderName::Contact).is_some(), method == Method::Invite);
        branches.push(message.top_via().unwrap().branch().unwrap().to_vec());
    }
    assert_ne!(branches[0], branches[1], "an ACK answers no transaction of ours");
}

#[test]
fn an_echo_is_a_response_to_itself_of_the_length_that_was_asked_for() {
    let phones = phones(Transport::Udp);
    let datagram = phones.echo(key(), &Values::default());
    assert_eq!(datagram.len(), 500);
    let message = Message::parse(datagram).unwrap();
    assert_eq!((message.is_request(), message.status()), (false, Some(200)));
}
