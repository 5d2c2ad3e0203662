//! One flow between a phone and an edge: a socket, a task that reads it and one that writes it.
//!
//! What is read goes to the line's [`Router`]. A lost TCP connection is replaced by [`Line::reconnect`]; the line
//! stays the same then, its local address does not.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sip::framer::{self, StreamFramer};
use sip::{Message, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::answers::{Awaited, transaction_key};
use crate::router::{NewCall, Router, Shared};
use crate::watch::Direction;
use crate::{PATIENCE, PhoneError, T1, T2};

/// Messages that wait to be written; a phone of a test never has more.
const OUTBOX_LENGTH: usize = 1_024;
/// Of a Via without one.
const PORT_DEFAULT: u16 = 5060;
/// How often an edge that does not listen yet is tried again.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);

/// Transport of a [`Line`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineTransport {
    /// A UDP socket of its own.
    Udp,
    /// A TCP connection of its own; everything comes and goes by it.
    Tcp,
}

impl LineTransport {
    /// Name in a Via, `UDP` or `TCP`.
    pub fn name(self) -> &'static str {
        match self {
            LineTransport::Udp => "UDP",
            LineTransport::Tcp => "TCP",
        }
    }
}

/// One flow to an edge.
#[derive(Debug)]
pub struct Line {
    index: usize,
    transport: LineTransport,
    edge: SocketAddr,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<NewCall>,
    connection: Mutex<Connection>,
}

impl Line {
    pub(crate) async fn open(
        index: usize,
        transport: LineTransport,
        edge: SocketAddr,
        shared: Arc<Shared>,
        inbox: mpsc::Sender<NewCall>,
    ) -> Result<Arc<Line>, PhoneError> {
        let connection = Connection::open(index, transport, edge, &shared, &inbox).await?;
        let connection = Mutex::new(connection);
        Ok(Arc::new(Line { index, transport, edge, shared, inbox, connection }))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().expect("no panic under the lock")
    }

    /// Its transport.
    pub fn transport(&self) -> LineTransport {
        self.transport
    }

    /// Its own address.
    pub fn local(&self) -> SocketAddr {
        self.connection().local
    }

    /// The edge it leads to.
    pub fn edge(&self) -> SocketAddr {
        self.edge
    }

    /// Whether the flow still stands (a TCP connection that the edge closed does not).
    pub fn is_open(&self) -> bool {
        self.connection().open.has_changed().is_ok()
    }

    /// Waits until the flow is gone.
    pub async fn lost(&self) {
        let mut open = self.connection().open.clone();
        // Nothing is ever sent: it ends with its sender.
        while open.changed().await.is_ok() {}
    }

