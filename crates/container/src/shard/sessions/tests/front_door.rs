//! A session's request for a domain of this node: it leaves by one edge after the other, under one branch.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use sip::Message;
use state::Store;
use state::engine::fake::FakeStore;
use topology::{
    Incarnation, ListenerTransport, ProcessEntry, ProcessName, ProcessState, ProcessType,
    TopologyView,
};
use transport::link::{Destination, EdgeAddress, Incoming, LinkFrame, SendError};
use transport::{Flow, Transport};

use super::agent::{Agent, invite, settings};
use crate::edges::LinkId;
use crate::session::Replication;
use crate::shard::sessions::{EventEnd, SessionApplications};
use crate::shard::{Shard, ShardEffect};

const EDGES: [&str; 2] = ["192.0.2.1:5060", "192.0.2.2:5060"];

/// One container, and what leaves it for the node's own front door.
struct Bench {
    shard: Shard,
    store: FakeStore,
    now: Instant,
    /// Link, address, branch, and the number to report a failure under.
    sent: Vec<(u64, String, Vec<u8>, u64)>,
    /// To the caller.
    statuses: Vec<u16>,
    /// What the edges listen on.
    listeners: Transport,
}

impl Bench {
    fn new() -> Bench {
        let now = Instant::now();
        let mut shard = Shard::new(settings(1), now, SystemTime::now().into());
        // Of our own domain.
        let agent = Agent {
            name: "agent",
            timer_after: Duration::from_secs(3_600),
            callee: "sip:bob@example.com",
            replication: Replication::BeforeReply,
        };
        shard.host(SessionApplications::new(vec![Arc::new(agent)]), vec!["example.com".to_owned()]);
        let store = FakeStore::default();
        let (sent, statuses, listeners) = (Vec::new(), Vec::new(), Transport::Udp);
        Bench { shard, store, now, sent, statuses, listeners }
    }

    fn with_edges() -> Bench {
        Bench::with_listeners(Transport::Udp)
    }

    fn with_listeners(listeners: Transport) -> Bench {
        let mut bench = Bench { listeners, ..Bench::new() };
        bench.link_up(1, EDGES[0]);
        bench.link_up(2, EDGES[1]);
        bench
    }

    fn act(&mut self, act: impl FnOnce(&mut Shard, Instant, &mut Vec<ShardEffect>)) {
        let mut effects = Vec::new();
        act(&mut self.shard, self.now, &mut effects);
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                self.carry_out(effect, &mut effects);
            }
        }
    }

    fn carry_out(&mut self, effect: ShardEffect, effects: &mut Vec<ShardEffect>) {
        match effect {
            ShardEffect::HandleEvent { job, application, session, event } => {
                let asked = application.on_event(&session, &event).now_or_never().unwrap();
                self.shard.event_handled(job, EventEnd::Done(asked), self.now, effects);
            }
            ShardEffect::Commit { commit, batch } => {
                let result = self.store.commit(batch).now_or_never().unwrap();
                self.shard.committed(commit, result, self.now, effects);
            }
            ShardEffect::Send { link, frame: LinkFrame::Outgoing { id, destination, bytes } } => {
                let message = Message::parse(bytes).unwrap();
                let branch = message.top_via().unwrap().branch().unwrap().to_vec();
                match destination {
                    Destination::Address { address, .. } => {
                        self.sent.push((link.0, address.to_string(), branch, id));
                    }
                    Destination::Via => self.statuses.push(message.status().unwrap()),
                    Destination::Route => panic!("nobody named a route"),
                }
            }
            _ => {}
        }
    }

    fn link_up(&mut self, link: u64, own: &str) {
        let (own, public) = (own.parse().unwrap(), own.to_owned());
        let addresses = vec![EdgeAddress { transport: self.listeners, own, public }];
        let (peer_name, incarnation, worker) = (format!("edge{link}"), 9, 0);
        let hello = LinkFrame::Hello { peer_name, incarnation, worker, addresses };
        self.act(|shard, now, effects| shard.frame(LinkId(link), hello, now, effects).unwrap());
    }

    fn link_down(&mut self, link: u64) {
        self.act(|shard, now, effects| shard.link_down(LinkId(link), now, effects));
    }

    /// The second edge is expected back.
    fn awaits_edge(&mut self) {
        let addresses = vec![topology::EdgeAddress {
            transport: ListenerTransport::Udp,
            own: EDGES[1].parse().unwrap(),
            public: EDGES[1].to_owned(),
        }];
        let edge = ProcessEntry {
            name: ProcessName::new("edge2"),
            process_type: ProcessType::Edge,
            incarnation: Incarnation(2),
            pid: None,
            state: ProcessState::Backoff,
            restarts: 1,
            link: None,
            link_address: None,
            addresses,
            weight: 100,
            is_silent: false,
            http: None,
        };
        let view = TopologyView { processes: vec![edge], ..TopologyView::default() };
        self.act(|shard, now, effects| shard.topology(&view, now, effects));
    }

    fn call(&mut self) {
        let frame = incoming_invite();
        self.act(|shard, now, effects| shard.frame(LinkId(1), frame, now, effects).unwrap());
    }

    fn runs(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.shard.next_timeout().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.act(|shard, now, effects| shard.timeout(now, effects));
        }
        self.now = end;
    }

    /// Lets time pass; by which link and to which address was sent meanwhile.
    fn pass(&mut self, time: Duration) -> Vec<(u64, String)> {
        self.runs(time);
        self.ways()
    }

    fn ways(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.sent).into_iter().map(|(link, to, ..)| (link, to)).collect()
    }
}

