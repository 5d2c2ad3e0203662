//! SIPp as an independent SIP peer: it was written by others, so it catches what our own phone and our own
//! parser would agree on wrongly.
//!
//! The scenarios stand in `scenarios/`. SIPp ends with exit code 0 only when every call went as its
//! scenario says; its default behaviours stay on, because they make a message that no scenario expects a
//! failed call.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::wait;

/// How SIPp sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SippTransport {
    /// One UDP socket for all calls.
    Udp,
    /// One TCP connection for all calls.
    Tcp,
}

/// What one SIPp does.
#[derive(Debug, Clone)]
pub struct Scenario<'a> {
    /// File name in `scenarios/`, without `.xml`.
    pub name: &'a str,
    /// The edge's address; `None` for a scenario that only answers.
    pub server: SocketAddr,
    /// How it sends.
    pub transport: SippTransport,
    /// Own port; see [`ports::free`](crate::ports::free). The address is the one that this host has for whoever speaks to the server.
    pub local_port: u16,
    /// Lines of the injection file, fields separated by `;`.
    pub fields: Vec<String>,
    /// Calls in all.
    pub calls: u32,
    /// Calls started a second.
    pub rate: u32,
}

/// A running SIPp.
#[derive(Debug)]
pub struct Sipp {
    name: String,
    child: Child,
    directory: tempfile::TempDir,
}

impl Sipp {
    /// Starts SIPp.
    ///
    /// # Panics
    /// When SIPp is not installed; `./test` installs it.
    pub fn start(scenario: &Scenario<'_>) -> Sipp {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let fields = directory.path().join("fields.csv");
        let text = format!("SEQUENTIAL\n{}\n", scenario.fields.join("\n"));
        std::fs::write(&fields, text).expect("the directory is writable");
        let file = |name: &str| {
            std::fs::File::create(directory.path().join(name)).expect("the directory is writable")
        };
        let mut command = Command::new("sipp");
        command
            .arg("-sf")
            .arg(scenario_path(scenario.name))
            .args(["-i", &own_address_towards(scenario.server), "-nostdin"])
            .args(["-p", &scenario.local_port.to_string()])
            .args(["-m", &scenario.calls.to_string()])
            .args(["-r", &scenario.rate.to_string()])
            .args(["-timeout", "60s", "-timeout_error"])
            .args(["-recv_timeout", "20000"])
            .arg("-trace_err")
            .arg("-t")
            .arg(match scenario.transport {
                SippTransport::Udp => "u1",
                SippTransport::Tcp => "t1",
            });
        if !scenario.fields.is_empty() {
            command.arg("-inf").arg(&fields);
        }
        let child = command
            .arg(scenario.server.to_string())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("SIPp starts (./test installs it: Debian package sip-tester)");
        Sipp { name: scenario.name.to_owned(), child, directory }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When a call failed or SIPp does not end, with the tail of what SIPp wrote.
    pub fn finish(mut self) {
        let status = wait::until(&format!("SIPp {}", self.name), Duration::from_secs(70), || {
            self.child.try_wait().expect("SIPp is our child").ok_or("still running")
        });
        assert!(status.success(), "SIPp {} ended with {status}:\n{}", self.name, self.output());
    }

    /// The tail of everything SIPp wrote.
    fn output(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.directory.path()).into_iter().flatten() {
            let Ok(entry) = entry else { continue };
            let content = std::fs::read(entry.path()).unwrap_or_default();
            let tail = &content[content.len().saturating_sub(4_000)..];
            text += &format!("--- {}\n{}\n", entry.path().display(), String::from_utf8_lossy(tail));
        }
        text
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        // Already ended after `finish`: harmless then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scenario_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.xml"))
}

fn own_address_towards(server: SocketAddr) -> String {
    let any = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let asking = std::net::UdpSocket::bind(any).expect("a socket");
    // Sends nothing.
    asking.connect(server).expect("a way to the server");
    asking.local_addr().expect("bound").ip().to_string()
}
