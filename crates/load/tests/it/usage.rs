//! What is said when a run cannot be made, or did not go well.

use std::net::UdpSocket;

use crate::outlast_load::{EchoServer, outlast_load};

fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let output = outlast_load(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word} is said of {arguments:?}: {stderr}");
    }
}

#[test]
fn wrong_command_lines_are_refused_with_2_and_say_what_is_wrong() {
    let target = ["--target", "127.0.0.1:5060"];
    for (arguments, words) in [
        (&["register"][..], &["--target"][..]),
        (&["register", "--target", "127.0.0.1"], &["HOST:PORT"]),
        (
            &["register", "--target", "127.0.0.1:1", "--rate", "5", "--concurrency", "5"],
            &["--rate"],
        ),
        (&["dance"], &["dance"]),
    ] {
        refused(arguments, 2, words);
    }
    for (more, words) in [
        (&["--rate", "0"][..], "--rate must be"),
        (&["--concurrency", "0"], "--concurrency must be"),
        (&["--duration", "0s"], "--duration"),
        (&["--server-pid", "0"], "--server-pid"),
        (&["--local-port", "65530"], "65535"),
        (&["--challenge-each"], "--digest"),
        (&["--ring", "40s"], "--ring"),
        (&["--domain", "two words"], "--domain"),
    ] {
        refused(&[&["register"], &target[..], more].concat(), 2, &[words]);
    }
    refused(&[&["call"], &target[..], &["--users", "1"]].concat(), 2, &["--users 2"]);
    refused(&[&["echo"], &target[..], &["--transport", "tcp"]].concat(), 2, &["udp"]);
    refused(&[&["idle"], &target[..], &["--transport", "udp"]].concat(), 2, &["tcp"]);
    refused(&[&["churn"], &target[..], &["--users", "70000"]].concat(), 2, &["60000"]);
    let two = ["--contacts-per-user", "2"];
    refused(&[&["idle"], &target[..], &two].concat(), 2, &["one connection"]);
}

#[test]
fn a_target_that_is_not_there_is_told_at_once() {
    // Nobody has this port any more.
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for transport in ["udp", "tcp"] {
        let arguments = ["register", "--target", &free, "--transport", transport];
        refused(&arguments, 1, &["nothing listens at", &free, transport, "--target"]);
    }
}

#[test]
fn processes_and_ports_that_are_not_there_are_told() {
    let server = EchoServer::start();
    let target = server.address.to_string();
    let echo = ["echo", "--target", &target];
    let nobody = ["--server-pid", "2147483647"];
    refused(&[&echo[..], &nobody].concat(), 1, &["2147483647", "no such process"]);
    let node = ["--server-node", "/nonexistent"];
    refused(&[&echo[..], &node].concat(), 1, &["/nonexistent/run/processes.json", "is up"]);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(
        &[&echo[..], &["--local-port", &port, "--sockets", "1"]].concat(),
        1,
        &["--local-port"],
    );
}
