//! Bad input gets a SIP error or silence, never a crash, never unbounded memory: the torture set of
//! RFC 4475, random octets, huge datagrams, slow and half-open TCP connections, sent to a running node.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use testbed::node::Node;
use testbed::wait;

use crate::world::{self, DOMAIN};

const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A node whose slow-message limit is short enough to be waited for.
fn node() -> Node {
    world::node_of(&world::open_config(1, "[edge.tcp]\nmessage_timeout = \"2s\"\n"))
}

/// The node still answers a good request, by the processes that it started with.
fn still_serves(node: &Node, after: &str) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(node.sip("udp")).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let local = socket.local_addr().unwrap();
    let request = format!(
        "OPTIONS sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK-{};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:probe@{DOMAIN}>;tag=probe\r\nTo: <sip:{DOMAIN}>\r\n\
         Call-ID: probe-{}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
        local.port(),
        local.port()
    );
    let mut buffer = [0_u8; 65_535];
    wait::until(&format!("an answer after {after}"), ANSWER_LIMIT, || {
        socket.send(request.as_bytes()).map_err(|error| error.to_string())?;
        let length = socket.recv(&mut buffer).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.starts_with("SIP/2.0 200") { Ok(()) } else { Err(text) }
    });
    for process in node.status().processes {
        assert_eq!(
            (process.state.as_str(), process.restarts),
            ("ready", 0),
            "{process:?} after {after}"
        );
    }
}

/// What a stream peer sees of a message it sent.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The first final response.
    Status(u16),
    /// The connection was closed without one.
    Closed,
    /// Neither, for as long as was waited.
    Nothing,
}

