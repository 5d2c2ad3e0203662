//! The HTTP port of a container, with an application that answers what a test wants, when it wants.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use container::http_port::{
    HttpApplication, HttpBody, HttpHandle, HttpPort, HttpRoute, HttpSettings, NotServed, Place,
    StreamPlace, limits,
};
use container::session::{
    HttpResponse, SessionApplication, SessionEffect, SessionEvent, SessionView,
};
use container::shard::SessionApplications;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;
use topology::{Incarnation, KeyRing};

use crate::Container;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Says `hello`; to `/app/wait` not before it may; to `/app/works-on` neither, and goes on when its client has
/// gone; to `/app/mimics` with what only containers say.
struct Hello {
    may_answer: Semaphore,
}

impl HttpApplication for Hello {
    fn name(&self) -> &str {
        "hello@1.0.0"
    }

    fn has_sessions(&self) -> bool {
        false
    }

    fn http_session_key<'a>(
        &'a self,
        _head: &'a http::request::Parts,
    ) -> BoxFuture<'a, Result<Option<Bytes>, NotServed>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn serve(
        self: Arc<Self>,
        request: http::Request<HttpBody>,
        place: StreamPlace,
    ) -> BoxFuture<'static, Result<http::Response<HttpBody>, NotServed>> {
        async move {
            match request.uri().path() {
                "/app/busy" => return Err(NotServed::Busy),
                "/app/fails" => return Err(NotServed::Failed),
                "/app/wait" => self.may_answer.acquire().await.unwrap().forget(),
                "/app/works-on" => {
                    let work = async move {
                        self.may_answer.acquire().await.unwrap().forget();
                        drop(place);
                    };
                    tokio::spawn(work).await.unwrap();
                }
                _ => {}
            }
            let body = Full::new(Bytes::from_static(b"hello"));
            let mut response =
                http::Response::new(body.map_err(|never| match never {}).boxed_unsync());
            if request.uri().path() == "/app/mimics" {
                for name in ["outlast-not-handled", "outlast-hops"] {
                    response.headers_mut().insert(name, http::HeaderValue::from_static("1"));
                }
            }
            Ok(response)
        }
        .boxed()
    }
}

/// Its sessions answer when they may.
struct Patient {
    begun: AtomicUsize,
    may_answer: Semaphore,
}

impl HttpApplication for Patient {
    fn name(&self) -> &str {
        "patient@1"
    }

    fn has_sessions(&self) -> bool {
        true
    }

    fn http_session_key<'a>(
        &'a self,
        _head: &'a http::request::Parts,
    ) -> BoxFuture<'a, Result<Option<Bytes>, NotServed>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn serve(
        self: Arc<Self>,
        _request: http::Request<HttpBody>,
        _place: StreamPlace,
    ) -> BoxFuture<'static, Result<http::Response<HttpBody>, NotServed>> {
        std::future::ready(Err(NotServed::Failed)).boxed()
    }
}

impl SessionApplication for Patient {
    fn name(&self) -> &str {
        "patient@1"
    }

    fn accepts(&self, _request: &sip::Message) -> bool {
        false
    }

    fn on_event<'a>(
        &'a self,
        _session: &'a SessionView,
        _event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        async {
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.may_answer.acquire().await.unwrap().forget();
            vec![SessionEffect::HttpRespond(HttpResponse::new(200))]
        }
        .boxed()
    }
}

struct Served {
    container: Container,
    application: Arc<Hello>,
    port: HttpPort,
    handle: HttpHandle,
}

impl Served {
    /// An application is deployed.
    fn start(listen: SocketAddr, listened: Option<SocketAddr>) -> Served {
        let container = Container::start();
        let settings = HttpSettings {
            listen: Some(listen),
            listened,
            socket: container.directory.path().join("c1.http"),
            own: Incarnation(7),
            keys: KeyRing::new([1; 32]),
        };
        let port = HttpPort::start(settings, container.handle.clone()).unwrap();
        let handle = port.handle();
        assert_eq!(*handle.address().borrow(), None, "there is nothing to be served yet");
        let application = Arc::new(Hello { may_answer: Semaphore::new(0) });
        let place = |path: &str| Place { path: path.to_owned(), host: None };
        let route = |application: &Arc<Hello>, path| {
            let application = Arc::<Hello>::clone(application);
            HttpRoute::new(application, place(path), "SESSION".to_owned(), 1024)
        };
        let other = Arc::new(Hello { may_answer: Semaphore::new(0) });
        handle.routes(vec![route(&application, "/app"), route(&other, "/other")]);
        Served { container, application, port, handle }
    }

