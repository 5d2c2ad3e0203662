//! The thread that serves HTTP: listens, accepts, and ends in order.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use topology::token::OwnerToken;
use topology::{Incarnation, KeyRing, TopologyView};
use tracing::{debug, info, warn};
use transport::tls::TlsStream;

use super::cookie::Cookies;
use super::desk::{Desk, Room};
use super::forwarding::GREETING;
use super::hops::Sender;
use super::paced::Paced;
use super::routing::Routes;
use super::secured::Secured;
use super::{HttpRoute, answers, limits};
use crate::server::ServerHandle;

/// Connections of other nodes that have not been looked at yet.
const NEIGHBOURS_WAITING_MAX: usize = 64;

/// What the HTTP port of a container is told at its start.
#[derive(Clone)]
pub struct HttpSettings {
    /// Where it listens, as soon as an application is served; `None`: it does not. Port 0 is any free one.
    pub listen: Option<SocketAddr>,
    /// Where it listened in its last life: tried first if any port will do.
    pub listened: Option<SocketAddr>,
    /// Where other containers forward requests to; a stale one is replaced.
    pub socket: PathBuf,
    /// Which life of the container it is.
    pub own: Incarnation,
    /// The node's secrets.
    pub keys: KeyRing,
}

/// What is to be done with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Serving,
    /// Sessions that live are served, new ones begin elsewhere; no connection is kept.
    Draining {
        until: Instant,
    },
    /// What is being answered is answered.
    Ending {
        until: Instant,
    },
}

/// The HTTP port of a container.
pub struct HttpPort {
    handle: HttpHandle,
    thread: JoinHandle<()>,
}

/// By what other containers come.
struct Neighbours {
    unix: UnixListener,
    /// Those of other nodes.
    secured: mpsc::Receiver<TlsStream<std::net::TcpStream>>,
}

/// Tells the port what to do.
#[derive(Clone)]
pub struct HttpHandle {
    routes: watch::Sender<Routes>,
    views: watch::Sender<TopologyView>,
    credentials: watch::Sender<Option<Arc<ClientConfig>>>,
    neighbours: mpsc::Sender<TlsStream<std::net::TcpStream>>,
    stage: watch::Sender<Stage>,
    address: watch::Receiver<Option<SocketAddr>>,
    under_way: Arc<AtomicU64>,
}

impl HttpPort {
    /// Serves HTTP for a container, on a thread of its own.
    ///
    /// # Errors
    /// There is no thread to be had, or the socket for other containers cannot be made.
    pub fn start(settings: HttpSettings, container: ServerHandle) -> io::Result<HttpPort> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let unix = {
            let _inside = runtime.enter();
            listen_for_neighbours(&settings.socket)?
        };
        let (routes, told_routes) = watch::channel(Routes::from([]));
        let (views, told_view) = watch::channel(TopologyView::default());
        let (stage, told_stage) = watch::channel(Stage::Serving);
        let (credentials, told_credentials) = watch::channel(None);
        let (bound, address) = watch::channel(None);
        let (neighbours, secured) = mpsc::channel(NEIGHBOURS_WAITING_MAX);
        let under_way = Arc::new(AtomicU64::new(0));
        let owner = OwnerToken { incarnation: settings.own, shard: 0 };
        let desk = Desk {
            routes: told_routes,
            view: told_view,
            stage: told_stage,
            container,
            own: settings.own,
            credentials: told_credentials,
            cookies: Cookies::new(&settings.keys, owner),
            room: Room::new(Arc::clone(&under_way)),
        };
        let run = move || {
            runtime.block_on(serve(settings, Arc::new(desk), Neighbours { unix, secured }, bound));
            // What is not answered by now is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(run)?;
        let handle =
            HttpHandle { routes, views, credentials, neighbours, stage, address, under_way };
        Ok(HttpPort { handle, thread })
    }

    /// For whoever tells it what to do.
    pub fn handle(&self) -> HttpHandle {
        self.handle.clone()
    }

    /// The container has ended: answers what is being answered, until the deadline of the drain if there was one.
    pub async fn end(self) {
        let until = match *self.handle.stage.borrow() {
            Stage::Serving => Instant::now() + limits::LAST_ANSWERS_MAX,
            Stage::Draining { until } | Stage::Ending { until } => until,
        };
        self.handle.stage.send_replace(Stage::Ending { until });
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(ended, Ok(Ok(()))) {
            warn!("the thread that serves HTTP has panicked");
        }
    }
}

impl HttpHandle {
    /// These applications are served from now on, asked in this order.
    pub fn routes(&self, routes: Vec<HttpRoute>) {
        self.routes.send_replace(routes.into());
    }

    /// The topology has changed.
    pub fn view(&self, view: TopologyView) {
        self.views.send_replace(view);
    }

    /// Requests that belong to containers of other nodes are forwarded there with these from now on.
    pub fn credentials(&self, credentials: Arc<ClientConfig>) {
        self.credentials.send_replace(Some(credentials));
    }

    /// A container of another node has come, and proved that it is one. If too many wait already it is not greeted, and
    /// tries again.
    pub(crate) fn neighbour(&self, stream: TlsStream<std::net::TcpStream>) {
        if self.neighbours.try_send(stream).is_err() {
            debug!("a container of another node was turned away: too many at a time");
        }
    }

    /// Where it listens, once it does.
    pub fn address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.address.clone()
    }

    /// Requests that are being answered.
    pub fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// The container begins no sessions any more; what is being answered may take until the deadline.
    pub fn drain(&self, deadline_in: Duration) {
        self.stage.send_replace(Stage::Draining { until: Instant::now() + deadline_in });
    }
}

