//! What a message costs on a link by a Unix socket and by TLS: `cargo run --release -p transport --example link_cost`.
//!
//! Both ends are in one thread, which writes a batch and reads it: processor time of both, system calls included, for
//! each message and its share of the acknowledgement. Medians of runs that take turns.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use transport::link::{LinkFrame, LinkReceiver, LinkSender, LinkStream, stream};
use transport::tls::{Received, TlsStream};
use transport::{Flow, Transport};

const RUNS: usize = 15;
const MESSAGES: usize = 20_000;

type Stream = LinkStream<UnixStream, TcpStream>;

/// One end of a link.
struct End {
    stream: Stream,
    sender: LinkSender,
    receiver: LinkReceiver,
    scratch: Vec<u8>,
}

impl End {
    fn new(stream: Stream) -> End {
        let (sender, receiver) = (LinkSender::new(), LinkReceiver::new());
        End { stream, sender, receiver, scratch: vec![0; 64 * 1024] }
    }

    fn write(&mut self) {
        while self.stream.has_to_write(&self.sender) {
            match self.stream.write(self.sender.unwritten()) {
                Ok(count) => self.sender.written(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads all there is; how many messages came, and up to which the others were taken.
    fn read(&mut self) -> usize {
        let receiver = &mut self.receiver;
        loop {
            match self.stream.read(&mut self.scratch, |bytes| receiver.push(bytes)) {
                Ok(Received::Some) => {}
                Ok(Received::End) => panic!("the other end is gone"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let mut came = 0;
        while let Some(frame) = self.receiver.next_frame().unwrap() {
            match frame {
                LinkFrame::Incoming(incoming) => {
                    self.receiver.taken(incoming.sequence);
                    came += 1;
                }
                LinkFrame::Taken { up_to } => self.sender.taken(up_to),
                other => panic!("nobody sends {other:?}"),
            }
        }
        if let Some(up_to) = self.receiver.acknowledgement() {
            self.sender.try_send(&LinkFrame::Taken { up_to }).unwrap();
        }
        came
    }
}

/// Nanoseconds of this thread for each message, so many of them in a batch.
fn cost(ends: &mut [End; 2], batch: usize, message: &Bytes) -> u64 {
    let flow = {
        let address = "192.0.2.1:5060".parse().unwrap();
        Flow::new(Transport::Udp, address, address)
    };
    let began = cpu();
    for _ in 0..MESSAGES / batch {
        let [edge, container] = ends;
        for _ in 0..batch {
            edge.sender.try_send_incoming(flow, 0, message.clone()).unwrap();
        }
        let mut left = batch;
        while left > 0 {
            edge.write();
            left -= container.read();
            container.write();
        }
        while edge.sender.untaken_count() > 0 {
            edge.read();
        }
    }
    u64::try_from((cpu() - began).as_nanos()).unwrap() / (MESSAGES / batch * batch) as u64
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn unix() -> [End; 2] {
    let (one, other) = UnixStream::pair().unwrap();
    [one, other].map(|socket| {
        socket.set_nonblocking(true).unwrap();
        End::new(LinkStream::Unix(socket))
    })
}

fn tls() -> [End; 2] {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["host".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap().der().clone();
    let key = || PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let client = ClientConfig::builder()
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(vec![certificate.clone()], key())
        .unwrap();
    let verifier = WebPkiClientVerifier::builder(roots).build().unwrap();
    let server = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    for socket in [&one, &other] {
        stream::prepare(socket, Duration::from_secs(10)).unwrap();
        socket.set_nonblocking(true).unwrap();
    }
    let name = ServerName::try_from("host").unwrap();
    let one = TlsStream::client(one, Arc::new(client), name).unwrap();
    let other = TlsStream::server(other, ServerConnection::new(Arc::new(server)).unwrap());
    let mut ends = [one, other].map(|stream| End::new(LinkStream::Tls(Box::new(stream))));
    for _ in 0..100 {
        for end in &mut ends {
            end.write();
            end.read();
        }
    }
    ends
}

fn median(mut costs: Vec<u64>) -> (u64, u64, u64) {
    costs.sort_unstable();
    (costs[costs.len() / 4], costs[costs.len() / 2], costs[costs.len() * 3 / 4])
}

fn main() {
    let (mut unix, mut tls) = (unix(), tls());
    println!("ns a message, both ends together (quartiles)");
    for bytes in [500, 1_200] {
        let message = Bytes::from(vec![b'x'; bytes]);
        for batch in [1, 4, 16, 64] {
            let (mut by_unix, mut by_tls) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                by_unix.push(cost(&mut unix, batch, &message));
                by_tls.push(cost(&mut tls, batch, &message));
            }
            let (u1, u, u3) = median(by_unix);
            let (t1, t, t3) = median(by_tls);
            println!(
                "{bytes:5} octets, {batch:2} at a time: Unix {u:6} ({u1}-{u3})  TLS {t:6} ({t1}-{t3})  {:.2} x",
                t as f64 / u as f64
            );
        }
    }
}
