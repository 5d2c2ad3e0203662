//! A node under test: the real `outlast` binary on a temporary directory and ports that the system gave.
//!
//! A [`Node`] ends with its value. Its processes outlive one another, so each is looked for by the node's directory,
//! which stands in the command line of all of them and of nobody else, and killed by its process id.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::stores::Stores;
use crate::{binary, ports, wait};

/// How long a node may take to serve; a debug build on a busy machine needs a part of it.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long any other command may take, a stop of one process that drains among them.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What `outlast up` shows goes to this file of the node's directory.
const STDERR: &str = "up.stderr";

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Text of `outlast.toml`; `None` leaves it to the first run of `outlast up`.
    pub config: Option<String>,
    /// Arguments of `outlast up` beside `--dir`.
    pub arguments: Vec<String>,
}

impl NodeOptions {
    /// `outlast up` with these arguments beside `--dir`, and no configuration written before it.
    pub fn arguments(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { config: None, arguments }
    }
}

impl Default for NodeOptions {
    /// First run on free ports of the loopback.
    fn default() -> Self {
        Self::arguments(&["--sip", "127.0.0.1:0", "--domain", "example.com"])
    }
}

/// One process as `outlast status --json` shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct ProcessStatus {
    /// Name, for example `container1`.
    pub name: String,
    /// Process type: `edge` or `container`.
    #[serde(rename = "type")]
    pub process_type: String,
    /// Process id while it runs.
    pub pid: Option<i32>,
    /// `starting`, `ready`, `draining`, `hung`, `backoff`, `stopping` or `down`.
    pub state: String,
    /// Restarts since the node came up.
    pub restarts: u64,
    /// Where a container serves HTTP.
    #[serde(default)]
    pub http: Option<SocketAddr>,
}

/// The guardian in [`NodeStatus`].
#[derive(Debug, Clone, Deserialize)]
pub struct GuardianStatus {
    /// Process id.
    pub pid: i32,
}

/// The manager in [`NodeStatus`].
#[derive(Debug, Clone, Deserialize)]
pub struct ManagerStatus {
    /// Process id.
    pub pid: i32,
    /// How often managers of this node were replaced.
    pub restarts: u64,
}

/// Answer of `outlast status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeStatus {
    /// The guardian, while there is one.
    pub guardian: Option<GuardianStatus>,
    /// The manager.
    pub manager: ManagerStatus,
    /// The node's name.
    pub node: String,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    directory: tempfile::TempDir,
    guardian: Child,
    ready_line: String,
    ready_after: Duration,
    /// Where its state lies, if not in its directory.
    stores: Option<Stores>,
}

impl Node {
    /// Starts a node that is the only member of a cluster, with its state in Redis servers that the test runs.
    ///
    /// # Panics
    /// Like [`Node::start`].
    pub fn start_on_stores(options: &NodeOptions, stores: usize) -> Node {
        let alone = format!("[cluster]\naddress = \"{}\"\nstores = 0\n", own_address());
        let config = options.config.as_ref().map(|config| format!("{config}\n{alone}"));
        let node = Node::start(&NodeOptions { config, ..options.clone() });
        // A busy machine may cost a manager its life in the middle; then it is called again, as the guide says.
        wait::until("the node to become a cluster", READY_LIMIT, || {
            let created = node.outlast(&["cluster", "create"]);
            if created.status.success() { Ok(()) } else { Err(created) }
        });
        let config = node.config_with_its_ports();
        let directory = node.stop();
        // Nobody wrote to it, and nobody shall by mistake.
        std::fs::remove_dir_all(directory.path().join("state")).expect("the state can be removed");
        let cluster = directory.path().join("cluster");
        let stores = Stores::start(stores, &cluster);
        let places: Vec<String> = stores.addresses().iter().map(|at| format!("\"{at}\"")).collect();
        let list = format!("{{\"stores\":[{}]}}", places.join(","));
        std::fs::write(cluster.join("stores.json"), list).expect("the directory is writable");
        let options = NodeOptions { config: Some(config), arguments: Vec::new() };
        let mut node = Node::start_in(directory, &options);
        node.stores = Some(stores);
        node
    }

