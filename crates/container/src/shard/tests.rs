//! A shard between frames and a store, in virtual time. What applications commit is ended by the test, everything else
//! by a store that works.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sip::transaction::Timers;
use sip::{HeaderName, Message, Method};
use state::clock::ManualClock;
use state::engine::fake::FakeStore;
use state::{CommitError, Expect, Key, Space, Store, StoreError};
use topology::{Incarnation, KeyRing, ProcessName};
use transport::link::{Destination, EdgeAddress, Incoming};
use transport::{Flow, Transport};

use super::*;
use crate::application::{Action, Effects, ProxyPlan, Response, Target};
use crate::transactions::TransactionSettings;

mod deaths;
mod hand_on;
mod inherited;
mod reach;
mod refused_notes;
mod responses;
pub(super) mod ways;

const EDGE_1: &str = "192.0.2.1:5060";
const EDGE_2: &str = "192.0.2.2:5060";
/// Where applications store.
const TEST: Space = Space::named("test");

/// A shard in virtual time with two edges, and what it has asked for.
struct Bench {
    shard: Shard,
    now: Instant,
    sequence: u64,
    effects: Vec<ShardEffect>,
    store: FakeStore,
    /// What an application wants to be stored.
    commit: Option<CommitId>,
}

fn flow(transport: Transport) -> Flow {
    Flow::new(transport, EDGE_1.parse().unwrap(), "198.51.100.7:5060".parse().unwrap())
}

fn hello(own: &str) -> LinkFrame {
    let address =
        |transport| EdgeAddress { transport, own: own.parse().unwrap(), public: own.to_owned() };
    LinkFrame::Hello {
        peer_name: "edge".to_owned(),
        incarnation: 1,
        worker: 0,
        addresses: vec![address(Transport::Udp), address(Transport::Tcp)],
    }
}

fn request(method: &str, branch: &str, extra: &str) -> String {
    format!(
        "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=f\r\nTo: <sip:bob@example.com>\r\n\
         Call-ID: c1\r\nCSeq: 7 {method}\r\n{extra}Content-Length: 0\r\n\r\n"
    )
}

