//! One flow between a phone and an edge: a socket, a task that reads it, and where each message goes.
//!
//! Responses go to the [`Exchange`](crate::Exchange) that waits for them, requests in a dialog to their call,
//! all others to the phone's inbox; a request that came before gets its stored answer again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use sip::framer::{self, Frame, StreamFramer};
use sip::{Message, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;

use crate::{Arrived, LineTransport, PhoneError, Shared};

/// Messages that wait to be written; a phone of a test never has more.
const OUTBOX_LENGTH: usize = 1_024;

/// One flow to an edge.
#[derive(Debug)]
pub struct Line {
    transport: LineTransport,
    local: SocketAddr,
    edge: SocketAddr,
    outbox: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Line {
    pub(crate) async fn open(
        index: usize,
        transport: LineTransport,
        edge: SocketAddr,
        shared: Arc<Shared>,
        inbox: mpsc::Sender<Arrived>,
    ) -> Result<Line, PhoneError> {
        let (outbox, queue) = mpsc::channel(OUTBOX_LENGTH);
        let router = Router { index, outbox: outbox.clone(), shared: Arc::clone(&shared), inbox };
        let (local, tasks) = match transport {
            LineTransport::Udp => {
                let any = if edge.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
                let socket = Arc::new(UdpSocket::bind(any).await?);
                let local = socket.local_addr()?;
                let reader = tokio::spawn(read_datagrams(Arc::clone(&socket), router));
                let writer = tokio::spawn(write_datagrams(socket, edge, queue));
                (local, [reader.abort_handle(), writer.abort_handle()])
            }
            LineTransport::Tcp => {
                let stream = TcpStream::connect(edge).await?;
                let local = stream.local_addr()?;
                let (read, write) = stream.into_split();
                let reader = tokio::spawn(read_stream(read, router));
                let writer = tokio::spawn(write_stream(write, queue));
                (local, [reader.abort_handle(), writer.abort_handle()])
            }
        };
        Ok(Line { transport, local, edge, outbox, shared, tasks: tasks.to_vec() })
    }

    /// Its transport.
    pub fn transport(&self) -> LineTransport {
        self.transport
    }

    /// Its own address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The edge it leads to.
    pub fn edge(&self) -> SocketAddr {
        self.edge
    }

    /// Whether the flow still stands (a TCP connection that the edge closed does not).
    pub fn is_open(&self) -> bool {
        self.tasks.iter().all(|task| !task.is_finished())
    }

    /// The Contact URI of a user on this line.
    pub(crate) fn contact_uri(&self, user: &str) -> String {
        match self.transport {
            LineTransport::Udp => format!("sip:{user}@{}", self.local),
            LineTransport::Tcp => format!("sip:{user}@{};transport=tcp", self.local),
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
        let closed = || std::io::Error::from(std::io::ErrorKind::NotConnected);
        self.outbox.send(octets).await.map_err(|_| closed().into())
    }

    /// Sends a response and keeps it for retransmissions of its request.
    pub(crate) async fn answer(
        &self,
        request: &Message,
        response: Bytes,
    ) -> Result<(), PhoneError> {
        if let Some(key) = transaction_key(request) {
            let mut answered = self.shared.answered.lock().expect("no panic under the lock");
            answered.insert(key, Some(response.clone()));
        }
        self.send(response).await
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Branch and method of a request; `None` when it has no usable Via.
pub(crate) fn transaction_key(request: &Message) -> Option<(Bytes, Bytes)> {
    let branch = request.top_via().ok()?.branch()?.to_vec();
    let method = request.method()?.as_bytes().to_vec();
    Some((branch.into(), method.into()))
}

/// Takes every message of one line to where it belongs.
struct Router {
    index: usize,
    outbox: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Arrived>,
}

impl Router {
    async fn frame(&self, frame: Frame) {
        match frame {
            Frame::Message(octets) => {
                let Ok(message) = Message::parse(octets) else { return };
                if message.is_request() {
                    self.request(message).await;
                } else {
                    self.response(message).await;
                }
            }
            Frame::Ping => self.send(Bytes::from_static(b"\r\n")).await,
            Frame::Pong | Frame::Stun(_) => {}
        }
    }

    async fn send(&self, octets: Bytes) {
        // The writer is gone when the line is closing: nothing is lost that a test waits for.
        let _ = self.outbox.send(octets).await;
    }

    /// The ACK that an earlier 2xx to this INVITE got.
    fn acknowledgement(&self, branch: &Bytes) -> Option<Bytes> {
        let acknowledgements =
            self.shared.acknowledgements.lock().expect("no panic under the lock");
        acknowledgements.get(branch).map(|(octets, _)| octets.clone())
    }

    async fn response(&self, response: Message) {
        let (Ok(via), Ok(cseq)) = (response.top_via(), response.cseq()) else { return };
        let Some(branch) = via.branch().map(Bytes::copy_from_slice) else { return };
        let success = response.status().is_some_and(|status| (200..300).contains(&status));
        if success
            && cseq.method == Method::Invite
            && let Some(acknowledgement) = self.acknowledgement(&branch)
        {
            return self.send(acknowledgement).await;
        }
        let key = (branch, Bytes::copy_from_slice(cseq.method.as_bytes()));
        let sender = {
            let waiting = self.shared.waiting.lock().expect("no panic under the lock");
            waiting.get(&key).cloned()
        };
        if let Some(sender) = sender {
            // Nobody waits any more: a late retransmission.
            let _ = sender.send(response).await;
        }
    }

    async fn request(&self, request: Message) {
        let Some(key) = transaction_key(&request) else { return };
        let before = {
            let mut answered = self.shared.answered.lock().expect("no panic under the lock");
            match answered.get(&key) {
                Some(answer) => Some(answer.clone()),
                None => {
                    answered.insert(key, None);
                    None
                }
            }
        };
        if let Some(answer) = before {
            if let Some(octets) = answer {
                self.send(octets).await;
            }
            return;
        }
        let call_id = request.call_id().map(Bytes::copy_from_slice).unwrap_or_default();
        let dialog = {
            let dialogs = self.shared.dialogs.lock().expect("no panic under the lock");
            dialogs.get(&call_id).cloned()
        };
        let arrived = Arrived { request, line: self.index };
        match dialog {
            Some(sender) => drop(sender.try_send(arrived)),
            None => {
                if arrived.request.method() == Some(Method::Invite) {
                    self.shared.invites.fetch_add(1, Ordering::Relaxed);
                }
                drop(self.inbox.try_send(arrived));
            }
        }
    }
}

async fn read_datagrams(socket: Arc<UdpSocket>, router: Router) {
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
    mut queue: mpsc::Receiver<Bytes>,
) {
    while let Some(octets) = queue.recv().await {
        // UDP may lose anything; retransmission is the exchange's business.
        let _ = socket.send_to(&octets, edge).await;
    }
}

async fn read_stream(mut stream: tokio::net::tcp::OwnedReadHalf, router: Router) {
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
    mut queue: mpsc::Receiver<Bytes>,
) {
    while let Some(octets) = queue.recv().await {
        if stream.write_all(&octets).await.is_err() {
            return;
        }
    }
}
