//! The bare echo: what receiving and sending a datagram costs on this machine, whatever is done with it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::process::Process;
use super::{Bench, Server, free_port};
use crate::load::Watch;

pub(super) fn start(bench: &Bench) -> anyhow::Result<Server> {
    let directory = bench.directory("echo")?;
    let udp = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new(bench.binaries.join("outlast-load"));
    command.args(["echo-server", "--listen", &udp.to_string()]);
    let mut process = Process::start(command, "echo", &directory)?;
    process.await_ready(&directory, Duration::from_secs(10), || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut answer = [0; 8];
        Ok(socket.send_to(b"echo", udp).is_ok() && socket.recv(&mut answer).is_ok())
    })?;
    let watch = Watch::Processes(vec![process.pid()]);
    Ok(Server { udp, tcp: None, watch, directory, process })
}
