//! A client of etcd 3.4 and later, by its JSON gateway (`/v3/…`).
//!
//! One request, one attempt, one member: `Client::call`. Whom it asks next is turned on by each failure, so whoever may
//! ask again (`Client::ask`: what changes nothing) reaches a member that answers. What may have changed something is
//! told apart from what has not ([`ClientError::is_in_doubt`]), since only its caller knows how to find out.
//!
//! A member that has lost its leader refuses at once instead of holding requests back (`hasleader`). Deadlines are kept
//! here and told to the member as well. Bodies are bounded by [`BODY_BYTES_MAX`].
//!
//! - `connection`: TCP, TLS, HTTP. - `login`: a user and the password, where etcd asks for them.
//! - [`messages`]: what is asked and answered. - `watch`: changes as they happen.
//!
//! Deliberately absent: gRPC (its client needs protoc to be built); users by the names in certificates, which the gateway does not
//! pass on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use connection::Connection;
use login::Tokens;
use messages::{
    LeaseGranted, LeaseKept, Member, MemberList, Nothing, Range, RangeResponse, Status, Streamed,
    Txn, TxnResponse, Wrong,
};

mod connection;
mod error;
mod login;
pub mod messages;
mod watch;

pub use error::ClientError;
pub use login::Login;
pub use watch::WatchStream;

/// The longest answer; it is for two of the largest values, and pages are chosen to be far shorter.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Connections that wait for the next request.
const IDLE_MAX: usize = 4;
/// How long a failed round rests before the next, so that a member that starts is not stormed.
const PAUSE: Duration = Duration::from_millis(50);

/// One member, as clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// By which its certificate is checked; not used without TLS.
    pub server_name: Option<ServerName<'static>>,
}

/// How etcd is reached.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The members; those that are known now ([`Client::set_endpoints`]).
    pub endpoints: Vec<Endpoint>,
    /// Who we are, and whom we believe. `None`: plaintext, for tests and an operator's own loopback.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// As whom, where etcd has users.
    pub login: Option<Login>,
    /// How long one member has for one request.
    pub request_timeout: Duration,
}

/// Speaks with the members of one etcd. Cheap to clone. Used within a tokio runtime.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoints: RwLock<Arc<[Endpoint]>>,
    tls: Option<Tls>,
    tokens: Option<Tokens>,
    request_timeout: Duration,
    /// Whom to ask; counts on without end.
    turn: AtomicUsize,
    idle: Mutex<Vec<(Endpoint, Connection)>>,
    /// Since when nobody answers, and what was seen last.
    away: Mutex<Option<(SystemTime, String)>>,
}