fn incoming_invite() -> LinkFrame {
    let (local, remote) = (EDGES[0].parse().unwrap(), "198.51.100.7:5060".parse().unwrap());
    let (flow, bytes) = (Flow::new(Transport::Udp, local, remote), invite().buffer().clone());
    LinkFrame::Incoming(Incoming { sequence: 1, hops: 0, flow, bytes })
}

fn by(edges: &[usize]) -> Vec<(u64, String)> {
    edges.iter().map(|edge| (*edge as u64, EDGES[edge - 1].to_owned())).collect()
}

const FIVE_COPIES: Duration = Duration::from_millis(7_600);

// RFC 3261 §17.1.1.2: a repetition has the branch of its first copy
#[test]
fn repetitions_leave_by_one_edge_after_the_other_under_one_branch() {
    let mut bench = Bench::with_edges();
    bench.call();
    bench.runs(FIVE_COPIES);
    let first = bench.sent[0].2.clone();
    assert!(bench.sent.iter().all(|(_, _, branch, _)| *branch == first));
    let ways = bench.ways();
    assert!(ways == by(&[2, 1, 2, 1, 2]) || ways == by(&[1, 2, 1, 2, 1]), "{ways:?}");
}

#[test]
fn a_stream_to_a_door_that_is_gone_is_followed_by_one_to_another() {
    for has_other in [true, false] {
        let mut bench = Bench::with_listeners(Transport::Tcp);
        bench.call();
        let [(link, first, branch, id)] = &bench.sent[..] else { panic!("{:?}", bench.sent) };
        let (link, first, branch, id) = (*link, first.clone(), branch.clone(), *id);
        bench.ways();
        let other = 3 - link;
        if !has_other {
            bench.link_down(other);
            bench.awaits_edge();
        }
        bench.link_down(link);
        if !has_other {
            assert_eq!(bench.pass(Duration::from_secs(1)), []);
            bench.link_up(3, &first);
        }
        let [(to, address, again, number)] = &bench.sent[..] else { panic!("{:?}", bench.sent) };
        assert_eq!((again, *number), (&branch, id), "a repetition to whoever has it");
        match has_other {
            true => assert_eq!((*to, address == &first), (other, false)),
            false => assert_eq!((*to, address), (3, &first)),
        }
        bench.ways();
        assert_eq!(bench.pass(Duration::from_secs(20)), [], "a stream repeats nothing");
        assert_eq!(bench.shard.left(), 1, "the call waits");
    }
}

#[test]
fn a_stream_goes_by_its_edges_other_link_before_it_goes_by_another_edge() {
    let mut bench = Bench { listeners: Transport::Tcp, ..Bench::new() };
    // Two workers of one edge, and then an edge whose address comes before.
    bench.link_up(1, EDGES[1]);
    bench.link_up(3, EDGES[1]);
    bench.call();
    bench.link_up(2, EDGES[0]);
    let [(link, door, branch, id)] = &bench.sent[..] else { panic!("{:?}", bench.sent) };
    let (link, door, branch, id) = (*link, door.clone(), branch.clone(), *id);
    let sibling = 4 - link;
    for (gone, is_same_door) in [(link, true), (sibling, false)] {
        bench.ways();
        bench.link_down(gone);
        let [(to, address, again, number)] = &bench.sent[..] else { panic!("{:?}", bench.sent) };
        assert_eq!((again, *number), (&branch, id), "a repetition to whoever has it");
        assert_eq!((*to == sibling, *address == door), (is_same_door, is_same_door));
    }
}

#[test]
fn an_edge_that_is_gone_is_left_out_until_it_is_back() {
    let mut bench = Bench::with_edges();
    bench.call();
    bench.link_down(1);
    bench.ways();
    assert_eq!(bench.pass(Duration::from_millis(3_600)), by(&[2, 2, 2]));
    bench.link_up(3, EDGES[0]);
    let back = (3, EDGES[0].to_owned());
    assert!(bench.pass(Duration::from_secs(12)).contains(&back));
}

#[test]
fn a_request_waits_for_an_edge_that_is_expected_back_and_fails_without() {
    for awaits in [true, false] {
        let mut bench = Bench::new();
        bench.link_up(1, EDGES[0]);
        if awaits {
            bench.awaits_edge();
        }
        // Its edge is gone by the time the handler has decided.
        let frame = incoming_invite();
        let (now, mut effects) = (bench.now, Vec::new());
        bench.shard.frame(LinkId(1), frame, now, &mut effects).unwrap();
        bench.shard.link_down(LinkId(1), now, &mut effects);
        bench.act(|_, _, later| later.extend(effects));
        assert_eq!(bench.pass(Duration::from_secs(1)), []);
        let calls = bench.shard.left();
        bench.link_up(2, EDGES[1]);
        let ways = bench.pass(Duration::from_secs(3));
        match awaits {
            true => assert_eq!((ways, calls), (by(&[2, 2]), 1)),
            false => assert_eq!(ways, []),
        }
    }
}

#[test]
fn an_edge_that_cannot_send_is_no_end_while_there_is_another() {
    for error in [SendError::Full, SendError::Unreachable, SendError::Refused, SendError::FlowGone]
    {
        let mut bench = Bench::with_edges();
        bench.call();
        let id = bench.sent[0].3;
        bench.ways();
        bench.act(|shard, now, effects| shard.send_failed(id, error, now, effects));
        assert_eq!(bench.pass(Duration::from_secs(4)).len(), 3, "{error:?}");
        // With nobody else to ask, it is.
        bench.link_down(1);
        assert_eq!(bench.pass(Duration::from_secs(4)), by(&[2]));
        bench.act(|shard, now, effects| shard.send_failed(id, error, now, effects));
        // What found no room is a lost datagram.
        let is_repeated = !bench.pass(Duration::from_secs(20)).is_empty();
        assert_eq!(is_repeated, error == SendError::Full, "{error:?}");
    }
}
