//! A container that speaks links and does what a test says.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::{HeaderName, Message, ResponseBuilder};
use transport::Flow;
use transport::link::{Accepting, Destination, LinkFrame, LinkReceiver, LinkSender};

use crate::cluster::{self, Cluster};
use crate::running::DEADLINE;

/// A container that reads looks up so often.
const READ_TIMEOUT: Duration = Duration::from_millis(20);

pub(crate) struct FakeContainer {
    name: &'static str,
    incarnation: u64,
    door: Door,
    pub(crate) path: PathBuf,
}

/// Where it is linked to.
enum Door {
    Unix(UnixListener),
    /// To edges of other nodes, with its node's certificate.
    Tls(TcpListener, Arc<rustls::ServerConfig>),
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// The end of one link.
pub(crate) struct FakeLink {
    stream: Box<dyn Stream>,
    receiver: LinkReceiver,
    waiting: Option<LinkFrame>,
    /// Whether probes are answered; the tests see none of them.
    pub(crate) answers_probes: bool,
    pub(crate) worker: u16,
}

impl FakeContainer {
    pub(crate) fn listen(directory: &Path, name: &'static str, incarnation: u64) -> FakeContainer {
        let path = FakeContainer::path(directory, name);
        let door = Door::Unix(UnixListener::bind(&path).unwrap());
        FakeContainer { name, incarnation, door, path }
    }

    /// One of another node.
    pub(crate) fn of_node(
        cluster: &Cluster,
        node: &str,
        name: &'static str,
        incarnation: u64,
    ) -> FakeContainer {
        let door = Door::Tls(cluster::listener().0, cluster.server(node));
        FakeContainer { name, incarnation, door, path: PathBuf::new() }
    }

    /// Where edges of other nodes reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        match &self.door {
            Door::Unix(_) => panic!("a container of this node has a path"),
            Door::Tls(listener, _) => listener.local_addr().unwrap(),
        }
    }

    fn stream(&self) -> Box<dyn Stream> {
        match &self.door {
            Door::Unix(listener) => {
                let (stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
                Box::new(stream)
            }
            Door::Tls(listener, tls) => {
                let (stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
                let session = rustls::ServerConnection::new(Arc::clone(tls)).unwrap();
                Box::new(rustls::StreamOwned::new(session, stream))
            }
        }
    }

    /// Accepts a link; whether it comes to nothing before a word is said.
    pub(crate) fn refuses(&self) -> bool {
        let (mut stream, begun) = (self.stream(), Instant::now());
        loop {
            assert!(begun.elapsed() < DEADLINE, "the edge neither speaks nor ends the link");
            match stream.read(&mut [0; 64]) {
                Ok(count) => return count == 0,
                Err(error) if is_timeout(&error) => {}
                Err(_) => return true,
            }
        }
    }

    /// Where a container of that name listens.
    pub(crate) fn path(directory: &Path, name: &str) -> PathBuf {
        directory.join(format!("{name}.link"))
    }

    /// Accepts a link, answers its hello, says that it serves.
    pub(crate) fn accept(&self) -> FakeLink {
        let mut link = FakeLink {
            stream: self.stream(),
            receiver: LinkReceiver::new(),
            waiting: None,
            answers_probes: true,
            worker: 0,
        };
        match link.next() {
            LinkFrame::Hello { worker, peer_name, addresses, .. } => {
                assert_eq!((peer_name.as_str(), addresses.len()), ("edge1", 2));
                link.worker = worker;
            }
            other => panic!("expected a hello, found {other:?}"),
        }
        link.send(&LinkFrame::HelloAnswer {
            name: self.name.to_owned(),
            incarnation: self.incarnation,
        });
        link.heartbeat(self.incarnation);
        link
    }
}

impl FakeLink {
    pub(crate) fn send(&mut self, frame: &LinkFrame) {
        let mut sender = LinkSender::new();
        sender.try_send(frame).unwrap();
        self.stream.write_all(sender.unwritten()).unwrap();
    }

    /// The next frame; panics when none comes.
    pub(crate) fn next(&mut self) -> LinkFrame {
        if let Some(frame) = self.waiting.take() {
            return frame;
        }
        let begun = Instant::now();
        let mut chunk = [0; 4096];
        loop {
            if let Some(frame) = self.frame() {
                return frame;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("the edge closed the link"),
                Ok(count) => self.receiver.push(&chunk[..count]),
                Err(error) if is_timeout(&error) => {
                    assert!(begun.elapsed() < DEADLINE, "no frame came over the link");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next whole frame that is no probe.
    fn frame(&mut self) -> Option<LinkFrame> {
        loop {
            match self.receiver.next_frame().unwrap() {
                Some(LinkFrame::Probe { id }) if self.answers_probes => {
                    self.send(&LinkFrame::ProbeAnswer { id });
                }
                Some(LinkFrame::Probe { .. }) => {}
                other => return other,
            }
        }
    }

    pub(crate) fn heartbeat(&mut self, incarnation: u64) {
        self.send(&LinkFrame::Heartbeat { incarnation, accepting: Accepting::Accepting, load: 0 });
    }

    /// Whether a message from outside has come; waits a moment for it.
    pub(crate) fn has_incoming(&mut self) -> bool {
        if self.waiting.is_none() {
            let mut chunk = [0; 4096];
            if let Ok(count) = self.stream.read(&mut chunk) {
                assert_ne!(count, 0, "the edge closed the link");
                self.receiver.push(&chunk[..count]);
            }
            self.waiting = self.frame();
        }
        self.waiting.is_some()
    }

    /// The next message from outside, not yet taken.
    pub(crate) fn incoming(&mut self) -> (u64, Flow, Message) {
        match self.next() {
            LinkFrame::Incoming(incoming) => {
                (incoming.sequence, incoming.flow, Message::parse(incoming.bytes).unwrap())
            }
            other => panic!("expected a message, found {other:?}"),
        }
    }

    /// Takes the next request and answers it; the request.
    pub(crate) fn answer(&mut self, status: u16) -> Message {
        let (sequence, _, request) = self.incoming();
        self.take(sequence);
        self.respond(&request, status);
        request
    }

    /// The edge need not keep that message, nor any before it, any longer.
    pub(crate) fn take(&mut self, sequence: u64) {
        self.receiver.taken(sequence);
        self.send(&LinkFrame::Taken { up_to: sequence });
    }

    pub(crate) fn respond(&mut self, request: &Message, status: u16) {
        let bytes = ResponseBuilder::new(request, status).to_tag(b"container").build();
        self.outgoing(1, Destination::Via, bytes);
    }

    pub(crate) fn outgoing(&mut self, id: u64, destination: Destination, bytes: Bytes) {
        self.send(&LinkFrame::Outgoing { id, destination, bytes });
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The URI in the Path that the edge added to a REGISTER.
pub(crate) fn path_of(register: &Message) -> String {
    String::from_utf8(register.values(HeaderName::Path).next().unwrap().to_vec()).unwrap()
}

/// A request as a container sends it, with that Route.
pub(crate) fn container_request(method: &str, route: &str) -> Bytes {
    let text = format!(
        "{method} sip:bob@127.0.0.1 SIP/2.0\r\n\
         Via: SIP/2.0/TCP container1.node.outlast.invalid;branch=z9hG4bKcontainer\r\n\
         From: <sip:alice@example.com>;tag=c\r\n\
         To: <sip:bob@example.com>\r\n\
         Call-ID: from-container\r\n\
         CSeq: 1 {method}\r\n\
         Max-Forwards: 69\r\n\
         Route: {route}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    Bytes::from(text)
}
