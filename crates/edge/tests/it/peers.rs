//! A plain SIP peer in a container's place.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use bytes::BytesMut;
use edge::Peer;
use sip::{Frame, Message, Method, ResponseBuilder, StreamFramer};
use topology::ProcessName;
use transport::Transport;

use crate::phone::Phone;
use crate::running::{DEADLINE, RunningEdge};

fn edge_with(transport: Transport, address: SocketAddr) -> RunningEdge {
    let peer = Peer { name: ProcessName::new("peer1"), transport, address, weight: 100 };
    RunningEdge::start(1, &[], vec![peer])
}

fn answer(request: &Message) -> bytes::Bytes {
    ResponseBuilder::new(request, 200).to_tag(b"peer").build()
}

#[test]
fn a_udp_peer_serves_requests_and_probes() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let edge = edge_with(Transport::Udp, socket.local_addr().unwrap());
    let mut phone = Phone::udp(&edge);
    let request = phone.request("INVITE", "call1", "");
    phone.send(&request);
    let (mut saw_probe, mut saw_invite) = (false, false);
    let mut chunk = [0; 4096];
    while !(saw_probe && saw_invite) {
        let (count, from) = socket.recv_from(&mut chunk).expect("a request of the edge");
        let request = Message::parse(chunk[..count].to_vec().into()).unwrap();
        match request.method() {
            Some(Method::Options) => saw_probe = true,
            Some(Method::Invite) => saw_invite = true,
            other => panic!("unexpected {other:?}"),
        }
        socket.send_to(&answer(&request), from).unwrap();
    }
    let response = phone.receive();
    assert_eq!((response.status(), response.call_id().unwrap()), (Some(200), &b"call1"[..]));
    assert!(phone.hears_nothing(), "answers to probes stay inside");
}

#[test]
fn a_tcp_peer_serves_requests_and_probes_over_one_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let edge = edge_with(Transport::Tcp, listener.local_addr().unwrap());
    let mut phone = Phone::udp(&edge);
    let request = phone.request("INVITE", "call1", "");
    phone.send(&request);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut framer, mut buffer) = (StreamFramer::new(65_535), BytesMut::new());
    let (mut saw_probe, mut saw_invite) = (false, false);
    while !(saw_probe && saw_invite) {
        while let Some(frame) = framer.next(&mut buffer).unwrap() {
            let Frame::Message(bytes) = frame else { panic!("unexpected {frame:?}") };
            let request = Message::parse(bytes).unwrap();
            saw_probe |= request.method() == Some(Method::Options);
            saw_invite |= request.method() == Some(Method::Invite);
            stream.write_all(&answer(&request)).unwrap();
        }
        let mut chunk = [0; 4096];
        if !(saw_probe && saw_invite) {
            let count = stream.read(&mut chunk).expect("octets from the edge");
            assert_ne!(count, 0, "the edge closed the connection");
            buffer.extend_from_slice(&chunk[..count]);
        }
    }
    assert_eq!(phone.receive().status(), Some(200));
}

#[test]
fn a_tcp_peer_that_refuses_connections_is_answered_503() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let edge = edge_with(Transport::Tcp, address);
    let mut phone = Phone::udp(&edge);
    let request = phone.request("INVITE", "call1", "");
    phone.send(&request);
    assert_eq!(phone.receive().status(), Some(503));
}
