//! Who is no member learns and changes nothing.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use manager::JoinError;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use topology::credentials::{
    ALPN_JOIN, ALPN_PEER, Authority, ClusterDirectory, ClusterSecret, JoinToken, NodeCredentials,
    joining_client_config,
};

use super::{HOUR, address, cluster_of, cluster_status, found, join, join_token, stop};
use crate::node::{free_port, until};

/// All that comes back until the other end closes.
fn answer(mut stream: impl std::io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn tls(
    config: Arc<ClientConfig>,
    address: SocketAddr,
    name: &'static str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(name).unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), connect(address))
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

#[test]
fn strangers_are_refused_and_counted_and_change_nothing() {
    let (port, nodes) = cluster_of(2);
    let member = address(1, port);
    let refused = || cluster_status(&nodes[0]).refused;
    let mut count = refused();
    assert_eq!(count, 0);
    let version = cluster_status(&nodes[0]).members_version;
    let mut is_counted = |what: &str| {
        count += 1;
        until(what, || (refused() == count).then_some(()));
    };

    // Plaintext: at most an alert comes back.
    let mut plain = connect(member);
    plain.write_all(b"{\"greeting\":{}}\n\n\n\n\n\n\n\n").unwrap();
    let said = answer(plain);
    assert!(said.len() < 16, "{said:?}");
    is_counted("plaintext to be counted");

    // A certificate of another cluster, whose owner believes ours.
    let foreign = tempfile::tempdir().unwrap();
    found(foreign.path(), "node2", address(2, free_port())).unwrap();
    let files = ClusterDirectory::of_node(foreign.path());
    let ours = ClusterDirectory::of_node(nodes[0].directory());
    std::fs::copy(ours.authority(), files.authority()).unwrap();
    let credentials = NodeCredentials::load(files.path()).unwrap();
    let mut stranger = tls(credentials.client_config(ALPN_PEER).unwrap(), member, "node1.outlast");
    let _ = stranger.write_all(b"{\"greeting\":{}}\n");
    assert_eq!(answer(&mut stranger), b"");
    is_counted("the stranger's certificate to be counted");

    // No certificate, as a node that joins, but in the language of members.
    let fingerprint = NodeCredentials::load(ours.path()).unwrap().fingerprint();
    let mut config = (*joining_client_config(fingerprint).unwrap()).clone();
    config.alpn_protocols = vec![ALPN_PEER.to_vec()];
    let mut nobody = tls(Arc::new(config), member, "localhost");
    let _ = nobody.write_all(b"{\"greeting\":{}}\n");
    assert_eq!(answer(&mut nobody), b"");
    is_counted("nobody's certificate to be counted");

    // Without a token, and with a line that does not end.
    for said in [b"{}\n".to_vec(), vec![b'x'; 100_000]] {
        let mut config = (*joining_client_config(fingerprint).unwrap()).clone();
        config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        let mut tokenless = tls(Arc::new(config), member, "localhost");
        let _ = tokenless.write_all(&said);
        let answered = String::from_utf8_lossy(&answer(&mut tokenless)).into_owned();
        assert!(!answered.contains("secret"), "{answered}");
        is_counted("the missing token to be counted");
    }

    // A token that has expired, and one that another cluster made.
    let secret = ClusterSecret::load(&ours.secret()).unwrap();
    let id = cluster_status(&nodes[0]).cluster;
    let expired = JoinToken::make(&secret, &id, fingerprint, [member], now() - HOUR);
    let other = ClusterSecret::make().unwrap();
    let forged = JoinToken::make(&other, &id, fingerprint, [member], now() + HOUR);
    for (token, told) in [(expired, "has expired"), (forged, "none of this cluster")] {
        match join(&token.to_string(), 3, port) {
            Err(JoinError::Refused(reason)) => assert!(reason.contains(told), "{reason}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was admitted"),
        }
        is_counted("the token to be counted");
    }
    assert_eq!(cluster_status(&nodes[0]).members_version, version);
    assert_eq!(nodes[1].status().nodes.len(), 2);
    stop(nodes);
}

#[test]
fn a_node_that_joins_believes_the_cluster_of_its_token_only() {
    let (port, nodes) = cluster_of(1);
    let ours = ClusterDirectory::of_node(nodes[0].directory());
    let secret = ClusterSecret::load(&ours.secret()).unwrap();
    let id = cluster_status(&nodes[0]).cluster;
    // Somebody else listens at the address that the token names.
    let directory = tempfile::tempdir().unwrap();
    let files = ClusterDirectory::of_node(directory.path());
    std::fs::create_dir(files.path()).unwrap();
    let authority = Authority::make(now()).unwrap();
    authority.write(&files).unwrap();
    authority.issue(&files, "node1", [127, 0, 0, 1].into(), now()).unwrap();
    let expected = NodeCredentials::load(files.path()).unwrap().fingerprint();
    let token = JoinToken::make(&secret, &id, expected, [address(1, port)], now() + HOUR);
    match join(&token.to_string(), 2, port) {
        Err(JoinError::OutOfReach { attempts }) => {
            assert!(attempts[0].contains("UnknownIssuer"), "{attempts:?}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it believed a stranger"),
    }
    // A name and an address are one member's each.
    let token = join_token(nodes[0].directory(), HOUR).unwrap().to_string();
    match join(&token, 1, port) {
        Err(JoinError::Refused(reason)) => assert!(reason.contains("node1"), "{reason}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two nodes of one name"),
    }
    stop(nodes);
}
