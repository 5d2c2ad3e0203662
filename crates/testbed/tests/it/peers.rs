//! A plain SIP server in a container's place: calls both ways through a real node that has no container, and
//! what happens while the server is silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use phone::{LineTransport, Phone};
use sip::framer::{self, Frame, StreamFramer};
use sip::{HeaderName, Message, Method, RequestBuilder, ResponseBuilder};
use testbed::node::Node;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::world::{self, DOMAIN};

/// How long any step may take.
const LIMIT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(200);
const ALLOWED_MISS_COUNT: u32 = 2;
const SERVICE: &str = "sip:service@example.com";

/// A message that the server received, and the way back to who sent it.
struct Came {
    message: Message,
    way_back: Way,
}

#[derive(Clone)]
enum Way {
    Udp(Arc<UdpSocket>, SocketAddr),
    Tcp(mpsc::Sender<Bytes>),
}

impl Way {
    async fn send(&self, octets: Bytes) {
        match self {
            Way::Udp(socket, edge) => drop(socket.send_to(&octets, *edge).await.unwrap()),
            Way::Tcp(outbox) => outbox.send(octets).await.unwrap(),
        }
    }
}

/// The server: answers probes while it is alive, and gives everything else to the test.
struct Pbx {
    transport: LineTransport,
    address: SocketAddr,
    alive: Arc<AtomicBool>,
    inbox: mpsc::Receiver<Came>,
}

impl Pbx {
    async fn start(transport: LineTransport) -> Pbx {
        let (sender, inbox) = mpsc::channel(64);
        let alive = Arc::new(AtomicBool::new(true));
        let desk = Desk { alive: Arc::clone(&alive), sender };
        let address = match transport {
            LineTransport::Udp => {
                let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                let address = socket.local_addr().unwrap();
                tokio::spawn(desk.serve_datagrams(socket));
                address
            }
            LineTransport::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(desk.clone().serve_stream(stream));
                    }
                });
                address
            }
        };
        Pbx { transport, address, alive, inbox }
    }

    /// A node that has this server and no container.
    fn node(&self) -> Node {
        let transport = self.transport.name().to_lowercase();
        world::node_of(&world::open_config(
            1,
            &format!(
                "[container]\ncount = 0\n\n\
                 [heartbeat]\ninterval = \"{}ms\"\nallowed_miss_count = {ALLOWED_MISS_COUNT}\n\n\
                 [[peer]]\nname = \"pbx\"\naddress = \"{}\"\ntransport = \"{transport}\"\n",
                INTERVAL.as_millis(),
                self.address
            ),
        ))
    }

    fn contact(&self) -> String {
        format!("<sip:service@{};transport={}>", self.address, self.transport.name().to_lowercase())
    }

    async fn next(&mut self) -> Came {
        timeout(LIMIT, self.inbox.recv()).await.expect("the server hears something").unwrap()
    }

    async fn request(&mut self, method: Method<'_>) -> Came {
        let came = self.next().await;
        assert_eq!(came.message.method(), Some(method), "{:?}", came.message.buffer());
        came
    }

    async fn response(&mut self, status: u16) -> Came {
        let came = self.next().await;
        assert_eq!(came.message.status(), Some(status), "{:?}", came.message.buffer());
        came
    }

    async fn answer(&self, came: &Came, status: u16) {
        let response = ResponseBuilder::new(&came.message, status)
            .to_tag(b"pbx")
            .record_route()
            .header(HeaderName::Contact, self.contact().as_bytes());
        came.way_back.send(response.build()).await;
    }

    /// A request of the server to a phone, by these Route values.
    fn draft(&self, method: Method<'_>, uri: &[u8], routes: &[String]) -> RequestBuilder {
        let name = String::from_utf8_lossy(method.as_bytes()).into_owned();
        let via = format!(
            "SIP/2.0/{} {};branch=z9hG4bK-pbx-{name}-{}",
            self.transport.name(),
            self.address,
            routes.len()
        );
        let mut builder = RequestBuilder::new(method, uri)
            .header(HeaderName::Via, via.as_bytes())
            .header(HeaderName::MaxForwards, b"70");
        for route in routes {
            builder = builder.header(HeaderName::Route, route.as_bytes());
        }
        builder
    }
}

#[derive(Clone)]
struct Desk {
    alive: Arc<AtomicBool>,
    sender: mpsc::Sender<Came>,
}

