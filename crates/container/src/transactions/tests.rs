//! The transaction layer in virtual time: messages and deadlines in, effects out.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use sip::HeaderName;
use sip::transaction::{ClientInviteState, Timers};
use topology::KeyRing;
use transport::{Flow, Transport};

use super::*;
use crate::edges::LinkId;

/// A layer in virtual time, with what it has asked for.
struct Bench {
    layer: Transactions,
    now: Instant,
    transport: Transport,
}

const EDGE_VIA: &str = "SIP/2.0/UDP edge;branch=z9hG4bKaaa";
const OWN_VIA: &str = "SIP/2.0/TCP c1.invalid;branch=z9hG4bKours";

fn message(text: String) -> Message {
    Message::parse(text.into_bytes().into()).unwrap()
}

fn request(method: &str, via: &str, to_tag: &str) -> Message {
    message(format!(
        "{method} sip:b@example.com SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nFrom: <sip:a@x>;tag=f\r\n\
         To: <sip:b@x>{to_tag}\r\nCall-ID: c1\r\nCSeq: 7 {method}\r\nContent-Length: 0\r\n\r\n"
    ))
}

fn response(status: u16, method: &str) -> Message {
    message(format!(
        "SIP/2.0 {status} X\r\nVia: {OWN_VIA}\r\nVia: {EDGE_VIA}\r\nFrom: <sip:a@x>;tag=f\r\n\
         To: <sip:b@x>;tag=callee\r\nCall-ID: c1\r\nCSeq: 7 {method}\r\nContent-Length: 0\r\n\r\n"
    ))
}

/// One word for each effect: what it is, and of a message its method or status.
fn words(effects: &[TransactionEffect]) -> Vec<String> {
    let start = |bytes: &Bytes| {
        let message = Message::parse(bytes.clone()).unwrap();
        match message.status() {
            Some(status) => status.to_string(),
            None => message.method().unwrap().to_string(),
        }
    };
    effects
        .iter()
        .map(|effect| match effect {
            TransactionEffect::Begun { request, .. } => {
                format!("begun {}", request.method().unwrap())
            }
            TransactionEffect::Acknowledged { .. } => "acknowledged".to_owned(),
            TransactionEffect::Cancelled { .. } => "cancelled".to_owned(),
            TransactionEffect::Delivered { response, .. } => {
                format!("delivered {}", response.status().unwrap())
            }
            TransactionEffect::Failed { failure, .. } => format!("failed {failure:?}"),
            TransactionEffect::ClientEnded { .. } => "ended".to_owned(),
            TransactionEffect::ServerEnded { .. } => "server ended".to_owned(),
            TransactionEffect::CancelAnswered { status, .. } => format!("cancel answered {status}"),
            TransactionEffect::SendRequest { bytes, .. }
            | TransactionEffect::SendResponse { bytes, .. } => format!("send {}", start(bytes)),
        })
        .collect()
}

impl Bench {
    fn new() -> Bench {
        Bench::with_room_for(100)
    }

    fn with_room_for(transactions_max: usize) -> Bench {
        let settings = TransactionSettings { timers: Timers::default(), transactions_max };
        Bench {
            layer: Transactions::new(settings, Responder::new(&KeyRing::new([1; 32]))),
            now: Instant::now(),
            transport: Transport::Udp,
        }
    }

    fn origin(&self) -> Origin {
        let address = |text: &str| text.parse().unwrap();
        Origin {
            link: LinkId(1),
            flow: Flow::new(self.transport, address("192.0.2.1:5060"), address("192.0.2.9:5060")),
        }
    }

    fn request(&mut self, method: &str, via: &str, to_tag: &str) -> Vec<TransactionEffect> {
        let mut effects = Vec::new();
        let origin = self.origin();
        self.layer.request(request(method, via, to_tag), origin, self.now, &mut effects);
        effects
    }

    /// A first request; its transaction.
    fn begin(&mut self, method: &str, via: &str) -> ServerId {
        let effects = self.request(method, via, "");
        let [TransactionEffect::Begun { server, .. }] = effects[..] else {
            panic!("{:?}", words(&effects));
        };
        server
    }

