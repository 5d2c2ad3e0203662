//! Stores as processes of a node: real Redis servers, started, asked, killed, adopted and stopped by the manager.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use config::{ClusterSettings, NodeConfig, PortRange, Stores};
use manager::founding::found;
use rustix::process::Signal;
use state::engine::cluster::Options;
use state::engine::cluster::servers::{Pinger, Pulse};
use topology::credentials::{ClusterDirectory, ClusterSecret, NodeCredentials, STORE_USER};
use topology::{ProcessEntry, ProcessState};

mod cluster;

use crate::name;
use crate::node::{Node, config_on_free_ports, free_port, lives, signal};

/// Whether there are servers to test with; says so where not.
pub(crate) fn are_installed() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    if found.is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "install redis-server");
    eprintln!("skipped: there is no redis-server; ./test says how to install it");
    false
}

/// Eight ports in a row that were free a moment ago at that host.
pub(crate) fn store_ports(host: u8) -> PortRange {
    loop {
        let first = free_port();
        let is_free =
            |port: u16| TcpListener::bind(SocketAddr::from(([127, 0, 0, host], port))).is_ok();
        if first < u16::MAX - 8 && (first..first + 8).all(is_free) {
            return PortRange { first, last: first + 7 };
        }
    }
}

/// The configuration of a member at that loopback address, which runs stores.
pub(crate) fn config_with_stores(number: u8, address: SocketAddr, ports: PortRange) -> NodeConfig {
    let mut config = config_on_free_ports();
    config.node.name = format!("node{number}");
    config.heartbeat.interval = Duration::from_millis(500);
    config.heartbeat.allowed_miss_count = 2;
    config.cluster = Some(ClusterSettings {
        stores: Stores::Count(2),
        store_ports: ports,
        ..ClusterSettings::at(address)
    });
    config
}

/// How the member whose directory this is reaches the stores.
pub(crate) fn member_options(directory: &Path) -> Options {
    let files = ClusterDirectory::of_node(directory);
    let tls = NodeCredentials::load(files.path()).unwrap().store_client_config().unwrap();
    let password = ClusterSecret::load(&files.secret()).unwrap().store_password();
    Options {
        tls: Some(tls),
        user: Some(STORE_USER.to_owned()),
        password: Some(password),
        ..Options::default()
    }
}

fn wait_for_store(node: &Node, what: &str, is_so: impl Fn(&ProcessEntry) -> bool) -> ProcessEntry {
    node.wait_for(what, |view| {
        let store = view.process(&name("store1"))?;
        is_so(store).then(|| store.clone())
    })
}

#[test]
fn a_store_is_a_process_like_any() {
    if !are_installed() {
        return;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let ports = store_ports(1);
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join("store1/nodes.conf");
    std::fs::create_dir(left.parent().unwrap()).unwrap();
    std::fs::write(&left, "of another cluster").unwrap();
    found(directory.path(), "node1", address).unwrap();
    assert!(!left.exists());
    let node = Node::start_prepared(directory, config_with_stores(1, address, ports));
    let first = node.process("store1");
    assert_eq!(first.state, ProcessState::Ready, "the node serves, so its stores do");
    assert_eq!(first.link_address, Some(SocketAddr::new(address.ip(), ports.first)));
    assert_eq!(node.process("store2").link_address.unwrap().port(), ports.first + 2);

    node.kill("store1");
    let again = |before: &ProcessEntry| {
        let before = before.pid;
        wait_for_store(&node, "it to be ready again", |store| {
            store.state == ProcessState::Ready && store.pid != before
        })
    };
    let second = again(&first);
    assert_eq!(second.restarts, 1);

    signal(second.pid.unwrap(), Signal::STOP);
    wait_for_store(&node, "it to be seen as hung, or to be gone already", |store| {
        store.state == ProcessState::Hung || store.pid != second.pid
    });
    let third = again(&second);
    assert_eq!(third.restarts, 2);

    let before = node.manager_pid();
    signal(before, Signal::KILL);
    node.wait_for_manager_after(before);
    let adopted = wait_for_store(&node, "it to be known", |store| store.pid.is_some());
    assert_eq!((adopted.pid, adopted.incarnation), (third.pid, third.incarnation));
    // And is asked by its new manager.
    signal(third.pid.unwrap(), Signal::STOP);
    let fourth = again(&third);

    let pids = [fourth.pid.unwrap(), node.process("store2").pid.unwrap()];
    let ended = node.stop();
    assert!(pids.iter().all(|pid| !lives(*pid)), "they end with the node");
    let log = std::fs::read_to_string(ended.path().join("log/store1.log")).unwrap();
    assert!(log.contains("Redis is now ready to exit"), "in order: {log}");
}

#[test]
fn strangers_learn_nothing_from_a_store() {
    if !are_installed() {
        return;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let ports = store_ports(1);
    let directory = tempfile::tempdir().unwrap();
    found(directory.path(), "node1", address).unwrap();
    let member = member_options(directory.path());
    let node = Node::start_prepared(directory, config_with_stores(1, address, ports));
    let store = SocketAddr::new(address.ip(), ports.first);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ping = |options: &Options| runtime.block_on(Pinger::new(store, options.clone()).ask());
    testbed::wait::until("a member to be answered", Duration::from_secs(20), || {
        if ping(&member) == Pulse::Serves { Ok(()) } else { Err("silent") }
    });
    // Of another cluster; without a password; with none of the cluster's passwords.
    let other = tempfile::tempdir().unwrap();
    found(other.path(), "node1", address).unwrap();
    let strangers = [
        Options { tls: member_options(other.path()).tls, ..member.clone() },
        Options { user: None, password: None, ..member.clone() },
        Options { password: Some("guessed".to_owned()), ..member.clone() },
        Options { tls: None, ..member.clone() },
    ];
    for stranger in &strangers[..1] {
        assert_eq!(ping(stranger), Pulse::Silent);
    }
    for port in [ports.first, ports.first + 1] {
        let mut plain = TcpStream::connect(SocketAddr::new(address.ip(), port)).unwrap();
        plain.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // A connection that is ended meanwhile says nothing, either.
        let _ = plain.write_all(b"PING\r\n");
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.windows(4).any(|part| part == b"PONG"), "{answer:?}");
    }
    for stranger in &strangers[1..] {
        let told = runtime.block_on(state::engine::cluster::servers::report(store, stranger));
        assert!(told.is_err(), "{stranger:?} is told {told:?}");
    }
    node.stop();
}
