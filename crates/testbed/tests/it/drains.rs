//! `outlast drain`: a process takes nothing new, keeps what it has, and ends when nothing is left, or at its deadline.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use phone::LineTransport;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testbed::node::Node;
use testbed::{binary, wait};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::world;

const LIMIT: Duration = Duration::from_secs(20);

/// A running `outlast drain NAME --json`; killed with its value.
struct Drain {
    command: Option<Child>,
    lines: Receiver<Value>,
}

impl Drain {
    fn start(node: &Node, name: &str, deadline: &str) -> Drain {
        let mut command = Command::new(binary::outlast())
            .args(["drain", name, "--deadline", deadline, "--json", "--dir"])
            .arg(node.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the outlast binary starts");
        let stdout = BufReader::new(command.stdout.take().expect("stdout is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("each line is JSON");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Drain { command: Some(command), lines }
    }

    /// Waits for a line that tells that so much is left.
    fn until_left(&self, left: u64) {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            let line = self.lines.recv_timeout(LIMIT).expect("another line");
            assert!(line["deadline_in_ms"].is_u64(), "{line}");
            if line["left"] == left {
                return;
            }
        }
        panic!("never {left} left");
    }

    /// Waits for its end; gives the last line as well.
    fn end(mut self) -> (Output, Option<Value>) {
        let mut command = self.command.take().expect("it ends once");
        wait::until("the drain's end", LIMIT, || {
            command.try_wait().expect("our child").ok_or("it still runs")
        });
        let output = command.wait_with_output().expect("our child");
        (output, self.lines.iter().last())
    }

    fn interrupt(&self) {
        let command = self.command.as_ref().expect("it runs");
        kill_process(Pid::from_child(command), Signal::INT).expect("it runs");
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some(command) = &mut self.command {
            let _ = command.kill();
            let _ = command.wait();
        }
    }
}

fn one_container(more: &str) -> Node {
    world::node_of(&world::open_config(1, &format!("[container]\ncount = 1\n{more}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_container_keeps_a_ringing_call_takes_no_new_one_and_ends_after_it() {
    let node = one_container("");
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let late = world::registered_openly(&node, "carol", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let uri = callee.uri();
    let mut invitation = caller.call(0, &uri).await.unwrap();
    let ringing = callee.incoming().await.unwrap();
    ringing.ring().await.unwrap();
    invitation.ringing().await.unwrap();

    let drain = Drain::start(&node, "container1", "60s");
    drain.until_left(1);
    assert_eq!(node.process("container1").state, "draining");
    // What came before the edge knew is still served: nobody of that name is known.
    let began = Instant::now();
    let nobody = format!("sip:nobody@{}", world::DOMAIN);
    let refused = loop {
        let answer = late.call(0, &nobody).await.unwrap().final_response().await.unwrap();
        if answer.status() != Some(404) {
            break answer;
        }
        assert!(began.elapsed() < LIMIT, "it goes on to take what is new");
    };
    assert_eq!(refused.status(), Some(503));
    // A registration is over at once, and nobody else could take it.
    late.register(600).await.unwrap();
    assert_eq!(container_state(&node), "draining", "the call still rings");

    let answered = Instant::now();
    let (calling, answering) = tokio::join!(invitation.answered(), ringing.answer());
    let (calling, answering) = (calling.unwrap(), answering.unwrap());
    let (output, last) = drain.end();
    println!("drained {:?} after the answer", answered.elapsed());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(last.unwrap()["state"], "down");
    assert_eq!(container_state(&node), "down");
    // The call lives on without the container.
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.unwrap();
    noticed.unwrap();
}

fn container_state(node: &Node) -> String {
    node.process("container1").state
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_deadline_a_drain_ends_whatever_is_left() {
    let node = one_container("");
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let mut invitation = caller.call(0, &callee.uri()).await.unwrap();
    callee.incoming().await.unwrap().ring().await.unwrap();
    invitation.ringing().await.unwrap();
    let began = Instant::now();
    let drain = Drain::start(&node, "container1", "1s");
    drain.until_left(1);
    let (output, last) = drain.end();
    let took = began.elapsed();
    println!("a drain of 1 s with a call that rings took {took:?}");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(last.unwrap()["state"], "down");
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert!(!node.log().contains("killing"), "it ended by itself:\n{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_command_and_leaves_the_drain_going() {
    let node = one_container("");
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let mut invitation = caller.call(0, &callee.uri()).await.unwrap();
    let ringing = callee.incoming().await.unwrap();
    ringing.ring().await.unwrap();
    invitation.ringing().await.unwrap();
    let drain = Drain::start(&node, "container1", "60s");
    drain.until_left(1);
    drain.interrupt();
    let (output, _) = drain.end();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr.contains("container1 goes on draining"), "{stderr}");
    assert_eq!(node.process("container1").state, "draining");
    // Another command sees the same drain to its end.
    let drain = Drain::start(&node, "container1", "60s");
    drain.until_left(1);
    let (cancelled, noticed) = tokio::join!(invitation.cancel(), ringing.canceled());
    cancelled.unwrap();
    noticed.unwrap();
    let (output, _) = drain.end();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_serves_its_connections_takes_no_new_one_and_ends_after_the_last() {
    let node = world::node_of(&world::open_config(1, ""));
    let address = node.sip("tcp");
    let phone = world::registered_openly(&node, "alice", LineTransport::Tcp).await;
    let drain = Drain::start(&node, "edge1", "60s");
    drain.until_left(1);
    // A newcomer learns at once that nobody serves him here.
    let mut newcomer = TcpStream::connect(address).await.expect("the port is still open");
    let end = timeout(LIMIT, newcomer.read(&mut [0; 1])).await.expect("an end");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    phone.register(600).await.expect("the open connection is served");
    drain.until_left(1);
    drop(phone);
    let (output, last) = drain.end();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(last.unwrap()["state"], "down");
    wait::until("the port to be closed", LIMIT, || match std::net::TcpStream::connect(address) {
        Err(_) => Ok(()),
        Ok(_) => Err("somebody listens"),
    });
    assert!(node.outlast(&["start", "edge1"]).status.success());
    world::registered_openly(&node, "alice", LineTransport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_waits_for_a_ringing_call_and_a_second_signal_does_not() {
    for signals in [1, 2] {
        let node = one_container("drain_timeout = \"20s\"\n");
        let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
        let callee = world::registered_openly(&node, "bob", LineTransport::Udp).await;
        let mut invitation = caller.call(0, &callee.uri()).await.unwrap();
        let ringing = callee.incoming().await.unwrap();
        ringing.ring().await.unwrap();
        invitation.ringing().await.unwrap();
        let guardian = Pid::from_raw(node.guardian_pid()).unwrap();
        kill_process(guardian, Signal::TERM).unwrap();
        wait::until("the container to drain", LIMIT, || {
            let state = container_state(&node);
            if state == "draining" { Ok(()) } else { Err(state) }
        });
        let began = Instant::now();
        if signals == 1 {
            let (answered, answering) = tokio::join!(invitation.answered(), ringing.answer());
            answered.expect("the edge carries what the container finishes");
            answering.unwrap();
        }
        // `stop` sends the second signal.
        node.stop();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "{signals} signals: {took:?}");
    }
}