    /// The servers that have its state.
    ///
    /// # Panics
    /// When its state is in its directory.
    pub fn stores(&self) -> &Stores {
        self.stores.as_ref().expect("started on stores")
    }

    /// Takes the servers that have its state, if there are any, so that they outlast the node.
    pub fn take_stores(&mut self) -> Option<Stores> {
        self.stores.take()
    }

    /// With the servers that were taken from an earlier life of the node.
    pub fn with_stores(mut self, stores: Option<Stores>) -> Node {
        self.stores = stores;
        self
    }

    /// Starts a node and waits for its ready line.
    ///
    /// # Panics
    /// When it does not become ready, with what it wrote to stderr.
    pub fn start(options: &NodeOptions) -> Node {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::start_in(directory, options)
    }

    /// Starts a node on a directory that exists already, for example of a node that was stopped.
    ///
    /// # Panics
    /// Like [`Node::start`].
    pub fn start_in(directory: tempfile::TempDir, options: &NodeOptions) -> Node {
        let stderr =
            File::create(directory.path().join(STDERR)).expect("the directory is writable");
        Self::start_with_stderr(directory, options, stderr)
    }

    /// Starts a node whose guardian writes to `stderr`, for example a terminal; [`Node::shown`] is
    /// empty then.
    ///
    /// # Panics
    /// Like [`Node::start`].
    pub fn start_with_stderr(
        directory: tempfile::TempDir,
        options: &NodeOptions,
        stderr: impl Into<Stdio>,
    ) -> Node {
        Self::launch(directory, options, stderr.into(), &[])
    }

    /// Starts a node with these variables in the environment of all its processes.
    ///
    /// # Panics
    /// Like [`Node::start`].
    pub fn start_with_environment(options: &NodeOptions, environment: &[(&str, &str)]) -> Node {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::start_in_with_environment(directory, options, environment)
    }

    /// Starts a node on a directory that exists already, with these variables in the environment of all its processes.
    ///
    /// # Panics
    /// Like [`Node::start`].
    pub fn start_in_with_environment(
        directory: tempfile::TempDir,
        options: &NodeOptions,
        environment: &[(&str, &str)],
    ) -> Node {
        let stderr =
            File::create(directory.path().join(STDERR)).expect("the directory is writable");
        Self::launch(directory, options, stderr.into(), environment)
    }

    fn launch(
        directory: tempfile::TempDir,
        options: &NodeOptions,
        stderr: Stdio,
        environment: &[(&str, &str)],
    ) -> Node {
        if let Some(config) = &options.config {
            std::fs::write(directory.path().join("outlast.toml"), config)
                .expect("the directory is writable");
        }
        let guardian = up(directory.path(), &options.arguments, stderr, environment);
        let mut node = Node {
            directory,
            guardian,
            ready_line: String::new(),
            ready_after: Duration::ZERO,
            stores: None,
        };
        node.await_ready_line();
        node
    }

    /// Another `outlast up` on the same directory, after the last one was killed; it takes over what runs. Waits for
    /// its ready line.
    ///
    /// # Panics
    /// Like [`Node::start`].
    pub fn up_again(&mut self) {
        let stderr = File::options().append(true).create(true).open(self.path(STDERR));
        self.guardian = up(self.directory.path(), &[], stderr.expect("it is writable").into(), &[]);
        self.await_ready_line();
    }