/// The response of a callee to a request that was sent to it.
fn answer(request: &Message, status: u16) -> String {
    let vias: String = request
        .fields(HeaderName::Via)
        .map(|via| format!("Via: {}\r\n", via.escape_ascii()))
        .collect();
    let cseq = request.field(HeaderName::CSeq).unwrap().escape_ascii();
    format!(
        "SIP/2.0 {status} Said\r\n{vias}From: <sip:alice@example.com>;tag=f\r\n\
         To: <sip:bob@example.com>;tag=callee\r\nCall-ID: c1\r\nCSeq: {cseq}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn target(uri: &str) -> Effects {
    Effects::proxy(ProxyPlan::to_targets(vec![Target::new(uri.to_owned())]))
}

fn ok_with_commit() -> Effects {
    let key = Key::new(TEST, "tag", "id");
    Effects::respond(Response::new(200)).committing(Batch::new().put(
        key,
        Expect::Any,
        "value",
        None,
    ))
}

impl Bench {
    fn new() -> Bench {
        Bench::with("c1", 7, FakeStore::default())
    }

    /// Another container over the same store.
    fn of(name: &str, incarnation: u64, other: &Bench) -> Bench {
        Bench::with(name, incarnation, other.store.clone())
    }

    fn with(name: &str, incarnation: u64, store: FakeStore) -> Bench {
        let mut bench = Bench::unlinked(name, incarnation, store);
        bench.frame(1, hello(EDGE_1)).unwrap();
        bench.frame(2, hello(EDGE_2)).unwrap();
        bench.effects.clear();
        bench
    }

    /// A shard without links.
    fn unlinked(name: &str, incarnation: u64, store: FakeStore) -> Bench {
        let settings = ShardSettings {
            name: ProcessName::new(name),
            incarnation: Incarnation(incarnation),
            node: "n1".to_owned(),
            keys: KeyRing::new([1; 32]),
            transactions: TransactionSettings { timers: Timers::default(), transactions_max: 100 },
            commit_conflicts_max: 3,
        };
        let now = Instant::now();
        Bench {
            shard: Shard::new(settings, now, std::time::SystemTime::now().into()),
            now,
            sequence: 0,
            effects: Vec::new(),
            store,
            commit: None,
        }
    }

    fn frame(&mut self, link: u64, frame: LinkFrame) -> Result<(), LinkFault> {
        let result = self.shard.frame(LinkId(link), frame, self.now, &mut self.effects);
        self.serve();
        result
    }

    /// Does what is asked of the store.
    fn serve(&mut self) {
        let mut at = 0;
        while at < self.effects.len() {
            match &self.effects[at] {
                ShardEffect::Commit { commit, batch } if batch.writes[0].key.space == TEST => {
                    self.commit = Some(*commit);
                    at += 1;
                }
                ShardEffect::Commit { .. }
                | ShardEffect::Read { .. }
                | ShardEffect::Scan { .. } => {
                    let asked = self.effects.remove(at);
                    self.answer_store(asked);
                }
                _ => at += 1,
            }
        }
    }

    fn answer_store(&mut self, asked: ShardEffect) {
        let (now, effects) = (self.now, &mut self.effects);
        match asked {
            ShardEffect::Commit { commit, batch } => {
                let result = self.store.commit(batch).now_or_never().unwrap();
                self.shard.committed(commit, result, now, effects);
            }
            ShardEffect::Read { read, key } => {
                let result = self.store.read(&key).now_or_never().unwrap();
                self.shard.read(read, result, now, effects);
            }
            ShardEffect::Scan { scan, space, prefix, after, limit } => {
                let page = self.store.scan(&space, &prefix, after.as_ref(), limit);
                let result = page.now_or_never().unwrap();
                self.shard.scanned(scan, result, now, effects);
            }
            other => panic!("{other:?}"),
        }
    }

    /// A message comes by link 1.
    fn incoming(&mut self, text: String) {
        self.sequence += 1;
        let incoming = Incoming {
            hops: 0,
            sequence: self.sequence,
            flow: flow(Transport::Udp),
            bytes: text.into_bytes().into(),
        };
        self.frame(1, LinkFrame::Incoming(incoming)).unwrap();
    }

    /// Ends the handler that was asked for last.
    fn handled(&mut self, end: HandlerEnd) {
        let job = self.job();
        self.shard.handled(job, end, self.now, &mut self.effects);
        self.serve();
    }

    fn done(&mut self, effects: Effects) {
        self.handled(HandlerEnd::Done(effects));
    }

    fn committed(&mut self, result: Result<(), CommitError>) {
        let commit = self.commit.take().unwrap();
        let result = result.map(|()| vec![state::Version(1)]);
        self.shard.committed(commit, result, self.now, &mut self.effects);
        self.serve();
    }

    fn job(&mut self) -> JobId {
        *self.shard.jobs.keys().max().unwrap()
    }

    fn send_failed(&mut self, id: u64, error: SendError) {
        self.frame(1, LinkFrame::SendFailed { id, error }).unwrap();
    }

    fn link_down(&mut self, link: u64) {
        self.shard.link_down(LinkId(link), self.now, &mut self.effects);
        self.serve();
    }

    fn topology(&mut self, view: &TopologyView) {
        self.shard.topology(view, self.now, &mut self.effects);
        self.serve();
        self.pass(Duration::ZERO);
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.shard.next_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.shard.timeout(self.now, &mut self.effects);
            self.serve();
        }
        self.now = end;
    }

    /// What was asked for since the last call: `link: what`, `taken N`, `handle`, `commit`, `resolve NAME`.
    fn words(&mut self) -> Vec<String> {
        std::mem::take(&mut self.effects).iter().map(word).collect()
    }

    /// The messages sent since the last call, and their ids.
    fn sent(&mut self) -> Vec<(u64, Message)> {
        let effects = std::mem::take(&mut self.effects);
        let sent = effects.into_iter().filter_map(|effect| match effect {
            ShardEffect::Send { frame: LinkFrame::Outgoing { id, bytes, .. }, .. } => {
                Some((id, Message::parse(bytes).unwrap()))
            }
            _ => None,
        });
        sent.collect()
    }

    /// An INVITE is proxied to this target; the id and the request that were sent to it.
    fn proxied(&mut self, uri: &str) -> (u64, Message) {
        self.incoming(request("INVITE", "aaa", ""));
        self.done(target(uri));
        let sent = self.sent();
        sent.into_iter().rfind(|(_, message)| message.is_request()).unwrap()
    }
}

