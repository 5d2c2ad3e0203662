//! A guardian and a manager, each in a process of its own, on a temporary directory, with fake children.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use config::{NodeConfig, RestartSettings};
use manager::{GuardOptions, Guarded, OperatorLines, Options, Serving};
use rustix::process::{Pid, Signal, kill_process};
use topology::protocol::{Answer, NodeStatus, Request};
use topology::server::{ManagerError, admin_request};
use topology::view::{ProcessEntry, ProcessName, TopologyView};

use crate::fake_child;

const DIRECTORY: &str = "FAKE_GUARDIAN_DIRECTORY";
const LOCK: &str = "FAKE_MANAGER_LOCK";
const GUARDIAN_SOCKET: &str = "FAKE_MANAGER_GUARDIAN";
const BEHAVIOURS: &str = "FAKE_MANAGER_BEHAVIOURS";
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn config_on_free_ports() -> NodeConfig {
    let mut config = NodeConfig::default();
    config.edge.workers = Some(2);
    config.restart = RestartSettings {
        delay_min: Duration::from_millis(20),
        delay_max: Duration::from_secs(1),
        stable_after: Duration::from_secs(60),
    };
    config.edge.instances[0].listen = vec!["127.0.0.1:0".parse().unwrap()];
    config
}

/// Guards a node that does not come up; what its guardian says about it. In a process of its own: a guardian takes the exit
/// statuses of all children of its process.
pub(crate) fn refusal(
    directory: &Path,
    config: &NodeConfig,
    behaviours: &[(&str, &str)],
) -> String {
    fs::write(directory.join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
    let behaviours = serde_json::to_string(behaviours).unwrap();
    let guardian = guards_program(directory, &behaviours).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(guardian.status.code(), Some(1));
    String::from_utf8(guardian.stderr).unwrap()
}

/// A port of the loopback that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn guard_options(directory: &Path, config: NodeConfig, behaviours: &str) -> GuardOptions {
    let serving_file = directory.join("serving.json");
    let shown_file = directory.join("shown");
    let behaviours = behaviours.to_owned();
    let manager = move |socket: &Path| {
        let mut program = Command::new(env::current_exe().unwrap());
        program
            .args(["--exact", "node::manages", "--nocapture"])
            // As the real one's: its command line names the socket. Here it is the name of a test that there is not.
            .arg(socket)
            .env(GUARDIAN_SOCKET, socket)
            .env(BEHAVIOURS, &behaviours);
        program
    };
    GuardOptions {
        config,
        manager: Box::new(manager),
        on_serving: Box::new(move |serving| {
            let beside = serving_file.with_extension("new");
            fs::write(&beside, serde_json::to_vec(&serving.edges).unwrap()).unwrap();
            fs::rename(beside, &serving_file).unwrap();
        }),
        on_line: Box::new(move |line| {
            let mut file = OpenOptions::new().append(true).create(true).open(&shown_file).unwrap();
            writeln!(file, "{line}").unwrap();
        }),
    }
}

/// The guardian's process: this test, started by [`Node::start`] with the variables set.
#[test]
fn guards() {
    let Ok(directory) = env::var(DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    let config = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    let options = guard_options(&directory, config, &env::var(BEHAVIOURS).unwrap());
    let guarded =
        runtime().block_on(async { manager::guard(manager::hold(&directory)?, options).await });
    std::process::exit(match guarded {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    });
}

/// The manager's process: this test, started by the guardian with the variables set.
#[test]
fn manages() {
    let Ok(socket) = env::var(GUARDIAN_SOCKET) else {
        return;
    };
    let behaviours: Vec<(String, String)> =
        serde_json::from_str(&env::var(BEHAVIOURS).unwrap()).unwrap();
    let behaviour = move |name: &str| {
        let found = behaviours.iter().find(|(of, _)| of == name);
        found.map_or("", |(_, behaviour)| behaviour).to_owned()
    };
    let ran = runtime().block_on(async {
        let guarded = Guarded::connect(Path::new(&socket)).await.unwrap();
        let directory = guarded.directory().to_owned();
        if behaviour("manager") == "waits for its turn" {
            wait_for_turn(&directory);
        }
        let (before, after) = (behaviour("before_start"), behaviour("after_stop"));
        let lines = OperatorLines::new();
        writeln!(lines.writer(), "a line of the manager").unwrap();
        let log = lines.writer();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).init();
        let options = Options {
            child: Box::new(move |start| {
                fake_child::program(start, &behaviour(start.name.as_str()))
            }),
            prepare: std::sync::Arc::new(|_| std::process::Command::new("true")),
            before_start: Box::new(move |_| hook(&directory, "before_start", &before)),
            after_stop: Box::new(move |directory| hook(directory, "after_stop", &after)),
            lines,
        };
        manager::run(guarded, options).await
    });
    std::process::exit(i32::from(ran.is_err()));
}

