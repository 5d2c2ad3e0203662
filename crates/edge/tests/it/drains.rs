//! An edge that drains, with all that it is told meanwhile.

use std::net::TcpStream;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use edge::server::{Event, run};

use crate::running::{DEADLINE, settings, sockets, view};

/// A drain with a connection that stays open, and a new view every few milliseconds until it is over.
#[test]
fn a_drain_ends_at_its_deadline_however_often_the_topology_changes() {
    const DRAIN: Duration = Duration::from_millis(300);
    let (sockets, _, tcp) = sockets(1);
    let (events, told) = sync_channel(1);
    let (serves, serving) = channel();
    let edge = thread::spawn(move || {
        run(settings(Vec::new()), sockets, view(1, &[]), &told, move |vitals| {
            serves.send(vitals).unwrap();
        })
    });
    let vitals = serving.recv_timeout(DEADLINE).expect("nobody is waited for");
    let _open = TcpStream::connect(tcp).unwrap();
    let begun = Instant::now();
    while vitals.streams() == 0 {
        assert!(begun.elapsed() < DEADLINE, "the connection is not accepted");
        thread::yield_now();
    }
    let begun = Instant::now();
    events.send(Event::Drain(DRAIN)).unwrap();
    let mut version = 1;
    while !edge.is_finished() {
        assert!(begun.elapsed() < DEADLINE, "it drains on after {version} views");
        version += 1;
        // It may have ended since it was asked.
        let _ = events.send(Event::View(view(version, &[])));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(begun.elapsed() >= DRAIN, "the connection was still open");
    edge.join().unwrap().unwrap();
}
