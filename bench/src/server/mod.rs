//! The servers that are measured, alike to whoever loads them: a kind goes in, a running server comes out, which ends
//! with its value.
//!
//! Each runs on the loopback, on ports that the system gave, in a directory of its own below the bench's temporary
//! one. Deliberately absent: the load, which is `outlast-load`'s.

mod echo;
mod kamailio;
mod outlast;
mod process;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub use outlast::{Node, accounts, bindings};
pub(crate) use process::{memory_bytes, signal};

use crate::load::Watch;
use process::Process;

/// The domain that everybody serves.
pub const DOMAIN: &str = "example.org";
/// The password of all users.
pub const PASSWORD: &str = "secret";

/// Whether phones must log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// REGISTER is taken as it is.
    Off,
    /// REGISTER needs digest credentials.
    Digest,
}

/// Which memory allocator Kamailio is started with; nothing else about it changes its cost as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    /// As it is packaged, and runs unless asked otherwise: `qm`.
    Packaged,
    /// The fastest it has: `-x fm -X fm`.
    Fast,
}

/// What events of an application find, `[instances] reuse` in its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// Each a new instance.
    Fresh,
    /// One that others had before.
    Reused,
}

/// How long an answer to a first question may take before it is asked again.
const ANSWER_LIMIT: Duration = Duration::from_millis(100);

/// A server to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// `outlast up` with its defaults.
    Outlast(Authentication),
    /// The same with an application that answers all calls: `apps/answer`.
    OutlastAnswering(Instances),
    /// Kamailio as registrar and stateful proxy.
    Kamailio(Authentication, Allocator),
    /// Kamailio that forwards without state.
    KamailioStateless(Allocator),
    /// A bare recvmmsg/sendmmsg echo.
    Echo,
}

/// What servers need to be started.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Where `outlast` and `outlast-load` are.
    pub binaries: PathBuf,
    /// `bench/peers`.
    pub peers: PathBuf,
    /// Where `apps/build` has built into; only applications need it.
    pub applications: PathBuf,
    /// Below it each server gets a directory.
    pub scratch: PathBuf,
    /// Users of the largest comparison; as many accounts are made.
    pub users: u32,
}

impl Bench {
    /// The name of a file that nobody used yet.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn unused_file(&self, name: &str) -> anyhow::Result<PathBuf> {
        Ok(self.directory(name)?.join("report.json"))
    }

    /// A directory that nobody used yet.
    fn directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        for number in 0.. {
            let path = self.scratch.join(format!("{name}-{number}"));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).context(format!("cannot create {}", path.display()));
                }
            }
        }
        unreachable!("some number is free")
    }
}

/// A server that answers.
#[derive(Debug)]
pub struct Server {
    /// Where SIP over UDP (or the echo) is.
    pub udp: SocketAddr,
    /// Where SIP over TCP is; the echo has none.
    pub tcp: Option<SocketAddr>,
    /// Whose CPU counts.
    pub watch: Watch,
    directory: PathBuf,
    process: Process,
}

impl Server {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not, with the end of its output.
    pub fn start(bench: &Bench, kind: ServerKind) -> anyhow::Result<Server> {
        match kind {
            ServerKind::Outlast(authentication) => {
                Ok(Node::start(bench, authentication, "")?.into_server())
            }
            ServerKind::OutlastAnswering(instances) => {
                let node = Node::start(bench, Authentication::Off, "")?;
                node.deploy_answer(bench, instances)?;
                Ok(node.into_server())
            }
            ServerKind::Kamailio(authentication, allocator) => {
                kamailio::registrar(bench, authentication, allocator, 14)
            }
            ServerKind::KamailioStateless(allocator) => kamailio::stateless(bench, allocator),
            ServerKind::Echo => echo::start(bench),
        }
    }

    /// Kamailio at its fastest as a registrar whose table has `2^slots_log2` slots.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_large_kamailio(bench: &Bench, slots_log2: u32) -> anyhow::Result<Server> {
        kamailio::registrar(bench, Authentication::Off, Allocator::Fast, slots_log2)
    }

    /// Octets of Kamailio's shared memory in use, by its own accounting.
    ///
    /// # Errors
    /// When it does not say.
    pub fn kamailio_shared_memory(&self) -> anyhow::Result<u64> {
        kamailio::shared_memory_used(&self.directory)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Before its directory goes; the store of a million bindings is not left behind.
        self.process.stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A port of the loopback that is free for UDP and TCP.
fn free_port() -> io::Result<u16> {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let address = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address.port());
        }
    }
}

/// Whether the server at `address` answers an OPTIONS by UDP, asked once.
fn answers_options(address: SocketAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let request = options("UDP", socket.local_addr()?);
    let mut answer = [0; 2048];
    // Nobody there yet: the next time.
    let sent = socket.send_to(request.as_bytes(), address);
    Ok(sent.is_ok() && socket.recv(&mut answer).is_ok_and(|_| answer.starts_with(b"SIP/2.0 ")))
}

/// The same by TCP. Whatever fails, it is asked again.
fn answers_options_by_stream(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.write_all(options("TCP", stream.local_addr()?).as_bytes())?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        io::Result::Ok(answer == *b"SIP/2.0 ")
    };
    ask().unwrap_or(false)
}

fn options(transport: &str, local: SocketAddr) -> String {
    let number = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(local.port());
    format!(
        "OPTIONS sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/{transport} {local};branch=z9hG4bK{number:x};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:bench@{DOMAIN}>;tag=1\r\nTo: <sip:{DOMAIN}>\r\n\
         Call-ID: {number:x}@bench\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A file below `directory` as text.
fn path_text(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}