    fn await_ready_line(&mut self) {
        let started = Instant::now();
        let stdout = self.guardian.stdout.take().expect("stdout is piped");
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            // The receiver is gone when the test gave up: nothing to tell then.
            let _ = sender.send(lines.next().and_then(Result::ok));
            lines.for_each(drop);
        });
        let ready_line = receiver.recv_timeout(READY_LIMIT).ok().flatten();
        self.ready_after = started.elapsed();
        match ready_line {
            Some(line) if line.starts_with("outlast ready ") => self.ready_line = line,
            // The drop tells the logs.
            other => panic!("the node is not ready after {:?}: {other:?}", self.ready_after),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Time from the start of the process to its ready line.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The line `outlast ready sip=udp:ADDR:PORT,tcp:ADDR:PORT …`.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// The first SIP address of a transport, `"udp"` or `"tcp"`, as the ready line tells it.
    ///
    /// # Panics
    /// When the ready line has none of that transport.
    pub fn sip(&self, transport: &str) -> SocketAddr {
        self.sip_addresses(transport)
            .first()
            .copied()
            .unwrap_or_else(|| panic!("no {transport} address in {:?}", self.ready_line))
    }

    /// Every SIP address of a transport that the ready line tells.
    pub fn sip_addresses(&self, transport: &str) -> Vec<SocketAddr> {
        self.ready_line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("sip="))
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter_map(|entry| entry.strip_prefix(transport)?.strip_prefix(':'))
            .map(|address| address.parse().expect("the ready line has addresses"))
            .collect()
    }

    /// The node's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Process id of `outlast up`, the last one.
    pub fn guardian_pid(&self) -> i32 {
        i32::try_from(self.guardian.id()).expect("process ids are small")
    }

    /// Process id of the manager.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn manager_pid(&self) -> i32 {
        self.status().manager.pid
    }

    /// What `outlast up` showed on stderr so far: its own lines and the manager's.
    pub fn shown(&self) -> String {
        std::fs::read_to_string(self.path(STDERR)).unwrap_or_default()
    }

    /// What a process wrote to its log so far.
    pub fn process_log(&self, name: &str) -> String {
        let path = self.directory.path().join("log").join(format!("{name}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// What was shown, and what every process wrote so far.
    pub fn log(&self) -> String {
        let mut text = format!("--- shown\n{}", self.shown());
        for entry in std::fs::read_dir(self.directory.path().join("log")).into_iter().flatten() {
            let Ok(entry) = entry else { continue };
            let log = std::fs::read(entry.path()).unwrap_or_default();
            text += &format!("--- {}\n", entry.path().display());
            text += &String::from_utf8_lossy(&log);
        }
        text
    }

    /// Runs `outlast ARGUMENTS --dir DIR` and waits for its end.
    pub fn outlast(&self, arguments: &[&str]) -> Output {
        outlast_in(self.directory.path(), arguments, b"")
    }

    /// Adds an account by the command that an operator uses.
    ///
    /// # Panics
    /// When the command refuses.
    pub fn add_user(&self, name_at_domain: &str, password: &str) {
        let output = outlast_in(
            self.directory.path(),
            &["user", "add", name_at_domain, "--password-stdin"],
            password.as_bytes(),
        );
        assert!(output.status.success(), "user add: {output:?}");
    }

    /// `outlast status --json`.
    ///
    /// # Panics
    /// When the manager does not answer.
    pub fn status(&self) -> NodeStatus {
        let output = self.outlast(&["status", "--json"]);
        assert!(output.status.success(), "status: {output:?}");
        serde_json::from_slice(&output.stdout).expect("status --json is JSON")
    }

    /// `outlast registrations --json`, again while it says that a part of the state does not answer yet.
    ///
    /// # Panics
    /// When the command fails.
    pub fn registrations(&self) -> Vec<serde_json::Value> {
        wait::until("every part of the state to answer", READY_LIMIT, || {
            let output = self.outlast(&["registrations", "--json"]);
            let told = String::from_utf8_lossy(&output.stderr);
            if told.contains("it goes on as soon as") {
                return Err(told.into_owned());
            }
            assert!(output.status.success(), "registrations: {output:?}");
            Ok(serde_json::from_slice(&output.stdout).expect("registrations --json is JSON"))
        })
    }

    /// One process of the node.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn process(&self, name: &str) -> ProcessStatus {
        let status = self.status();
        status
            .processes
            .iter()
            .find(|process| process.name == name)
            .cloned()
            .unwrap_or_else(|| panic!("no process {name} in {status:?}"))
    }

    /// Process ids of the edges and containers that run.
    pub fn pids(&self) -> Vec<i32> {
        self.status().processes.iter().filter_map(|process| process.pid).collect()
    }

    /// Sends a signal to a process of this node by its process id; when this returns, SIGSTOP has stopped it.
    ///
    /// # Panics
    /// When the process does not run.
    pub fn signal(&self, name: &str, signal: Signal) {
        let pid = self.process(name).pid.expect("the process runs");
        kill_process(Pid::from_raw(pid).expect("a process id"), signal)
            .unwrap_or_else(|error| panic!("{signal:?} to {name} ({pid}): {error}"));
        if signal == Signal::STOP {
            wait_until_stopped(pid);
        }
    }

    /// Makes a container work off no messages any more while its heartbeats go on (`outlast fault`).
    ///
    /// # Panics
    /// When the binary was built without faults, or the container is not ready.
    pub fn wedge_sip(&self, name: &str) {
        let output = self.outlast(&["fault", name, "wedge-sip"]);
        assert!(output.status.success(), "fault {name} wedge-sip: {output:?}");
    }

    /// Kills a process with SIGKILL and waits until another life of it is ready.
    pub fn kill_and_wait_ready(&self, name: &str) {
        let before = self.process(name).pid;
        self.signal(name, Signal::KILL);
        wait::until(&format!("{name} to be ready again"), READY_LIMIT, || {
            match self.process(name) {
                process if process.state == "ready" && process.pid != before => Ok(()),
                process => Err(process),
            }
        });
    }

    /// Kills the manager with SIGKILL, and nobody else; its process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_manager(&self) -> i32 {
        let pid = self.manager_pid();
        kill(pid).expect("the manager runs");
        pid
    }

    /// Kills the guardian with SIGKILL, and nobody else.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_guardian(&mut self) {
        self.guardian.kill().expect("the guardian runs");
        self.guardian.wait().expect("it is our child");
    }

    /// Waits until another manager than `before` answers, and gives what it says.
    pub fn wait_for_manager_after(&self, before: i32) -> NodeStatus {
        wait::until("another manager to answer", READY_LIMIT, || {
            let output = self.outlast(&["status", "--json"]);
            let status = serde_json::from_slice::<NodeStatus>(&output.stdout);
            match status {
                Ok(status) if status.manager.pid != before => Ok(status),
                other => Err(format!("{other:?}, {output:?}")),
            }
        })
    }

    /// Kills every process with SIGKILL, the guardian first, and gives the directory back, for another start.
    pub fn kill_everything(mut self) -> tempfile::TempDir {
        self.kill_guardian();
        kill_all_of(self.directory.path()).expect("processes end that are killed");
        std::mem::replace(&mut self.directory, tempfile::tempdir().expect("a temporary directory"))
    }

    /// The configuration file, with the ports that its edges have now in place of `127.0.0.1:0`: another start
    /// serves the same phones.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn config_with_its_ports(&self) -> String {
        let mut text =
            std::fs::read_to_string(self.path("outlast.toml")).expect("the node's own file");
        for word in self.ready_line.split_whitespace().filter(|word| word.starts_with("sip")) {
            let address = word.split_once("=udp:").and_then(|(_, list)| list.split(',').next());
            text = text.replacen("127.0.0.1:0", address.expect("every edge has UDP"), 1);
        }
        text
    }

    /// Stops the node in an orderly way and gives its directory back, for another start.
    ///
    /// # Panics
    /// When it does not end within the limit, or not with exit code 0.
    pub fn stop(mut self) -> tempfile::TempDir {
        let pid = Pid::from_raw(self.guardian_pid()).expect("a process id");
        kill_process(pid, Signal::TERM).expect("the guardian runs");
        let status = wait::until("the orderly stop", STOP_LIMIT, || {
            self.guardian.try_wait().expect("the guardian is our child").ok_or("still running")
        });
        assert_eq!(
            (status.code(), status.signal()),
            (Some(0), None),
            "orderly stop; log:\n{}",
            self.shown()
        );
        std::mem::replace(&mut self.directory, tempfile::tempdir().expect("a temporary directory"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already gone after an orderly stop: both calls are harmless then. First, so that it revives nobody.
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
        let gone = kill_all_of(self.directory.path());
        if std::thread::panicking() {
            // A second panic would end the process, and the other tests with it.
            eprintln!("{gone:?}: {}", self.log());
        } else {
            gone.expect("processes end that are killed");
        }
    }
}

/// Where a node alone in its cluster is reached by nobody. Its member of etcd listens 30 and 31 ports above.
fn own_address() -> String {
    format!("127.0.0.1:{}", ports::free(32))
}

/// `outlast up` on that directory.
fn up(
    directory: &Path,
    arguments: &[String],
    stderr: Stdio,
    environment: &[(&str, &str)],
) -> Child {
    Command::new(binary::outlast())
        .arg("up")
        .arg("--dir")
        .arg(directory)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .expect("the outlast binary starts")
}

/// Kills every process that names this node's directory, until there is none: a manager that still lives may be
/// starting others. Else those that are left.
fn kill_all_of(directory: &Path) -> Result<(), Vec<i32>> {
    wait::at_most(STOP_LIMIT, || {
        let left = pids_of(directory);
        for pid in &left {
            // It may have ended in the meantime.
            let _ = kill(*pid);
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
}

/// Processes whose command line names something in `directory`: a temporary one, whose name nobody else has.
fn pids_of(directory: &Path) -> Vec<i32> {
    let name = directory.as_os_str().as_bytes();
    let processes = std::fs::read_dir("/proc").expect("a Linux system").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != i32::try_from(std::process::id()).unwrap_or(0)
            && line.windows(name.len()).any(|part| part == name)
    })
    .collect()
}

fn kill(pid: i32) -> rustix::io::Result<()> {
    kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL)
}

/// Runs `outlast ARGUMENTS --dir DIR` with `input` on stdin and waits for its end.
///
/// # Panics
/// When it does not end within a minute; it is killed then.
pub fn outlast_in(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    outlast_with_environment(directory, arguments, input, &[])
}

/// As [`outlast_in`], with these variables in its environment.
///
/// # Panics
/// As [`outlast_in`].
pub fn outlast_with_environment(
    directory: &Path,
    arguments: &[&str],
    input: &[u8],
    environment: &[(&str, &str)],
) -> Output {
    let mut child = Command::new(binary::outlast())
        .args(arguments)
        .arg("--dir")
        .arg(directory)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the outlast binary starts");
    // A command that reads no input may be gone before this write.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input);
    let pid = Pid::from_child(&child);
    let (sender, ended) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        // The receiver is gone when the limit is over: nothing to tell then.
        let _ = sender.send(child.wait_with_output());
    });
    match ended.recv_timeout(COMMAND_LIMIT) {
        Ok(output) => output.expect("our child can be waited for"),
        Err(_) => {
            // Not waited for yet, so the id is still its own.
            let _ = kill_process(pid, Signal::KILL);
            panic!("outlast {arguments:?} still runs after {COMMAND_LIMIT:?}");
        }
    }
}

/// Whether a process runs; a zombie does not. Of one that is being killed the first thread may be a zombie while another
/// still takes what comes to a socket, and answers nothing: it runs.
pub fn lives(pid: i32) -> bool {
    states_of_threads(pid).iter().any(|state| !matches!(state, 'Z' | 'X'))
}

/// SIGSTOP stops nobody until the thread that takes it has had a processor: the others go on meanwhile.
fn wait_until_stopped(pid: i32) {
    wait::until("a process to stop", COMMAND_LIMIT, || {
        let states = states_of_threads(pid);
        if states.iter().all(|state| matches!(state, 'T' | 'Z' | 'X')) {
            Ok(())
        } else {
            Err(states)
        }
    });
}

/// A letter for each, as `proc(5)` has them.
fn states_of_threads(pid: i32) -> Vec<char> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let states = threads.filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    });
    states.collect()
}
