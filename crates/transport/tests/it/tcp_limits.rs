//! What peers may not do: too many connections, messages without end, never reading, idling.

use std::time::Duration;

use transport::tcp::{CloseReason, SendRefused, TcpLimits};

use crate::worker::{Worker, is_closed, message, message_bytes, read, write};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn over_the_limit_per_remote_a_connection_is_accepted_and_closed() {
    let limits = TcpLimits { connections_per_remote_max: 2, ..TcpLimits::default() };
    let mut worker = Worker::at("127.0.0.1:0", limits);
    let first = worker.phone();
    let _second = worker.phone();
    worker.until_connections(2);
    let mut third = worker.phone();
    worker.until("refusal", |worker| {
        (worker.connections.counters().refused_per_remote == 1).then_some(())
    });
    assert!(is_closed(&mut third));
    assert_eq!(worker.connections.len(), 2);

    drop(first);
    worker.until_connections(1);
    let mut fourth = worker.phone();
    write(&mut fourth, &message(1));
    assert_eq!(message_bytes(&worker.next_frame().1), message(1).as_bytes());
}

#[test]
fn over_the_total_limit_a_connection_is_accepted_and_closed() {
    let limits = TcpLimits { connections_max: 1, ..TcpLimits::default() };
    let mut worker = Worker::at("[::1]:0", limits);
    let _first = worker.phone();
    worker.until_connections(1);
    let mut second = worker.phone();
    worker.until("refusal", |worker| {
        (worker.connections.counters().refused_total == 1).then_some(())
    });
    assert!(is_closed(&mut second));
    let refused =
        worker.connections.connect(worker.poll.registry(), None, worker.local(), worker.now);
    assert!(refused.is_err(), "outbound connections count too");
}

#[test]
fn a_message_that_trickles_in_is_cut_off() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let mut loris = worker.phone();
    worker.until_connections(1);
    write(&mut loris, &message(0));
    worker.next_frame();
    // The first byte starts the time; loopback has each there before the turn.
    for byte in "INVITE sip".chars() {
        write(&mut loris, &byte.to_string());
        worker.turn();
        assert_eq!(worker.connections.len(), 1);
        worker.advance(SECOND);
    }
    let (_, reason) = worker.next_closed();
    assert!(matches!(reason, CloseReason::MessageTimeout), "{reason:?}");
    assert_eq!(worker.connections.counters().incomplete, 1);
    assert!(is_closed(&mut loris));
}

#[test]
fn incomplete_messages_of_all_connections_together_are_bounded() {
    let limits = TcpLimits { incomplete_bytes_max: 100_000, ..TcpLimits::default() };
    let mut worker = Worker::at("127.0.0.1:0", limits);
    let whole = message(60_000);
    let mut phones: Vec<_> = (0..3).map(|_| worker.phone()).collect();
    for phone in &mut phones {
        write(phone, &whole[..50_000]);
    }
    let (_, reason) = worker.next_closed();
    assert!(matches!(reason, CloseReason::IncompleteBytes), "{reason:?}");
    worker.until_connections(2);
    // The others go on.
    let mut finished = 0;
    for phone in &mut phones {
        use std::io::Write;
        finished += usize::from(phone.write_all(&whole.as_bytes()[50_000..]).is_ok());
    }
    assert!(finished >= 2);
    for _ in 0..2 {
        assert_eq!(message_bytes(&worker.next_frame().1), whole.as_bytes());
    }
}

#[test]
fn an_idle_connection_ends_and_a_keep_alive_keeps_it() {
    let mut worker =
        Worker::at("127.0.0.1:0", TcpLimits { idle_timeout: 100 * SECOND, ..TcpLimits::default() });
    let mut phone = worker.phone();
    worker.until_connections(1);
    worker.advance(90 * SECOND);
    write(&mut phone, "\r\n\r\n");
    worker.next_frame();
    worker.advance(99 * SECOND);
    assert_eq!(worker.connections.len(), 1);
    worker.advance(SECOND);
    let (_, reason) = worker.next_closed();
    assert!(matches!(reason, CloseReason::Idle), "{reason:?}");
    assert_eq!(worker.connections.next_deadline(), None);
}

#[test]
fn a_reader_that_never_reads_is_closed_at_the_bound() {
    let limits = TcpLimits { unwritten_bytes_max: 200_000, ..TcpLimits::default() };
    let mut worker = Worker::at("127.0.0.1:0", limits);
    let phone = worker.phone();
    worker.until_connections(1);
    let id = worker.connections.find(None, phone.local_addr().expect("address")).expect("accepted");
    let text = bytes::Bytes::from(vec![b'x'; 10_000]);
    let mut sent = 0;
    // The kernel's buffers take some megabytes first.
    let refused = loop {
        match worker.connections.send(id, text.clone(), sent, worker.now) {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
        assert!(sent < 10_000, "100 MB were taken");
        worker.flush();
    };
    assert_eq!(refused, SendRefused::SlowReader);
    assert_eq!(
        worker.connections.find(None, phone.local_addr().expect("address")),
        None,
        "nobody finds it any more"
    );
    assert_eq!(worker.connections.send(id, text, 0, worker.now), Err(SendRefused::Gone));
    worker.flush();
    let (closed, reason) = worker.next_closed();
    assert_eq!(closed, id);
    assert!(matches!(reason, CloseReason::SlowReader), "{reason:?}");
    let undelivered = worker.undelivered_tags();
    assert!((19..=20).contains(&undelivered.len()), "{undelivered:?}");
    assert_eq!(undelivered.last(), Some(&(sent - 1)));
    assert_eq!(worker.connections.counters().slow_readers, 1);
}

#[test]
fn a_reader_that_stops_reading_is_closed_after_a_while() {
    let mut worker = Worker::at(
        "127.0.0.1:0",
        TcpLimits { unwritten_bytes_max: 1 << 30, ..TcpLimits::default() },
    );
    let phone = worker.phone();
    worker.until_connections(1);
    let id = worker.connections.find(None, phone.local_addr().expect("address")).expect("accepted");
    let text = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    for tag in 0..64 {
        worker.connections.send(id, text.clone(), tag, worker.now).expect("send");
    }
    worker.turn();
    worker.advance(TcpLimits::default().write_timeout);
    let (_, reason) = worker.next_closed();
    assert!(matches!(reason, CloseReason::WriteTimeout), "{reason:?}");
    assert_eq!(worker.undelivered_tags().last(), Some(&63));
}

#[test]
fn a_peer_that_read_everything_is_not_overdue() {
    let mut worker = Worker::at("127.0.0.1:0", TcpLimits::default());
    let mut phone = worker.phone();
    worker.until_connections(1);
    let id = worker.connections.find(None, phone.local_addr().expect("address")).expect("accepted");
    worker.send(id, "message", 0);
    worker.flush();
    assert_eq!(read(&mut phone, 7), "message");
    worker.advance(TcpLimits::default().write_timeout * 2);
    assert_eq!(worker.connections.len(), 1, "{:?}", worker.happened);
}
