//! Redis servers as the stores of a node under test, started by the test itself.
//!
//! A shell starts them and waits for its input to end, which it does however the test process ends: then it kills them.
//! The test speaks to them by Unix sockets, the node by TLS, with the node's own credentials.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::ports;
use crate::wait;

/// By when servers must be up, or agree.
const LIMIT: Duration = Duration::from_secs(30);

/// Servers that share all records among them, each a primary.
#[derive(Debug)]
pub struct Stores {
    directory: tempfile::TempDir,
    servers: Vec<Server>,
    shell_in: Option<ChildStdin>,
    shell_out: BufReader<ChildStdout>,
    shell: Child,
}

#[derive(Debug)]
struct Server {
    directory: PathBuf,
    address: SocketAddr,
    bus_port: u16,
    pid: i32,
}

impl Stores {
    /// Whether there is a `redis-server` on this machine; says so where not.
    ///
    /// # Panics
    /// When there is none in continuous integration.
    pub fn are_installed() -> bool {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        assert!(found.is_ok() || std::env::var_os("CI").is_none(), "install redis-server");
        if found.is_err() {
            eprintln!("skipped: there is no redis-server; ./test says how to install it");
        }
        found.is_ok()
    }

    /// Starts so many, with the credentials in that directory (`node.pem`, `node.key`, `ca.pem`), and waits until every
    /// record has one.
    ///
    /// # Panics
    /// When they do not come up.
    pub fn start(count: usize, credentials: &Path) -> Stores {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let script = "while read -r node; do redis-server \"$node/redis.conf\" </dev/null >/dev/null 2>&1 & \
                      echo $!; all=\"$all $!\"; done; kill -9 $all 2>/dev/null; wait";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Out of reach of Ctrl-C: it has work to do then.
            .process_group(0)
            .spawn()
            .expect("a shell");
        let shell_out = BufReader::new(shell.stdout.take().expect("its output is piped"));
        let shell_in = shell.stdin.take();
        let mut stores = Stores { directory, servers: Vec::new(), shell_in, shell_out, shell };
        for number in 0..count {
            stores.add(number, credentials);
        }
        stores.form();
        stores
    }

    fn add(&mut self, number: usize, credentials: &Path) {
        let directory = self.directory.path().join(number.to_string());
        fs::create_dir(&directory).expect("it is new");
        let (port, bus_port) = (ports::free(1), ports::free(1));
        let (own, credentials) = (directory.display(), credentials.display());
        let conf = format!(
            "bind 127.0.0.1\ndir {own}\nunixsocket {own}/socket\nlogfile {own}/log\nsave \"\"\nappendonly yes\n\
             cluster-enabled yes\ncluster-port {bus_port}\ncluster-require-full-coverage no\nport 0\n\
             tls-port {port}\ntls-cluster yes\ntls-replication yes\ntls-auth-clients yes\n\
             tls-cert-file {credentials}/node.pem\ntls-key-file {credentials}/node.key\ntls-ca-cert-file {credentials}/ca.pem\n\
             user outlast on nopass ~* &* +@all\n"
        );
        fs::write(directory.join("redis.conf"), conf).expect("the directory is writable");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut server = Server { directory, address, bus_port, pid: 0 };
        server.pid = self.run(&server);
        self.servers.push(server);
    }

    fn run(&mut self, server: &Server) -> i32 {
        let input = self.shell_in.as_mut().expect("the shell is there until the end");
        writeln!(input, "{}", server.directory.display()).expect("the shell reads");
        let mut pid = String::new();
        self.shell_out.read_line(&mut pid).expect("the shell writes");
        server.await_answer();
        pid.trim().parse().expect("it writes a process id")
    }

    fn form(&self) {
        let share = 16_384_usize.div_ceil(self.servers.len());
        for (number, server) in self.servers.iter().enumerate() {
            let (first, last) = (number * share, ((number + 1) * share).min(16_384) - 1);
            server.must(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1));
            server.must(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
        }
        let mut turn = 0_usize;
        wait::until("the stores to know each other", LIMIT, || {
            // Again and again: on a busy machine one that does not answer soon is forgotten.
            if turn.is_multiple_of(50) {
                let first = &self.servers[0];
                for server in &self.servers[1..] {
                    let (port, bus) = (first.address.port(), first.bus_port);
                    server.must(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}"));
                }
            }
            turn += 1;
            let infos = self.servers.iter().map(|server| server.ask("CLUSTER INFO"));
            let infos: Vec<String> = infos.map(Option::unwrap_or_default).collect();
            let well = |info: &String| {
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            };
            if infos.iter().all(well) { Ok(()) } else { Err(infos) }
        });
    }

    /// Where their clients reach them.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// Lets nobody in from now on but that user, with that password.
    ///
    /// # Panics
    /// When one does not do so.
    pub fn admit_only(&self, user: &str, password: &str) {
        for server in &self.servers {
            server.must(&format!("ACL SETUSER {user} on \">{password}\" ~* &* +@all"));
            server.must("ACL SETUSER outlast off");
            // It is the test's own, too, which has nothing to ask any more.
            server.must("ACL SETUSER default off");
        }
    }

    /// Sends a signal to all of them.
    pub fn signal(&self, signal: Signal) {
        for server in &self.servers {
            let pid = Pid::from_raw(server.pid).expect("a process id");
            kill_process(pid, signal).expect("the server runs");
        }
    }

    /// How many records, and entries beside them, they hold.
    pub fn len(&self) -> usize {
        let size = |server: &Server| server.must("DBSIZE").trim_start_matches(':').parse::<usize>();
        self.servers.iter().map(|server| size(server).expect("a number")).sum()
    }

    /// Whether they hold nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        drop(self.shell_in.take());
        let _ = self.shell.wait();
    }
}

impl Server {
    /// The answer to a command, `None` while there is none.
    fn ask(&self, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.directory.join("socket")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        // QUIT ends the answer.
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.strip_suffix("+OK\r\n").unwrap_or(&answer).trim_end().to_owned())
    }

    fn must(&self, command: &str) -> String {
        let answer = self.ask(command).expect("the server answers");
        assert!(!answer.starts_with('-'), "{command}: {answer}");
        answer
    }

    fn await_answer(&self) {
        wait::until("a store to answer", LIMIT, || match self.ask("PING").as_deref() {
            Some("+PONG") => Ok(()),
            other => {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                Err(format!("{other:?} {log}"))
            }
        });
    }
}
