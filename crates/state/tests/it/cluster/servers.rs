//! Redis servers as a cluster on loopback, for tests.
//!
//! A shell starts them and waits for its input to end, which it does however the test process ends: then it kills them and
//! removes their directory. Tests speak to the servers by Unix sockets, Outlast's client by TCP or TLS.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, cmd};
use rustix::process::{Pid, Signal, kill_process};

/// By when servers must be up, or agree.
const DEADLINE: Duration = Duration::from_secs(30);
/// After so long others doubt a server. Short, and long enough for a machine that has much else to do.
const NODE_TIMEOUT_MS: u32 = 1_500;

/// Whether there are servers to test with; says so where not.
pub(crate) fn are_installed() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    if found.is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "install redis-server");
    #[allow(clippy::print_stderr, reason = "whoever runs the tests should know what was left out")]
    {
        eprintln!("skipped: there is no redis-server; ./test says how to install it");
    }
    false
}

/// What the servers of a cluster are like.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) replicas: usize,
    /// Certificate, key and CA, as files.
    pub(crate) tls: Option<[PathBuf; 3]>,
    /// Replicas take over by themselves; else somebody orders it.
    pub(crate) fails_over_by_itself: bool,
}

/// Servers: first the primaries, then the first replica of each, and so on.
pub(crate) struct Servers {
    pub(crate) nodes: Vec<Server>,
    shell_in: Option<ChildStdin>,
    shell_out: BufReader<ChildStdout>,
    shell: std::process::Child,
}

/// One server.
pub(crate) struct Server {
    directory: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) id: String,
    pid: i32,
}

pub(crate) const PRIMARIES: usize = 3;

impl Servers {
    /// Starts three primaries and their replicas, and waits until all is well.
    pub(crate) fn start(plan: &Plan) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory").keep();
        let script = format!(
            "while read -r node; do redis-server \"$node/redis.conf\" </dev/null >/dev/null 2>&1 & \
             echo $!; all=\"$all $!\"; done; kill -9 $all 2>/dev/null; wait; rm -rf '{}'",
            directory.display()
        );
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Out of reach of Ctrl-C: it has work to do then.
            .process_group(0)
            .spawn()
            .expect("a shell");
        let shell_out = BufReader::new(shell.stdout.take().expect("its output is piped"));
        let shell_in = shell.stdin.take();
        let mut servers = Self { nodes: Vec::new(), shell_in, shell_out, shell };
        for number in 0..PRIMARIES * (1 + plan.replicas) {
            servers.add(&directory.join(number.to_string()), plan);
        }
        servers.form(plan.replicas);
        servers
    }

    fn add(&mut self, directory: &Path, plan: &Plan) {
        std::fs::create_dir(directory).expect("a directory for a server");
        let [port, bus] = free_ports();
        let mut conf = format!(
            "bind 127.0.0.1\ndir {0}\nunixsocket {0}/socket\nlogfile {0}/log\nsave \"\"\nappendonly no\n\
             cluster-enabled yes\ncluster-port {bus}\ncluster-node-timeout {NODE_TIMEOUT_MS}\n\
             cluster-require-full-coverage no\ncluster-replica-validity-factor 0\ncluster-allow-replica-migration no\n\
             repl-diskless-sync-delay 0\ncluster-replica-no-failover {1}\n",
            directory.display(),
            if plan.fails_over_by_itself { "no" } else { "yes" },
        );
        let line = match &plan.tls {
            None => writeln!(conf, "port {port}"),
            Some([certificate, key, ca]) => writeln!(
                conf,
                "port 0\ntls-port {port}\ntls-cluster yes\ntls-replication yes\ntls-auth-clients yes\n\
                 tls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}",
                certificate.display(),
                key.display(),
                ca.display()
            ),
        };
        line.expect("a string takes everything");
        std::fs::write(directory.join("redis.conf"), conf).expect("a configuration is written");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut server =
            Server { directory: directory.to_owned(), address, id: String::new(), pid: 0 };
        server.pid = self.run(&server.directory);
        server.id =
            wait_for("a server answers", &self.nodes, || server.ask(cmd("CLUSTER").arg("MYID")));
        self.nodes.push(server);
    }

    fn run(&mut self, directory: &Path) -> i32 {
        let input = self.shell_in.as_mut().expect("the shell is there until the end");
        writeln!(input, "{}", directory.display()).expect("the shell reads");
        let mut pid = String::new();
        self.shell_out.read_line(&mut pid).expect("the shell writes");
        pid.trim().parse().expect("it writes a process id")
    }

    /// Starts a killed server again, with nothing in its memory.
    pub(crate) fn restart(&mut self, number: usize) {
        let directory = self.nodes[number].directory.clone();
        self.nodes[number].pid = self.run(&directory);
        let server = &self.nodes[number];
        let _: String =
            wait_for("the server is back", &self.nodes, || server.ask(cmd("CLUSTER").arg("MYID")));
    }

    /// Moves a slot with all that is in it, as an operator's tools do.
    pub(crate) fn move_slot(&self, slot: u16, from: &Server, to: &Server) {
        let set = |server: &Server, state: &str, other: &Server| {
            let mut set = cmd("CLUSTER");
            set.arg("SETSLOT").arg(slot).arg(state).arg(&other.id);
            server.must::<()>(&set);
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
        loop {
            let mut list = cmd("CLUSTER");
            list.arg("GETKEYSINSLOT").arg(slot).arg(10);
            let keys: Vec<Vec<u8>> = from.must(&list);
            if keys.is_empty() {
                break;
            }
            let mut migrate = cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(to.address.port()).arg("").arg(0).arg(5_000).arg("KEYS");
            from.must::<()>(migrate.arg(keys));
        }
        set(to, "NODE", to);
        set(from, "NODE", to);
    }

    /// The names of all records, as Redis has them.
    pub(crate) fn record_names(&self) -> Vec<Vec<u8>> {
        let names = |server: &Server| server.must::<Vec<Vec<u8>>>(cmd("KEYS").arg("*"));
        // Behind its hash tag, a record's name has no colon: only what the engine keeps for itself has.
        let is_record = |name: &Vec<u8>| !name.windows(2).any(|pair| pair == b"}:");
        self.nodes[..PRIMARIES].iter().flat_map(names).filter(is_record).collect()
    }

    /// How many entries there are in all indexes of records.
    pub(crate) fn index_entries(&self) -> usize {
        let entries = |server: &Server| {
            let indexes: Vec<Vec<u8>> = server.must(cmd("KEYS").arg("*}:i"));
            let count = |index| server.must::<usize>(cmd("ZCARD").arg(index));
            indexes.into_iter().map(count).sum::<usize>()
        };
        self.nodes[..PRIMARIES].iter().map(entries).sum()
    }

    fn form(&self, replicas: usize) {
        let share = 16_384_usize.div_ceil(PRIMARIES);
        for (number, server) in self.nodes.iter().enumerate() {
            let _: () = server.must(cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(number + 1));
            if number < PRIMARIES {
                let (first, last) = (number * share, ((number + 1) * share).min(16_384) - 1);
                let _: () = server.must(cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last));
            }
        }
        let all = self.nodes.len();
        let mut turn = 0_usize;
        wait_for("all servers know each other", &self.nodes, || {
            // Again and again: on a busy machine one that does not answer soon is forgotten.
            if turn.is_multiple_of(200) {
                self.meet();
            }
            turn += 1;
            let knows_all = |server: &Server| {
                let nodes: String = server.ask(cmd("CLUSTER").arg("NODES"))?;
                Some(nodes.lines().filter(|line| line.contains(" connected")).count() == all)
            };
            self.nodes.iter().all(|server| knows_all(server) == Some(true)).then_some(())
        });
        for number in PRIMARIES..PRIMARIES * (1 + replicas) {
            let primary = &self.nodes[number % PRIMARIES];
            self.nodes[number].must::<()>(cmd("CLUSTER").arg("REPLICATE").arg(&primary.id));
        }
        self.wait_until_well(replicas);
    }

    fn meet(&self) {
        let first = &self.nodes[0];
        for server in &self.nodes[1..] {
            let mut meet = cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(first.address.port()).arg(first.bus_port());
            let _: () = server.must(&meet);
        }
    }

    /// Waits until every shard has a primary with so many replicas that have everything, and everybody knows.
    pub(crate) fn wait_until_well(&self, replicas: usize) {
        wait_for("the cluster is well", &self.nodes, || {
            let is_well = |server: &Server| {
                let info: String = server.ask(cmd("CLUSTER").arg("INFO"))?;
                let nodes: String = server.ask(cmd("CLUSTER").arg("NODES"))?;
                let replication = server.info("replication")?;
                let online = replication.matches("state=online").count();
                let owns_slots = nodes.lines().any(|line| {
                    line.contains("myself")
                        && line.contains("master")
                        && line.split(' ').count() > 8
                });
                let is_synced = replication.contains("master_link_status:up");
                Some(
                    info.contains("cluster_state:ok")
                        && !nodes.contains(",fail") // not ",nofailover"
                        && nodes.lines().filter(|line| line.contains("slave")).count()
                            == replicas * PRIMARIES
                        && (if owns_slots { online == replicas } else { is_synced }),
                )
            };
            self.nodes.iter().all(|server| is_well(server) == Some(true)).then_some(())
        });
    }

    /// Their addresses, as seeds.
    pub(crate) fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(|server| server.address.to_string()).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.shell_in.take());
        let _ = self.shell.wait();
    }
}

