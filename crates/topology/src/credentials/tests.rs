//! Certificates, files and join tokens: what they let in, and whom they keep out.

#![allow(clippy::unwrap_used)]
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// A directory `DIR/cluster` of a node, with a certificate made at `made`.
fn member_since(
    authority: &Authority,
    node: &str,
    made: Duration,
) -> (tempfile::TempDir, NodeCredentials) {
    let directory = tempfile::tempdir().unwrap();
    let files = ClusterDirectory::of_node(directory.path());
    fs::create_dir(files.path()).unwrap();
    authority.write(&files).unwrap();
    authority.issue(&files, node, IpAddr::from([192, 0, 2, 7]), made).unwrap();
    let credentials = NodeCredentials::load(files.path()).unwrap();
    (directory, credentials)
}

fn member(authority: &Authority, node: &str) -> (tempfile::TempDir, NodeCredentials) {
    member_since(authority, node, now())
}

/// What the two ends know of each other after the handshake: the server its client, the client its server.
fn shake_hands(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Result<(Option<String>, Option<String>), rustls::Error> {
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() {
        let mut octets = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut octets).unwrap();
        }
        server.read_tls(&mut octets.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut octets = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut octets).unwrap();
        }
        client.read_tls(&mut octets.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    let known = |certificates: Option<&[_]>| certificates.and_then(peer_node);
    Ok((known(server.peer_certificates()), known(client.peer_certificates())))
}

fn named(node: &str) -> ServerName<'static> {
    server_name(node).unwrap()
}

#[test]
fn members_know_each_other_by_name() {
    let authority = Authority::make(now()).unwrap();
    let (_one, one) = member(&authority, "node1");
    let (_two, two) = member(&authority, "node2");
    assert_eq!((one.node(), two.node()), ("node1", "node2"));
    let (client, server) = (
        one.client_config(ALPN_LINK).unwrap(),
        two.server_config(&[ALPN_LINK, ALPN_HTTP]).unwrap(),
    );
    let known = shake_hands(Arc::clone(&client), Arc::clone(&server), named("node2")).unwrap();
    assert_eq!(known, (Some("node1".to_owned()), Some("node2".to_owned())));
    let error = shake_hands(client, server, named("node3")).unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "another node answers: {error}");
    let (client, server) =
        (one.client_config(ALPN_LINK).unwrap(), two.server_config(&[ALPN_HTTP]).unwrap());
    assert!(shake_hands(client, server, named("node2")).is_err(), "nothing in common");
}

#[test]
fn a_certificate_names_its_node_and_its_addresses() {
    let authority = Authority::make(now()).unwrap();
    let (_one, one) = member(&authority, "node1");
    let (_two, two) = member(&authority, "node2");
    for (name, is_known) in [
        ("node2.outlast", true),
        ("localhost", true),
        ("127.0.0.1", true),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
        ("node1.outlast", false),
    ] {
        let (client, server) =
            (one.client_config(ALPN_PEER).unwrap(), two.server_config(&[ALPN_PEER]).unwrap());
        let name = ServerName::try_from(name).unwrap();
        assert_eq!(shake_hands(client, server, name.clone()).is_ok(), is_known, "{name:?}");
    }
}

#[test]
fn nobody_of_another_cluster_and_nobody_without_certificate_gets_in() {
    let (ours, theirs) = (Authority::make(now()).unwrap(), Authority::make(now()).unwrap());
    let (_one, one) = member(&ours, "node1");
    let (_two, two) = member(&theirs, "node2");
    let server = || one.server_config(&[ALPN_PEER]).unwrap();
    let stranger = two.client_config(ALPN_PEER).unwrap();
    assert!(shake_hands(stranger, server(), named("node1")).is_err(), "the client refuses already");
    // A client that believes anybody's certificate, but shows its own or none.
    let (shows_theirs, shows_none) = (believing(Some(&two)), believing(None));
    for client in [shows_theirs, shows_none] {
        assert!(shake_hands(client, server(), named("node1")).is_err(), "the server refuses");
    }
}

#[test]
fn a_node_that_joins_pins_the_authority() {
    let (ours, theirs) = (Authority::make(now()).unwrap(), Authority::make(now()).unwrap());
    let (_one, one) = member(&ours, "node1");
    let (_two, two) = member(&theirs, "node2");
    let localhost = || ServerName::try_from("localhost").unwrap();
    let client = || joining_client_config(one.fingerprint()).unwrap();
    let known = shake_hands(client(), one.join_server_config().unwrap(), localhost()).unwrap();
    assert_eq!(known, (None, Some("node1".to_owned())));
    let error = shake_hands(client(), two.join_server_config().unwrap(), localhost()).unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let member_port = one.server_config(&[ALPN_PEER, ALPN_JOIN]).unwrap();
    assert!(shake_hands(client(), member_port, localhost()).is_err(), "members only");
}