impl Desk {
    async fn serve_datagrams(self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 65_535];
        loop {
            let Ok((length, edge)) = socket.recv_from(&mut buffer).await else { return };
            let frame = framer::datagram(Bytes::copy_from_slice(&buffer[..length]));
            self.frame(frame, Way::Udp(Arc::clone(&socket), edge)).await;
        }
    }

    async fn serve_stream(self, stream: TcpStream) {
        let (mut read, mut write) = stream.into_split();
        let (outbox, mut queue) = mpsc::channel::<Bytes>(64);
        tokio::spawn(async move {
            while let Some(octets) = queue.recv().await {
                if write.write_all(&octets).await.is_err() {
                    return;
                }
            }
        });
        let (mut framer, mut buffer) = (StreamFramer::new(65_535), BytesMut::new());
        loop {
            while let Ok(Some(frame)) = framer.next(&mut buffer) {
                self.frame(Some(frame), Way::Tcp(outbox.clone())).await;
            }
            if !matches!(read.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
    }

    async fn frame(&self, frame: Option<Frame>, way_back: Way) {
        let Some(Frame::Message(octets)) = frame else { return };
        if !self.alive.load(Ordering::Relaxed) {
            return;
        }
        let message = Message::parse(octets).expect("the edge writes SIP");
        if message.method() == Some(Method::Options) {
            let ok = ResponseBuilder::new(&message, 200).to_tag(b"pbx").build();
            return way_back.send(ok).await;
        }
        // The test has ended when nobody listens any more.
        let _ = self.sender.send(Came { message, way_back }).await;
    }
}

fn values(message: &Message, name: HeaderName) -> Vec<String> {
    message.values(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

async fn phone(node: &Node) -> Phone {
    world::phone(node, "alice", LineTransport::Udp).await
}

/// What RFC 3261 §16.6 and RFC 3581 §4 say of a phone's request behind the edge.
fn check_forwarded(request: &Message, edge: SocketAddr, phone: SocketAddr) {
    let vias = values(request, HeaderName::Via);
    assert_eq!(vias.len(), 2, "{vias:?}");
    assert!(vias[0].contains(&edge.to_string()), "the edge's own Via is on top: {vias:?}");
    assert!(vias[1].contains(&format!("received={}", phone.ip())), "{vias:?}");
    assert!(vias[1].contains(&format!("rport={}", phone.port())), "{vias:?}");
    assert_eq!(request.max_forwards(), Ok(Some(69)));
}

/// A phone calls the server; each end sends a request in the dialog.
async fn a_call_of_a_phone(transport: LineTransport) {
    let mut pbx = Pbx::start(transport).await;
    let node = pbx.node();
    let phone = phone(&node).await;
    let edge = node.sip(&transport.name().to_lowercase());

    let calling = async { phone.call(0, SERVICE).await?.answered().await };
    let answering = async {
        let invite = pbx.request(Method::Invite).await;
        check_forwarded(&invite.message, edge, phone.lines()[0].local());
        let routes = values(&invite.message, HeaderName::RecordRoute);
        // RFC 5658: a second value when the transport changes, the server's side on top.
        let toward_phone = match transport {
            LineTransport::Udp => &routes[..],
            LineTransport::Tcp => {
                assert_eq!(routes[0], format!("<sip:{edge};transport=tcp;lr>"));
                &routes[1..]
            }
        };
        let [toward_phone] = toward_phone else { panic!("too many Record-Routes: {routes:?}") };
        let (token, rest) = toward_phone.split_once('@').expect("a flow token");
        assert!(token.len() > 30, "{toward_phone}");
        assert_eq!(rest, format!("{};lr>", node.sip("udp")));
        pbx.answer(&invite, 200).await;
        pbx.request(Method::Ack).await;
        (invite, routes)
    };
    let (call, (invite, routes)) = tokio::join!(calling, answering);
    let mut call = call.expect("the answer reaches the phone");

    let (ok, ()) = tokio::join!(call.request_by(0, Method::Info), async {
        let info = pbx.request(Method::Info).await;
        assert_eq!(info.message.field(HeaderName::Route), None, "the edge took its own Routes off");
        pbx.answer(&info, 200).await;
    });
    assert_eq!(ok.unwrap().status(), Some(200));

    let contact = sip::NameAddr::parse(invite.message.field(HeaderName::Contact).unwrap()).unwrap();
    let bye = pbx
        .draft(Method::Bye, contact.uri(), &routes)
        .header(
            HeaderName::From,
            &[invite.message.field(HeaderName::To).unwrap(), b";tag=pbx"].concat(),
        )
        .header(HeaderName::To, invite.message.field(HeaderName::From).unwrap())
        .header(HeaderName::CallId, invite.message.call_id().unwrap())
        .header(HeaderName::CSeq, b"1 BYE")
        .build();
    let (hung_up, ()) = tokio::join!(call.hung_up(), async {
        invite.way_back.send(bye).await;
        let ok = pbx.response(200).await;
        assert_eq!(values(&ok.message, HeaderName::Via).len(), 1, "only the server's own is left");
    });
    hung_up.expect("the server's BYE reaches the phone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_and_a_udp_peer_call_through_the_edge_alone() {
    a_call_of_a_phone(LineTransport::Udp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_and_a_tcp_peer_call_through_the_edge_alone() {
    a_call_of_a_phone(LineTransport::Tcp).await;
}

/// A phone registers at the server, which then calls it by the Path that it was given (RFC 3327 §5.3).
async fn a_call_by_the_path(transport: LineTransport) {
    let mut pbx = Pbx::start(transport).await;
    let node = pbx.node();
    let phone = phone(&node).await;
    let edge = node.sip(&transport.name().to_lowercase());
    let local = phone.lines()[0].local();

    let registering = async {
        let register = pbx.request(Method::Register).await;
        check_forwarded(&register.message, edge, local);
        let path = values(&register.message, HeaderName::Path);
        assert_eq!(path.len(), 1, "{path:?}");
        assert!(path[0].ends_with(&format!("@{};lr>", node.sip("udp"))), "{path:?}");
        assert_eq!(register.message.field(HeaderName::RecordRoute), None);
        pbx.answer(&register, 200).await;
        (register, path)
    };
    let (registered, (register, path)) = tokio::join!(phone.register(600), registering);
    registered.expect("the server's 200 reaches the phone");

    // The contact is one that only the flow leads to, as behind a NAT.
    let invite = pbx
        .draft(Method::Invite, b"sip:alice@192.0.2.99:9", &path)
        .header(HeaderName::From, format!("<{SERVICE}>;tag=pbx").as_bytes())
        .header(HeaderName::To, format!("<sip:alice@{DOMAIN}>").as_bytes())
        .header(HeaderName::CallId, b"pbx-calls")
        .header(HeaderName::CSeq, b"1 INVITE")
        .header(HeaderName::Contact, pbx.contact().as_bytes())
        .build();
    register.way_back.send(invite).await;
    let (call, ok) = tokio::join!(async { phone.incoming().await?.answer().await }, async {
        let ok = pbx.response(200).await;
        let mut routes = values(&ok.message, HeaderName::RecordRoute);
        routes.reverse();
        let contact = sip::NameAddr::parse(ok.message.field(HeaderName::Contact).unwrap()).unwrap();
        let ack = pbx
            .draft(Method::Ack, contact.uri(), &routes)
            .header(HeaderName::From, ok.message.field(HeaderName::From).unwrap())
            .header(HeaderName::To, ok.message.field(HeaderName::To).unwrap())
            .header(HeaderName::CallId, b"pbx-calls")
            .header(HeaderName::CSeq, b"1 ACK")
            .build();
        ok.way_back.send(ack).await;
        ok
    });
    let call = call.expect("the server's ACK reaches the phone");
    let (hung_up, ()) = tokio::join!(call.hang_up(), async {
        let bye = pbx.request(Method::Bye).await;
        assert_eq!(bye.message.call_id(), ok.message.call_id());
        pbx.answer(&bye, 200).await;
    });
    hung_up.expect("the phone's BYE reaches the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_udp_peer_reaches_a_phone_by_its_path() {
    a_call_by_the_path(LineTransport::Udp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_peer_reaches_a_phone_by_its_path() {
    a_call_by_the_path(LineTransport::Tcp).await;
}

/// Asks the service until it is answered so, and gives the answer.
async fn until_answered(phone: &Phone, status: u16) -> Message {
    let deadline = Instant::now() + LIMIT;
    loop {
        let asked = phone.request(0, Method::Message, SERVICE).send();
        let mut exchange = asked.await.expect("the line is open");
        let answer = timeout(Duration::from_millis(20), exchange.final_response()).await;
        match answer {
            Ok(Ok(answer)) if answer.status() == Some(status) => return answer,
            other => {
                assert!(Instant::now() < deadline, "waited for {status}, last seen: {other:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_left_out_until_it_answers_again() {
    let mut pbx = Pbx::start(LineTransport::Udp).await;
    let node = pbx.node();
    let phone = phone(&node).await;
    let alive = Arc::clone(&pbx.alive);
    // From here the server answers whatever it hears, as long as it is alive.
    tokio::spawn(async move {
        while let Some(came) = pbx.inbox.recv().await {
            pbx.answer(&came, 200).await;
        }
    });
    until_answered(&phone, 200).await;

    alive.store(false, Ordering::Relaxed);
    let silent_since = Instant::now();
    let refused = until_answered(&phone, 503).await;
    let left_out_after = silent_since.elapsed();
    assert!(refused.field(HeaderName::RetryAfter).is_some(), "RFC 3261 §21.5.4");
    // The last probe was answered up to one interval before.
    let silence = INTERVAL * (ALLOWED_MISS_COUNT + 1);
    assert!(left_out_after >= silence - INTERVAL, "{left_out_after:?}");
    assert!(left_out_after <= silence + 2 * INTERVAL, "{left_out_after:?}");

    alive.store(true, Ordering::Relaxed);
    let back_since = Instant::now();
    until_answered(&phone, 200).await;
    assert!(back_since.elapsed() <= 4 * INTERVAL, "{:?}", back_since.elapsed());
}