fn word(effect: &ShardEffect) -> String {
    match effect {
        ShardEffect::Send { link, frame } => match frame {
            LinkFrame::Outgoing { destination, bytes, .. } => {
                let message = Message::parse(bytes.clone()).unwrap();
                let what = match message.status() {
                    Some(status) => status.to_string(),
                    None => message.method().unwrap().to_string(),
                };
                match destination {
                    Destination::Via => format!("{}: {what}", link.0),
                    Destination::Route => format!("{}: {what} by route", link.0),
                    Destination::Address { transport, address } => {
                        format!("{}: {what} to {transport:?} {address}", link.0)
                    }
                }
            }
            LinkFrame::HandOn { to, .. } => format!("{}: hand on to {to}", link.0),
            LinkFrame::HelloAnswer { .. } => format!("{}: hello", link.0),
            LinkFrame::Heartbeat { accepting, .. } => format!("{}: {accepting:?}", link.0),
            LinkFrame::KeepAlive { flow_token } => {
                format!("{}: keep {} alive", link.0, flow_token.escape_ascii())
            }
            other => format!("{other:?}"),
        },
        ShardEffect::Taken { sequence, .. } => format!("taken {sequence}"),
        ShardEffect::HandleEvent { event, .. } => format!("event {event:?}"),
        ShardEffect::Handle { attempt, .. } => format!("handle {attempt}"),
        ShardEffect::Admit { attempt, .. } => format!("admit {attempt}"),
        ShardEffect::FindKey { .. } => "find key".to_owned(),
        ShardEffect::HttpAnswered { outcome, .. } => format!("{outcome:?}"),
        ShardEffect::Commit { .. } => "commit".to_owned(),
        ShardEffect::Read { .. } => "read".to_owned(),
        ShardEffect::Scan { .. } => "scan".to_owned(),
        ShardEffect::Resolve { host, port, .. } => format!("resolve {host}:{port}"),
    }
}

#[test]
fn a_probe_is_answered_behind_what_came_before_it() {
    let mut bench = Bench::new();
    bench.incoming(request("OPTIONS", "one", ""));
    bench.frame(1, LinkFrame::Probe { id: 7 }).unwrap();
    assert_eq!(bench.words(), ["handle 0", "ProbeAnswer { id: 7 }"]);
    assert_eq!(bench.frame(9, LinkFrame::Probe { id: 8 }), Err(LinkFault::Hello));
    assert_eq!(bench.frame(1, LinkFrame::ProbeAnswer { id: 8 }), Err(LinkFault::Direction));
}

#[test]
fn hello_is_answered_and_followed_by_a_heartbeat() {
    let mut bench = Bench::new();
    bench.frame(3, hello("192.0.2.3:5060")).unwrap();
    assert_eq!(bench.words(), ["3: hello", "3: Accepting"]);
    bench.shard.drain();
    bench.frame(4, hello("192.0.2.4:5060")).unwrap();
    assert_eq!(bench.words(), ["4: hello", "4: Draining"]);
}

#[test]
fn link_that_breaks_the_protocol_is_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.frame(1, hello(EDGE_1)), Err(LinkFault::Hello));
    assert_eq!(bench.frame(1, LinkFrame::Taken { up_to: 1 }), Err(LinkFault::Direction));
    let early = LinkFrame::SendFailed { id: 1, error: SendError::Full };
    assert_eq!(bench.frame(9, early), Err(LinkFault::Hello));
}

#[test]
fn request_is_taken_only_when_its_changes_are_committed() {
    let mut bench = Bench::new();
    bench.incoming(request("REGISTER", "aaa", ""));
    assert_eq!(bench.words(), ["handle 0"]);
    // A repetition is absorbed, and so taken, though the first copy is not.
    bench.incoming(request("REGISTER", "aaa", ""));
    assert_eq!(bench.words(), ["taken 2"]);
    bench.done(ok_with_commit());
    assert_eq!(bench.words(), ["commit"]);
    bench.committed(Ok(()));
    assert_eq!(bench.words(), ["1: 200", "taken 1"]);
    bench.incoming(request("REGISTER", "aaa", ""));
    assert_eq!(bench.words(), ["1: 200", "taken 3"]);
}