/// Holds a lock, as a manager that was stopped before it wrote who it is.
#[test]
fn holds() {
    let Ok(lock) = env::var(LOCK) else {
        return;
    };
    let lock = PathBuf::from(lock);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&lock).unwrap();
    file.lock().unwrap();
    fs::write(lock.with_extension("taken"), "").unwrap();
    thread::sleep(Duration::from_secs(600));
}

/// The first of them waits for the file `turn1`, the second for `turn2`.
fn wait_for_turn(directory: &Path) {
    let path = directory.join("welcomed.notes");
    let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    file.write_all(b"welcomed\n").unwrap();
    let number = fs::read_to_string(path).unwrap().lines().count();
    until("its turn", || directory.join(format!("turn{number}")).exists().then_some(()));
}

/// Notes that it was called, and does what the test says.
fn hook(directory: &Path, name: &str, behaviour: &str) -> Result<(), manager::HookError> {
    let path = directory.join(format!("{name}.notes"));
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    writeln!(file, "called")?;
    match behaviour {
        "fails" => Err("the hook fails".into()),
        "takes long" => {
            thread::sleep(Duration::from_secs(600));
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(crate) struct Node {
    directory: Option<tempfile::TempDir>,
    path: PathBuf,
    behaviours: String,
    guardian: Child,
}

/// What a stopped node left.
pub(crate) struct Ended {
    directory: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start(config: NodeConfig) -> Node {
        Node::start_with(config, &[])
    }

    pub(crate) fn start_with(config: NodeConfig, behaviours: &[(&str, &str)]) -> Node {
        Node::start_without_waiting(config, behaviours).serves()
    }

    fn serves(self) -> Node {
        self.awaits_serving();
        self
    }

    /// On a directory whose last manager was killed.
    pub(crate) fn start_after_a_kill(config: NodeConfig) -> Node {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("run")).unwrap();
        drop(UnixListener::bind(manager::server::socket_path(directory.path())).unwrap());
        Node::start_in(directory, config, &[]).serves()
    }

    pub(crate) fn start_without_waiting(config: NodeConfig, behaviours: &[(&str, &str)]) -> Node {
        Node::start_hidden(config, behaviours).answers()
    }

    fn start_in(
        directory: tempfile::TempDir,
        config: NodeConfig,
        behaviours: &[(&str, &str)],
    ) -> Node {
        let path = directory.path().to_owned();
        fs::write(path.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let behaviours = serde_json::to_string(behaviours).unwrap();
        let guardian = guardian(&path, &behaviours);
        Node { directory: Some(directory), path, behaviours, guardian }
    }

    /// On the directory of a node that was stopped.
    pub(crate) fn start_again(ended: Ended, config: NodeConfig) -> Node {
        let _ = fs::remove_file(ended.path().join("serving.json"));
        Node::start_in(ended.directory, config, &[]).serves()
    }

    /// On a directory that somebody else has prepared.
    pub(crate) fn start_prepared(directory: tempfile::TempDir, config: NodeConfig) -> Node {
        Node::start_in(directory, config, &[]).serves()
    }

    /// On a directory that somebody else has prepared.
    pub(crate) fn start_prepared_with(
        directory: tempfile::TempDir,
        config: NodeConfig,
        behaviours: &[(&str, &str)],
    ) -> Node {
        Node::start_in(directory, config, behaviours).serves()
    }

    /// Before its manager answers.
    pub(crate) fn start_hidden(config: NodeConfig, behaviours: &[(&str, &str)]) -> Node {
        Node::start_in(tempfile::tempdir().unwrap(), config, behaviours)
    }

    fn answers(self) -> Node {
        until("the manager's socket", || admin_request(&self.socket(), Request::Status).ok());
        self
    }

    /// Another guardian on the same directory.
    pub(crate) fn guard_again(&mut self) {
        let _ = fs::remove_file(self.path.join("serving.json"));
        self.guardian = guardian(&self.path, &self.behaviours);
    }

    pub(crate) fn awaits_serving(&self) {
        until("the node to serve", || self.path.join("serving.json").exists().then_some(()));
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.path
    }

    pub(crate) fn socket(&self) -> PathBuf {
        manager::server::socket_path(&self.path)
    }

    pub(crate) fn serving(&self) -> Serving {
        Serving {
            node: String::new(),
            edges: serde_json::from_slice(&fs::read(self.path.join("serving.json")).unwrap())
                .unwrap(),
        }
    }

    pub(crate) fn guardian_pid(&self) -> u32 {
        self.guardian.id()
    }

    pub(crate) fn manager_pid(&self) -> u32 {
        self.node_status().manager.unwrap().pid
    }

    pub(crate) fn node_status(&self) -> NodeStatus {
        // A machine so busy that the guardian takes the manager for hung has another one soon.
        until("the manager to answer", || match admin_request(&self.socket(), Request::Status) {
            Ok(Answer::Status(status)) => Some(status),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        })
    }

    /// Waits until another manager than `before` answers.
    pub(crate) fn wait_for_manager_after(&self, before: u32) -> NodeStatus {
        until("another manager", || match admin_request(&self.socket(), Request::Status) {
            Ok(Answer::Status(status)) => {
                status.manager.is_some_and(|manager| manager.pid != before).then_some(status)
            }
            _ => None,
        })
    }

    /// Asks again when the manager ended in the middle: on a machine so busy that it was taken for hung. What is asked
    /// here may be asked twice.
    pub(crate) fn request(&self, request: Request) -> Answer {
        until("an answer", || match admin_request(&self.socket(), request.clone()) {
            Err(ManagerError::Broken(_) | ManagerError::NotUp { .. }) => None,
            answer => Some(answer.unwrap()),
        })
    }

    pub(crate) fn status(&self) -> TopologyView {
        self.node_status().view
    }

    pub(crate) fn process(&self, name: &str) -> ProcessEntry {
        self.status().process(&ProcessName::new(name)).unwrap().clone()
    }

    pub(crate) fn wait_for<T>(&self, what: &str, look: impl Fn(&TopologyView) -> Option<T>) -> T {
        until(what, || look(&self.status()))
    }

    /// Waits until the guardian has shown so many lines that say so.
    pub(crate) fn wait_for_shown(&self, count: usize, said: &str) {
        until(said, || {
            let shown = fs::read_to_string(self.path.join("shown")).ok()?;
            (shown.lines().filter(|line| line.contains(said)).count() >= count).then_some(())
        });
    }

    /// When the fake child wrote that note, by this process's clock.
    pub(crate) fn wait_for_note(&self, child: &str, note: &str) -> Instant {
        let path = self.path.join(format!("{child}.notes"));
        until(note, || {
            let notes = fs::read_to_string(&path).ok()?;
            notes.lines().any(|line| line == note).then(Instant::now)
        })
    }

    pub(crate) fn kill(&self, name: &str) {
        signal(self.process(name).pid.unwrap(), Signal::KILL);
    }

    /// Kills the manager and nobody else; its process id.
    pub(crate) fn kill_manager(&self) -> u32 {
        let pid = self.manager_pid();
        signal(pid, Signal::KILL);
        pid
    }

    pub(crate) fn kill_guardian(&mut self) {
        self.guardian.kill().unwrap();
        self.guardian.wait().unwrap();
    }

    /// Kills every process at once, the guardian first.
    pub(crate) fn kill_everything(mut self) -> Ended {
        self.kill_guardian();
        testbed::wait::at_most(LIMIT, || {
            let left = pids_of(&self.path);
            for pid in &left {
                signal(*pid, Signal::KILL);
            }
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .unwrap();
        Ended { directory: self.directory.take().unwrap() }
    }

    /// A manager that took the manager's lock, and was stopped before it wrote who it is.
    pub(crate) fn stopped_manager(&self) -> Child {
        let run = self.path.join("run");
        let holder = Command::new(env::current_exe().unwrap())
            .args(["--exact", "node::holds", "--nocapture"])
            .arg(fs::canonicalize(&run).unwrap().join("guardian.sock"))
            .env(LOCK, run.join("manager.lock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Its word, and not that the lock is taken: it may be a killed manager's still.
        until("the lock to be held", || run.join("manager.taken").exists().then_some(()));
        holder
    }

    /// SIGTERM, and exit code 0.
    pub(crate) fn stop(self) -> Ended {
        signal(self.guardian.id(), Signal::TERM);
        self.ends()
    }

    /// Waits for exit code 0.
    pub(crate) fn ends(mut self) -> Ended {
        let status = until("the guardian to end", || self.guardian.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        Ended { directory: self.directory.take().unwrap() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already after a stop: both are harmless then. First, so that it revives nobody.
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
        let gone = testbed::wait::at_most(LIMIT, || {
            let left = pids_of(&self.path);
            for pid in &left {
                signal(*pid, Signal::KILL);
            }
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        // A second panic would end the process, and the other tests with it.
        assert!(gone.is_ok() || thread::panicking(), "processes of the node live on: {gone:?}");
    }
}

fn guardian(directory: &Path, behaviours: &str) -> Child {
    guards_program(directory, behaviours).spawn().unwrap()
}

fn guards_program(directory: &Path, behaviours: &str) -> Command {
    let mut program = Command::new(env::current_exe().unwrap());
    program
        .args(["--exact", "node::guards", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(BEHAVIOURS, behaviours)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    program
}

/// Whoever has it may have ended.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal);
}

/// Processes whose environment names the directory, which is temporary and nobody else's.
fn pids_of(directory: &Path) -> Vec<u32> {
    let name = directory.as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(name.len()).any(|part| part == name)
    })
    .collect()
}

impl Ended {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn notes(&self, child: &str) -> Vec<String> {
        let path = self.directory.path().join(format!("{child}.notes"));
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Whether a process runs.
pub(crate) fn lives(pid: u32) -> bool {
    testbed::node::lives(pid.cast_signed())
}

pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