#[test]
fn a_certificate_ends_and_is_to_be_renewed_before() {
    let authority = Authority::make(now() - 600 * DAY).unwrap();
    for (age, is_due, is_good) in
        [(0, false, true), (200, false, true), (250, true, true), (366, true, false)]
    {
        let (_one, one) = member_since(&authority, "node1", now() - age * DAY);
        let (_two, two) = member(&authority, "node2");
        assert_eq!(one.is_renewal_due(now()), is_due, "{age} days old");
        let (client, server) =
            (two.client_config(ALPN_PEER).unwrap(), one.server_config(&[ALPN_PEER]).unwrap());
        assert_eq!(shake_hands(client, server, named("node1")).is_ok(), is_good, "{age} days old");
        let (client, server) =
            (one.client_config(ALPN_PEER).unwrap(), two.server_config(&[ALPN_PEER]).unwrap());
        assert_eq!(shake_hands(client, server, named("node2")).is_ok(), is_good, "{age} days old");
    }
}

#[test]
fn an_authority_that_was_read_back_certifies_for_the_same_cluster() {
    let authority = Authority::make(now()).unwrap();
    let (one_files, one) = member(&authority, "node1");
    let read = Authority::load(&ClusterDirectory::of_node(one_files.path())).unwrap();
    let (_two, two) = member(&read, "node2");
    let (client, server) =
        (one.client_config(ALPN_PEER).unwrap(), two.server_config(&[ALPN_PEER]).unwrap());
    assert!(shake_hands(client, server, named("node2")).is_ok());
    assert_eq!(one.fingerprint(), two.fingerprint());
}

#[test]
fn a_renewed_certificate_is_shown_by_configurations_that_exist() {
    let authority = Authority::make(now()).unwrap();
    let (files, one) = member_since(&authority, "node1", now() - 300 * DAY);
    let (_two, two) = member(&authority, "node2");
    let server = one.server_config(&[ALPN_PEER]).unwrap();
    authority
        .issue(
            &ClusterDirectory::of_node(files.path()),
            "renamed",
            IpAddr::from([127, 0, 0, 1]),
            now(),
        )
        .unwrap();
    let client = || two.client_config(ALPN_PEER).unwrap();
    let known = shake_hands(client(), Arc::clone(&server), named("node1")).unwrap();
    assert_eq!(known.1.as_deref(), Some("node1"), "not looked again yet");
    one.look_again();
    let known = shake_hands(client(), server, named("renamed")).unwrap();
    assert_eq!(known.1.as_deref(), Some("renamed"));
    assert!(!one.is_renewal_due(now()));
}

#[test]
fn secret_files_are_the_owners_alone_and_damage_is_told() {
    let authority = Authority::make(now()).unwrap();
    let (directory, one) = member(&authority, "node1");
    let files = one.directory().clone();
    let secret = ClusterSecret::make().unwrap();
    secret.write(&files.secret()).unwrap();
    for path in [files.secret(), files.authority_key(), files.key()] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    assert_eq!(ClusterSecret::load(&files.secret()).unwrap(), secret);
    assert!(ClusterSecret::make().unwrap() != secret);
    assert_eq!(format!("{secret:?} {authority:?}"), "ClusterSecret { .. } Authority { .. }");

    fs::set_permissions(files.key(), fs::Permissions::from_mode(0o640)).unwrap();
    let error = NodeCredentials::load(files.path()).unwrap_err();
    assert!(matches!(error, CredentialError::Exposed { mode: 0o640, .. }), "{error}");
    fs::write(files.secret(), "6f").unwrap();
    assert!(matches!(ClusterSecret::load(&files.secret()), Err(CredentialError::Damaged { .. })));
    fs::write(files.certificate(), "nothing").unwrap();
    let error = NodeCredentials::load(files.path()).unwrap_err();
    assert!(error.to_string().contains("no certificate in it"), "{error}");
    drop(directory);
}

/// A client that takes every server's certificate and shows that of `shown`.
fn believing(shown: Option<&NodeCredentials>) -> Arc<ClientConfig> {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    struct Anybody;
    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            node::provider().signature_verification_algorithms.supported_schemes()
        }
    }
    let builder = ClientConfig::builder_with_provider(node::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        Some(credentials) => builder.with_client_cert_resolver(credentials.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_PEER.to_owned()];
    Arc::new(config)
}
