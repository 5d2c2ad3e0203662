//! A manager in a process of its own, on a temporary directory, with fake children.

use std::env;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use config::NodeConfig;
use manager::{ChildStart, Options, RestartPolicy, Serving, UpError};
use rustix::process::{Pid, Signal, kill_process};
use topology::protocol::{Answer, Request};
use topology::server::admin_request;
use topology::view::{ProcessEntry, ProcessName, TopologyView};

use crate::fake_child;

const DIRECTORY: &str = "FAKE_MANAGER_DIRECTORY";
const BEHAVIOURS: &str = "FAKE_MANAGER_BEHAVIOURS";
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn config_on_free_ports() -> NodeConfig {
    let mut config = NodeConfig::default();
    config.edge.workers = Some(2);
    config.edge.instances[0].listen = vec!["127.0.0.1:0".parse().unwrap()];
    config
}

/// Runs a manager in this process: for starts that fail.
pub(crate) fn run_here(directory: &Path, config: NodeConfig) -> Result<(), UpError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(manager::run(options(directory, config, Vec::new()), |_| {}))
}

fn options(directory: &Path, config: NodeConfig, behaviours: Vec<(String, String)>) -> Options {
    let child = move |start: &ChildStart| {
        let behaviour = behaviours
            .iter()
            .find(|(name, _)| name == start.name.as_str())
            .map_or("", |(_, behaviour)| behaviour);
        fake_child::program(start, behaviour)
    };
    Options {
        directory: directory.to_owned(),
        config,
        restart: RestartPolicy {
            delay_min: Duration::from_millis(20),
            delay_max: Duration::from_secs(1),
            stable_after: Duration::from_secs(60),
        },
        child: Box::new(child),
        before_start: Box::new(|_| Ok(())),
        after_stop: Box::new(|_| Ok(())),
    }
}

/// The manager's process: this test, started by [`Node::start`] with the variables set.
#[test]
fn manages() {
    let Ok(directory) = env::var(DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    let config = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    let behaviours = serde_json::from_str(&env::var(BEHAVIOURS).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let serving_file = directory.join("serving.json");
    let on_serving = |serving: &Serving| {
        let beside = serving_file.with_extension("new");
        fs::write(&beside, serde_json::to_vec(&serving.edges).unwrap()).unwrap();
        fs::rename(beside, &serving_file).unwrap();
    };
    let ran = runtime.block_on(manager::run(options(&directory, config, behaviours), on_serving));
    std::process::exit(match ran {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    });
}

pub(crate) struct Node {
    directory: Option<tempfile::TempDir>,
    path: PathBuf,
    manager: Child,
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
        until("the node to serve", || self.path.join("serving.json").exists().then_some(()));
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
        Node::start_in(tempfile::tempdir().unwrap(), config, behaviours)
    }

    fn start_in(
        directory: tempfile::TempDir,
        config: NodeConfig,
        behaviours: &[(&str, &str)],
    ) -> Node {
        let path = directory.path().to_owned();
        fs::write(path.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let manager = Command::new(env::current_exe().unwrap())
            .args(["--exact", "node::manages", "--nocapture"])
            .env(DIRECTORY, &path)
            .env(BEHAVIOURS, serde_json::to_string(behaviours).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let node = Node { directory: Some(directory), path, manager };
        until("the manager's socket", || admin_request(&node.socket(), Request::Status).ok());
        node
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

    pub(crate) fn manager_pid(&self) -> u32 {
        self.manager.id()
    }

    pub(crate) fn request(&self, request: Request) -> Answer {
        admin_request(&self.socket(), request).unwrap()
    }

    pub(crate) fn status(&self) -> TopologyView {
        match self.request(Request::Status) {
            Answer::Status(status) => status.view,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn process(&self, name: &str) -> ProcessEntry {
        self.status().process(&ProcessName::new(name)).unwrap().clone()
    }

    pub(crate) fn wait_for<T>(&self, what: &str, look: impl Fn(&TopologyView) -> Option<T>) -> T {
        until(what, || look(&self.status()))
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
        let pid = self.process(name).pid.unwrap();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    pub(crate) fn kill_manager(&self) {
        let pid = Pid::from_raw(self.manager.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// SIGTERM, and exit code 0.
    pub(crate) fn stop(mut self) -> Ended {
        let pid = Pid::from_raw(self.manager.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = until("the manager to end", || self.manager.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        Ended { directory: self.directory.take().unwrap() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already after a stop: both are harmless then. The children end with their manager.
        let _ = self.manager.kill();
        let _ = self.manager.wait();
    }
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

/// Whether a process runs; a zombie does not.
pub(crate) fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