async fn serve(
    settings: HttpSettings,
    desk: Arc<Desk>,
    neighbours: Neighbours,
    bound: watch::Sender<Option<SocketAddr>>,
) {
    let mut stage = desk.stage.clone();
    let connections = Arc::new(());
    let strangers = accept_strangers(&settings, &desk, &connections, &bound);
    let Neighbours { unix, mut secured } = neighbours;
    let from_neighbours = accept_neighbours(&unix, &mut secured, &desk, &connections);
    let is_ending = |stage: &Stage| matches!(stage, Stage::Ending { .. });
    let end = tokio::select! {
        () = strangers => return,
        () = from_neighbours => return,
        end = stage.wait_for(is_ending) => end.map(|stage| *stage),
    };
    let until = match end {
        Ok(Stage::Ending { until } | Stage::Draining { until }) => until,
        Ok(Stage::Serving) | Err(_) => Instant::now(),
    };
    drop(std::fs::remove_file(&settings.socket));
    let all_closed = async {
        while Arc::strong_count(&connections) > 1 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout_at(until, all_closed).await.is_err() {
        info!(left = Arc::strong_count(&connections) - 1, "HTTP connections were cut off");
    }
}

/// Listens as soon as there is something to be served; never ends.
async fn accept_strangers(
    settings: &HttpSettings,
    desk: &Arc<Desk>,
    connections: &Arc<()>,
    bound: &watch::Sender<Option<SocketAddr>>,
) {
    let mut routes = desk.routes.clone();
    if routes.wait_for(|routes| !routes.is_empty()).await.is_err() {
        return std::future::pending().await; // the container ends
    }
    let listener = match settings.listen {
        Some(address) => bind(address, settings.listened).await,
        None => return std::future::pending().await,
    };
    let address = listener.local_addr().ok();
    if let Some(address) = address {
        info!(%address, "serving HTTP");
    }
    bound.send_replace(address);
    let room = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept an HTTP connection");
                sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(room) => {
                // Answers are written in one piece.
                let _without = stream.set_nodelay(true);
                let held = (room, Arc::clone(connections));
                tokio::spawn(converse(
                    Paced::new(stream),
                    Sender::Stranger,
                    Arc::clone(desk),
                    held,
                ));
            }
            Err(_) => refuse(stream),
        }
    }
}

/// What fits into the socket's buffer, and an end.
fn refuse(stream: TcpStream) {
    debug!(max = limits::CONNECTIONS_MAX, "too many HTTP connections; refused one");
    let refused = stream.into_std().and_then(|mut stream| stream.write_all(&answers::refusal()));
    if let Err(error) = refused {
        debug!(%error, "it was not told");
    }
}

/// Takes the port, however long somebody else has it.
async fn bind(address: SocketAddr, last: Option<SocketAddr>) -> TcpListener {
    let last = last.filter(|last| address.port() == 0 && last.ip() == address.ip());
    if let Some(last) = last
        && let Ok(listener) = TcpListener::bind(last).await
    {
        return listener;
    }
    let mut is_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    warn!(%address, %error, "cannot serve HTTP yet, trying on: free the address, or set container.http in outlast.toml");
                }
                sleep(limits::BIND_PAUSE).await;
            }
        }
    }
}

async fn accept_neighbours(
    unix: &UnixListener,
    secured: &mut mpsc::Receiver<TlsStream<std::net::TcpStream>>,
    desk: &Arc<Desk>,
    connections: &Arc<()>,
) {
    let room = Arc::new(Semaphore::new(limits::NEIGHBOURS_MAX));
    loop {
        let Ok(room) = Arc::clone(&room).acquire_owned().await else {
            return; // never closed
        };
        let held = (room, Arc::clone(connections));
        let desk = Arc::clone(desk);
        let accepted = tokio::select! {
            accepted = unix.accept() => {
                accepted.map(|(stream, _)| tokio::spawn(greet(stream, desk, held)))
            }
            Some(stream) = secured.recv() => {
                Secured::new(stream).map(|stream| tokio::spawn(greet(stream, desk, held)))
            }
        };
        if let Err(error) = accepted {
            warn!(%error, "cannot accept a connection of another container");
            sleep(limits::ACCEPT_PAUSE).await;
        }
    }
}

async fn greet<S>(mut stream: S, desk: Arc<Desk>, held: (OwnedSemaphorePermit, Arc<()>))
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let greeted = async {
        stream.write_all(GREETING).await?;
        stream.flush().await
    };
    if greeted.await.is_ok() {
        converse(stream, Sender::Neighbour, desk, held).await;
    }
}

/// Serves a connection to its end.
async fn converse<S>(
    stream: S,
    sender: Sender,
    desk: Arc<Desk>,
    _held: (OwnedSemaphorePermit, Arc<()>),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stage = desk.stage.clone();
    let answer = move |request: Request<Incoming>| {
        let desk = Arc::clone(&desk);
        async move { desk.answer(request, sender).await }
    };
    let is_kept = sender == Sender::Stranger;
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .keep_alive(is_kept)
        .header_read_timeout(limits::HEAD_TIME_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .max_headers(limits::HEADERS_MAX);
    let connection = protocol.serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = std::pin::pin!(connection);
    let ending = async {
        let is_ending = |stage: &Stage| matches!(stage, Stage::Ending { .. });
        drop(stage.wait_for(is_ending).await);
        if !is_kept {
            std::future::pending().await // its one request is on its way, and is answered
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ending => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP connection broke off");
    }
}

/// The socket for other containers, for the node's owner only.
fn listen_for_neighbours(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
