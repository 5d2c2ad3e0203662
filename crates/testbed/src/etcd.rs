//! An operator's own etcd for tests: one member, by TLS, that lets in who has the password of a user of its.
//!
//! A shell starts it and waits for its input to end, which it does however the test process ends: then it kills it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::ports;
use crate::wait;

/// By when it must serve.
const LIMIT: Duration = Duration::from_secs(60);

/// Who may do everything there.
const ROOT: &str = "root:the operator's alone";

/// One etcd with users.
#[derive(Debug)]
pub struct OwnEtcd {
    directory: tempfile::TempDir,
    credentials: PathBuf,
    address: String,
    peer: String,
    running: Option<(Child, Pid)>,
}

impl OwnEtcd {
    /// Starts it on 127.0.0.1 with the credentials in that directory (`node.pem`, `node.key`, `ca.pem`), and lets nobody in but this
    /// user, who may read and write what begins with `outlast`, and shows a certificate of that authority.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(credentials: &Path, user: &str, password: &str) -> OwnEtcd {
        // Commits sync; memory spares a test the disk of a busy machine.
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let mut etcd = OwnEtcd {
            directory: tempfile::TempDir::new_in(parent).expect("a temporary directory"),
            credentials: credentials.to_owned(),
            address: format!("127.0.0.1:{}", ports::free(1)),
            peer: format!("127.0.0.1:{}", ports::free(1)),
            running: None,
        };
        etcd.run();
        let told = format!("{user}:{password}");
        etcd.operator(None, &["user", "add", ROOT]);
        etcd.operator(None, &["user", "grant-role", "root", "root"]);
        etcd.operator(None, &["role", "add", "ours"]);
        etcd.operator(
            None,
            &["role", "grant-permission", "ours", "--prefix=true", "readwrite", "outlast"],
        );
        etcd.operator(None, &["user", "add", &told]);
        etcd.operator(None, &["user", "grant-role", user, "ours"]);
        etcd.operator(None, &["auth", "enable"]);
        etcd
    }

    /// Where its clients reach it: `https://host:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Starts it again, with what it had.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn run(&mut self) {
        let file = |name: &str| self.credentials.join(name).display().to_string();
        let (url, peer) = (self.url(), format!("https://{}", self.peer));
        let data = self.directory.path().join("data").display().to_string();
        let script = r#"log=$1; shift; "$@" >>"$log" 2>&1 & echo $!; read _; kill -9 $!"#;
        let mut shell = Command::new("/bin/sh")
            .args(["-c", script, "sh"])
            .arg(self.directory.path().join("log"))
            .args(["/usr/bin/etcd", "--name", "own", "--data-dir", &data])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("own={peer}")])
            .args(["--cert-file", &file("node.pem"), "--key-file", &file("node.key")])
            .args(["--trusted-ca-file", &file("ca.pem"), "--peer-auto-tls"])
            .args(["--max-txn-ops", "1100", "--max-request-bytes", "4194304"])
            .args(["--bcrypt-cost", "4", "--logger", "zap"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut pid = String::new();
        let mut output = BufReader::new(shell.stdout.take().expect("a pipe"));
        output.read_line(&mut pid).expect("the shell says what it started");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        self.running = Some((shell, pid));
        wait::until("the operator's own etcd to serve", LIMIT, || {
            let asked = self.command(&["endpoint", "health"]).output().expect("etcdctl");
            let told = String::from_utf8_lossy(&asked.stderr).into_owned();
            // Once it has users it says so to nobody else.
            let serves = asked.status.success() || told.contains("user name is empty");
            if serves { Ok(()) } else { Err((told, self.log())) }
        });
    }

    /// kill -9; what it has stays.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let (mut shell, pid) = self.running.take().expect("it runs");
        kill_process(pid, Signal::KILL).expect("it is ours");
        drop(shell.stdin.take());
        shell.wait().expect("the shell is ours");
    }

    /// The keys that it has.
    ///
    /// # Panics
    /// When it does not say so.
    pub fn keys(&self) -> Vec<String> {
        let told = self.operator(Some(ROOT), &["get", "", "--prefix", "--keys-only"]);
        told.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    fn operator(&self, user: Option<&str>, arguments: &[&str]) -> String {
        let mut command = self.command(arguments);
        if let Some(user) = user {
            command.args(["--user", user]);
        }
        let output = command.output().expect("etcdctl");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        for (option, name) in
            [("--cacert", "ca.pem"), ("--cert", "node.pem"), ("--key", "node.key")]
        {
            command.arg(option).arg(self.credentials.join(name));
        }
        command.args(arguments);
        command
    }

    fn log(&self) -> String {
        let log = File::open(self.directory.path().join("log")).map(BufReader::new);
        let lines: Vec<String> =
            log.into_iter().flat_map(|log| log.lines().map_while(Result::ok)).collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for OwnEtcd {
    fn drop(&mut self) {
        if let Some((mut shell, _)) = self.running.take() {
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }
}