impl Server {
    /// The answer to a command, `None` while there is none.
    pub(crate) fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let url = format!("redis+unix://{}/socket", self.directory.display());
        let mut connection = redis::Client::open(url).ok()?.get_connection().ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        command.query(&mut connection).ok()
    }

    /// The answer to a command that must succeed.
    pub(crate) fn must<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let url = format!("redis+unix://{}/socket", self.directory.display());
        let client = redis::Client::open(url).expect("a valid address");
        let mut connection = client.get_connection().expect("the server listens");
        command.query(&mut connection).expect("the command succeeds")
    }

    pub(crate) fn info(&self, section: &str) -> Option<String> {
        self.ask(cmd("INFO").arg(section))
    }

    fn bus_port(&self) -> u16 {
        let conf = std::fs::read_to_string(self.directory.join("redis.conf")).expect("its file");
        let port = conf.lines().find_map(|line| line.strip_prefix("cluster-port "));
        port.and_then(|port| port.parse().ok()).expect("it names its bus port")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid).expect("a process id");
        kill_process(pid, signal).expect("the server can be signalled");
    }
}

/// What the servers say, for whoever waits in vain.
fn shown(servers: &[Server]) -> String {
    let nodes = |server: &Server| server.ask::<String>(cmd("CLUSTER").arg("NODES"));
    let log = |server: &Server| {
        let log = std::fs::read_to_string(server.directory.join("log")).unwrap_or_default();
        log.lines().rev().take(3).map(|line| format!("  {line}\n")).collect::<String>()
    };
    servers
        .iter()
        .map(|server| {
            format!("{}:\n{}{}", server.address, nodes(server).unwrap_or_default(), log(server))
        })
        .collect()
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

/// Waits until there is a value.
fn wait_for<T>(what: &str, servers: &[Server], mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}\n{}", shown(servers));
        std::thread::sleep(Duration::from_millis(10));
    }
}