    fn answer(&mut self, server: ServerId, status: u16) -> Vec<String> {
        let mut effects = Vec::new();
        self.layer.respond_own(server, &Response::new(status), self.now, &mut effects);
        words(&effects)
    }

    fn start(&mut self, method: &str) -> (ClientId, Vec<String>) {
        let mut effects = Vec::new();
        let method_name = Method::parse(method.as_bytes()).unwrap();
        let bytes = request(method, OWN_VIA, "").buffer().clone();
        let reliability = Reliability::Unreliable;
        let client = self
            .layer
            .start(method_name, b"z9hG4bKours", bytes, reliability, self.now, &mut effects)
            .unwrap();
        (client, words(&effects))
    }

    fn response(&mut self, status: u16, method: &str) -> Vec<String> {
        let mut effects = Vec::new();
        self.layer.response(response(status, method), self.now, &mut effects);
        words(&effects)
    }

    /// Lets time pass; what happens, with the milliseconds since now.
    fn pass(&mut self, duration: Duration) -> Vec<(u128, String)> {
        let start = self.now;
        let end = start + duration;
        let mut log = Vec::new();
        while let Some(at) = self.layer.next_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            let mut effects = Vec::new();
            self.layer.timeout(self.now, &mut effects);
            let at = (self.now - start).as_millis();
            log.extend(words(&effects).into_iter().map(|word| (at, word)));
        }
        self.now = end;
        log
    }
}

/// `(milliseconds, word)` as text.
fn log(entries: &[(u128, String)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(at, word)| format!("{at} {word}")).collect();
    entries.join(", ")
}

#[test]
fn repeated_request_is_absorbed_and_gets_the_same_response() {
    let mut bench = Bench::new();
    let server = bench.begin("REGISTER", EDGE_VIA);
    assert!(bench.request("REGISTER", EDGE_VIA, "").is_empty());
    assert_eq!(bench.answer(server, 200), ["send 200"]);
    let repeated = bench.request("REGISTER", "SIP/2.0/UDP edge2;branch=z9hG4bKaaa", "");
    assert_eq!(words(&repeated), ["send 200"]);
    assert_eq!(log(&bench.pass(Duration::from_secs(40))), "");
    assert!(bench.layer.is_empty());
}

// RFC 3261 §21.5.7
#[test]
fn response_that_is_longer_than_a_message_may_be_is_513() {
    let long = || Bytes::from(vec![b'x'; MESSAGE_BYTES_MAX + 1]);
    for method in ["REGISTER", "INVITE"] {
        let mut bench = Bench::new();
        let server = bench.begin(method, EDGE_VIA);
        let mut effects = Vec::new();
        bench.layer.respond(server, 180, long(), bench.now, &mut effects);
        assert_eq!(words(&effects), [""; 0], "{method}");
        bench.layer.respond(server, 200, long(), bench.now, &mut effects);
        assert_eq!(words(&effects), ["send 513"], "{method}");
        assert_eq!(words(&bench.request(method, EDGE_VIA, "")), ["send 513"], "a repetition");
        bench.pass(Duration::from_secs(40));
        assert!(bench.layer.is_empty(), "{method}: it is over");
    }
}

#[test]
fn response_follows_the_latest_copy_of_the_request() {
    let mut bench = Bench::new();
    let server = bench.begin("REGISTER", EDGE_VIA);
    let mut effects = Vec::new();
    let elsewhere = Origin { link: LinkId(2), ..bench.origin() };
    bench.layer.request(request("REGISTER", EDGE_VIA, ""), elsewhere, bench.now, &mut effects);
    bench.layer.respond_own(server, &Response::new(200), bench.now, &mut effects);
    let [TransactionEffect::SendResponse { origin, .. }] = effects[..] else {
        panic!("{:?}", words(&effects));
    };
    assert_eq!(origin.link, LinkId(2));
}

