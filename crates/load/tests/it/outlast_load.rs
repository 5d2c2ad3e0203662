//! The binary under test.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub(crate) const DOMAIN: &str = "example.org";
pub(crate) const PASSWORD: &str = "correct-horse";

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_outlast-load"))
}

/// Runs `outlast-load` to its end.
pub(crate) fn outlast_load(arguments: &[&str]) -> Output {
    binary().args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a scenario for a moment with these further arguments; its exit code and its report.
pub(crate) fn run(scenario: &str, target: SocketAddr, more: &[&str]) -> (i32, Value) {
    let target = target.to_string();
    let mut arguments = vec![scenario, "--target", &target, "--json", "-", "--domain", DOMAIN];
    let usual =
        [("--duration", "400ms"), ("--warmup", "100ms"), ("--users", "20"), ("--local-port", "0")];
    for (name, value) in usual {
        if !more.contains(&name) {
            arguments.extend([name, value]);
        }
    }
    arguments.extend(more);
    let output = outlast_load(&arguments);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code().unwrap(), report)
}

/// `outlast-load echo-server`, ended with the value.
pub(crate) struct EchoServer {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl EchoServer {
    pub(crate) fn start() -> EchoServer {
        let mut process = binary().arg("echo-server").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("echo-server ready ").unwrap().parse().unwrap();
        EchoServer { process, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
