//! Connections: framing, reuse, and how they end.

use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use sip::framer::Frame;
use transport::tcp::{CloseReason, ConnectionEvent, SendRefused, TcpLimits};
use transport::{Flow, Transport};

use crate::worker::{Worker, is_closed, message, message_bytes, read, write};

#[test]
fn messages_arrive_whole_in_whatever_pieces_they_come() {
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let mut worker = Worker::at(loopback, TcpLimits::default());
        let mut phone = worker.phone();
        let messages = [message(0), message(10), message(300)];
        let stream = messages.concat();
        for piece in [1, 7, 64, stream.len()] {
            for bytes in stream.as_bytes().chunks(piece) {
                write(&mut phone, std::str::from_utf8(bytes).expect("text"));
                worker.turn();
            }
            for expected in &messages {
                let (_, frame) = worker.next_frame();
                assert_eq!(message_bytes(&frame), expected.as_bytes(), "pieces of {piece}");
            }
        }
    }
}

#[test]
fn a_64_kilobyte_message_arrives_and_a_longer_one_ends_the_connection() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let mut phone = worker.phone();
    let longest = message(65_535 - message(0).len() - 4);
    assert_eq!(longest.len(), 65_535);
    write(&mut phone, &longest);
    let (_, frame) = worker.next_frame();
    assert_eq!(message_bytes(&frame), longest.as_bytes());

    write(&mut phone, &message(65_535 - message(0).len() - 3));
    let (_, reason) = worker.next_closed();
    assert!(matches!(reason, CloseReason::Framing(_)), "{reason:?}");
    assert_eq!(worker.connections.counters().framing_errors, 1);
}

#[test]
fn a_double_crlf_is_a_ping_and_its_answer_goes_back_by_the_same_connection() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let mut phone = worker.phone();
    write(&mut phone, "\r\n\r\n");
    let (connection, frame) = worker.next_frame();
    assert_eq!(frame, Frame::Ping);
    worker.send(connection, "\r\n", 0);
    worker.flush();
    assert_eq!(read(&mut phone, 2), "\r\n");
}

#[test]
fn a_message_without_content_length_ends_the_connection() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let mut phone = worker.phone();
    write(&mut phone, &message(3));
    write(&mut phone, "OPTIONS sip:a@b SIP/2.0\r\nCSeq: 1 OPTIONS\r\n\r\n");
    let (_, frame) = worker.next_frame();
    assert_eq!(message_bytes(&frame), message(3).as_bytes());
    let (_, reason) = worker.next_closed();
    assert!(matches!(reason, CloseReason::Framing(_)), "{reason:?}");
    assert!(is_closed(&mut phone));
}

#[test]
fn an_inbound_connection_is_found_by_its_addresses_and_carries_requests_back() {
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let mut worker = Worker::at(loopback, TcpLimits::default());
        let mut phone = worker.phone();
        worker.until_connections(1);
        let remote = phone.local_addr().expect("address");
        let flow = Flow::new(Transport::Tcp, worker.local(), remote);
        let found = worker.connections.find_flow(&flow).expect("the flow lives");
        assert_eq!(worker.connections.find(None, remote), Some(found));
        assert_eq!(worker.connections.find(Some(worker.local().ip()), remote), Some(found));
        assert_eq!(worker.connections.find(Some("192.0.2.1".parse().expect("ip")), remote), None);
        assert_eq!(worker.connections.find_flow(&Flow { transport: Transport::Udp, ..flow }), None);

        worker.send(found, "INVITE", 0);
        worker.flush();
        assert_eq!(read(&mut phone, 6), "INVITE");

        drop(phone);
        worker.until_connections(0);
        assert_eq!(worker.connections.find_flow(&flow), None);
        assert_eq!(
            worker.connections.send(found, "late".into(), 0, worker.now),
            Err(SendRefused::Gone)
        );
    }
}

#[test]
fn an_outbound_connection_is_used_again_and_read_from() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let peer = TcpListener::bind("127.0.0.1:0").expect("bind");
    let remote = peer.local_addr().expect("address");
    let local_ip = "127.0.0.1".parse().expect("ip");
    let id = worker
        .connections
        .connect(worker.poll.registry(), Some(local_ip), remote, worker.now)
        .expect("connect");
    // Sent before the connect is through: it waits.
    worker.send(id, "first ", 0);
    assert_eq!(worker.connections.find(Some(local_ip), remote), Some(id));
    let connected = worker.until("connection", |worker| {
        worker.happened.iter().find_map(|event| match event {
            ConnectionEvent::Connected { connection, .. } => Some(*connection),
            _ => None,
        })
    });
    assert_eq!(connected, id);
    let (mut accepted, _) = peer.accept().expect("accept");
    let again = worker.connections.find(None, remote).expect("still there");
    assert_eq!(again, id);
    worker.send(again, "second", 0);
    worker.flush();
    assert_eq!(read(&mut accepted, 12), "first second");

    write(&mut accepted, &message(5));
    let (connection, frame) = worker.next_frame();
    assert_eq!((connection, message_bytes(&frame)), (id, message(5).as_bytes()));
    assert_eq!(worker.connections.counters().connects, 1);
}