fn conflict() -> CommitError {
    CommitError::Conflict { key: Box::new(Key::new(TEST, "tag", "id")), found: None }
}

#[test]
fn conflict_runs_the_handler_again_and_503_ends_it() {
    let mut bench = Bench::new();
    bench.incoming(request("REGISTER", "aaa", ""));
    for attempt in 0..3 {
        assert_eq!(bench.words(), [format!("handle {attempt}")]);
        bench.done(ok_with_commit());
        assert_eq!(bench.words(), ["commit"]);
        // In doubt the handler reads again, too.
        let error = CommitError::Unknown { reason: "test" };
        bench.committed(Err(if attempt == 1 { error } else { conflict() }));
    }
    assert_eq!(bench.words(), ["handle 3"]);
    bench.done(ok_with_commit());
    bench.committed(Err(conflict()));
    assert_eq!(bench.words(), ["commit", "1: 503", "taken 1"]);
}

#[test]
fn errors_of_store_and_handler_become_statuses() {
    let busy = CommitError::Store(StoreError::Busy { waiting: 1 });
    let closed = CommitError::Store(StoreError::Closed);
    for (error, status) in [(busy, "1: 503"), (closed, "1: 500")] {
        let mut bench = Bench::new();
        bench.incoming(request("REGISTER", "aaa", ""));
        bench.done(ok_with_commit());
        bench.words();
        bench.committed(Err(error));
        assert_eq!(bench.words(), [status, "taken 1"]);
    }
    for (end, status) in [(HandlerEnd::Panicked, "1: 500"), (HandlerEnd::TimedOut, "1: 503")] {
        let mut bench = Bench::new();
        bench.incoming(request("REGISTER", "aaa", ""));
        bench.words();
        bench.handled(end);
        assert_eq!(bench.words(), [status, "taken 1"]);
    }
}

#[test]
fn commit_that_takes_too_long_twice_is_answered_503_and_holds_up_no_link() {
    let mut bench = Bench::new();
    bench.incoming(request("REGISTER", "aaa", ""));
    bench.done(ok_with_commit());
    let late = || Err(CommitError::Unknown { reason: "the store took too long" });
    assert_eq!(bench.words(), ["handle 0", "commit"]);
    bench.committed(late());
    assert_eq!(bench.words(), ["handle 1"]);
    bench.done(ok_with_commit());
    bench.committed(late());
    assert_eq!(bench.words(), ["commit", "1: 503", "taken 1"]);
}

#[test]
fn call_that_rings_does_not_hold_the_buffer_it_was_read_into() {
    let mut bench = Bench::new();
    let read = |bench: &mut Bench, text: String| {
        let chunk = Bytes::from([text.into_bytes(), vec![0; 100_000]].concat());
        bench.sequence += 1;
        let incoming = Incoming {
            hops: 0,
            sequence: bench.sequence,
            flow: flow(Transport::Udp),
            bytes: chunk.slice(..chunk.len() - 100_000),
        };
        bench.frame(1, LinkFrame::Incoming(incoming)).unwrap();
        chunk
    };
    let invite = read(&mut bench, request("INVITE", "aaa", ""));
    let targets = ["sip:bob@198.51.100.8", "sip:bob@198.51.100.9"].map(Target::new);
    bench.done(Effects::proxy(ProxyPlan::to_targets(targets.to_vec())));
    let sent = bench.sent();
    let (_, first) = sent.iter().find(|(_, message)| message.is_request()).unwrap();
    let busy = read(&mut bench, answer(first, 486));
    assert!(invite.is_unique() && busy.is_unique());
    assert_eq!(bench.shard.contexts.len(), 1, "the other phone still rings");
}

#[test]
fn merged_request_is_answered_482_and_not_committed() {
    let mut bench = Bench::new();
    bench.incoming(request("OPTIONS", "aaa", ""));
    bench.done(Effects::respond(Response::new(200)));
    bench.words();
    bench.incoming(request("OPTIONS", "bbb", ""));
    bench.done(ok_with_commit());
    assert_eq!(bench.words(), ["handle 0", "1: 482", "taken 2"]);
}

