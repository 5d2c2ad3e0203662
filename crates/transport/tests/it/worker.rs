//! A worker's TCP side with its loop, and phones that speak to it over plain sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use sip::framer::Frame;
use transport::Connections;
use transport::tcp::{Accepted, CloseReason, ConnectionEvent, ConnectionId, Listener, TcpLimits};

const DEADLINE: Duration = Duration::from_secs(20);
const LISTENER: Token = Token(0);

/// Connections, a listener, and a clock that only the test moves.
pub(crate) struct Worker {
    pub(crate) connections: Connections,
    pub(crate) poll: Poll,
    pub(crate) now: Instant,
    pub(crate) happened: Vec<ConnectionEvent>,
    listener: Listener,
    ready: Events,
}

impl Worker {
    pub(crate) fn at(address: &str, limits: TcpLimits) -> Worker {
        let mut listener = Listener::bind(address.parse().expect("address")).expect("bind");
        let poll = Poll::new().expect("poll");
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("register");
        let connections = Connections::new(limits);
        let ready = Events::with_capacity(64);
        Worker { connections, poll, now: Instant::now(), happened: Vec::new(), listener, ready }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.listener.local()
    }

    pub(crate) fn phone(&self) -> TcpStream {
        let stream = TcpStream::connect(self.local()).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("option");
        stream.set_nodelay(true).expect("option");
        stream
    }

    pub(crate) fn connect(&mut self, remote: SocketAddr) -> ConnectionId {
        self.connections.connect(self.poll.registry(), None, remote, self.now).expect("connect")
    }

    pub(crate) fn send(&mut self, id: ConnectionId, text: &str, tag: u64) {
        self.connections.send(id, text.to_owned().into(), tag, self.now).expect("send");
    }

    pub(crate) fn flush(&mut self) {
        self.connections.flush(self.now, &mut self.happened);
    }

    pub(crate) fn advance(&mut self, duration: Duration) {
        self.now += duration;
        self.connections.tick(self.now, &mut self.happened);
    }

    /// Waits for readiness once and returns it without acting on it.
    pub(crate) fn readiness(&mut self) -> Vec<mio::event::Event> {
        let patience = if self.connections.has_unfinished_reads() {
            Duration::ZERO
        } else {
            Duration::from_millis(20)
        };
        self.poll.poll(&mut self.ready, Some(patience)).expect("poll");
        self.ready.iter().cloned().collect()
    }

    pub(crate) fn accept(&mut self) {
        while self
            .connections
            .accept_from(&self.listener, self.poll.registry(), self.now)
            .expect("accept")
            == Accepted::More
        {}
    }

    /// One turn of the loop.
    pub(crate) fn turn(&mut self) {
        self.connections.continue_reading(self.now, &mut self.happened);
        for event in self.readiness() {
            if event.token() == LISTENER {
                self.accept();
            } else {
                self.connections.handle(&event, self.now, &mut self.happened);
            }
        }
        self.flush();
    }

    /// Turns until `done` finds what it waits for.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Worker) -> Option<T>,
    ) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = done(self) {
                return found;
            }
            assert!(started.elapsed() < DEADLINE, "no {what}; happened: {:?}", self.happened);
            self.turn();
        }
    }

    pub(crate) fn until_connections(&mut self, count: usize) {
        self.until(&format!("{count} connections"), |worker| {
            (worker.connections.len() == count).then_some(())
        });
    }

    /// The next frame, with the connection it came by.
    pub(crate) fn next_frame(&mut self) -> (ConnectionId, Frame) {
        self.until("frame", |worker| {
            let position = worker
                .happened
                .iter()
                .position(|event| matches!(event, ConnectionEvent::Frame { .. }))?;
            match worker.happened.remove(position) {
                ConnectionEvent::Frame { connection, frame, .. } => Some((connection, frame)),
                _ => unreachable!("position found a frame"),
            }
        })
    }

    /// The next end of a connection, and why.
    pub(crate) fn next_closed(&mut self) -> (ConnectionId, CloseReason) {
        self.until("closed connection", |worker| {
            let position = worker
                .happened
                .iter()
                .position(|event| matches!(event, ConnectionEvent::Closed { .. }))?;
            match worker.happened.remove(position) {
                ConnectionEvent::Closed { connection, reason, .. } => Some((connection, reason)),
                _ => unreachable!("position found a close"),
            }
        })
    }

    pub(crate) fn undelivered_tags(&self) -> Vec<u64> {
        let tag = |event: &ConnectionEvent| match event {
            ConnectionEvent::Undelivered { tag, .. } => Some(*tag),
            _ => None,
        };
        self.happened.iter().filter_map(tag).collect()
    }
}

/// A message with a body of that many bytes.
pub(crate) fn message(body_bytes: usize) -> String {
    let body = "b".repeat(body_bytes);
    format!(
        "MESSAGE sip:a@b SIP/2.0\r\nCSeq: 1 MESSAGE\r\nContent-Length: {body_bytes}\r\n\r\n{body}"
    )
}

pub(crate) fn message_bytes(frame: &Frame) -> &[u8] {
    match frame {
        Frame::Message(bytes) => bytes,
        other => panic!("not a message: {other:?}"),
    }
}

pub(crate) fn write(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("write");
}

pub(crate) fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("read");
    String::from_utf8(bytes).expect("text")
}

/// Whether the worker has closed its side, by end of stream or reset.
pub(crate) fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
