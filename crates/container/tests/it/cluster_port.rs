//! The port of a container for other nodes: links and HTTP by TLS, and who gets neither.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use container::cluster_port::{ClusterPort, ClusterPortSettings, PROTOCOLS};
use container::http_port::{
    HttpApplication, HttpBody, HttpPort, HttpRoute, HttpSettings, NotServed, Place, StreamPlace,
};
use container::session::{
    HttpResponse, SessionApplication, SessionEffect, SessionEvent, SessionView,
};
use container::shard::SessionApplications;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use state::engine::fake::FakeStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use topology::credentials::{
    ALPN_HTTP, ALPN_LINK, ALPN_PEER, Authority, ClusterDirectory, NodeCredentials, server_name,
};
use topology::{
    Incarnation, KeyRing, NodeEntry, NodeNumber, NodeState, ProcessEntry, ProcessName,
    ProcessState, ProcessType, TopologyView,
};

use crate::Container;
use crate::fake_edge::{FakeEdge, request};

const EDGE: &str = "127.0.0.1:5060";
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Who certifies the nodes of a cluster.
struct Cluster {
    authority: Authority,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Cluster {
        let authority = Authority::make(now()).unwrap();
        Cluster { authority, directory: tempfile::tempdir().unwrap() }
    }

    fn node(&self, name: &str) -> NodeCredentials {
        let files = ClusterDirectory::of_node(&self.directory.path().join(name));
        std::fs::create_dir_all(files.path()).unwrap();
        self.authority.write(&files).unwrap();
        self.authority.issue(&files, name, IpAddr::from([127, 0, 0, 1]), now()).unwrap();
        NodeCredentials::load(files.path()).unwrap()
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// A container of a node of a cluster.
struct Member {
    container: Container,
    http: HttpPort,
    port: ClusterPort,
    room: Arc<Room>,
}

impl Member {
    fn start(cluster: &Cluster, node: &str, life: u64, store: FakeStore) -> Member {
        let container = Container::living(Incarnation(life), store);
        let settings = HttpSettings {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            listened: None,
            socket: container.directory.path().join("c1.http"),
            own: Incarnation(life),
            keys: KeyRing::new([1; 32]),
        };
        let http = HttpPort::start(settings, container.handle.clone()).unwrap();
        let credentials = cluster.node(node);
        http.handle().credentials(credentials.client_config(ALPN_HTTP).unwrap());
        let settings = ClusterPortSettings {
            host: IpAddr::from([127, 0, 0, 1]),
            ports: None,
            last: None,
            tls: credentials.server_config(&PROTOCOLS).unwrap(),
            silence_max: Duration::from_secs(5),
        };
        let port = ClusterPort::start(settings, container.handle.clone(), http.handle()).unwrap();
        let room = Arc::new(Room { node: node.to_owned() });
        let place = Place { path: "/room".to_owned(), host: None };
        let routed = Arc::<Room>::clone(&room);
        http.handle().routes(vec![HttpRoute::new(routed, place, "SESSION".to_owned(), 64 * 1024)]);
        Member { container, http, port, room }
    }

    async fn learns(&self, view: TopologyView) {
        let hosted: Arc<dyn SessionApplication> = Arc::<Room>::clone(&self.room);
        self.container.handle.applications(SessionApplications::new(vec![hosted])).await;
        self.http.handle().view(view.clone());
        self.container.handle.view(view).await;
    }

    /// What a client is answered that posts this.
    async fn asked(&self, body: String) -> String {
        let mut address = self.http.handle().address();
        let listens = address.wait_for(Option::is_some);
        let address = tokio::time::timeout(LONG, listens).await.unwrap().unwrap().unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let head = format!(
            "POST /room HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(LONG, read).await.expect("an answer").unwrap();
        answer
    }
}

/// A connection to the port, by TLS with these credentials.
async fn connect(
    to: &ClusterPort,
    credentials: &NodeCredentials,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to.address()).await.unwrap();
    let connector = TlsConnector::from(credentials.client_config(protocol).unwrap());
    connector.connect(server_name("node1").unwrap(), stream).await
}

#[tokio::test]
async fn an_edge_of_another_node_has_a_link_like_any() {
    let cluster = Cluster::new();
    let member = Member::start(&cluster, "node1", 7, FakeStore::default());
    let stream = connect(&member.port, &cluster.node("node2"), ALPN_LINK).await.unwrap();
    let mut edge = FakeEdge::over(Box::new(stream), EDGE).await;
    edge.heartbeats(2).await;
    for n in 0..200 {
        edge.offer(request("OPTIONS", "answer@x", &format!("b{n}"))).await;
    }
    for _ in 0..200 {
        assert_eq!(edge.sent_final().await, "200");
    }
    edge.all_taken().await;
}

#[tokio::test]
async fn who_is_no_member_gets_in_nowhere_and_holds_up_nobody() {
    let (cluster, strangers) = (Cluster::new(), Cluster::new());
    let member = Member::start(&cluster, "node1", 7, FakeStore::default());
    // Whoever begins and does not go on.
    let mut mute = Vec::new();
    for _ in 0..200 {
        mute.push(TcpStream::connect(member.port.address()).await.unwrap());
    }
    let is_ended = |mut stream: TcpStream| async move {
        let mut said = Vec::new();
        let ended = stream.read_to_end(&mut said);
        drop(tokio::time::timeout(LONG, ended).await.expect("it is ended"));
    };
    let mut plain = TcpStream::connect(member.port.address()).await.unwrap();
    plain.write_all(b"OPTIONS sip:x SIP/2.0\r\n\r\n").await.unwrap();
    is_ended(plain).await;
    for stream in mute {
        is_ended(stream).await;
    }
    // By TLS 1.3 the client hears last that it is refused.
    for (credentials, protocol) in
        [(strangers.node("node2"), ALPN_LINK), (cluster.node("node2"), ALPN_PEER)]
    {
        if let Ok(mut stream) = connect(&member.port, &credentials, protocol).await {
            let ended = tokio::time::timeout(LONG, stream.read(&mut [0; 64])).await;
            assert!(!matches!(ended.expect("it is ended"), Ok(1..)), "somebody answers");
        }
    }
    let stream = connect(&member.port, &cluster.node("node2"), ALPN_LINK).await.unwrap();
    FakeEdge::over(Box::new(stream), EDGE).await.heartbeats(1).await;
    // One that was removed has its certificate still.
    member.port.admit_only(vec!["node1".to_owned(), "node3".to_owned()]);
    if let Ok(mut stream) = connect(&member.port, &cluster.node("node2"), ALPN_LINK).await {
        let ended = tokio::time::timeout(LONG, stream.read(&mut [0; 64])).await;
        assert!(!matches!(ended.expect("it is ended"), Ok(1..)), "somebody answers");
    }
    let stream = connect(&member.port, &cluster.node("node3"), ALPN_LINK).await.unwrap();
    FakeEdge::over(Box::new(stream), EDGE).await.heartbeats(1).await;
}

#[tokio::test]
async fn handshakes_that_do_not_end_leave_room_for_those_of_other_hosts() {
    let cluster = Cluster::new();
    let member = Member::start(&cluster, "node1", 7, FakeStore::default());
    let mut mute = Vec::new();
    for _ in 0..100 {
        mute.push(TcpStream::connect(member.port.address()).await.unwrap());
    }
    let begun = Instant::now();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(member.port.address()).await.unwrap();
    let credentials = cluster.node("node2").client_config(ALPN_LINK).unwrap();
    let name = server_name("node1").unwrap();
    let stream = TlsConnector::from(credentials).connect(name, stream).await.unwrap();
    FakeEdge::over(Box::new(stream), EDGE).await.heartbeats(1).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "the others have three seconds each");
    drop(mute);
}

/// One session for everybody; it says on which node it is, and how much it was told.
struct Room {
    node: String,
}

impl HttpApplication for Room {
    fn name(&self) -> &str {
        "room@1"
    }

