//! Transactions in virtual time: repetitions, answers, and what counts as lost.

#![allow(clippy::unwrap_used)]
use super::*;

const TARGET: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5060);
const FLOW: FlowIndex = FlowIndex(0);

fn owner() -> Key {
    Key::parse(b"0000000700000007").unwrap()
}

fn request(run: RunId, method: &str, key: Key) -> Bytes {
    let mut branch = bytes::BytesMut::new();
    key.put(&mut branch);
    let (run, branch) = (run.as_str(), String::from_utf8(branch.to_vec()).unwrap());
    format!(
        "{method} sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:1;branch=z9hG4bK{run}{branch}\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: x\r\nCSeq: 1 {method}\r\n\r\n"
    )
    .into()
}

fn answer(request: &Bytes, status: u16) -> Message {
    let request = Message::parse(request.clone()).unwrap();
    Message::parse(sip::ResponseBuilder::new(&request, status).build()).unwrap()
}

struct Fixture {
    transactions: Transactions,
    outbox: Outbox,
    run: RunId,
    start: Instant,
}

impl Fixture {
    fn new(reliability: Reliability) -> Fixture {
        let run = RunId::new(7);
        let transactions = Transactions::new(run, reliability);
        Fixture { transactions, outbox: Outbox::new(), run, start: Instant::now() }
    }

    fn send(&mut self, method: Method<'static>) -> Bytes {
        let (run, start) = (self.run, self.start);
        let name = String::from_utf8(method.as_bytes().to_vec()).unwrap();
        let route = (FLOW, TARGET);
        let outbox = &mut self.outbox;
        self.transactions
            .send(owner(), method, route, start, outbox, |key| request(run, &name, key));
        match self.outbox.drain(..).next() {
            Some(Output::Send { message, .. }) => message,
            other => panic!("a request is sent, not {other:?}"),
        }
    }

    /// Lets time go by in steps of 100 ms; when something was repeated or given up, in milliseconds.
    fn let_pass(&mut self, until: Duration) -> (Vec<u64>, Option<u64>) {
        let (mut repeated, mut given_up) = (Vec::new(), None);
        for step in 0..=until.as_millis() as u64 / 100 {
            let now = self.start + Duration::from_millis(step * 100);
            while let Some(overdue) = self.transactions.take_due(now, &mut self.outbox) {
                match overdue {
                    Overdue::Repeated => repeated.push(step * 100),
                    Overdue::GivenUp(request) => {
                        assert_eq!(request.owner, owner());
                        given_up = Some(step * 100);
                    }
                }
            }
        }
        (repeated, given_up)
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn requests_are_repeated_as_the_timers_say_and_given_up_after_32_seconds() {
    let cases = [
        (Method::Invite, vec![500, 1_500, 3_500, 7_500, 15_500, 31_500]),
        (
            Method::Register,
            vec![500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500],
        ),
    ];
    for (method, expected) in cases {
        let mut fixture = Fixture::new(Reliability::Unreliable);
        let sent = fixture.send(method);
        assert_eq!(fixture.let_pass(MINUTE), (expected.clone(), Some(32_000)), "{method:?}");
        assert_eq!(fixture.outbox.len(), expected.len());
        assert!(
            fixture.outbox.iter().all(|output| {
                matches!(output, Output::Send { message, .. } if *message == sent)
            })
        );
        assert_eq!(fixture.transactions.next_due(), None);
    }
}

#[test]
fn over_tcp_nothing_is_repeated() {
    let mut fixture = Fixture::new(Reliability::Reliable);
    fixture.send(Method::Invite);
    assert_eq!(fixture.let_pass(MINUTE), (vec![], Some(32_000)));
}

#[test]
fn a_provisional_response_ends_the_repetitions_of_an_invite_only() {
    for (method, repetitions) in [(Method::Invite, 0), (Method::Register, 10)] {
        let mut fixture = Fixture::new(Reliability::Unreliable);
        let sent = fixture.send(method);
        let answered = fixture.transactions.receive(&answer(&sent, 100));
        assert!(matches!(answered, Some(Answered::Provisional(_))), "{answered:?}");
        let (repeated, given_up) = fixture.let_pass(MINUTE);
        assert_eq!((repeated.len(), given_up), (repetitions, Some(32_000)), "{method:?}");
    }
}

#[test]
fn a_final_response_is_taken_once_and_ends_the_timers() {
    let mut fixture = Fixture::new(Reliability::Unreliable);
    let sent = fixture.send(Method::Register);
    let response = answer(&sent, 200);
    match fixture.transactions.receive(&response) {
        Some(Answered::Final(request)) => assert_eq!(request.request, sent),
        other => panic!("{other:?}"),
    }
    assert!(fixture.transactions.receive(&response).is_none(), "a repetition");
    assert_eq!(fixture.let_pass(MINUTE), (vec![], None));
}

#[test]
fn responses_of_other_runs_methods_and_branches_match_nothing() {
    let mut fixture = Fixture::new(Reliability::Unreliable);
    let sent = fixture.send(Method::Register);
    let text = String::from_utf8(sent.to_vec()).unwrap();
    let others = [
        text.replace("z9hG4bK00000007", "z9hG4bK00000008"),
        text.replace("REGISTER", "OPTIONS"),
        text.replace("z9hG4bK", "z9hG4bL"),
        text.replace("z9hG4bK0000000700000000", "z9hG4bK0000000700000009"),
    ];
    for other in others {
        assert_ne!(other, text);
        assert!(
            fixture.transactions.receive(&answer(&other.clone().into(), 200)).is_none(),
            "{other}"
        );
    }
    assert!(fixture.transactions.receive(&answer(&sent, 200)).is_some());
}