struct Tls(TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Client {
    /// Connects when first asked.
    #[must_use]
    pub fn new(options: ClientOptions) -> Client {
        let tls = options.tls.map(|config| {
            let mut config = rustls::ClientConfig::clone(&config);
            // etcd offers h2 only to whoever says what it speaks, and HTTP/1.1 to whoever does not.
            config.alpn_protocols.clear();
            Tls(TlsConnector::from(Arc::new(config)))
        });
        Client {
            shared: Arc::new(Shared {
                endpoints: RwLock::new(options.endpoints.into()),
                tls,
                tokens: options.login.map(Tokens::new),
                request_timeout: options.request_timeout,
                turn: AtomicUsize::new(0),
                idle: Mutex::default(),
                away: Mutex::default(),
            }),
        }
    }

    /// The members as they are known now.
    #[must_use]
    pub fn endpoints(&self) -> Arc<[Endpoint]> {
        // One value is replaced by another: a panic elsewhere leaves neither half-changed.
        Arc::clone(&self.shared.endpoints.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on these are the members. What is under way ends where it began.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        let mut known = self.shared.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        if **known != *endpoints {
            lock(&self.shared.idle).retain(|(endpoint, _)| endpoints.contains(endpoint));
            *known = endpoints.into();
        }
    }

    /// Where the members are, for people.
    #[must_use]
    pub fn addresses(&self) -> String {
        let endpoints = self.endpoints();
        let addresses: Vec<&str> =
            endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect();
        if addresses.is_empty() { "no known address".to_owned() } else { addresses.join(", ") }
    }

    /// Since when no member has answered, and what was seen last; `None` while one does.
    #[must_use]
    pub fn away(&self) -> Option<(SystemTime, String)> {
        lock(&self.shared.away).clone()
    }

    /// A range of keys.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn range(
        &self,
        range: &Range,
        deadline: Instant,
    ) -> Result<RangeResponse, ClientError> {
        self.ask("kv/range", range, deadline).await
    }

    /// A transaction, attempted once.
    ///
    /// # Errors
    /// [`ClientError`]; whether it was applied is open when it [is in doubt](ClientError::is_in_doubt).
    pub async fn txn(&self, txn: &Txn) -> Result<TxnResponse, ClientError> {
        self.call("kv/txn", txn).await
    }

    /// A lease of so many seconds. One that is granted to nobody ends by itself, so it may be asked for again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lease_grant(
        &self,
        seconds: u64,
        deadline: Instant,
    ) -> Result<LeaseGranted, ClientError> {
        let request = messages::LeaseGrant { seconds };
        self.ask("lease/grant", &request, deadline).await
    }

    /// Lets a lease begin anew; how many seconds it has now, `None` when it has ended.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lease_keep_alive(
        &self,
        lease: i64,
        deadline: Instant,
    ) -> Result<Option<u64>, ClientError> {
        let request = messages::LeaseId { lease };
        let kept: Streamed<LeaseKept> = self.ask("lease/keepalive", &request, deadline).await?;
        Ok(Some(kept.result.seconds).filter(|seconds| *seconds > 0))
    }

    /// Ends a lease and removes what hangs on it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`messages::CODE_NOT_FOUND`] when there is none.
    pub async fn lease_revoke(&self, lease: i64) -> Result<(), ClientError> {
        let Nothing {} = self.call("lease/revoke", &messages::LeaseId { lease }).await?;
        Ok(())
    }

    /// Who is a member, as a majority has it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn members(&self, deadline: Instant) -> Result<Vec<Member>, ClientError> {
        loop {
            let turn = self.shared.turn.load(Ordering::Relaxed);
            // A member tells who it thinks there is; behind a read that a majority has confirmed it is up with that.
            let range = Range { key: Bytes::from_static(&[0]), limit: 1, ..Range::default() };
            let _: RangeResponse = self.ask("kv/range", &range, deadline).await?;
            let list: MemberList = self.ask("cluster/member/list", &Nothing {}, deadline).await?;
            if self.shared.turn.load(Ordering::Relaxed) == turn {
                return Ok(list.members);
            }
        }
    }

    /// Adds a member that is not started yet, as one that learns: it counts for no majority until it is promoted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn member_add(&self, peer_urls: Vec<String>) -> Result<MemberList, ClientError> {
        let request = messages::MemberAdd { peer_urls, is_learner: true };
        self.call("cluster/member/add", &request).await
    }

    /// Has a member that has learned what there is count.
    ///
    /// # Errors
    /// [`ClientError`]: before it is up with the others it is refused.
    pub async fn member_promote(&self, id: u64) -> Result<(), ClientError> {
        let Nothing {} = self.call("cluster/member/promote", &messages::MemberId { id }).await?;
        Ok(())
    }

    /// Removes a member.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn member_remove(&self, id: u64) -> Result<(), ClientError> {
        let Nothing {} = self.call("cluster/member/remove", &messages::MemberId { id }).await?;
        Ok(())
    }

    /// What one member says of itself; the others are not asked.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self, endpoint: &Endpoint) -> Result<Status, ClientError> {
        self.call_at(endpoint, "maintenance/status", &Nothing {}).await
    }

    /// Whether anybody answers there, whatever: a member answers others before it serves its clients.
    pub async fn is_there(&self, endpoint: &Endpoint) -> bool {
        let deadline = Instant::now() + self.shared.request_timeout;
        self.send(None, endpoint, "", &Nothing {}, deadline).await.is_ok()
    }

    /// Asks for what changes nothing, of one member after the other until the deadline.
    ///
    /// # Errors
    /// What the last one said.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, ClientError> {
        let mut attempt = 0;
        loop {
            let error = match self.call(path, request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_transient() || Instant::now() >= deadline {
                return Err(error);
            }
            attempt += 1;
            if attempt % self.endpoints().len().max(1) == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Asks one member once; when it fails the next call asks the next.
    async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, ClientError> {
        let turn = self.shared.turn.load(Ordering::Relaxed);
        let outcome = match self.whose(turn) {
            Ok(endpoint) => self.call_at(&endpoint, path, request).await,
            Err(error) => Err(error),
        };
        match &outcome {
            Ok(_) => *lock(&self.shared.away) = None,
            Err(error) if error.is_transient() => self.turn_from(turn, error),
            // All members know the same users.
            Err(error @ ClientError::NotAdmitted { .. }) => self.is_away(error),
            // It answers, if not as wished.
            Err(_) => *lock(&self.shared.away) = None,
        }
        outcome
    }

    /// Whom to ask at that turn.
    fn whose(&self, turn: usize) -> Result<Endpoint, ClientError> {
        let endpoints = self.endpoints();
        let place = turn.checked_rem(endpoints.len());
        let endpoint = place.and_then(|place| endpoints.get(place)).cloned();
        endpoint.ok_or_else(|| ClientError::unreachable("nowhere", "no member is known yet"))
    }

    fn turn_from(&self, turn: usize, error: &ClientError) {
        // Of many that fail at the same member one turns.
        let _ =
            self.shared.turn.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
        self.is_away(error);
    }

    fn is_away(&self, error: &ClientError) {
        let mut away = lock(&self.shared.away);
        let since = away.take().map_or_else(SystemTime::now, |(since, _)| since);
        *away = Some((since, error.to_string()));
    }

    async fn call_at<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + self.shared.request_timeout;
        let token = self.token(None, endpoint, deadline).await?;
        match self.call_as(token.as_ref(), endpoint, path, request, deadline).await {
            Err(error) if token.is_some() && error.is_about_the_token() => {
                let token = self.token(token.as_ref(), endpoint, deadline).await?;
                self.call_as(token.as_ref(), endpoint, path, request, deadline).await
            }
            outcome => outcome,
        }
    }

    /// What shows who we are, other than what was refused; `None`: nothing does.
    async fn token(
        &self,
        refused: Option<&HeaderValue>,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, ClientError> {
        match &self.shared.tokens {
            None => Ok(None),
            Some(tokens) => tokens.other_than(refused, self, endpoint, deadline).await.map(Some),
        }
    }

    async fn call_as<T: DeserializeOwned>(
        &self,
        token: Option<&HeaderValue>,
        endpoint: &Endpoint,
        path: &str,
        request: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, ClientError> {
        let address = &endpoint.address;
        let (response, connection) = self.send(token, endpoint, path, request, deadline).await?;
        let status = response.status();
        let body =
            timeout_at(deadline, Limited::new(response.into_body(), BODY_BYTES_MAX).collect());
        let body = match body.await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(ClientError::broken(address, &*error)),
            Err(_) => return Err(ClientError::silent(address)),
        };
        self.keep(endpoint, connection);
        answer(address, status, &body)
    }

    /// The head of the answer, and the connection that its body comes by.
    async fn send(
        &self,
        token: Option<&HeaderValue>,
        endpoint: &Endpoint,
        path: &str,
        request: &impl Serialize,
        deadline: Instant,
    ) -> Result<(http::Response<Incoming>, Connection), ClientError> {
        let Endpoint { address, server_name } = endpoint;
        let body = serde_json::to_vec(request).expect("our messages are JSON");
        let mut request = Request::post(format!("/v3/{path}"))
            .header(header::HOST, address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a path of ours");
        let needs_leader = HeaderValue::from_static("true");
        request.headers_mut().insert("grpc-metadata-hasleader", needs_leader);
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        if path != watch::PATH {
            let millis = deadline.saturating_duration_since(Instant::now()).as_millis();
            let text = HeaderValue::try_from(format!("{millis}m")).expect("a number");
            request.headers_mut().insert("grpc-timeout", text);
        }
        loop {
            let (mut connection, is_new) = match self.idle(endpoint) {
                Some(connection) => (connection, false),
                None => {
                    let tls = self.shared.tls.as_ref().map(|tls| (&tls.0, server_name.as_ref()));
                    let open = timeout_at(deadline, Connection::open(address, tls)).await;
                    let opened = open.unwrap_or_else(|_| Err("no connection in time".to_owned()));
                    let opened = opened.map_err(|reason| ClientError::unreachable(address, reason));
                    (opened?, true)
                }
            };
            match timeout_at(deadline, connection.send(request)).await {
                Ok(Ok(response)) => return Ok((response, connection)),
                Ok(Err((error, Some(unsent)))) if is_new => {
                    drop(unsent);
                    return Err(ClientError::unreachable(address, error.to_string()));
                }
                // The member has closed what lay idle.
                Ok(Err((_, Some(unsent)))) => request = unsent,
                Ok(Err((error, None))) => return Err(ClientError::broken(address, &error)),
                Err(_) => return Err(ClientError::silent(address)),
            }
        }
    }

    fn idle(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut idle = lock(&self.shared.idle);
        let place = idle.iter().rposition(|(whose, _)| whose == endpoint)?;
        Some(idle.swap_remove(place).1)
    }

    fn keep(&self, endpoint: &Endpoint, connection: Connection) {
        let mut idle = lock(&self.shared.idle);
        idle.retain(|(_, connection)| !connection.is_closed());
        if idle.len() < IDLE_MAX {
            idle.push((endpoint.clone(), connection));
        }
    }
}

fn answer<T: DeserializeOwned>(
    address: &str,
    status: StatusCode,
    body: &[u8],
) -> Result<T, ClientError> {
    if status == StatusCode::OK {
        return serde_json::from_slice(body).map_err(|error| ClientError::broken(address, &error));
    }
    match serde_json::from_slice::<Wrong>(body) {
        Ok(wrong) => Err(ClientError::refused(address, wrong.code, wrong.text())),
        // What stands before the gateway says it in plain text.
        Err(_) if body.starts_with(error::COMMON_NAME.as_bytes()) => {
            Err(ClientError::not_admitted(address, error::COMMON_NAME.to_owned()))
        }
        Err(_) => Err(ClientError::unreachable(
            address,
            format!("it answers {status}: is it etcd 3.4 or newer, with its gateway enabled?"),
        )),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values: a panic elsewhere leaves none half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