    async fn address(&self) -> SocketAddr {
        let mut address = self.handle.address();
        let listens = address.wait_for(Option::is_some);
        tokio::time::timeout(LONG, listens).await.expect("it listens").unwrap().unwrap()
    }
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Asks on a connection that is kept.
fn ask(stream: &mut TcpStream, path: &str) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
}

/// The answer up to its end: all have a length.
fn answer(stream: &mut impl Read) -> String {
    let mut octets = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&octets).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize =
                length.unwrap_or_else(|| panic!("no length: {head}")).parse().unwrap();
            if body.len() == length {
                return text;
            }
        }
        let mut some = [0; 1024];
        let read = stream.read(&mut some).unwrap();
        assert!(read > 0, "ended in the middle: {text:?}");
        octets.extend_from_slice(&some[..read]);
    }
}

async fn asked(address: SocketAddr, path: &'static str) -> String {
    let asking = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        ask(&mut stream, path);
        answer(&mut stream)
    };
    tokio::task::spawn_blocking(asking).await.unwrap()
}

#[tokio::test]
async fn what_cannot_be_answered_is_said_with_what_to_do() {
    let served = Served::start(any(), None);
    let address = served.address().await;
    let hello = asked(address, "/app").await;
    assert!(hello.starts_with("http/1.1 200") && hello.ends_with("\r\n\r\nhello"), "{hello}");
    let busy = asked(address, "/app/busy").await;
    assert!(busy.starts_with("http/1.1 503") && busy.contains("retry-after: "), "{busy}");
    assert!(asked(address, "/app/fails").await.starts_with("http/1.1 500"));
    assert!(asked(address, "/application").await.starts_with("http/1.1 404"));
    served.port.end().await;
    assert!(TcpStream::connect(address).is_err(), "the port is free");
}

#[tokio::test]
async fn no_application_says_for_its_container_that_nothing_was_done() {
    let served = Served::start(any(), None);
    let socket = served.container.directory.path().join("c1.http");
    let asked = |path: &'static str| {
        let socket = socket.clone();
        let asking = move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream.read_exact(&mut [0; 1]).unwrap(); // the greeting
            write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\nOutlast-Hops: 1\r\n\r\n").unwrap();
            answer(&mut stream)
        };
        async { tokio::task::spawn_blocking(asking).await.unwrap() }
    };
    let mimicked = asked("/app/mimics").await;
    assert!(mimicked.starts_with("http/1.1 200") && !mimicked.contains("outlast-"), "{mimicked}");
    let busy = asked("/app/busy").await;
    assert!(busy.starts_with("http/1.1 503") && busy.contains("outlast-not-handled: "), "{busy}");
}

#[tokio::test]
async fn ipv6_is_served_too() {
    let served = Served::start("[::1]:0".parse().unwrap(), None);
    let address = served.address().await;
    assert!(address.is_ipv6());
    assert!(asked(address, "/app").await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_had_when_it_is_free_and_the_one_before_is_had_again() {
    let taken = TcpListener::bind(any()).unwrap();
    let address = taken.local_addr().unwrap();
    let served = Served::start(address, None);
    tokio::time::timeout(Duration::from_millis(200), served.address()).await.unwrap_err();
    drop(taken);
    assert_eq!(served.address().await, address);
    served.port.end().await;
    let again = Served::start(any(), Some(address));
    assert_eq!(again.address().await, address);
    let other = Served::start(any(), Some(address));
    assert_ne!(other.address().await, address, "somebody else has it");
}

#[tokio::test]
async fn a_draining_container_keeps_no_connection_and_ends_behind_its_last_answer() {
    let served = Served::start(any(), None);
    let address = served.address().await;
    let mut kept = TcpStream::connect(address).unwrap();
    ask(&mut kept, "/app");
    assert!(!answer(&mut kept).contains("connection: close"));
    let mut waits = TcpStream::connect(address).unwrap();
    ask(&mut waits, "/app/wait");
    while served.handle.under_way() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    served.handle.drain(LONG);
    ask(&mut kept, "/app");
    assert!(answer(&mut kept).contains("connection: close"));
    assert_eq!(kept.read(&mut [0; 1]).unwrap(), 0);
    let end = tokio::spawn(served.port.end());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!end.is_finished(), "somebody waits for an answer");
    served.application.may_answer.add_permits(1);
    assert!(answer(&mut waits).ends_with("hello"));
    tokio::time::timeout(LONG, end).await.expect("nobody waits any more").unwrap();
    drop(served.container);
}

#[tokio::test]
async fn a_connection_too_many_is_refused_and_has_its_turn_when_another_ends() {
    let needed = 3 * limits::CONNECTIONS_MAX as u64;
    let limit = getrlimit(Resource::Nofile);
    let raised =
        Rlimit { current: Some(limit.maximum.map_or(needed, |max| max.min(needed))), ..limit };
    setrlimit(Resource::Nofile, raised).unwrap();
    let served = Served::start(any(), None);
    let address = served.address().await;
    let mut held = Vec::new();
    for number in 1..=limits::CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(address).unwrap();
        // No more of them wait to be accepted than the system keeps.
        if number % 128 == 0 {
            ask(&mut stream, "/app");
            answer(&mut stream);
        }
        held.push(stream);
    }
    let mut refused = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("Retry-After: "), "{refused}");
    held.truncate(limits::CONNECTIONS_MAX / 2);
    let began = std::time::Instant::now();
    while !asked_or_refused(address).await {
        assert!(began.elapsed() < LONG, "no room is made");
    }
}