    /// Opens another connection in place of the one that is lost, and tries again while the edge does not
    /// listen. The Contact is another one then: register again.
    ///
    /// # Errors
    /// When the edge does not accept one within [`PATIENCE`].
    pub async fn reconnect(&self) -> Result<(), PhoneError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (index, transport) = (self.index, self.transport);
            let opened =
                Connection::open(index, transport, self.edge, &self.shared, &self.inbox).await;
            match opened {
                Ok(connection) => {
                    *self.connection() = connection;
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(RECONNECT_INTERVAL).await,
            }
        }
    }

    /// The Contact URI of a user on this line.
    pub(crate) fn contact_uri(&self, user: &str) -> String {
        match self.transport {
            LineTransport::Udp => format!("sip:{user}@{}", self.local()),
            LineTransport::Tcp => format!("sip:{user}@{};transport=tcp", self.local()),
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn send(&self, octets: Bytes) -> Result<(), PhoneError> {
        let outbox = self.connection().outbox.clone();
        outbox.send(Outgoing::of(octets)).await.map_err(|_| PhoneError::LineLost(self.edge))
    }

    /// Sends a response and keeps it for retransmissions of its request. A final one to an INVITE is sent until
    /// its ACK comes: a 2xx always (RFC 3261 §13.3.1.4), others over UDP (Timer G).
    pub(crate) async fn answer(
        self: &Arc<Self>,
        request: &Message,
        response: Bytes,
    ) -> Result<(), PhoneError> {
        self.shared.remember_answer(request, &response);
        let status = Message::parse(response.clone()).ok().and_then(|response| response.status());
        let status = status.expect("the phone writes SIP");
        let repeats = status >= 200
            && request.method() == Some(Method::Invite)
            && (status < 300 || self.transport == LineTransport::Udp);
        if repeats && let Some(awaited) = Awaited::of(request, status) {
            let what = format!(
                "an ACK to the {status} of {}",
                String::from_utf8_lossy(request.call_id().unwrap_or_default())
            );
            let task = tokio::spawn(repeat(Arc::downgrade(self), response.clone(), what, T1));
            self.shared.answers().retransmits(awaited, task.abort_handle());
        }
        self.send(response).await
    }
}

/// Sends a final response again until somebody ends this task, or nobody does within 64·T1 (Timer H).
async fn repeat(line: Weak<Line>, response: Bytes, what: String, t1: Duration) {
    let deadline = Instant::now() + t1 * 64;
    let mut interval = t1;
    while Instant::now() < deadline {
        tokio::time::sleep(interval).await;
        interval = (interval * 2).min(T2);
        let Some(line) = line.upgrade() else { return };
        // A lost connection may be replaced before the deadline.
        let _ = line.send(response.clone()).await;
    }
    if let Some(line) = line.upgrade() {
        line.shared.violations.note(format!("{what} never came"));
    }
}

/// The socket of a line and its tasks, which end with it.
#[derive(Debug)]
struct Connection {
    local: SocketAddr,
    outbox: mpsc::Sender<Outgoing>,
    /// Closed when the reading task has ended.
    open: watch::Receiver<()>,
    tasks: [tokio::task::AbortHandle; 2],
}

impl Connection {
    async fn open(
        index: usize,
        transport: LineTransport,
        edge: SocketAddr,
        shared: &Arc<Shared>,
        inbox: &mpsc::Sender<NewCall>,
    ) -> std::io::Result<Connection> {
        let (outbox, queue) = mpsc::channel(OUTBOX_LENGTH);
        let (is_open, open) = watch::channel(());
        let router = Router::new(index, outbox.clone(), Arc::clone(shared), inbox.clone());
        let passed = Sent { shared: Arc::clone(shared), index };
        let (local, tasks) = match transport {
            LineTransport::Udp => {
                let own = own_address_towards(edge).await?;
                let socket = Arc::new(UdpSocket::bind((own, 0)).await?);
                let local = socket.local_addr()?;
                let reader = tokio::spawn(read_datagrams(Arc::clone(&socket), router, is_open));
                let writer = tokio::spawn(write_datagrams(socket, edge, queue, passed));
                (local, [reader.abort_handle(), writer.abort_handle()])
            }
            LineTransport::Tcp => {
                let stream = TcpStream::connect(edge).await?;
                let local = stream.local_addr()?;
                let (read, write) = stream.into_split();
                let reader = tokio::spawn(read_stream(read, router, is_open));
                let writer = tokio::spawn(write_stream(write, queue, passed));
                (local, [reader.abort_handle(), writer.abort_handle()])
            }
        };
        Ok(Connection { local, outbox, open, tasks })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The address that this machine has for whoever speaks to the edge: it stands in Via and Contact.
async fn own_address_towards(edge: SocketAddr) -> std::io::Result<IpAddr> {
    let any = if edge.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let asking = UdpSocket::bind(any).await?;
    // Sends nothing.
    asking.connect(edge).await?;
    Ok(asking.local_addr()?.ip())
}

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    octets: Bytes,
    /// To whom over UDP; `None`: to the line's edge.
    to: Option<SocketAddr>,
}

impl Outgoing {
    /// A response goes to whom its request came from, whichever edge the line is to. Source: RFC 3261 §18.2.2, RFC 3581 §4.
    pub(crate) fn of(octets: Bytes) -> Outgoing {
        let response = octets.starts_with(b"SIP/2.0 ").then(|| Message::parse(octets.clone()));
        let to = response.and_then(Result::ok).as_ref().and_then(came_from);
        Outgoing { octets, to }
    }

    /// The answer that the first copy of this request had: to whom this copy came from.
    pub(crate) fn again(octets: Bytes, request: &Message) -> Outgoing {
        Outgoing { octets, to: came_from(request) }
    }
}

/// By its top Via; `None` if that names none.
fn came_from(message: &Message) -> Option<SocketAddr> {
    let via = message.top_via().ok()?;
    let port = via.rport().flatten().or(via.port).unwrap_or(PORT_DEFAULT);
    Some(SocketAddr::new(via.received().or(via.host.ip())?, port))
}

/// Tells the watcher what was sent.
struct Sent {
    shared: Arc<Shared>,
    index: usize,
}

impl Sent {
    fn passes(&self, octets: &Bytes) {
        self.shared.watch.passes(&self.shared.user, self.index, Direction::Sent, octets);
    }
}

async fn read_datagrams(socket: Arc<UdpSocket>, router: Router, _open: watch::Sender<()>) {
    let mut buffer = vec![0_u8; 65_535];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, _)) => {
                if let Some(frame) = framer::datagram(Bytes::copy_from_slice(&buffer[..length])) {
                    router.frame(frame).await;
                }
            }
            // A killed edge shows as ECONNREFUSED on the next receive; the socket itself is well.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

async fn write_datagrams(
    socket: Arc<UdpSocket>,
    edge: SocketAddr,
    mut queue: mpsc::Receiver<Outgoing>,
    passed: Sent,
) {
    while let Some(Outgoing { octets, to }) = queue.recv().await {
        let to = to.unwrap_or(edge);
        // UDP may lose anything; retransmission is the exchange's business.
        let _ = socket.send_to(&octets, to).await;
        passed.passes(&octets);
    }
}

async fn read_stream(
    mut stream: tokio::net::tcp::OwnedReadHalf,
    router: Router,
    _open: watch::Sender<()>,
) {
    let mut framer = StreamFramer::new(sip::MESSAGE_BYTES_MAX);
    let mut buffer = BytesMut::with_capacity(4_096);
    loop {
        loop {
            match framer.next(&mut buffer) {
                Ok(Some(frame)) => router.frame(frame).await,
                Ok(None) => break,
                Err(_) => return,
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn write_stream(
    mut stream: tokio::net::tcp::OwnedWriteHalf,
    mut queue: mpsc::Receiver<Outgoing>,
    passed: Sent,
) {
    while let Some(Outgoing { octets, .. }) = queue.recv().await {
        if stream.write_all(&octets).await.is_err() {
            return;
        }
        passed.passes(&octets);
    }
}

impl Shared {
    /// Keeps a response for the retransmissions of its request.
    pub(crate) fn remember_answer(&self, request: &Message, response: &Bytes) {
        if let Some(key) = transaction_key(request) {
            self.answers().answered(key, response.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_final_response_without_ack_is_repeated_and_then_told() {
        let edge = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let shared = Arc::new(Shared::new("bob"));
        let (inbox, _calls) = mpsc::channel(1);
        let address = edge.local_addr().expect("bound");
        let line = Line::open(0, LineTransport::Udp, address, Arc::clone(&shared), inbox);
        let line = line.await.expect("a line");
        let response = Bytes::from_static(b"SIP/2.0 200 OK\r\n\r\n");
        let what = "an ACK".to_owned();
        repeat(Arc::downgrade(&line), response, what, Duration::from_millis(2)).await;
        assert_eq!(shared.violations.all(), ["an ACK never came"]);
        let mut repetitions = 0;
        while edge.try_recv(&mut [0; 64]).is_ok() {
            repetitions += 1;
        }
        // 2, 4, 8, … 64 ms, each doubled: six before 64·T1, and the one that passes it; fewer on a machine that is late.
        assert!((1..=8).contains(&repetitions), "{repetitions}");
    }
}