fn sent_by_stream(edge: SocketAddr, octets: &[u8], patience: Duration) -> Seen {
    let mut stream = TcpStream::connect(edge).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.write_all(octets).unwrap();
    let deadline = Instant::now() + patience;
    let mut received = Vec::new();
    let mut buffer = [0_u8; 4_096];
    loop {
        let closed = match stream.read(&mut buffer) {
            Ok(0) => true,
            Ok(length) => {
                received.extend_from_slice(&buffer[..length]);
                false
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => true,
            Err(_) => false,
        };
        let final_status = String::from_utf8_lossy(&received)
            .split("SIP/2.0 ")
            .filter_map(|rest| rest.get(..3)?.parse::<u16>().ok())
            .find(|status| *status >= 200);
        match final_status {
            Some(status) => return Seen::Status(status),
            None if closed => return Seen::Closed,
            None if Instant::now() > deadline => return Seen::Nothing,
            None => {}
        }
    }
}

/// A row of the table: name, kind, class, what a proxy is expected to do.
struct Row {
    name: String,
    kind: String,
    class: String,
    proxy: String,
}

/// The torture set, or `None` when the environment names no test data.
fn torture_set() -> Option<(PathBuf, Vec<Row>)> {
    let Some(directory) = std::env::var_os("OUTLAST_TESTDATA") else {
        println!("skipped: OUTLAST_TESTDATA names no directory with rfc4475/");
        return None;
    };
    let directory = PathBuf::from(directory).join("rfc4475");
    let table = std::fs::read_to_string(directory.join("EXPECTED.tsv"))
        .unwrap_or_else(|error| panic!("{}: {error}", directory.join("EXPECTED.tsv").display()));
    let rows: Vec<Row> = table
        .lines()
        .skip(1)
        .map(|line| {
            let column: Vec<&str> = line.split('\t').collect();
            Row {
                name: column[1].to_owned(),
                kind: column[3].to_owned(),
                class: column[4].to_owned(),
                proxy: column[5].to_owned(),
            }
        })
        .collect();
    assert_eq!(rows.len(), 49, "a truncated table shows nothing");
    Some((directory, rows))
}

/// Whether what was seen is what the row asks for from a stream peer.
fn as_expected(row: &Row, seen: &Seen) -> bool {
    let leading = row.proxy.get(..3).and_then(|digits| digits.parse::<u16>().ok());
    // Accepted: understood, then answered as any request for nobody who is here (a foreign domain that
    // cannot be reached is a 500, RFC 3261 §16.7(6)).
    let accepted = matches!(seen, Seen::Status(status) if !matches!(status, 400 | 501..=599));
    match row.name.as_str() {
        // A body that never becomes complete: wait, then close.
        "clerr" => *seen == Seen::Closed,
        // A Content-Length that cannot be trusted ends the stream, with or without an answer.
        "ncl" | "mcl01" => matches!(seen, Seen::Closed | Seen::Status(400)),
        // Its archive copy lacks the final CRLF: on a stream it is never complete.
        "baddn" => *seen == Seen::Closed,
        // Without Content-Length a stream cannot be framed (RFC 3261 §18.3); the message is for UDP.
        "inv2543" => *seen == Seen::Closed,
        // The octets behind the second request are no message, so the stream ends; the message is for UDP.
        "dblreq" => accepted || *seen == Seen::Closed,
        // Goes where its Route says, to a port where nobody answers, and a MESSAGE gets no 408 (RFC 4320).
        "mpart01" => *seen == Seen::Nothing,
        _ if row.kind.starts_with("resp") => matches!(seen, Seen::Nothing | Seen::Closed),
        "mismatch02" => matches!(seen, Seen::Status(400 | 501)),
        _ => match leading {
            // "400, or ignore", "400 reasonable", "416 if it must resolve" …
            Some(status) if row.proxy.contains("or") || row.proxy.contains("if") => {
                *seen == Seen::Status(status) || accepted
            }
            Some(status) => *seen == Seen::Status(status),
            None if row.proxy.starts_with("reject 400 or accept") || row.class == "transaction" => {
                accepted || *seen == Seen::Status(400)
            }
            None if row.proxy.starts_with("400") => *seen == Seen::Status(400),
            // "forward": a registrar that refuses what it may (400) has been reached as well.
            None => accepted || (row.class != "valid" && *seen == Seen::Status(400)),
        },
    }
}

#[test]
fn the_torture_set_gets_what_rfc_4475_asks_for() {
    let Some((directory, rows)) = torture_set() else { return };
    let node = node();
    let edge = node.sip("tcp");
    let mut wrong = Vec::new();
    for row in &rows {
        let octets = std::fs::read(directory.join(format!("{}.dat", row.name))).unwrap();
        let patience =
            if row.kind.starts_with("resp") { Duration::from_millis(300) } else { ANSWER_LIMIT };
        let seen = sent_by_stream(edge, &octets, patience);
        if !as_expected(row, &seen) {
            wrong.push(format!("{}: {seen:?}, expected: {}", row.name, row.proxy));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    still_serves(&node, "the torture set over TCP");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for row in &rows {
        let octets = std::fs::read(directory.join(format!("{}.dat", row.name))).unwrap();
        socket.send_to(&octets, node.sip("udp")).unwrap();
    }
    still_serves(&node, "the torture set over UDP");
}

#[test]
fn random_octets_and_huge_datagrams_are_survived() {
    let node = node();
    let edge = node.sip("udp");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut octets = vec![0_u8; 65_507];
    for round in 0..2_000_usize {
        for octet in octets.iter_mut().take(1_500) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *octet = state as u8;
        }
        let length = match round % 20 {
            0 => 65_507,
            _ => 1 + (state % 1_500) as usize,
        };
        socket.send_to(&octets[..length], edge).unwrap();
        if round % 100 == 0 {
            let mut stream = TcpStream::connect(node.sip("tcp")).unwrap();
            // The edge may close on the first octets.
            let _ = stream.write_all(&octets[..1_500]);
        }
    }
    let header = format!("INVITE sip:a@{DOMAIN} SIP/2.0\r\nX: ");
    let mut endless = header.into_bytes();
    endless.resize(65_507, b'x');
    socket.send_to(&endless, edge).unwrap();
    still_serves(&node, "random octets");
}

#[test]
fn slow_and_half_open_connections_are_closed_and_cost_little() {
    let node = node();
    let edge = node.sip("tcp");
    let pid = node.process("edge1").pid.unwrap();
    let before = resident_bytes(pid);
    // Half of a message each, and some that say nothing.
    let mut slow: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(edge).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"INVITE sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/TCP ").unwrap();
        stream.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
    }
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(edge).unwrap()).collect();
    for stream in &mut slow {
        assert_eq!(stream.read(&mut [0_u8; 64]).unwrap_or(0), 0, "closed without a word");
    }
    let grown = resident_bytes(pid).saturating_sub(before);
    assert!(grown < 400 * 64 * 1_024, "{grown} octets for 400 connections");
    drop(idle);
    still_serves(&node, "slow connections");
}

/// Resident set of a process in octets.
fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}
