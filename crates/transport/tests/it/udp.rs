//! Batches of datagrams between endpoints.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::{Events, Interest, Poll, Token};
use transport::UdpEndpoint;
use transport::udp::{DatagramBatch, Flushed, Received};

use crate::allocations;

const DEADLINE: Duration = Duration::from_secs(20);

/// An endpoint with its own loop.
struct Host {
    endpoint: UdpEndpoint,
    batch: DatagramBatch,
    poll: Poll,
    events: Events,
}

impl Host {
    fn at(address: &str) -> Host {
        let mut endpoint = UdpEndpoint::bind(address.parse().expect("address")).expect("bind");
        let poll = Poll::new().expect("poll");
        let interests = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut endpoint, Token(0), interests).expect("register");
        Host { endpoint, batch: DatagramBatch::new(), poll, events: Events::with_capacity(8) }
    }

    fn local(&self) -> SocketAddr {
        self.endpoint.local()
    }

    fn flush(&mut self) {
        let flushed =
            self.endpoint.flush(&mut self.batch, |refused| panic!("{refused:?}")).expect("flush");
        assert_eq!(flushed, Flushed::Empty);
    }

    /// Receives until `count` datagrams came; panics when they do not come.
    fn receive(&mut self, count: usize, mut on_datagram: impl FnMut(Bytes, SocketAddr)) {
        let started = Instant::now();
        let mut came = 0;
        loop {
            while self
                .endpoint
                .receive_batch(&mut self.batch, |bytes, remote| {
                    came += 1;
                    on_datagram(bytes, remote);
                })
                .expect("receive")
                == Received::More
            {}
            if came >= count {
                assert_eq!(came, count, "more came than were sent");
                return;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "{came} of {count} came: {:?}",
                self.endpoint.counters()
            );
            self.poll.poll(&mut self.events, Some(Duration::from_millis(100))).expect("poll");
        }
    }
}

#[test]
fn ten_thousand_datagrams_arrive_once_each_in_order_over_ipv4_and_ipv6() {
    const DATAGRAMS: u32 = 10_000;
    // So many are under way that no receive buffer overflows.
    const UNDER_WAY: u32 = 100;
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let (mut phone, mut edge) = (Host::at(loopback), Host::at(loopback));
        let (phone_address, edge_address) = (phone.local(), edge.local());
        let mut next = 0;
        for first in (0..DATAGRAMS).step_by(UNDER_WAY as usize) {
            for number in first..first + UNDER_WAY {
                phone.endpoint.queue(edge_address, Bytes::from(format!("datagram {number}")), 0);
            }
            phone.flush();
            edge.receive(UNDER_WAY as usize, |bytes, remote| {
                assert_eq!(bytes, format!("datagram {next}"));
                assert_eq!(remote, phone_address);
                next += 1;
            });
        }
        assert_eq!(edge.endpoint.counters().received, u64::from(DATAGRAMS));
        assert_eq!(phone.endpoint.counters().sent, u64::from(DATAGRAMS));
    }
}

#[test]
fn steady_state_receives_and_sends_without_allocating() {
    let (mut phone, mut edge) = (Host::at("127.0.0.1:0"), Host::at("127.0.0.1:0"));
    let edge_address = edge.local();
    let message = Bytes::from(vec![b'x'; 700]);
    let mut rounds = |count: usize| {
        for _ in 0..count {
            for _ in 0..64 {
                phone.endpoint.queue(edge_address, message.clone(), 0);
            }
            phone.flush();
            edge.receive(64, |bytes, _| assert_eq!(bytes.len(), 700));
        }
    };
    rounds(20);
    assert_eq!(allocations::count(|| rounds(500)), 0);
}

#[test]
fn the_longest_datagrams_arrive_whole() {
    // What IP's and UDP's headers leave of 65,535 bytes; IPv6 does not count its own header.
    for (loopback, length) in [("127.0.0.1:0", 65_535 - 20 - 8), ("[::1]:0", 65_535 - 8)] {
        let (mut phone, mut edge) = (Host::at(loopback), Host::at(loopback));
        let message: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        phone.endpoint.queue(edge.local(), message.clone().into(), 0);
        phone.flush();
        edge.receive(1, |bytes, _| assert!(bytes == message, "{} bytes came", bytes.len()));
        assert_eq!(edge.endpoint.counters().truncated, 0);
    }
}

#[test]
fn empty_datagrams_and_long_ones_keep_their_borders() {
    let (mut phone, mut edge) = (Host::at("127.0.0.1:0"), Host::at("127.0.0.1:0"));
    let lengths = [0, 1, 40_000, 0, 4, 2_000, 0];
    for length in lengths {
        phone.endpoint.queue(edge.local(), vec![7; length].into(), 0);
    }
    phone.flush();
    let mut came = Vec::new();
    edge.receive(lengths.len(), |bytes, _| came.push(bytes.len()));
    assert_eq!(came, lengths);
}

#[test]
fn what_cannot_be_sent_is_reported_and_holds_up_nothing() {
    let (mut phone, mut edge) = (Host::at("127.0.0.1:0"), Host::at("127.0.0.1:0"));
    phone.endpoint.queue(edge.local(), "first".into(), 1);
    phone.endpoint.queue("[::1]:5060".parse().expect("address"), "wrong family".into(), 2);
    phone.endpoint.queue(edge.local(), vec![0; 65_530].into(), 3);
    phone.endpoint.queue(edge.local(), "last".into(), 4);
    let mut refused = Vec::new();
    let flushed = phone
        .endpoint
        .flush(&mut phone.batch, |undelivered| refused.push(undelivered.tag))
        .expect("flush");
    assert_eq!((flushed, refused), (Flushed::Empty, vec![2, 3]));
    let mut came = Vec::new();
    edge.receive(2, |bytes, _| came.push(bytes));
    assert_eq!(came, ["first", "last"]);
    assert_eq!(phone.endpoint.counters().undeliverable, 2);
}

#[test]
fn a_port_that_nobody_listens_on_disturbs_nobody() {
    let (mut phone, mut edge) = (Host::at("127.0.0.1:0"), Host::at("127.0.0.1:0"));
    let gone = Host::at("127.0.0.1:0").local();
    for _ in 0..50 {
        edge.endpoint.queue(gone, "to nobody".into(), 0);
        edge.flush();
    }
    phone.endpoint.queue(edge.local(), "hello".into(), 0);
    phone.flush();
    edge.receive(1, |bytes, _| assert_eq!(bytes, "hello"));
}

#[test]
fn workers_share_an_address_and_each_peer_stays_with_one() {
    let mut first = Host::at("127.0.0.1:0");
    let address = first.local();
    let mut second = Host::at(&address.to_string());
    for _ in 0..16 {
        let mut phone = Host::at("127.0.0.1:0");
        for _ in 0..4 {
            phone.endpoint.queue(address, "hello".into(), 0);
        }
        phone.flush();
    }
    // Loopback delivers before send returns, so whatever is there is there now.
    let mut by_worker = [std::collections::BTreeMap::new(), std::collections::BTreeMap::new()];
    for (worker, seen) in [&mut first, &mut second].into_iter().zip(&mut by_worker) {
        while worker
            .endpoint
            .receive_batch(&mut worker.batch, |_, remote| *seen.entry(remote).or_insert(0) += 1)
            .expect("receive")
            == Received::More
        {}
    }
    let [first, second] = by_worker;
    assert_eq!(first.len() + second.len(), 16, "{first:?} {second:?}");
    assert!(first.values().chain(second.values()).all(|count| *count == 4), "{first:?} {second:?}");
}
