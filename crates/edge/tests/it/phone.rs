//! A phone on a blocking socket.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sip::{Frame, Message, StreamFramer};

use crate::running::{DEADLINE, RunningEdge};

pub(crate) enum Phone {
    Udp(UdpSocket),
    Tcp(TcpStream, Box<StreamFramer>, BytesMut),
}

impl Phone {
    pub(crate) fn udp(edge: &RunningEdge) -> Phone {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(edge.udp).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Phone::Udp(socket)
    }

    pub(crate) fn tcp(edge: &RunningEdge) -> Phone {
        let stream = TcpStream::connect(edge.tcp).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Phone::Tcp(stream, Box::new(StreamFramer::new(65_535)), BytesMut::new())
    }

    pub(crate) fn local(&self) -> SocketAddr {
        match self {
            Phone::Udp(socket) => socket.local_addr().unwrap(),
            Phone::Tcp(stream, ..) => stream.local_addr().unwrap(),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match self {
            Phone::Udp(socket) => drop(socket.send(bytes).unwrap()),
            Phone::Tcp(stream, ..) => stream.write_all(bytes).unwrap(),
        }
    }

    /// The next octets as they come.
    pub(crate) fn receive_raw(&mut self) -> Bytes {
        let mut chunk = vec![0; 65_535];
        let count = match self {
            Phone::Udp(socket) => socket.recv(&mut chunk).expect("a datagram from the edge"),
            Phone::Tcp(stream, ..) => stream.read(&mut chunk).expect("octets from the edge"),
        };
        chunk.truncate(count);
        chunk.into()
    }

    pub(crate) fn receive(&mut self) -> Message {
        loop {
            if let Phone::Tcp(_, framer, buffer) = self
                && let Some(frame) = framer.next(buffer).unwrap()
            {
                match frame {
                    Frame::Message(bytes) => return Message::parse(bytes).unwrap(),
                    other => panic!("expected a message, found {other:?}"),
                }
            }
            let bytes = self.receive_raw();
            match self {
                Phone::Udp(_) => return Message::parse(bytes).unwrap(),
                Phone::Tcp(_, _, buffer) => {
                    assert!(!bytes.is_empty(), "the edge closed the connection");
                    buffer.extend_from_slice(&bytes);
                }
            }
        }
    }

    /// The next message if it comes in time.
    pub(crate) fn receive_within(&mut self, limit: Duration) -> Option<Message> {
        let waited = |phone: &Phone, limit| match phone {
            Phone::Udp(socket) => socket.set_read_timeout(Some(limit)).unwrap(),
            Phone::Tcp(stream, ..) => stream.set_read_timeout(Some(limit)).unwrap(),
        };
        waited(self, limit);
        let is_there = match self {
            Phone::Udp(socket) => socket.peek(&mut [0]).is_ok(),
            Phone::Tcp(stream, ..) => stream.peek(&mut [0]).is_ok(),
        };
        waited(self, DEADLINE);
        is_there.then(|| self.receive())
    }

    /// A request with a Via of this phone's; `extra` are whole lines, each with its CRLF.
    pub(crate) fn request(&self, method: &str, call_id: &str, extra: &str) -> Bytes {
        let transport = match self {
            Phone::Udp(_) => "UDP",
            Phone::Tcp(..) => "TCP",
        };
        let local = self.local();
        let text = format!(
            "{method} sip:bob@example.com SIP/2.0\r\n\
             Via: SIP/2.0/{transport} {local};rport;branch=z9hG4bK{call_id}{method}\r\n\
             From: <sip:alice@example.com>;tag=a\r\n\
             To: <sip:bob@example.com>\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: 1 {method}\r\n\
             Max-Forwards: 70\r\n\
             {extra}Content-Length: 0\r\n\r\n"
        );
        Bytes::from(text)
    }

    /// Whether nothing comes for a moment. A message that is wrongly sent would be there at once,
    /// on loopback.
    pub(crate) fn hears_nothing(&mut self) -> bool {
        let moment = Some(Duration::from_millis(100));
        let mut chunk = [0; 2048];
        let result = match self {
            Phone::Udp(socket) => {
                socket.set_read_timeout(moment).unwrap();
                socket.recv(&mut chunk)
            }
            Phone::Tcp(stream, ..) => {
                stream.set_read_timeout(moment).unwrap();
                stream.read(&mut chunk)
            }
        };
        result.is_err()
    }
}
