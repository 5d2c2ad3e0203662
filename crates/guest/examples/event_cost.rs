//! What an event costs a container that a guest handles: `cargo run --release -p guest --example event_cost`, and with a
//! guest in Rust: `… --example event_cost -- target/apps/answer/answer.wasm`.
//!
//! Processor time of this thread, in batches; the median batch counts. Without an argument the guest is a small one in
//! WebAssembly text, which looks at a header, reads an attribute of 500 octets, writes one, and answers: four host calls. With
//! a component it is given what `apps/answer` is in a call: an INVITE with an offer, its ACK, the BYE.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../tests/it/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "../tests/it/module.rs"]
#[allow(dead_code)]
mod module;

use std::time::Duration;

use container::session::{
    CALLER, LegName, RequestId, SessionApplication, SessionEvent, SessionView,
};
use guest::{Guest, Instances};
use rustix::time::{ClockId, clock_gettime};

use crate::bench::{INVITE, begun, load, session, settings, told};
use crate::module::{Module, REQUEST, RESULT, respond};

const BATCHES: usize = 50;
const EVENTS: u32 = 400;

fn guest() -> Vec<u8> {
    let mut module = Module::new();
    let subject = module.text("Subject");
    let (read, written) = (module.text("known"), module.text("new"));
    let value = module.text(&"x".repeat(500));
    module
        .handler(&format!(
            "(if (i32.eq (local.get $event) (i32.const {REQUEST})) (then
               (call $header (local.get $message) {subject} {RESULT})
               (call $get {read} {RESULT})
               (call $set {written} {value} {RESULT})
               {}
               (call $drop (local.get $message))))",
            respond(200)
        ))
        .build()
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
}

fn loaded(wasm: &[u8], instances: Instances) -> Guest {
    let mut settings = settings();
    settings.instances = instances;
    load(wasm, settings)
}

/// What one event costs: the tenth, the half and the ninth tenth of the batches.
async fn cost(
    guest: &Guest,
    session: &SessionView,
    event: &SessionEvent,
    answer: Option<u16>,
) -> [Duration; 3] {
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        let began = thread_time();
        for _ in 0..EVENTS {
            assert_eq!(told(&guest.on_event(session, event).await), answer);
        }
        batches.push((thread_time() - began) / EVENTS);
    }
    assert_eq!(guest.counts().failed(), 0);
    batches.sort();
    [batches[BATCHES / 10], batches[BATCHES / 2], batches[BATCHES * 9 / 10]]
}

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
    m=audio 4000 RTP/AVP 0\r\n";

fn request(method: &str, body: &str) -> sip::Message {
    let text = format!(
        "{method} sip:answer@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
         From: <sip:alice@example.com>;tag=a\r\nTo: <sip:answer@example.com>\r\nCall-ID: c\r\n\
         CSeq: 1 {method}\r\nContact: <sip:alice@192.0.2.1>\r\nContent-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    sip::Message::parse(text.into_bytes().into()).unwrap()
}

/// The events of a call, and what is answered.
fn call() -> [(&'static str, SessionEvent, Option<u16>); 3] {
    let leg = LegName::new(CALLER);
    let bye = RequestId(2);
    let request_event =
        |request, message| SessionEvent::Request { leg: leg.clone(), request, message };
    let ack = SessionEvent::Acknowledged { leg: leg.clone(), message: request("ACK", "") };
    [
        ("INVITE", request_event(INVITE, request("INVITE", OFFER)), Some(200)),
        ("ACK", ack, None),
        ("BYE", request_event(bye, request("BYE", "")), None),
    ]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let component = std::env::args_os().nth(1).map(|path| std::fs::read(path).unwrap());
    for (name, instances) in [("fresh", Instances::Fresh), ("reused", Instances::Reused)] {
        let tell = |event: &str, [low, median, high]: [Duration; 3]| {
            println!("{name:>7}, {event}: {median:?} an event (10% to 90%: {low:?} to {high:?})");
        };
        let mut session = session();
        match &component {
            None => {
                let known = vec![b'y'; 500].into();
                session.attributes.insert("known".to_owned(), known);
                let guest = loaded(&guest(), instances);
                tell("four host calls", cost(&guest, &session, &begun(), Some(200)).await);
            }
            Some(component) => {
                let guest = loaded(component, instances);
                for (event_name, event, answer) in call() {
                    tell(event_name, cost(&guest, &session, &event, answer).await);
                }
            }
        }
    }
}
