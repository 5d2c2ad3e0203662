//! etcd processes for tests: on free ports, in temporary directories, gone with their parent.
//!
//! Each is the child of a shell that waits for the end of its input, which comes when the test's process ends, however it
//! does; then it kills etcd and takes the directory away.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use repository::{Client, ClientOptions, Endpoint};
use tempfile::TempDir;

/// How long etcd may take to serve, on a machine with much else to do.
const START: Duration = Duration::from_secs(60);

/// PEM files for members that speak TLS only.
#[derive(Clone)]
pub(crate) struct Pem {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// `--client-cert-auth`: the names in certificates are looked at. Who shows none is let in neither way.
    pub(crate) looks_at_names: bool,
}

/// The members of one etcd.
pub(crate) struct Etcd {
    pub(crate) members: Vec<Member>,
    tls: Option<Pem>,
    directory: TempDir,
}

pub(crate) struct Member {
    pub(crate) address: String,
    arguments: Vec<String>,
    directory: PathBuf,
    running: Option<Running>,
}

struct Running {
    shell: Child,
    etcd: u32,
}

/// So many members, serving. None, and a word about it: etcd is missing here.
pub(crate) fn start(count: usize, tls: Option<&Pem>) -> Option<Etcd> {
    if !Path::new("/usr/bin/etcd").exists() {
        let missing = "etcd is missing: install etcd-server (as ./test does)";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
        return None;
    }
    // Commits sync; memory spares a test the disk of a busy machine.
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let directory = TempDir::new_in(parent).expect("a temporary directory");
    let ports: Vec<[u16; 2]> = (0..count).map(|_| [free_port(), free_port()]).collect();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
    let peers: Vec<String> =
        (0..).zip(&ports).map(|(n, [_, peer])| format!("m{n}={}", url(*peer))).collect();
    let mut members: Vec<Member> = (0..)
        .zip(&ports)
        .map(|(n, [client, peer])| {
            let data = directory.path().join(format!("m{n}"));
            let mut arguments: Vec<String> = [
                "--name",
                &format!("m{n}"),
                "--data-dir",
                &data.display().to_string(),
                "--listen-client-urls",
                &url(*client),
                "--advertise-client-urls",
                &url(*client),
                "--listen-peer-urls",
                &url(*peer),
                "--initial-advertise-peer-urls",
                &url(*peer),
                "--initial-cluster",
                &peers.join(","),
                "--initial-cluster-token",
                &format!("t{}", ports[0][0]),
                "--heartbeat-interval",
                "50",
                "--election-timeout",
                "500",
                "--max-txn-ops",
                "1100",
                "--bcrypt-cost",
                "4",
                "--logger",
                "zap",
            ]
            .map(str::to_owned)
            .into();
            if let Some(pem) = tls {
                for kind in ["", "peer-"] {
                    for (what, path) in [
                        ("trusted-ca", &pem.authority),
                        ("cert", &pem.certificate),
                        ("key", &pem.key),
                    ] {
                        arguments
                            .extend([format!("--{kind}{what}-file"), path.display().to_string()]);
                    }
                    if pem.looks_at_names {
                        arguments.push(format!("--{kind}client-cert-auth"));
                    }
                }
            }
            let address = format!("127.0.0.1:{client}");
            Member { address, arguments, directory: directory.path().to_owned(), running: None }
        })
        .collect();
    members.iter_mut().for_each(Member::start);
    Some(Etcd { members, tls: tls.cloned(), directory })
}

fn free_port() -> u16 {
    // Not of the range that the system gives to connections: another test's connection must not take it meanwhile.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let spread = std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(12_000 + spread % 20_000).expect("below 32,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Member {
    pub(crate) fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let mut shell = Command::new("/bin/sh")
            .args(["-c", r#"dir=$1; log=$2; shift 2; "$@" >>"$log" 2>&1 & echo $!; read _; kill -9 $!; rm -rf "$dir""#, "sh"])
            .arg(&self.directory)
            .arg(self.directory.join("log"))
            .arg("/usr/bin/etcd")
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut pid = String::new();
        let mut output = BufReader::new(shell.stdout.take().expect("a pipe"));
        output.read_line(&mut pid).expect("the shell says what it started");
        let etcd = pid.trim().parse().expect("a process id");
        self.running = Some(Running { shell, etcd });
    }

    /// `kill -SIGNAL` to etcd itself.
    pub(crate) fn signal(&self, signal: &str) {
        let etcd = self.running.as_ref().expect("it runs").etcd;
        let status = Command::new("kill").args([signal, &etcd.to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.signal("-KILL");
        let mut running = self.running.take().expect("it runs");
        // The shell would take the directory away.
        running.shell.kill().expect("the shell is ours");
        running.shell.wait().expect("the shell is ours");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            drop(running.shell.stdin.take());
            let _ = running.shell.wait();
        }
    }
}

impl Etcd {
    pub(crate) fn client(&self) -> Client {
        client_of(self.members.iter().map(|member| member.address.clone()))
    }

    /// What its operator does, as `user` (`NAME:PASSWORD`) once it has users.
    pub(crate) fn operator(&self, user: Option<&str>, arguments: &[&str]) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.members[0].address]);
        if let Some(pem) = &self.tls {
            command.arg("--cacert").arg(&pem.authority);
            command.arg("--cert").arg(&pem.certificate).arg("--key").arg(&pem.key);
        }
        if let Some(user) = user {
            command.args(["--user", user]);
        }
        let output = command.args(arguments).output().expect("etcdctl");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// Waits until changes are made, and says who leads.
    pub(crate) async fn leader(&self) -> usize {
        let client = self.client();
        let deadline = Instant::now() + START;
        loop {
            for (place, endpoint) in client.endpoints().iter().enumerate() {
                if let Ok(status) = client.status(endpoint).await
                    && status.leader != 0
                    && status.leader == status.header.member_id
                {
                    return place;
                }
            }
            assert!(Instant::now() < deadline, "no leader within {START:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a member that was away has all that the leader has now.
    pub(crate) async fn until_caught_up(&self, member: usize) {
        let client = self.client();
        let leader = self.leader().await;
        let revision = async |place: usize| {
            client.status(&client.endpoints()[place]).await.map(|status| status.header.revision)
        };
        let there = revision(leader).await.expect("a leader says what it has");
        let deadline = Instant::now() + START;
        while revision(member).await.map_or(true, |here| here < there) {
            assert!(Instant::now() < deadline, "member {member} within {START:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }
}

/// Plaintext, to these addresses.
pub(crate) fn client_of(addresses: impl IntoIterator<Item = String>) -> Client {
    let endpoint = |address| Endpoint { address, server_name: None };
    Client::new(ClientOptions {
        endpoints: addresses.into_iter().map(endpoint).collect(),
        tls: None,
        login: None,
        request_timeout: Duration::from_secs(1),
    })
}
