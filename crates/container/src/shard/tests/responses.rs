//! Responses that an edge could not send.

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

impl Bench {
    fn comes_by(&mut self, transport: Transport, text: String) {
        self.sequence += 1;
        let (flow, bytes) = (flow(transport), text.into_bytes().into());
        let incoming = Incoming { hops: 0, sequence: self.sequence, flow, bytes };
        self.frame(1, LinkFrame::Incoming(incoming)).unwrap();
    }

    /// A request comes and is answered; under which number, and the answer as it left.
    fn answers(&mut self, transport: Transport, method: &str, status: u16) -> (u64, Message) {
        self.comes_by(transport, request(method, "aaa", ""));
        self.done(Effects::respond(Response::new(status)));
        self.sent().pop().unwrap()
    }
}

#[test]
fn response_over_a_stream_that_an_edge_cannot_send_leaves_by_the_other() {
    for error in [SendError::Refused, SendError::Full, SendError::Unreachable] {
        let mut bench = Bench::new();
        let (id, answer) = bench.answers(Transport::Tcp, "MESSAGE", 200);
        bench.send_failed(id, error);
        assert_eq!(bench.words(), Vec::<String>::new(), "not at once");
        bench.pass(100 * MILLISECOND);
        let words: Vec<_> = bench.effects.iter().map(word).collect();
        assert_eq!(words, ["2: 200"], "{error:?}");
        let (again, repeated) = bench.sent().pop().unwrap();
        assert_eq!((again, repeated.buffer()), (id, answer.buffer()));
        bench.send_failed(id, error);
        bench.pass(200 * MILLISECOND);
        assert_eq!(bench.words(), ["1: 200"], "and back to the first");
        bench.pass(Duration::from_secs(40));
        assert_eq!(bench.words(), Vec::<String>::new(), "it has left, as far as anybody knows");
    }
}

#[test]
fn response_that_never_leaves_is_given_up_after_64_t1() {
    let mut bench = Bench::new();
    let (id, _) = bench.answers(Transport::Tcp, "MESSAGE", 200);
    bench.send_failed(id, SendError::Refused);
    let (begin, mut last, mut copies) = (bench.now, bench.now, 0);
    while let Some(next) = bench.shard.next_timeout() {
        bench.pass(next.saturating_duration_since(bench.now));
        for _ in bench.sent() {
            (copies, last) = (copies + 1, bench.now);
            bench.send_failed(id, SendError::Refused);
        }
    }
    let time = last - begin;
    assert!(time > Duration::from_secs(20) && time < Duration::from_secs(32), "{time:?}");
    assert!((8..20).contains(&copies), "{copies}");
}

#[test]
fn response_whose_flow_is_gone_is_not_repeated() {
    let mut bench = Bench::new();
    let (id, _) = bench.answers(Transport::Tcp, "MESSAGE", 200);
    bench.send_failed(id, SendError::FlowGone);
    bench.pass(Duration::from_secs(40));
    assert_eq!(bench.words(), Vec::<String>::new());
}

#[test]
fn datagram_that_an_edge_cannot_send_leaves_its_transaction_as_it_is() {
    let mut bench = Bench::new();
    let (id, _) = bench.answers(Transport::Udp, "MESSAGE", 200);
    bench.send_failed(id, SendError::Refused);
    bench.comes_by(Transport::Udp, request("MESSAGE", "aaa", ""));
    assert_eq!(bench.words(), ["1: 200", "taken 2"], "no handler runs for the repetition");
    bench.pass(100 * MILLISECOND);
    assert_eq!(bench.words(), ["2: 200"]);
}

#[test]
fn failure_leaves_again_until_its_ack() {
    let cases = [Transport::Tcp, Transport::Udp].map(|by| [(by, false), (by, true)]);
    for (transport, is_acknowledged) in cases.into_iter().flatten() {
        let mut bench = Bench::new();
        let (id, answer) = bench.answers(transport, "INVITE", 486);
        bench.send_failed(id, SendError::Refused);
        if is_acknowledged {
            let to = answer.field(HeaderName::To).unwrap().escape_ascii().to_string();
            let ack = request("ACK", "aaa", "")
                .replace("To: <sip:bob@example.com>", &format!("To: {to}"));
            bench.comes_by(transport, ack);
            bench.words();
        }
        bench.pass(100 * MILLISECOND);
        let expected: &[&str] = if is_acknowledged { &[] } else { &["2: 486"] };
        assert_eq!(bench.words(), expected);
    }
}

#[test]
fn response_without_any_edge_leaves_by_the_first_that_links() {
    let mut bench = Bench::new();
    bench.comes_by(Transport::Tcp, request("MESSAGE", "aaa", ""));
    bench.link_down(1);
    bench.link_down(2);
    bench.done(Effects::respond(Response::new(200)));
    bench.pass(Duration::from_secs(1));
    assert!(bench.sent().is_empty());
    bench.frame(3, hello(EDGE_1)).unwrap();
    bench.sent();
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.words(), ["3: 200"]);
}