#[test]
fn invite_is_answered_100_forwarded_and_its_responses_relayed() {
    let wall = UnixMillis::from(std::time::SystemTime::now());
    let clock = Arc::new(ManualClock::at(wall));
    let mut bench = Bench::with("c1", 7, FakeStore::new(clock.clone()));
    bench.incoming(request("INVITE", "aaa", ""));
    bench.done(target("sip:bob@198.51.100.8:5070"));
    assert_eq!(
        bench.effects.iter().map(word).collect::<Vec<_>>(),
        ["handle 0", "1: 100", "1: INVITE to Udp 198.51.100.8:5070", "taken 1"]
    );
    let (_, invite) = bench.sent().pop().unwrap();
    for (status, expected) in [(180, "1: 180"), (200, "1: 200"), (200, "1: 200")] {
        bench.incoming(answer(&invite, status));
        assert_eq!(bench.words()[0], expected);
    }
    // The 2xx ended the search; nothing is repeated, and stray responses are dropped.
    bench.pass(Duration::from_secs(60));
    clock.set(wall.saturating_add(Duration::from_secs(60)));
    bench.words();
    bench.incoming(answer(&invite, 200));
    assert_eq!(bench.words(), ["taken 5"]);
    assert!(bench.shard.transactions.is_empty() && bench.shard.contexts.is_empty());
    assert!(bench.shard.clients.is_empty());
}

#[test]
fn cancel_while_ringing_reaches_the_callee_and_487_the_caller() {
    let mut bench = Bench::new();
    let (_, invite) = bench.proxied("sip:bob@198.51.100.8");
    bench.incoming(answer(&invite, 180));
    bench.words();
    bench.incoming(request("CANCEL", "aaa", ""));
    assert_eq!(bench.words(), ["1: 200", "1: CANCEL to Udp 198.51.100.8:5060", "taken 3"]);
    bench.incoming(answer(&invite, 487));
    assert_eq!(bench.words(), ["1: ACK to Udp 198.51.100.8:5060", "1: 487", "taken 4"]);
    bench.incoming(request("ACK", "aaa", ""));
    assert_eq!(bench.words(), ["taken 5"]);
}

#[test]
fn cancel_while_the_handler_runs_ends_the_invite_before_anybody_rings() {
    let mut bench = Bench::new();
    bench.incoming(request("INVITE", "aaa", ""));
    bench.incoming(request("CANCEL", "aaa", ""));
    // Not answered: if we die now, the edge offers both to another container.
    assert_eq!(bench.words(), ["handle 0"]);
    bench.done(target("sip:bob@198.51.100.8"));
    assert_eq!(bench.words(), ["1: 200", "taken 2", "1: 487", "taken 1"]);
}

#[test]
fn cancel_of_a_call_that_rings_elsewhere_ends_nothing_here() {
    let mut owner = Bench::new();
    owner.proxied("sip:bob@198.51.100.8");
    let mut bench = Bench::of("c2", 8, &owner);
    // A repetition of the INVITE that came here, and the CANCEL right behind it.
    bench.incoming(request("INVITE", "aaa", ""));
    bench.incoming(request("CANCEL", "aaa", ""));
    bench.done(target("sip:bob@198.51.100.8"));
    let handed_on = "1: hand on to 7";
    assert_eq!(bench.words(), ["handle 0", handed_on, "taken 1", handed_on, "taken 2"]);
}

#[test]
fn call_that_was_cancelled_before_it_rang_leaves_no_record() {
    let mut bench = Bench::new();
    bench.incoming(request("INVITE", "aaa", ""));
    bench.incoming(request("CANCEL", "aaa", ""));
    bench.done(target("sip:bob@198.51.100.8"));
    assert_eq!(bench.shard.set_ups.len(), 1);
    bench.incoming(request("ACK", "aaa", ""));
    bench.pass(Duration::from_secs(40));
    assert!(bench.shard.set_ups.is_empty() && bench.shard.transactions.is_empty());
    // Nobody's, so it may be begun once more.
    bench.words();
    bench.incoming(request("INVITE", "aaa", ""));
    bench.done(target("sip:bob@198.51.100.8"));
    assert_eq!(bench.words()[1..3], ["1: 100", "1: INVITE to Udp 198.51.100.8:5060"]);
}

