//! Applications with HTTP handlers, over the sockets of a node: sessions that survive their container, one at a time and
//! wherever a request comes in; calls that begin in a browser; bodies that stream; clients and guests that mean harm.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use phone::{LineTransport, Phone};
use rustix::process::Signal;
use testbed::node::Node;
use testbed::wait;

use crate::world::{self, DOMAIN, LIMIT};
use client::{Answer, connect, get, try_ask};

pub(crate) mod client;
pub(crate) mod guests;

/// A node of two containers that serves these applications, and where the containers do.
fn node(desk: bool, echo: bool) -> (Node, SocketAddr, SocketAddr) {
    let node = world::node_of(&world::open_config(1, "[container]\nhttp = \"127.0.0.1:0\""));
    let sources = tempfile::tempdir().unwrap();
    let applications = [
        desk.then(|| guests::write_desk(sources.path(), DOMAIN)),
        echo.then(|| guests::write_echo(sources.path())),
    ];
    for directory in applications.into_iter().flatten() {
        let said = node.outlast(&["app", "deploy", directory.to_str().unwrap()]);
        assert!(said.status.success(), "{said:?}");
    }
    let (one, two) = (port(&node, "container1"), port(&node, "container2"));
    (node, one, two)
}

/// Where a container serves HTTP.
pub(crate) fn port(node: &Node, container: &str) -> SocketAddr {
    wait::until("the address of a container", LIMIT, || node.process(container).http.ok_or(()))
}

#[test]
fn a_session_is_served_by_its_cookie_wherever_a_request_comes_in_and_whoever_dies() {
    let (node, one, two) = node(true, false);
    let first = get(one, "/desk/n", "");
    assert_eq!(first.octet(), 1);
    let set = first.header("set-cookie").unwrap();
    assert!(set.ends_with("; Path=/desk; HttpOnly; SameSite=Lax"), "{set}");
    let cookie = first.cookie().unwrap();
    assert_eq!(get(one, "/desk/n", &cookie).octet(), 2);
    let elsewhere = get(two, "/desk/n", &format!("theme=dark; {cookie}"));
    assert_eq!((elsewhere.octet(), elsewhere.header("set-cookie")), (3, None));

    node.signal("container1", Signal::KILL);
    assert_eq!(get(two, "/desk/n", &cookie).octet(), 4, "taken over");
    let back = wait::until("container1 to serve again", LIMIT, || {
        try_ask(one, "GET /desk/n", &format!("Cookie: {cookie}\r\n"), b"")
    });
    assert_eq!(back.octet(), 5, "the port is the one before, and the session the other's");
    assert_eq!(port(&node, "container1"), one);

    node.signal("container2", Signal::STOP);
    assert_eq!(get(one, "/desk/n", &cookie).octet(), 6, "taken over from one that stands still");

    let mut forged = cookie.clone();
    forged.replace_range(forged.len() - 1.., if cookie.ends_with('A') { "B" } else { "A" });
    let answer = get(one, "/desk/n", &forged);
    assert_eq!(answer.octet(), 1, "a session of its own");
    assert_ne!(answer.cookie().unwrap(), cookie);
    assert_eq!(get(one, "/desk/s", "").cookie(), None, "there is nothing to come back to");
    node.stop();
}

#[test]
fn a_key_leads_to_one_session_without_any_cookie() {
    let (node, one, two) = node(true, false);
    let first = get(one, "/desk/7n", "");
    assert_eq!((first.octet(), first.cookie()), (1, None));
    assert_eq!(get(two, "/desk/7n", "").octet(), 2);
    assert_eq!(get(two, "/desk/8n", "").octet(), 1, "another key");
    let cookie = get(two, "/desk/n", "").cookie().unwrap();
    assert_eq!(get(two, "/desk/7n", &cookie).octet(), 3, "a key goes before a cookie");

    let before = node.kill_manager();
    node.wait_for_manager_after(before);
    let ports = (port(&node, "container1"), port(&node, "container2"));
    assert_eq!(ports, (one, two), "the next manager knows them");
    let shown = String::from_utf8(node.outlast(&["status"]).stdout).unwrap();
    assert!(shown.contains(&format!("http:{one}")), "{shown}");
    node.signal("container1", Signal::KILL);
    assert_eq!(get(two, "/desk/7n", "").octet(), 4);
    node.stop();
}

#[test]
fn requests_of_one_session_come_one_at_a_time_and_none_is_lost_in_a_restart() {
    let (node, one, two) = node(true, false);
    let cookie = get(one, "/desk/n", "").cookie().unwrap();
    let asked: Vec<_> = (0..20)
        .map(|number| {
            let (to, cookie) = (if number % 2 == 0 { one } else { two }, cookie.clone());
            std::thread::spawn(move || get(to, "/desk/n", &cookie).octet())
        })
        .collect();
    let mut counts: Vec<u8> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (2..=21).collect::<Vec<u8>>());

    let directory = node.directory().to_owned();
    let restart = std::thread::spawn(move || {
        testbed::node::outlast_in(&directory, &["restart", "container1"], b"")
    });
    let mut count = 21;
    while !restart.is_finished() {
        count += 1;
        assert_eq!(get(two, "/desk/n", &cookie).octet(), count);
    }
    assert!(restart.join().unwrap().status.success());
    assert_eq!(get(one, "/desk/n", &cookie).octet(), count + 1);
    node.stop();
}