#[test]
fn invite_is_answered_100_not_before_its_user_says_so() {
    // RFC 3261 §17.2.1 wants it after 200 ms, but it must not say that we have what a crash would lose.
    for waits in [0, 100, 300] {
        let mut bench = Bench::new();
        let invite = bench.begin("INVITE", EDGE_VIA);
        assert_eq!(log(&bench.pass(Duration::from_millis(waits))), "");
        assert!(bench.request("INVITE", EDGE_VIA, "").is_empty());
        let mut effects = Vec::new();
        bench.layer.trying(invite, bench.now, &mut effects);
        bench.layer.trying(invite, bench.now, &mut effects);
        assert_eq!(words(&effects), ["send 100"]);
        assert_eq!(words(&bench.request("INVITE", EDGE_VIA, "")), ["send 100"]);
        assert_eq!(log(&bench.pass(Duration::from_secs(10))), "");
    }
}

#[test]
fn silent_non_invite_is_answered_100_at_timer_e_t2_and_given_up_at_timer_f() {
    // RFC 4320 §4.1 and §4.2
    let mut bench = Bench::new();
    bench.begin("OPTIONS", EDGE_VIA);
    assert_eq!(log(&bench.pass(Duration::from_secs(60))), "3500 send 100");
    assert!(bench.layer.is_empty());
}

#[test]
fn cancel_is_its_users_to_answer_and_its_repetition_absorbed() {
    // RFC 3261 §9.2, §16.10
    let mut bench = Bench::new();
    let invite = bench.begin("INVITE", EDGE_VIA);
    let cancelled = bench.request("CANCEL", EDGE_VIA, "");
    let [TransactionEffect::Cancelled { server, cancel, .. }] = cancelled[..] else {
        panic!("{:?}", words(&cancelled));
    };
    assert_eq!(server, invite);
    assert!(bench.request("CANCEL", EDGE_VIA, "").is_empty());
    let mut first = Vec::new();
    bench.layer.respond_own(cancel, &Response::new(200), bench.now, &mut first);
    let again = bench.request("CANCEL", "SIP/2.0/UDP edge2;branch=z9hG4bKaaa", "");
    assert_eq!(words(&again), ["send 200"]);

    let mut effects = Vec::new();
    bench.layer.respond_own(invite, &Response::new(487), bench.now, &mut effects);
    let tag = |effect: &TransactionEffect| {
        let TransactionEffect::SendResponse { bytes, .. } = effect else { panic!("{effect:?}") };
        Message::parse(bytes.clone()).unwrap().to().unwrap().tag().unwrap().to_vec()
    };
    // RFC 3261 §9.2: the To tags should be the same.
    assert_eq!(tag(&effects[0]), tag(&first[0]));
}

#[test]
fn cancel_without_invite_is_answered_481_and_after_the_final_has_no_effect() {
    let mut bench = Bench::new();
    let strange = bench.request("CANCEL", "SIP/2.0/UDP edge;branch=z9hG4bKbbb", "");
    assert_eq!(words(&strange), ["send 481"]);
    let invite = bench.begin("INVITE", EDGE_VIA);
    bench.answer(invite, 486);
    assert_eq!(words(&bench.request("CANCEL", EDGE_VIA, "")), ["send 200"]);
}

#[test]
fn failure_is_repeated_until_its_ack_which_nobody_else_sees() {
    let mut bench = Bench::new();
    let invite = bench.begin("INVITE", EDGE_VIA);
    assert_eq!(bench.answer(invite, 486), ["send 486"]);
    assert_eq!(log(&bench.pass(Duration::from_secs(1))), "500 send 486");
    assert!(bench.request("ACK", EDGE_VIA, ";tag=any").is_empty());
    assert_eq!(log(&bench.pass(Duration::from_secs(10))), "5000 server ended");
    assert!(bench.layer.is_empty());
}

#[test]
fn ack_to_a_2xx_is_the_applications_and_to_a_stateless_refusal_nobodys() {
    let mut bench = Bench::with_room_for(0);
    let refused = bench.request("INVITE", EDGE_VIA, "");
    let [TransactionEffect::SendResponse { bytes, .. }] = &refused[..] else {
        panic!("{:?}", words(&refused));
    };
    let refusal = Message::parse(bytes.clone()).unwrap();
    let tag = String::from_utf8(refusal.to().unwrap().tag().unwrap().to_vec()).unwrap();
    assert!(bench.request("ACK", EDGE_VIA, &format!(";tag={tag}")).is_empty());
    let foreign = bench.request("ACK", "SIP/2.0/UDP edge;branch=z9hG4bKbbb", ";tag=callee");
    assert_eq!(words(&foreign), ["acknowledged"]);
}

