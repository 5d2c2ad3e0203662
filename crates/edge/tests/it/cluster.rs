//! A cluster of nodes `node1`, where the edge is, and `node2`; and a stranger's cluster.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use edge::server::LinkCredentials;
use topology::credentials::{ALPN_HTTP, ALPN_LINK, Authority, ClusterDirectory, NodeCredentials};
use topology::{
    Incarnation, NodeEntry, NodeNumber, NodeState, ProcessEntry, ProcessName, ProcessState,
    ProcessType, TopologyView,
};

/// Who certifies the nodes of one cluster.
pub(crate) struct Cluster {
    authority: Authority,
    directory: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let authority = Authority::make(now()).unwrap();
        Cluster { authority, directory: tempfile::tempdir().unwrap() }
    }

    fn node(&self, name: &str) -> NodeCredentials {
        let files = ClusterDirectory::of_node(&self.directory.path().join(name));
        std::fs::create_dir_all(files.path()).unwrap();
        self.authority.write(&files).unwrap();
        let address = IpAddr::from([127, 0, 0, 1]);
        self.authority.issue(&files, name, address, now()).unwrap();
        NodeCredentials::load(files.path()).unwrap()
    }

    /// What an edge of `node` shows.
    pub(crate) fn credentials(&self, node: &str) -> LinkCredentials {
        LinkCredentials(self.node(node).client_config(ALPN_LINK).unwrap())
    }

    /// What a container of `node` shows.
    pub(crate) fn server(&self, node: &str) -> Arc<rustls::ServerConfig> {
        self.node(node).server_config(&[ALPN_LINK, ALPN_HTTP]).unwrap()
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// Where a container of another node will be found.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Containers on this node, by path, and on node2, by address.
pub(crate) fn view(
    version: u64,
    here: &[(&str, &Path)],
    there: &[(&str, SocketAddr)],
) -> TopologyView {
    let entry = |name: &str| ProcessEntry {
        name: ProcessName::new(name),
        process_type: ProcessType::Container,
        incarnation: Incarnation(0),
        pid: None,
        state: ProcessState::Ready,
        restarts: 0,
        link: None,
        link_address: None,
        addresses: Vec::new(),
        weight: 100,
        is_silent: false,
        http: None,
    };
    let here = here
        .iter()
        .map(|(name, path)| ProcessEntry { link: Some(path.to_path_buf()), ..entry(name) });
    let there = there.iter().map(|(name, address)| ProcessEntry {
        link_address: Some(*address),
        ..entry(&format!("{name}@node2"))
    });
    let node = |name: &str, number: u16| NodeEntry {
        name: name.to_owned(),
        number: NodeNumber::new(number).unwrap(),
        state: NodeState::Up,
        address: "127.0.0.1:6200".parse().unwrap(),
        last_life: Incarnation(0),
        runs_with: topology::RunsWith::default(),
    };
    TopologyView {
        version,
        node: "node1".to_owned(),
        processes: here.chain(there).collect(),
        nodes: vec![node("node1", 0), node("node2", 1)],
        numbers_given: 2,
        format_level: topology::FormatLevel::FIRST,
    }
}

/// The view with an edge of node2, too.
pub(crate) fn with_edge(view: TopologyView, own: SocketAddr, state: ProcessState) -> TopologyView {
    let mut view = view;
    let container = view.processes.last().expect("the view has a container of node2").clone();
    view.processes.push(ProcessEntry {
        name: ProcessName::new("edge1@node2"),
        process_type: ProcessType::Edge,
        state,
        link_address: None,
        addresses: vec![topology::EdgeAddress {
            transport: topology::ListenerTransport::Udp,
            own,
            public: own.to_string(),
        }],
        ..container
    });
    view
}