#[test]
fn what_fails_or_is_refused_changes_nothing() {
    let (node, one, two) = node(true, false);
    let cookie = get(one, "/desk/n", "").cookie().unwrap();
    for (to, path) in [(one, "/desk/x"), (two, "/desk/x"), (one, "/desk/l"), (two, "/desk/l")] {
        assert_eq!(get(to, path, &cookie).status, 500, "{path}");
    }
    let headers = format!("Cookie: {cookie}\r\n");
    let body = vec![b'.'; 64 * 1024];
    assert_eq!(try_ask(two, "POST /desk/n", &headers, &body).unwrap().octet(), 2);
    let long = [&body[..], b"."].concat();
    assert_eq!(try_ask(two, "POST /desk/n", &headers, &long).unwrap().status, 413);
    let many = "X: y\r\n".repeat(200);
    assert_eq!(try_ask(two, "GET /desk/n", &many, b"").unwrap().status, 431);
    assert_eq!(get(one, "/desk/n", &cookie).octet(), 3);

    let nothing = get(one, "/desks", "");
    let said = String::from_utf8(nothing.body).unwrap();
    assert_eq!(nothing.status, 404);
    assert!(said.contains("outlast app deploy") && !said.contains("/desk\n"), "{said}");
    let hops = "Outlast-Hops: 2\r\n";
    assert_eq!(
        try_ask(two, "GET /desk/n", &format!("{headers}{hops}"), b"").unwrap().octet(),
        4,
        "of strangers nothing is believed"
    );
    let listed = node.outlast(&["app", "show", "desk"]);
    assert!(listed.status.success(), "{listed:?}");
    assert!(node.process_log("container1").contains("wasm backtrace"), "of the trap");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_begins_in_a_browser_and_the_browser_sees_what_became_of_it() {
    let (node, one, two) = node(true, false);
    let callee = world::registered_openly(&node, "callee", LineTransport::Udp).await;
    let asked = ask(one, "/desk/d", "").await;
    assert_eq!(asked.octet(), 0, "an INVITE is queued");
    let cookie = asked.cookie().unwrap();
    let call = callee.incoming().await.unwrap();
    assert_eq!(ask(two, "/desk/s", &cookie).await.octet(), 0, "it rings");
    call.answer().await.unwrap();
    let limit = Instant::now() + LIMIT;
    while ask(two, "/desk/s", &cookie).await.octet() != 1 {
        assert!(Instant::now() < limit, "the session does not hear of the answer");
    }
    node.stop();
}

/// What has happened last when the owner of the session is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// The browser has its answer: the call is to be made.
    Asked,
    /// The callee's phone rings.
    Rings,
    /// It has answered.
    Answered,
    /// It has the ACK, and the browser has seen it.
    Seen,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_converged_session_outlasts_its_owner_whatever_happened_last() {
    let (node, one, two) = node(true, false);
    let callee = world::registered_openly(&node, "callee", LineTransport::Udp).await;
    for signal in [Signal::KILL, Signal::STOP] {
        for last in [Last::Asked, Last::Rings, Last::Answered, Last::Seen] {
            converged(&node, (one, two), &callee, signal, last).await;
        }
    }
    assert_eq!(callee.violations(), Vec::<String>::new());
    assert_eq!(callee.rang_again(), Vec::<String>::new());
    node.stop();
}

async fn converged(
    node: &Node,
    (one, two): (SocketAddr, SocketAddr),
    callee: &Phone,
    signal: Signal,
    last: Last,
) {
    let before = node.process("container1").restarts;
    let asked = ask(one, "/desk/d", "").await;
    assert_eq!(asked.octet(), 0);
    let cookie = asked.cookie().unwrap();
    assert_eq!(ask(one, "/desk/n", &cookie).await.octet(), 1);
    let hit = |now| {
        if now == last {
            node.signal("container1", signal);
        }
    };
    hit(Last::Asked);
    let ringing = callee.incoming().await.unwrap();
    ringing.ring().await.unwrap();
    hit(Last::Rings);
    let (answered, ()) = tokio::join!(ringing.answer(), async { hit(Last::Answered) });
    let call = answered.unwrap();
    // Whoever is asked: the one that was hit may not be there.
    let limit = Instant::now() + LIMIT;
    while ask(two, "/desk/s", &cookie).await.octet() != 1 {
        assert!(Instant::now() < limit, "{signal:?} {last:?}: nobody hears of the answer");
    }
    hit(Last::Seen);
    assert_eq!(ask(two, "/desk/n", &cookie).await.octet(), 2, "{signal:?} {last:?}");
    call.hang_up().await.unwrap();
    wait::until("container1 to be back", LIMIT, || {
        let now = node.process("container1");
        if now.restarts > before && now.state == "ready" { Ok(()) } else { Err(now) }
    });
    assert_eq!(ask(one, "/desk/n", &cookie).await.octet(), 3, "{signal:?} {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_container_serves_the_sessions_that_live_and_another_begins_new_ones() {
    let (node, one, _) = node(true, false);
    let callee = world::registered_openly(&node, "callee", LineTransport::Udp).await;
    let cookie = ask(one, "/desk/d", "").await.cookie().unwrap();
    let call = callee.incoming().await.unwrap().answer().await.unwrap();
    let directory = node.directory().to_owned();
    let drain = tokio::task::spawn_blocking(move || {
        let drain = ["drain", "container1", "--deadline", "30s"];
        testbed::node::outlast_in(&directory, &drain, b"")
    });
    wait::until("container1 to drain", LIMIT, || match node.process("container1").state {
        state if state == "draining" => Ok(()),
        state => Err(state),
    });
    let answer = ask(one, "/desk/n", &cookie).await;
    assert_eq!((answer.octet(), answer.header("connection")), (1, Some("close")));
    assert_eq!(ask(one, "/desk/n", "").await.octet(), 1, "a new session");
    let sessions = node.outlast(&["sessions", "--json"]).stdout;
    let sessions: Vec<serde_json::Value> = serde_json::from_slice(&sessions).unwrap();
    let mut owners: Vec<_> =
        sessions.iter().map(|session| session["container"].as_str().unwrap()).collect();
    owners.sort_unstable();
    assert_eq!(owners, ["container1", "container2"], "{sessions:?}");
    call.hang_up().await.unwrap();
    assert!(drain.await.unwrap().status.success());
    node.stop();
}

async fn ask(to: SocketAddr, path: &str, cookie: &str) -> Answer {
    let (path, cookie) = (path.to_owned(), cookie.to_owned());
    tokio::task::spawn_blocking(move || get(to, &path, &cookie)).await.unwrap()
}

#[test]
fn bodies_stream_both_ways_and_slow_clients_hold_nobody_up() {
    let (node, one, two) = node(false, true);
    // They say half of a head, or of a body, and then nothing.
    let slow: Vec<_> = (0..120)
        .map(|number| {
            let mut stream = connect(if number % 2 == 0 { one } else { two });
            let said = if number % 3 == 0 { "POST /ec" } else { SLOW };
            stream.write_all(said.as_bytes()).unwrap();
            stream
        })
        .collect();
    let mut stream = connect(one);
    stream.write_all(HALF.as_bytes()).unwrap();
    let mut heard = Vec::new();
    while !contains(&heard, b"half") {
        let mut octets = [0; 1024];
        let read = stream.read(&mut octets).unwrap();
        assert!(read > 0, "{:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&octets[..read]);
    }
    stream.write_all(b"4\r\nrest\r\n0\r\n\r\n").unwrap();
    while !contains(&heard, b"0\r\n\r\n") {
        let mut octets = [0; 1024];
        let read = stream.read(&mut octets).unwrap();
        assert!(read > 0, "{:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&octets[..read]);
    }
    assert!(contains(&heard, b"rest"));

    let octets: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let sending = octets.clone();
    let mut stream = connect(two);
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let length = sending.len();
        let head = format!(
            "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).unwrap();
        writer.write_all(&sending).unwrap();
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    writing.join().unwrap();
    assert!(all.len() > octets.len() && contains(&all[..200], b"200 OK"));
    let began = Instant::now();
    for mut stream in slow {
        // What is said to whom is late, if anything; then it is closed.
        stream.read_to_end(&mut Vec::new()).unwrap_or_default();
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
    node.stop();
}

const SLOW: &str = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf";
const HALF: &str =
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_compute_without_end_hold_no_call_up() {
    let (node, one, two) = node(true, false);
    let caller = world::registered_openly(&node, "caller", LineTransport::Udp).await;
    let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let hostile: Vec<_> = (0..48)
        .map(|number| {
            let (to, is_over) = (if number % 2 == 0 { one } else { two }, is_over.clone());
            std::thread::spawn(move || {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let status = get(to, "/desk/l", "").status;
                    assert!(matches!(status, 500 | 503), "{status}");
                }
            })
        })
        .collect();
    let mut took = Vec::new();
    for _ in 0..40 {
        let began = Instant::now();
        let mut call = caller.call(0, &format!("sip:nobody@{DOMAIN}")).await.unwrap();
        assert_eq!(call.final_response().await.unwrap().status().unwrap(), 404);
        took.push(began.elapsed());
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    for hostile in hostile {
        hostile.join().unwrap();
    }
    took.sort_unstable();
    // Each of them computes for 200 ms. On a machine that is busy otherwise some calls may wait for that.
    assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");
    node.stop();
}
