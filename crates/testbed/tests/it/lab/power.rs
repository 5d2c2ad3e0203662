//! Hosts that stand still, lose power, and come back.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use testbed::lab::{self, Lab};
use testbed::wait;

use super::{LIMIT, heard, say, socket};

/// A connection between threads on two hosts: the ends of the first and of the second.
fn connection(lab: &Lab, one: &str, other: &str) -> (TcpStream, TcpStream) {
    let (one, other) = (lab.host(one), lab.host(other));
    let listener = other.enter(|| TcpListener::bind((other.ipv4(), 0))).expect("a port");
    let address = listener.local_addr().expect("bound");
    let near = one.enter(|| TcpStream::connect(address)).expect("a way there");
    let (far, _) = listener.accept().expect("a connection");
    (near, far)
}

#[test]
fn a_host_without_power_is_silent_and_forgets_its_connections() {
    lab::run(&["a", "b"], |lab| {
        let (a, b) = (lab.host("a"), lab.host("b"));
        let (mut near, far) = connection(lab, "a", "b");
        // Its end is held by a process of the host, and closed by the kernel when that is killed.
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").stdin(OwnedFd::from(far));
        let mut child = b.enter(|| sleep.spawn()).expect("sleep");
        drop(sleep);
        assert_eq!(b.pids(), [i32::try_from(child.id()).expect("small")]);

        b.power_off(lab);
        assert!(b.pids().is_empty(), "{:?}", b.pids());
        assert!(child.wait().expect("our child").code().is_none(), "killed");
        near.set_nonblocking(true).expect("a socket");
        let read = near.read(&mut [0; 1]).expect_err("not a word");
        assert_eq!(read.kind(), ErrorKind::WouldBlock);

        b.power_on(lab);
        let [one, other] = [socket(a, a.ipv4()), socket(b, b.ipv4())];
        say(&one, &other, "back again");
        assert_eq!(heard(&other), "back again");
        near.write_all(b"?").expect("room in the buffer");
        wait::until("a reset by the new kernel", LIMIT, || match near.read(&mut [0; 1]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => Err(other),
        });
        // Tasks that are begun on it now are on the new one.
        let address = a.ipv4();
        b.block_on(async move {
            let socket = tokio::net::UdpSocket::bind("192.0.2.12:0").await.expect("its address");
            socket.connect((address, 9)).await.expect("a way there");
        });
    });
}

#[test]
fn a_frozen_host_does_nothing_until_it_thaws() {
    lab::run(&["a", "b"], |lab| {
        let b = lab.host("b");
        let state = |pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
            stat.rsplit(") ").next().and_then(|rest| rest.chars().next())
        };
        let mut children = ["1000", "1001"]
            .map(|time| b.enter(|| Command::new("sleep").arg(time).spawn()).expect("sleep"));
        b.freeze();
        assert_eq!(b.pids().len(), 2);
        for pid in b.pids() {
            wait::until("it to stop", LIMIT, || match state(pid) {
                Some('T') => Ok(()),
                other => Err(other),
            });
        }
        b.thaw();
        for pid in b.pids() {
            wait::until("it to go on", LIMIT, || match state(pid) {
                Some('S') => Ok(()),
                other => Err(other),
            });
        }
        for child in &mut children {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
        assert!(b.pids().is_empty(), "{:?}", b.pids());
    });
}
