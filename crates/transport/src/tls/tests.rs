//! Two ends of a TLS stream over a pair of sockets, read and written in pieces.

#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixStream;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;

use super::*;

const PROTOCOL: &[u8] = b"test/1";

/// A certificate authority and what it says of a host.
struct World {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl World {
    fn new() -> World {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        World { issuer }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }

    fn certificate(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["host".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate.der().clone()], key.into())
    }

    /// A client that trusts `server` and shows a certificate of ours.
    fn client(&self, socket: UnixStream, server: &World, protocol: &[u8]) -> TlsStream<UnixStream> {
        let (chain, key) = self.certificate();
        let mut configuration = ClientConfig::builder()
            .with_root_certificates(server.roots())
            .with_client_auth_cert(chain, key)
            .unwrap();
        configuration.alpn_protocols = vec![protocol.to_vec()];
        let host = ServerName::try_from("host").unwrap();
        TlsStream::client(socket, Arc::new(configuration), host).unwrap()
    }

    /// A server that admits whom we certify.
    fn server(&self, socket: UnixStream) -> TlsStream<UnixStream> {
        let (chain, key) = self.certificate();
        let verifier = WebPkiClientVerifier::builder(self.roots()).build().unwrap();
        let mut configuration = rustls::ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        configuration.alpn_protocols = vec![PROTOCOL.to_vec()];
        let session = ServerConnection::new(Arc::new(configuration)).unwrap();
        TlsStream::server(socket, session)
    }
}

fn sockets() -> (UnixStream, UnixStream) {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    (one, other)
}

/// Both ends of a stream whose handshake is over.
fn connected() -> [TlsStream<UnixStream>; 2] {
    let (world, (one, other)) = (World::new(), sockets());
    let (mut client, mut server) = (world.client(one, &world, PROTOCOL), world.server(other));
    shake_hands(&mut client, &mut server).unwrap();
    [client, server]
}

/// Until both ends are through; neither ever waits.
fn shake_hands(
    client: &mut TlsStream<UnixStream>,
    server: &mut TlsStream<UnixStream>,
) -> io::Result<()> {
    for _ in 0..10 {
        for end in [&mut *client, &mut *server] {
            not_blocked(end.flush())?;
            not_blocked(read(end).map(drop))?;
        }
        if !client.is_handshaking() && !server.is_handshaking() && !client.has_unwritten() {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn not_blocked(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(error),
    })
}

/// All that there is.
fn read(stream: &mut TlsStream<UnixStream>) -> io::Result<Vec<u8>> {
    let (mut plain, mut scratch) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut scratch, |bytes| plain.extend_from_slice(bytes)) {
            Ok(Received::Some) => {}
            Ok(Received::End) => return Ok(plain),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(plain),
            Err(error) => return Err(error),
        }
    }
}

#[test]
fn nothing_is_written_before_the_handshake_is_over_and_nobody_waits() {
    let (world, (one, other)) = (World::new(), sockets());
    let mut client = world.client(one, &world, PROTOCOL);
    assert!(client.has_unwritten(), "its hello");
    assert_eq!(client.write(b"early").unwrap(), 0);
    assert!(!client.has_unwritten(), "there is nothing to do but wait for the other side");
    assert_eq!(client.write(b"early").unwrap(), 0);
    let error = client.read(&mut [0; 64], |_| panic!("nobody said anything")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    let mut server = world.server(other);
    shake_hands(&mut client, &mut server).unwrap();
    assert_eq!(client.write(b"early").unwrap(), 5);
    assert_eq!(read(&mut server).unwrap(), b"early");
    assert_eq!(server.write(b"answer").unwrap(), 6);
    assert_eq!(read(&mut client).unwrap(), b"answer");
}

#[test]
fn octets_arrive_in_order_however_they_are_cut() {
    let [mut client, mut server] = connected();
    let sent: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut left, mut arrived) = (&sent[..], Vec::new());
    for scratch in [1, 7, 100, 5_000, 70_000].into_iter().cycle() {
        if left.is_empty() && !client.has_unwritten() && arrived.len() == sent.len() {
            break;
        }
        match client.write(&left[..left.len().min(scratch * 3)]) {
            Ok(count) => left = &left[count..],
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        let mut scratch = vec![0; scratch];
        match server.read(&mut scratch, |bytes| arrived.extend_from_slice(bytes)) {
            Ok(received) => assert_eq!(received, Received::Some),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert!(arrived == sent);
}

#[test]
fn who_does_not_read_is_waited_for_with_bounded_memory() {
    let [mut client, mut server] = connected();
    let (bytes, mut written) = (vec![b'x'; 1024 * 1024], 0);
    let error = loop {
        match client.write(&bytes) {
            Ok(count) => written += count,
            Err(error) => break error,
        }
        assert!(written < 16 * 1024 * 1024, "a socket takes some hundred kilobytes");
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(client.has_unwritten());
    assert_eq!(client.write(b"y").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut arrived = 0;
    while arrived < written {
        arrived += read(&mut server).unwrap().len();
        not_blocked(client.flush()).unwrap();
    }
    assert_eq!(arrived, written, "what was not taken was not sent");
    assert!(!client.has_unwritten());
}

#[test]
fn all_that_was_sent_before_the_end_is_read_before_it() {
    let [mut client, mut server] = connected();
    client.write(b"last words").unwrap();
    drop(client);
    let (mut plain, mut scratch) = (Vec::new(), [0; 1024]);
    let mut next = || server.read(&mut scratch, |bytes| plain.extend_from_slice(bytes)).unwrap();
    assert_eq!(next(), Received::Some);
    assert_eq!(next(), Received::End);
    assert_eq!(plain, b"last words");
}

#[test]
fn frames_that_are_written_together_share_records() {
    let [mut client, mut server] = connected();
    assert_eq!(client.write(&[b'x'; 200_000]).unwrap(), WRITE_BYTES_MAX);
    let mut scratch = vec![0; 128 * 1024];
    let mut pieces = Vec::new();
    while server.read(&mut scratch, |bytes| pieces.push(bytes.len())).is_ok() {}
    assert_eq!(pieces, [16_384; 4]);
}

#[test]
fn strangers_and_other_protocols_are_refused_on_both_sides() {
    let (ours, theirs) = (World::new(), World::new());
    for (client, server, trusted, protocol) in [
        (&theirs, &ours, &ours, PROTOCOL), // the client has a certificate of somebody else
        (&ours, &theirs, &ours, PROTOCOL), // the server has
        (&ours, &ours, &ours, &b"other"[..]), // they speak different languages
    ] {
        let (one, other) = sockets();
        let mut client = client.client(one, trusted, protocol);
        let mut server = server.server(other);
        let error = shake_hands(&mut client, &mut server).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

#[test]
fn what_is_no_tls_is_refused_at_once() {
    let (world, (mut one, other)) = (World::new(), sockets());
    let mut server = world.server(other);
    one.write_all(b"OPTIONS sip:a SIP/2.0\r\n\r\n").unwrap();
    let error = server.read(&mut [0; 1024], |_| panic!("nothing was said")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}