#[test]
fn full_layer_refuses_new_work_but_not_what_belongs_to_a_dialog() {
    let mut bench = Bench::with_room_for(4);
    for branch in 0..4 {
        bench.begin("OPTIONS", &format!("SIP/2.0/UDP edge;branch=z9hG4bK{branch}"));
    }
    let refused = bench.request("OPTIONS", EDGE_VIA, "");
    assert_eq!(words(&refused), ["send 503"]);
    let TransactionEffect::SendResponse { bytes, .. } = &refused[0] else { panic!() };
    let refusal = Message::parse(bytes.clone()).unwrap();
    let retry_after = refusal.field(HeaderName::RetryAfter).unwrap();
    let seconds: u8 = std::str::from_utf8(retry_after).unwrap().parse().unwrap();
    assert!((2..10).contains(&seconds), "{seconds}");

    assert_eq!(words(&bench.request("BYE", EDGE_VIA, ";tag=t")), ["begun BYE"]);
    let last = bench.request("BYE", "SIP/2.0/UDP edge;branch=z9hG4bKlast", ";tag=t");
    assert_eq!(words(&last), ["send 503"]);
    assert!(bench.layer.load() == u16::MAX);
}

#[test]
fn large_requests_fill_the_layer_sooner_and_leave_it_as_empty() {
    let mut bench = Bench::with_room_for(40);
    let mut begun = Vec::new();
    for number in 0.. {
        let text = request("OPTIONS", &format!("SIP/2.0/UDP edge;branch=z9hG4bK{number}"), "");
        let text = String::from_utf8(text.buffer().to_vec()).unwrap();
        let large = text.replace("Call-ID", &format!("Subject: {}\r\nCall-ID", "x".repeat(20_000)));
        let mut effects = Vec::new();
        bench.layer.request(message(large), bench.origin(), bench.now, &mut effects);
        let [TransactionEffect::Begun { server, .. }] = effects[..] else {
            assert_eq!(words(&effects), ["send 503"]);
            break;
        };
        begun.push(server);
    }
    assert_eq!(begun.len(), 4);
    for server in begun {
        bench.answer(server, 200);
    }
    assert_eq!((bench.layer.load(), bench.layer.answered.weight), (0, 4));
    bench.pass(Duration::from_secs(33));
    assert_eq!(bench.layer.answered.weight, 0);
}

#[test]
fn answered_request_keeps_out_no_new_one_and_is_forgotten_past_the_bound() {
    let mut bench = Bench::with_room_for(4);
    let via = |number: usize| format!("SIP/2.0/UDP edge;branch=z9hG4bK{number}");
    for number in 0..9 {
        let server = bench.begin("REGISTER", &via(number));
        assert_eq!(bench.answer(server, 200), ["send 200"]);
    }
    assert_eq!((bench.layer.len(), bench.layer.load()), (8, 0));
    // The oldest would be handled anew, all others get their answer again.
    assert_eq!(words(&bench.request("REGISTER", &via(1), "")), ["send 200"]);
    assert_eq!(words(&bench.request("REGISTER", &via(0), "")), ["begun REGISTER"]);
    // What waits for its answer, or an INVITE for its ACK, is never forgotten, and counts.
    for number in 10..13 {
        let server = bench.begin("INVITE", &via(number));
        bench.answer(server, 486);
    }
    assert_eq!(words(&bench.request("OPTIONS", EDGE_VIA, "")), ["send 503"]);
    bench.pass(Duration::from_secs(33));
    assert!(bench.layer.is_empty());
    let server = bench.begin("REGISTER", &via(0));
    bench.answer(server, 200);
    assert_eq!(bench.layer.answered.ends.len(), 1, "those that ended are not queued on");
}