#[test]
fn a_refused_connect_gives_its_messages_back() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let free = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    // Loopback may refuse before connect returns, or after.
    if let Ok(id) = worker.connections.connect(worker.poll.registry(), None, free, worker.now) {
        worker.send(id, "message", 7);
        let (closed, reason) = worker.next_closed();
        assert_eq!(closed, id);
        assert!(matches!(reason, CloseReason::ConnectFailed(_)), "{reason:?}");
        assert_eq!(worker.undelivered_tags(), [7]);
    }
    assert_eq!(worker.connections.counters().connect_failures, 1);
    assert!(worker.connections.is_empty());
}

#[test]
fn a_connect_without_answer_is_given_up() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    // A full backlog answers nothing.
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket
        .bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("address").into())
        .expect("bind");
    socket.listen(0).expect("listen");
    let silent = socket.local_addr().expect("address").as_socket().expect("internet");
    let ids: Vec<_> = (0..8).map(|_| worker.connect(silent)).collect();
    worker.send(ids[7], "message", 7);
    for _ in 0..5 {
        worker.turn();
    }
    worker.advance(TcpLimits::default().connect_timeout - Duration::from_millis(1));
    assert_eq!(worker.connections.counters().connect_failures, 0);
    worker.advance(Duration::from_millis(1));
    let (_, reason) = worker.next_closed();
    assert!(matches!(reason, CloseReason::ConnectTimeout), "{reason:?}");
    assert_eq!(worker.undelivered_tags(), [7]);
    assert_eq!(worker.connections.find(None, silent).is_some(), !worker.connections.is_empty());
}

#[test]
fn a_half_closed_connection_delivers_what_came_before_and_ends() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let mut phone = worker.phone();
    write(&mut phone, &message(1));
    write(&mut phone, &message(2));
    phone.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(message_bytes(&worker.next_frame().1), message(1).as_bytes());
    assert_eq!(message_bytes(&worker.next_frame().1), message(2).as_bytes());
    let (_, reason) = worker.next_closed();
    assert!(matches!(reason, CloseReason::PeerClosed), "{reason:?}");
    assert!(is_closed(&mut phone));
}

#[test]
fn an_event_of_a_closed_connection_does_not_touch_its_successor() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let mut phone = worker.phone();
    worker.until_connections(1);
    let first =
        worker.connections.find(None, phone.local_addr().expect("address")).expect("accepted");
    write(&mut phone, &message(0));
    let stale = worker.until("readiness", |worker| {
        worker
            .readiness()
            .into_iter()
            .find(|event| event.token() == first.token() && event.is_readable())
    });
    worker.connections.close(first, &mut Vec::new());

    let successor = worker.phone();
    worker.until_connections(1);
    let second =
        worker.connections.find(None, successor.local_addr().expect("address")).expect("accepted");
    assert_ne!(first, second);
    worker.connections.handle(&stale, worker.now, &mut worker.happened);
    assert_eq!(worker.connections.counters().stale_events, 1);
    assert_eq!(
        worker.connections.find(None, successor.local_addr().expect("address")),
        Some(second)
    );
    assert_eq!(
        worker.connections.send(first, "late".into(), 0, worker.now),
        Err(SendRefused::Gone)
    );
}

#[test]
fn a_peer_that_sends_without_end_leaves_the_others_their_turn() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let mut flooder = worker.phone();
    let flood = message(60_000).repeat(100);
    let writer = std::thread::spawn(move || {
        write(&mut flooder, &flood);
        flooder
    });
    let mut phone = worker.phone();
    write(&mut phone, &message(9));
    let quiet = phone.local_addr().expect("address");
    let mut flooded = 0;
    let mut heard = false;
    while flooded < 100 || !heard {
        let (connection, frame) = worker.next_frame();
        if worker.connections.flow(connection).expect("lives").remote == quiet {
            assert_eq!(message_bytes(&frame), message(9).as_bytes());
            heard = true;
        } else {
            assert_eq!(message_bytes(&frame).len(), message(60_000).len());
            flooded += 1;
        }
    }
    drop(writer.join().expect("writer"));
}
