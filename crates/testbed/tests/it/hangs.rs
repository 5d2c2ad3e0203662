//! Nobody there for a while: a container that lives but does nothing (SIGSTOP), an edge that was killed. What is
//! sent meanwhile is served by the other container or by the edge's next life, and the next life of the one that
//! hung, which the manager kills, does no damage.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use phone::{LineTransport, Phone};
use rustix::process::{Pid, Signal, kill_process};
use sip::{HeaderName, Message, Method, ResponseBuilder};
use testbed::crowd;
use testbed::node::Node;
use testbed::wait;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::world::{self, DOMAIN};

/// interval × (allowed_miss_count + 1): after that much silence a container is left out.
pub(crate) const SILENCE: Duration = Duration::from_millis(1_500);
/// What a request sent in the first moment may wait beyond that: one retransmission, and a busy machine.
pub(crate) const GRACE: Duration = Duration::from_millis(1_500);
/// RFC 3261 §17.1.1.1.
const T1: Duration = Duration::from_millis(500);
pub(crate) const CALLERS: usize = 16;
pub(crate) const USERS: usize = 300;

/// A process that was stopped; it goes on when the value ends, if nobody has killed it.
pub(crate) struct Stopped(Pid);

impl Stopped {
    pub(crate) fn stop(pid: i32) -> Stopped {
        let pid = Pid::from_raw(pid).expect("a process id");
        kill_process(pid, Signal::STOP).expect("the process runs");
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// A REGISTER that is sent by hand, once.
pub(crate) fn register(user: &str, local: SocketAddr) -> String {
    format!(
        "REGISTER sip:{DOMAIN} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {local};branch=z9hG4bK-{user};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{user}@{DOMAIN}>;tag={user}\r\n\
         To: <sip:{user}@{DOMAIN}>\r\n\
         Call-ID: {user}\r\n\
         CSeq: 1 REGISTER\r\n\
         Contact: <sip:{user}@{local}>\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// A callee that answers at once and remembers by which branches each call came: a call that comes by a second
/// branch rings a second time.
pub(crate) struct Callee {
    calls: Arc<Mutex<HashMap<String, HashSet<String>>>>,
}

impl Callee {
    pub(crate) async fn register(edge: SocketAddr) -> Callee {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let local = socket.local_addr().unwrap();
        socket.send_to(register("callee", local).as_bytes(), edge).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let (length, _) = timeout(SILENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        let ok = Message::parse(Bytes::copy_from_slice(&buffer[..length])).unwrap();
        assert_eq!(ok.status(), Some(200));
        let calls = Arc::new(Mutex::new(HashMap::new()));
        tokio::spawn(answer_everything(socket, local, Arc::clone(&calls)));
        Callee { calls }
    }

    /// Calls that came by more than one branch.
    pub(crate) fn rang_again(&self) -> Vec<(String, usize)> {
        let calls = self.calls.lock().unwrap();
        let again = calls.iter().filter(|(_, branches)| branches.len() > 1);
        again.map(|(call, branches)| (call.clone(), branches.len())).collect()
    }
}

async fn answer_everything(
    socket: UdpSocket,
    local: SocketAddr,
    calls: Arc<Mutex<HashMap<String, HashSet<String>>>>,
) {
    let mut buffer = vec![0; 65_535];
    while let Ok((length, edge)) = socket.recv_from(&mut buffer).await {
        let Ok(request) = Message::parse(Bytes::copy_from_slice(&buffer[..length])) else {
            continue;
        };
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        match request.method() {
            Some(Method::Invite) => {
                let branch = text(request.top_via().unwrap().branch().unwrap());
                let call = text(request.call_id().unwrap());
                calls.lock().unwrap().entry(call).or_default().insert(branch);
            }
            Some(Method::Ack) | None => continue,
            Some(_) => {}
        }
        let ok = ResponseBuilder::new(&request, 200)
            .to_tag(b"callee")
            .record_route()
            .header(HeaderName::Contact, format!("<sip:callee@{local}>").as_bytes());
        socket.send_to(&ok.build(), edge).await.unwrap();
    }
}

/// Every caller calls once; gives the phones back.
pub(crate) async fn everybody_calls(phones: Vec<Phone>, limit: Duration) -> Vec<Phone> {
    let mut calls = JoinSet::new();
    for phone in phones {
        calls.spawn(async move {
            let began = Instant::now();
            let uri = format!("sip:callee@{DOMAIN}");
            let call = phone.call(0, &uri).await.unwrap().answered().await;
            let call = call.unwrap_or_else(|error| panic!("after {:?}: {error}", began.elapsed()));
            let took = began.elapsed();
            assert!(took <= limit, "a call came up after {took:?}");
            call.hang_up().await.unwrap();
            phone
        });
    }
    calls.join_all().await
}

pub(crate) async fn everybody_registers(
    edge: SocketAddr,
    users: std::ops::Range<usize>,
    limit: Duration,
) {
    let began = Instant::now();
    let count = users.len();
    let outcome = crowd::register(edge, DOMAIN, users, 1, 3_600).await;
    let took = began.elapsed();
    assert_eq!(
        (outcome.registered, outcome.refused, outcome.unanswered),
        (count, 0, 0),
        "{outcome:?}"
    );
    assert!(took <= limit, "{took:?}: {outcome:?}");
}

/// How often the edge's workers took a container in.
pub(crate) fn taken_in(node: &Node, container: &str) -> usize {
    let log = node.process_log("edge1");
    log.lines()
        .filter(|line| line.contains("container serves ") && !line.contains("no more"))
        .filter(|line| line.contains(container))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_container_costs_no_registration_and_no_call() {
    let node = world::node_of(&world::open_config(1, ""));
    let edge = node.sip("udp");
    let callee = Callee::register(edge).await;
    let mut phones = Vec::new();
    for number in 0..CALLERS {
        let user = format!("caller{number}");
        phones.push(world::registered_openly(&node, &user, LineTransport::Udp).await);
    }
    let phones = everybody_calls(phones, SILENCE).await;
    let workers = taken_in(&node, "container1");

    let _stopped = Stopped::stop(node.process("container1").pid.expect("it runs"));
    let began = Instant::now();
    let limit = SILENCE + GRACE;
    let (phones, ()) =
        tokio::join!(everybody_calls(phones, limit), everybody_registers(edge, 0..USERS, limit));
    println!("served by the other container after {:?}", began.elapsed());
    // From now on nobody waits for it.
    let phones = everybody_calls(phones, GRACE).await;

    wait::until("the container to be taken in again", Duration::from_secs(10), || {
        match taken_in(&node, "container1") {
            count if count >= 2 * workers => Ok(()),
            count => Err(format!("{count} of {}", 2 * workers)),
        }
    });
    // What it does now comes after all that it had found when it went on.
    everybody_calls(phones, GRACE).await;
    everybody_registers(edge, USERS..2 * USERS, GRACE).await;
    // An INVITE that found no edge is sent again by its transaction: 500 ms, then 1 s (Timer A).
    let watched_until = Instant::now() + 3 * T1;
    while Instant::now() < watched_until {
        assert_eq!(callee.rang_again(), Vec::new(), "a call rang by a second branch");
        tokio::time::sleep(T1 / 10).await;
    }
    assert_eq!(node.registrations().len(), 2 * USERS + CALLERS + 1, "bindings");
    node.stop();
}

/// Whether a process has ended; its entry stays until its parent, which is stopped, asks for it.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('Z') || rest.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_sent_while_an_edge_is_dead_are_answered_by_its_next_life() {
    // What a default receive buffer holds beside the burst before.
    const DATAGRAMS: usize = 60;
    let node = world::node_of(&world::open_config(1, ""));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(node.sip("udp")).await.unwrap();
    let local = socket.local_addr().unwrap();

    let edge = node.process("edge1").pid.expect("it runs");
    // The manager sleeps, so that the edge stays dead until everything is sent; and the guardian, which would end that.
    let guardian = Stopped::stop(node.guardian_pid());
    let manager = Stopped::stop(node.manager_pid());
    for number in 0..DATAGRAMS {
        socket.send(register(&format!("burst{number}"), local).as_bytes()).await.unwrap();
    }
    kill_process(Pid::from_raw(edge).unwrap(), Signal::KILL).unwrap();
    wait::until("the edge to be dead", Duration::from_secs(5), || {
        if has_ended(edge) { Ok(()) } else { Err("it lives") }
    });
    for number in 0..DATAGRAMS {
        socket.send(register(&format!("late{number}"), local).as_bytes()).await.unwrap();
    }
    drop((manager, guardian));

    let mut late = HashSet::new();
    let mut buffer = vec![0; 65_535];
    while late.len() < DATAGRAMS {
        let length = match timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await {
            Ok(length) => length.unwrap(),
            Err(_) => panic!("{} of {DATAGRAMS} were answered: {late:?}", late.len()),
        };
        let answer = Message::parse(Bytes::copy_from_slice(&buffer[..length])).unwrap();
        let user = String::from_utf8_lossy(answer.call_id().unwrap()).into_owned();
        // What the dead edge had already read is lost with it: for that there are retransmissions.
        if user.starts_with("late") {
            assert_eq!(answer.status(), Some(200), "{user}");
            late.insert(user);
        }
    }
    let bound = node.registrations().len();
    assert!((DATAGRAMS..=2 * DATAGRAMS).contains(&bound), "{bound} bindings");
}