#[test]
fn answered_request_whose_response_found_no_way_is_handled_anew() {
    // RFC 3261 §17.2.2: Completed ends with a transport error.
    let mut bench = Bench::new();
    let server = bench.begin("REGISTER", EDGE_VIA);
    bench.answer(server, 200);
    assert!(bench.layer.has_server(server) && bench.layer.final_response(server).is_some());
    bench.layer.response_failed(server, bench.now, &mut Vec::new());
    assert!(bench.layer.is_empty() && !bench.layer.has_server(server));
    assert_eq!(words(&bench.request("REGISTER", EDGE_VIA, "")), ["begun REGISTER"]);
}

#[test]
fn merged_request_is_known_while_the_other_one_lives() {
    // RFC 3261 §8.2.2.2
    let mut bench = Bench::new();
    let one = bench.begin("OPTIONS", EDGE_VIA);
    assert!(!bench.layer.is_merged(one));
    assert!(!bench.layer.is_merged(one), "not with itself");
    let other = bench.begin("OPTIONS", "SIP/2.0/UDP edge;branch=z9hG4bKbbb");
    assert!(bench.layer.is_merged(other));
    bench.answer(one, 200);
    assert!(bench.layer.is_merged(other));
    bench.layer.drop_server(one);
    assert!(!bench.layer.is_merged(other));
}

#[test]
fn success_passes_upstream_even_after_a_failure() {
    // RFC 3261 §16.7(5)
    let mut bench = Bench::new();
    let invite = bench.begin("INVITE", EDGE_VIA);
    bench.answer(invite, 486);
    let mut effects = Vec::new();
    let success = response(200, "INVITE").buffer().clone();
    bench.layer.respond(invite, 200, success, bench.now, &mut effects);
    assert_eq!(words(&effects), ["send 200"]);
    assert_eq!(log(&bench.pass(Duration::from_millis(600))), "500 send 486");
}

#[test]
fn failure_to_our_invite_is_acknowledged_each_time_and_delivered_once() {
    let mut bench = Bench::new();
    let (_, sent) = bench.start("INVITE");
    assert_eq!(sent, ["send INVITE"]);
    assert_eq!(log(&bench.pass(Duration::from_millis(600))), "500 send INVITE");
    assert_eq!(bench.response(180, "INVITE"), ["delivered 180"]);
    assert_eq!(bench.response(486, "INVITE"), ["send ACK", "delivered 486"]);
    assert_eq!(bench.response(486, "INVITE"), ["send ACK"]);
    assert_eq!(log(&bench.pass(Duration::from_secs(60))), "32000 ended");
}

#[test]
fn every_2xx_to_our_invite_is_delivered_and_a_stray_one_dropped() {
    // RFC 6026 §8.4 and §8.9
    let mut bench = Bench::new();
    bench.start("INVITE");
    assert_eq!(bench.response(200, "INVITE"), ["delivered 200"]);
    assert_eq!(bench.response(200, "INVITE"), ["delivered 200"]);
    bench.pass(Duration::from_secs(40));
    let mut effects = Vec::new();
    assert!(!bench.layer.response(response(200, "INVITE"), bench.now, &mut effects));
    assert!(effects.is_empty());
}

#[test]
fn cancel_of_ours_has_the_invites_branch_and_its_answer_goes_to_nobody() {
    let mut bench = Bench::new();
    let (invite, _) = bench.start("INVITE");
    bench.response(180, "INVITE");
    let mut effects = Vec::new();
    let reliability = Reliability::Unreliable;
    let cancel = bench.layer.cancel(invite, reliability, bench.now, &mut effects);
    assert!(cancel.is_some());
    assert_eq!(words(&effects), ["send CANCEL"]);
    assert_eq!(bench.response(200, "CANCEL"), ["cancel answered 200"]);
    assert_eq!(bench.response(487, "INVITE"), ["send ACK", "delivered 487"]);
}

#[test]
fn silence_and_transport_errors_are_told_with_their_reason() {
    let mut bench = Bench::new();
    bench.start("OPTIONS");
    let log = bench.pass(Duration::from_secs(60));
    assert_eq!(
        log[log.len() - 2..],
        [(32000, "failed TimedOut".to_owned()), (32000, "ended".to_owned())]
    );
    for (error, word) in [
        (SendError::FlowGone, "failed FlowGone"),
        (SendError::Unreachable, "failed Unreachable"),
        (SendError::Full, "failed Unreachable"),
    ] {
        let (client, _) = bench.start("INVITE");
        let mut effects = Vec::new();
        bench.layer.request_failed(client, error, bench.now, &mut effects);
        assert_eq!(words(&effects), [word, "ended"]);
    }
}