/// Whether it was answered.
async fn asked_or_refused(address: SocketAddr) -> bool {
    let asking = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let asked = write!(stream, "GET /app HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        asked.is_ok() && stream.read_to_string(&mut text).is_ok() && text.contains("200 OK")
    };
    tokio::task::spawn_blocking(asking).await.unwrap()
}

#[tokio::test]
async fn a_flood_of_requests_to_one_application_leaves_room_for_the_others() {
    let served = Served::start(any(), None);
    let address = served.address().await;
    let flood = || {
        let mut stream = TcpStream::connect(address).unwrap();
        ask(&mut stream, "/app/wait");
        stream
    };
    let mut waiting: Vec<_> = (0..limits::STREAMED_OF_ONE_MAX).map(|_| flood()).collect();
    while served.handle.under_way() < limits::STREAMED_OF_ONE_MAX as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let more = asked(address, "/app").await;
    assert!(more.starts_with("http/1.1 503") && more.contains("retry-after: "), "{more}");
    assert!(asked(address, "/other").await.starts_with("http/1.1 200"));
    served.application.may_answer.add_permits(waiting.len());
    for stream in &mut waiting {
        assert!(answer(stream).starts_with("http/1.1 200"));
    }
    assert!(asked(address, "/app").await.starts_with("http/1.1 200"));
}

/// Waits for what comes soon.
async fn until(is_so: impl Fn() -> bool) {
    let soon = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, soon).await.expect("it comes");
}

#[tokio::test]
async fn an_event_has_its_turn_until_it_is_handled_although_its_client_has_gone() {
    let served = Served::start(any(), None);
    let patient = Arc::new(Patient { begun: AtomicUsize::new(0), may_answer: Semaphore::new(0) });
    let hosted: Arc<dyn SessionApplication> = Arc::<Patient>::clone(&patient);
    served.container.handle.applications(SessionApplications::new(vec![hosted])).await;
    let place = Place { path: "/patient".to_owned(), host: None };
    let routed = Arc::<Patient>::clone(&patient);
    served.handle.routes(vec![HttpRoute::new(routed, place, "SESSION".to_owned(), 1024)]);
    let address = served.address().await;
    let begun = || patient.begun.load(Ordering::SeqCst);
    let gone: Vec<_> = (0..limits::HANDLED_OF_ONE_MAX)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            ask(&mut stream, "/patient");
            stream
        })
        .collect();
    until(|| begun() == limits::HANDLED_OF_ONE_MAX).await;
    drop(gone);
    until(|| served.handle.under_way() == 0).await;
    let stays = tokio::spawn(asked(address, "/patient"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(begun(), limits::HANDLED_OF_ONE_MAX, "no more are handled at a time");
    patient.may_answer.add_permits(limits::HANDLED_OF_ONE_MAX + 1);
    assert!(stays.await.unwrap().starts_with("http/1.1 200"));
}

#[tokio::test]
async fn work_without_a_session_has_its_place_until_it_ends_although_its_client_has_gone() {
    let served = Served::start(any(), None);
    let address = served.address().await;
    let begin = || {
        let mut stream = TcpStream::connect(address).unwrap();
        ask(&mut stream, "/app/works-on");
        stream
    };
    let gone: Vec<_> = (0..limits::STREAMED_OF_ONE_MAX).map(|_| begin()).collect();
    until(|| served.handle.under_way() == limits::STREAMED_OF_ONE_MAX as u64).await;
    // Each of them has begun: further ones are refused.
    assert!(asked(address, "/app").await.starts_with("http/1.1 503"));
    drop(gone);
    until(|| served.handle.under_way() == 0).await;
    assert!(asked(address, "/app").await.starts_with("http/1.1 503"), "all of them work on");
    served.application.may_answer.add_permits(limits::STREAMED_OF_ONE_MAX);
    let began = std::time::Instant::now();
    while !asked(address, "/app").await.starts_with("http/1.1 200") {
        assert!(began.elapsed() < LONG, "no room is made");
    }
}