#[test]
fn ack_to_a_2xx_is_forwarded_once_without_a_transaction() {
    let mut bench = Bench::new();
    bench.incoming(request("ACK", "aaa", "").replace("bob@example.com>", "bob@example.com>;tag=t"));
    bench.done(target("sip:bob@198.51.100.8"));
    assert_eq!(bench.words(), ["handle 0", "1: ACK to Udp 198.51.100.8:5060", "taken 1"]);
    bench.pass(Duration::from_secs(60));
    assert!(bench.words().is_empty());
}

#[test]
fn response_goes_by_another_edge_when_its_link_is_gone() {
    let mut bench = Bench::new();
    bench.incoming(request("OPTIONS", "aaa", ""));
    bench.link_down(1);
    bench.words();
    bench.done(Effects::respond(Response::new(200)));
    assert_eq!(bench.words()[0], "2: 200");
}

#[test]
fn what_cannot_be_understood_is_answered_statelessly_or_dropped_and_taken() {
    let mut bench = Bench::new();
    bench.incoming(request("OPTIONS", "aaa", "Route: <sip:broken\r\n"));
    assert_eq!(bench.words(), ["1: 400", "taken 1"]);
    bench.incoming(request("OPTIONS", "bbb", "").replace("CSeq: 7", "CSeq: x"));
    assert_eq!(bench.words(), ["1: 400", "taken 2"]);
    bench.incoming("no SIP at all".to_owned());
    assert_eq!(bench.words(), ["taken 3"]);
    assert!(bench.shard.transactions.is_empty());
}

#[test]
fn duty_keeps_the_flow_alive_by_the_edge_of_its_path() {
    let mut bench = Bench::new();
    let duty = |path: String| Duty::KeepAlive { path: path.into() };
    for path in [format!("<sip:tok@{EDGE_2};lr>"), "<sip:tok@203.0.113.1;lr>".into(), "x".into()] {
        bench.shard.duty(&duty(path), &mut bench.effects);
    }
    assert_eq!(bench.words(), ["2: keep tok alive"]);
}

#[test]
fn quiet_is_when_nobody_waits_for_an_answer() {
    let mut bench = Bench::new();
    assert!(bench.shard.is_quiet());
    let (_, invite) = bench.proxied("sip:bob@198.51.100.8");
    assert!(!bench.shard.is_quiet());
    bench.incoming(answer(&invite, 486));
    assert!(bench.shard.is_quiet());
    bench.incoming(request("OPTIONS", "bbb", ""));
    assert!(!bench.shard.is_quiet());
    bench.done(Effects { batch: Batch::new(), action: Action::Drop });
    assert!(bench.shard.is_quiet());
}

#[test]
fn who_stood_still_looks_up_many_calls_in_portions_and_all_of_them() {
    let mut bench = Bench::new();
    let settings = TransactionSettings { timers: Timers::default(), transactions_max: 1_000 };
    bench.shard.transactions = Transactions::new(settings, bench.shard.responder.clone());
    for call in 0..300 {
        bench.incoming(request("INVITE", &format!("b{call}"), ""));
        bench.done(target("sip:bob@198.51.100.8"));
    }
    assert_eq!(bench.shard.set_ups.len(), 300);
    bench.effects.clear();
    let wall = std::time::SystemTime::now().into();
    bench.now += Duration::from_secs(2);
    bench.shard.tell_time(bench.now, wall, wall);
    bench.shard.timeout(bench.now, &mut bench.effects);
    let is_read = |effect: &&ShardEffect| matches!(effect, ShardEffect::Read { .. });
    assert_eq!(bench.effects.iter().filter(is_read).count(), 256);
    assert_eq!(bench.shard.next_timeout(), None, "nothing is repeated before");
    bench.serve();
    assert!(bench.shard.doubtful.is_empty() && bench.shard.next_timeout().is_some());
    assert_eq!((bench.shard.set_ups.len(), bench.shard.verifying), (300, 0));
}