    fn has_sessions(&self) -> bool {
        true
    }

    fn http_session_key<'a>(
        &'a self,
        _head: &'a http::request::Parts,
    ) -> BoxFuture<'a, Result<Option<Bytes>, NotServed>> {
        std::future::ready(Ok(Some(Bytes::from_static(b"room")))).boxed()
    }

    fn serve(
        self: Arc<Self>,
        _request: http::Request<HttpBody>,
        _place: StreamPlace,
    ) -> BoxFuture<'static, Result<http::Response<HttpBody>, NotServed>> {
        std::future::ready(Err(NotServed::Failed)).boxed()
    }
}

impl SessionApplication for Room {
    fn name(&self) -> &str {
        "room@1"
    }

    fn accepts(&self, _request: &sip::Message) -> bool {
        false
    }

    fn on_event<'a>(
        &'a self,
        _session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        async move {
            let SessionEvent::Http(request) = event else { return Vec::new() };
            let said = format!("{} of {}", request.body.len(), self.node);
            vec![
                SessionEffect::Set { name: "last".to_owned(), value: Bytes::from(said.clone()) },
                SessionEffect::HttpRespond(HttpResponse {
                    body: Bytes::from(said),
                    ..HttpResponse::new(200)
                }),
            ]
        }
        .boxed()
    }
}