#[test]
fn same_branch_is_not_started_twice() {
    let mut bench = Bench::new();
    bench.start("OPTIONS");
    let again = bench.layer.start(
        Method::Options,
        b"z9hG4bKours",
        Bytes::new(),
        Reliability::Unreliable,
        bench.now,
        &mut Vec::new(),
    );
    assert_eq!(again, None);
}

#[test]
fn stream_repeats_nothing() {
    let mut bench = Bench::new();
    bench.transport = Transport::Tcp;
    let invite = bench.begin("INVITE", EDGE_VIA);
    bench.answer(invite, 486);
    assert_eq!(log(&bench.pass(Duration::from_secs(31))), "");
    let options = bench.begin("OPTIONS", "SIP/2.0/TCP edge;branch=z9hG4bKbbb");
    bench.answer(options, 200);
    bench.pass(Duration::from_secs(2));
    assert!(bench.layer.is_empty());
}

#[test]
fn tables_of_transactions_hold_pointers_so_that_one_that_grows_stalls_nobody() {
    fn entry_bytes<Id, Transaction>(_: &SlicedTable<Id, Transaction>) -> usize {
        size_of::<(Id, Transaction)>()
    }
    let layer = Bench::new().layer;
    assert_eq!((entry_bytes(&layer.servers), entry_bytes(&layer.clients)), (16, 16));
}

#[test]
fn invite_of_a_dead_container_goes_on_where_it_stood() {
    let mut bench = Bench::new();
    let here = bench.begin("INVITE", EDGE_VIA);
    let (invite, origin) = (request("INVITE", EDGE_VIA, ""), bench.origin());
    let resumed =
        bench.layer.resume_server(invite.clone(), origin, Resumed::Unanswered, bench.now).unwrap();
    assert!(!bench.layer.has_server(here), "one transaction of a key");
    assert_eq!(bench.answer(resumed, 486), ["send 486"]);
    assert!(bench.layer.knows(&request("ACK", EDGE_VIA, ";tag=any")));
    assert!(bench.layer.knows(&request("CANCEL", EDGE_VIA, "")));
    assert!(!bench.layer.knows(&request("BYE", EDGE_VIA, ";tag=any")));

    let answered = bench.layer.resume_server(invite, origin, Resumed::Answered, bench.now).unwrap();
    assert!(bench.request("INVITE", EDGE_VIA, "").is_empty());
    let mut effects = Vec::new();
    let relayed = response(200, "INVITE").buffer().clone();
    bench.layer.respond(answered, 200, relayed, bench.now, &mut effects);
    assert_eq!(words(&effects), ["send 200"]);
    assert_eq!(log(&bench.pass(Duration::from_secs(40))), "32000 server ended");
    assert!(bench.layer.is_empty());
}

#[test]
fn forwarded_invite_of_a_dead_container_is_not_sent_again() {
    let mut bench = Bench::new();
    let resume = |bench: &mut Bench, state| {
        let bytes = request("INVITE", OWN_VIA, "").buffer().clone();
        let unreliable = Reliability::Unreliable;
        bench.layer.resume(b"z9hG4bKours", bytes, unreliable, state, bench.now)
    };
    let ringing = resume(&mut bench, ClientInviteState::Proceeding).unwrap();
    assert_eq!(resume(&mut bench, ClientInviteState::Proceeding), None, "it is here already");
    assert_eq!(bench.layer.client_of(&response(486, "INVITE")), Some(ringing));
    assert_eq!(bench.response(486, "INVITE"), ["send ACK", "delivered 486"]);
    assert_eq!(log(&bench.pass(Duration::from_secs(40))), "32000 ended");
    resume(&mut bench, ClientInviteState::Accepted).unwrap();
    assert_eq!(bench.response(200, "INVITE"), ["delivered 200"]);
    assert_eq!(log(&bench.pass(Duration::from_secs(40))), "32000 ended");
    assert!(bench.layer.is_empty());
}
