//! Somebody on the network who is no member: he asks at every port that the hosts of a cluster have open for each other.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use testbed::lab::{self, Host};
use testbed::node::outlast_in;
use topology::credentials::{ALPN_PEER, ClusterDirectory, NodeCredentials};

use super::{LIMIT, NODES, cluster, is_whole};
use crate::world::has_etcd;

/// Who has nothing to say closes the connection in this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the protocols behind the ports would answer to somebody who may ask.
const QUESTIONS: [&[u8]; 4] = [
    b"PING\r\nCLUSTER NODES\r\nCONFIG GET *\r\n\r\n",
    b"GET /version HTTP/1.1\r\nHost: node1\r\n\r\n",
    b"{\"greeting\":{}}\n{\"request\":{\"id\":1,\"request\":\"status\"}}\n\n",
    b"\x16\x03\x01\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
];

/// The ports of TCP, or with `udp` those of UDP, that somebody has open at this host's address; phones' left out.
fn ports(host: &Host, protocol: &str) -> Vec<SocketAddr> {
    let table = host.enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{protocol}")));
    let table = table.expect("a Linux system");
    let listening = if protocol == "tcp" { "0A" } else { "07" };
    let open = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let address = u32::from_str_radix(address, 16).ok()?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ip = Ipv4Addr::from(address.to_le_bytes());
        let is_reachable = ip == host.ipv4() || ip.is_unspecified();
        (fields.nth(1)? == listening && is_reachable && port != 5060)
            .then(|| SocketAddr::new(IpAddr::V4(host.ipv4()), port))
    });
    let mut open: Vec<SocketAddr> = open.collect();
    open.sort_unstable();
    open.dedup();
    open
}

/// All that comes back until the other end closes, or says nothing for long.
fn answer(mut stream: impl std::io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// Plaintext: nothing comes back but an alert of TLS.
fn asks_in_plaintext(address: SocketAddr) {
    for question in QUESTIONS {
        let mut stream = connect(address);
        // It may be closed before all is said.
        let _ = stream.write_all(question);
        let said = answer(stream);
        let is_alert = said.first() == Some(&0x15) && said.len() < 16;
        assert!(
            said.is_empty() || is_alert,
            "{address} says {:?}",
            said.escape_ascii().to_string()
        );
    }
}

/// A certificate of another cluster, shown by somebody who believes whatever he sees.
fn asks_as_a_member_of_another_cluster(address: SocketAddr, credentials: &NodeCredentials) {
    for alpn in [ALPN_PEER, b"outlast-link/1", b"outlast-http/1", b"http/1.1", b"h2"] {
        for question in QUESTIONS {
            let config = credentials.client_config(alpn).expect("credentials");
            let name = ServerName::try_from("node1.outlast").expect("a name");
            let connection = ClientConnection::new(Arc::clone(&config), name).expect("a client");
            let mut stream = StreamOwned::new(connection, connect(address));
            let _ = stream.write_all(question).and_then(|()| stream.flush());
            let said = answer(&mut stream);
            assert!(said.is_empty(), "{address} says {:?}", said.escape_ascii().to_string());
        }
    }
}

#[test]
fn a_stranger_on_the_network_learns_and_changes_nothing() {
    if !has_etcd() {
        return;
    }
    let hosts = [&NODES[..], &["stranger"]].concat();
    lab::run_within(LIMIT, &hosts, |lab| {
        let members = cluster(lab);
        let before = members.view_of(0);
        let stranger = lab.host("stranger");
        // His own cluster has a node1, and he believes the authority of ours.
        let own = tempfile::tempdir().expect("a temporary directory");
        let create = ["cluster", "create", "--address", "192.0.2.99"];
        let created = stranger.enter(|| outlast_in(own.path(), &create, b""));
        assert!(created.status.success(), "{created:?}");
        let files = ClusterDirectory::of_node(own.path());
        let ours = ClusterDirectory::of_node(members.node(0).directory());
        std::fs::copy(ours.authority(), files.authority()).expect("it is public");
        let credentials = NodeCredentials::load(files.path()).expect("his own");

        let mut asked = 0;
        for name in NODES {
            let open = ports(lab.host(name), "tcp");
            assert!(open.iter().any(|address| address.port() == 6200), "{name}: {open:?}");
            for address in open {
                stranger.enter(|| asks_in_plaintext(address));
                stranger.enter(|| asks_as_a_member_of_another_cluster(address, &credentials));
                asked += 1;
            }
            for address in ports(lab.host(name), "udp") {
                stranger.enter(|| {
                    let socket = UdpSocket::bind((stranger.ipv4(), 0)).expect("a socket");
                    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
                    for question in QUESTIONS {
                        socket.send_to(question, address).expect("a card");
                    }
                    let said = socket.recv_from(&mut [0; 2_048]);
                    assert!(said.is_err(), "{address} answers a stranger by UDP: {said:?}");
                });
            }
        }
        // The peer port and the ports of containers, at the least.
        assert!(asked >= 9, "only {asked} ports were found");
        let after = members.view_of(0);
        assert_eq!(after.nodes.len(), before.nodes.len());
        members.until_all_see("the whole cluster", is_whole);
        let pids = |view: &testbed::members::ClusterView| {
            // Stores and repositories may still be joined by others.
            let are_ours = ["container", "edge"];
            let ours = view.processes.iter();
            let ours = ours.filter(|process| are_ours.contains(&process.process_type.as_str()));
            ours.map(|process| (process.name.clone(), process.pid)).collect::<Vec<_>>()
        };
        assert_eq!(pids(&after), pids(&before), "nobody was started anew");
    });
}