/// What the containers of node1 (life 7) and of node2 (life 8) see of each other.
fn view(
    own: &str,
    version: u64,
    members: &[(&str, u64, SocketAddr, ProcessState)],
) -> TopologyView {
    let processes = members.iter().map(|(node, life, address, state)| ProcessEntry {
        name: match *node == own {
            true => ProcessName::new("c1"),
            false => ProcessName::new(format!("c1@{node}")),
        },
        process_type: ProcessType::Container,
        incarnation: Incarnation(*life),
        pid: None,
        state: *state,
        restarts: 0,
        link: None,
        link_address: Some(*address),
        addresses: Vec::new(),
        weight: 100,
        is_silent: false,
        http: None,
    });
    let nodes = (0..).zip(members).map(|(number, (node, ..))| NodeEntry {
        name: (*node).to_owned(),
        number: NodeNumber::new(number).unwrap(),
        state: NodeState::Up,
        address: "127.0.0.1:6200".parse().unwrap(),
        last_life: Incarnation(0),
        runs_with: topology::RunsWith::default(),
    });
    TopologyView {
        version,
        node: own.to_owned(),
        processes: processes.collect(),
        nodes: nodes.collect(),
        numbers_given: 2,
        format_level: topology::FormatLevel::FIRST,
    }
}

#[tokio::test]
async fn a_request_goes_to_its_sessions_container_on_another_node() {
    let (cluster, store) = (Cluster::new(), FakeStore::default());
    let second_life = topology::Incarnation::of_node(NodeNumber::new(1).unwrap(), 8).0;
    let one = Member::start(&cluster, "node1", 7, store.clone());
    let two = Member::start(&cluster, "node2", second_life, store);
    let members = [
        ("node1", 7, one.port.address(), ProcessState::Ready),
        ("node2", second_life, two.port.address(), ProcessState::Ready),
    ];
    one.learns(view("node1", 1, &members)).await;
    two.learns(view("node2", 1, &members)).await;
    let first = one.asked("hello".to_owned()).await;
    assert!(first.starts_with("HTTP/1.1 200") && first.ends_with("5 of node1"), "{first}");
    let forwarded = two.asked("x".repeat(50_000)).await;
    assert!(forwarded.ends_with("50000 of node1"), "{forwarded}");
    assert!(!forwarded.to_ascii_lowercase().contains("outlast-"), "{forwarded}");
    // Its node is lost: the session is that one's which is asked.
    drop(one.port);
    let mut members = members;
    members[0].3 = ProcessState::Down;
    two.learns(view("node2", 2, &members)).await;
    let taken_over = two.asked("again".to_owned()).await;
    assert!(taken_over.ends_with("5 of node2"), "{taken_over}");
}
