//! The edge's end of a link, as a test wants it: offer messages, see frames.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::{HeaderName, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use transport::link::{Destination, EdgeAddress, LinkFrame, LinkReceiver, LinkSender, SendError};
use transport::{Flow, Transport};

/// Nothing that a test waits for takes longer, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) struct FakeEdge {
    own: String,
    stream: Box<dyn Stream>,
    sender: LinkSender,
    receiver: LinkReceiver,
}

/// A message that the container sent.
pub(crate) struct Sent {
    pub(crate) id: u64,
    pub(crate) destination: Destination,
    pub(crate) message: Message,
}

impl Sent {
    /// The status of a response, or the method of a request.
    pub(crate) fn what(&self) -> String {
        match self.message.status() {
            Some(status) => status.to_string(),
            None => self.message.method().unwrap().to_string(),
        }
    }
}

impl FakeEdge {
    pub(crate) async fn connect(path: &Path, own: &str) -> FakeEdge {
        FakeEdge::over(Box::new(UnixStream::connect(path).await.unwrap()), own).await
    }

    /// An edge at the other end of this stream.
    pub(crate) async fn over(stream: Box<dyn Stream>, own: &str) -> FakeEdge {
        let mut edge = FakeEdge {
            own: own.to_owned(),
            stream,
            sender: LinkSender::new(),
            receiver: LinkReceiver::new(),
        };
        let address = |transport| EdgeAddress {
            transport,
            own: own.parse().unwrap(),
            public: own.to_owned(),
        };
        edge.send(&LinkFrame::Hello {
            peer_name: "edge1".to_owned(),
            incarnation: 1,
            worker: 0,
            addresses: vec![address(Transport::Udp), address(Transport::Tcp)],
        })
        .await;
        let answer = edge.frame().await;
        assert!(
            matches!(&answer, LinkFrame::HelloAnswer { name, .. } if name == "c1"),
            "{answer:?}"
        );
        edge
    }

    async fn send(&mut self, frame: &LinkFrame) {
        self.sender.try_send(frame).unwrap();
        self.write().await;
    }

    async fn write(&mut self) {
        self.stream.write_all(self.sender.unwritten()).await.unwrap();
        self.stream.flush().await.unwrap();
        self.sender.written(self.sender.unwritten().len());
    }

    /// Writes what is no frame.
    pub(crate) async fn send_garbage(&mut self) {
        self.stream.write_all(&[0xff; 64]).await.unwrap();
    }

    /// A message from outside, over UDP.
    pub(crate) async fn offer(&mut self, text: String) {
        let flow = Flow::new(
            Transport::Udp,
            self.own.parse().unwrap(),
            "198.51.100.7:5060".parse().unwrap(),
        );
        self.sender.try_send_incoming(flow, 0, Bytes::from(text)).unwrap();
        self.write().await;
    }

    pub(crate) async fn report(&mut self, id: u64, error: SendError) {
        self.send(&LinkFrame::SendFailed { id, error }).await;
    }

    /// The next frame of any type.
    pub(crate) async fn frame(&mut self) -> LinkFrame {
        let next = async {
            loop {
                if let Some(frame) = self.receiver.next_frame().unwrap() {
                    return frame;
                }
                let count = self.stream.read_buf(self.receiver.read_buffer()).await.unwrap();
                assert_ne!(count, 0, "the container closed the link");
            }
        };
        let frame = tokio::time::timeout(PATIENCE, next).await.expect("no frame came");
        if let LinkFrame::Taken { up_to } = &frame {
            self.sender.taken(*up_to);
        }
        frame
    }

    /// Waits until the container has closed the link, whatever it still sends.
    pub(crate) async fn closed(&mut self) {
        let closed = async {
            let mut ignored = Vec::new();
            while self.stream.read_buf(&mut ignored).await.is_ok_and(|count| count > 0) {
                ignored.clear();
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("the link stays open");
    }

    /// The next frame that `wanted` finds something in; others are passed over.
    pub(crate) async fn until<T>(&mut self, wanted: impl Fn(&LinkFrame) -> Option<T>) -> T {
        // Heartbeats never cease, so that frames come is not enough.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self.frame().await;
            if let Some(found) = wanted(&frame) {
                return found;
            }
            assert!(Instant::now() < deadline, "no such frame came; the last one was {frame:?}");
        }
    }

    /// The next message that the container sends.
    pub(crate) async fn sent(&mut self) -> Sent {
        self.until(|frame| match frame {
            LinkFrame::Outgoing { id, destination, bytes } => Some(Sent {
                id: *id,
                destination: *destination,
                message: Message::parse(bytes.clone()).unwrap(),
            }),
            _ => None,
        })
        .await
    }

    /// The status of the next final response; a 100, which a held request gets after a while, is passed over.
    pub(crate) async fn sent_final(&mut self) -> String {
        loop {
            let what = self.sent().await.what();
            if what != "100" {
                return what;
            }
        }
    }

    /// Waits until all that was offered is taken.
    pub(crate) async fn all_taken(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.untaken() > 0 {
            self.frame().await;
            assert!(Instant::now() < deadline, "{} are still untaken", self.untaken());
        }
    }

    pub(crate) fn untaken(&self) -> usize {
        self.sender.untaken_count()
    }

    /// Sees so many heartbeats go by; no message but a 100 may be among them.
    pub(crate) async fn heartbeats(&mut self, mut count: usize) {
        while count > 0 {
            match self.frame().await {
                LinkFrame::Heartbeat { .. } => count -= 1,
                LinkFrame::Outgoing { bytes, .. } => {
                    assert!(bytes.starts_with(b"SIP/2.0 100 "), "sent {}", bytes.escape_ascii());
                }
                _ => {}
            }
        }
    }
}

/// A request as an edge forwards it; `user` tells the toy application what to do.
pub(crate) fn request(method: &str, user: &str, branch: &str) -> String {
    format!(
        "{method} sip:{user} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=f{branch}\r\n\
         To: <sip:bob@example.com>\r\n\
         Call-ID: {branch}\r\n\
         CSeq: 7 {method}\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// What a callee answers to a request that it got.
pub(crate) fn answer(request: &Message, status: u16) -> String {
    let copied = |name| {
        let values = request.fields(name).map(|value| value.escape_ascii().to_string());
        values.collect::<Vec<_>>()
    };
    format!(
        "SIP/2.0 {status} Said\r\nVia: {}\r\nFrom: {}\r\nTo: {};tag=callee\r\nCall-ID: {}\r\nCSeq: {}\r\n\
         Content-Length: 0\r\n\r\n",
        copied(HeaderName::Via).join(", "),
        copied(HeaderName::From)[0],
        copied(HeaderName::To)[0],
        copied(HeaderName::CallId)[0],
        copied(HeaderName::CSeq)[0],
    )
}
