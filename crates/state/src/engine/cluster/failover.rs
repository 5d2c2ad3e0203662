//! What whoever runs the servers needs when a primary is dead: fence it, then promote the replica that has most.
//!
//! The order matters. A write is acknowledged when its copies have it, so the replica with the highest offset has every
//! acknowledged write, and another one may lack some. The dead primary is fenced first, so that it serves nobody what the
//! promoted one does not have; where it cannot be reached, whoever promotes waits until it has stopped by itself
//! (`cluster-node-timeout` after it saw the majority last). It is started again only behind that, for started empty in its
//! old place it would have its replicas copy the emptiness.
//!
//! A replica does not know which slots were moving when its primary died. So the promoted one is told at once, by what the other
//! primaries say (`succession`).
//!
//! These are for a tokio runtime of the caller's.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{Pipeline, Value, cmd};
use tracing::info;

use super::connection::{Connection, Lost, patiently, text};
use super::options::Options;
use super::servers::{Report, report};
use super::succession::Succession;
use crate::error::StoreError;

/// Short: between its election and the next look a replica does not know what has gone to others.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// How a server was left by [`fence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// It does not listen any more.
    Gone,
    /// It listens, or nobody knows: end its process, or wait until it has stopped by itself.
    Silent,
}

/// Tells a server to end without saving, if it can hear it.
pub async fn fence(server: SocketAddr, options: &Options) -> Fenced {
    match Connection::open(server, options).await {
        Ok(connection) => {
            let mut shutdown = cmd("SHUTDOWN");
            shutdown.arg("NOSAVE").arg("NOW").arg("FORCE");
            // No answer comes when it obeys.
            let _ = connection.ask(shutdown).await;
            match Connection::open(server, options).await {
                Err(error) if is_refused(&error) => Fenced::Gone,
                Ok(_) | Err(_) => Fenced::Silent,
            }
        }
        Err(error) if is_refused(&error) => Fenced::Gone,
        Err(_) => Fenced::Silent,
    }
}

fn is_refused(error: &Lost) -> bool {
    matches!(error, Lost::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// What a server says of itself.
struct Role {
    server: SocketAddr,
    is_primary: bool,
    /// Whom it follows; `None`: it is not told by an address.
    of: Option<SocketAddr>,
    offset: u64,
}

/// Promotes the replica of `dead` with the highest offset of those that answer, by the votes of the other primaries, and
/// returns it when it serves. If one of them is a primary already, that is it. One that follows another primary by now is
/// left alone: it would take over from that. Where nobody knows who is dead (`None`) all are taken for its replicas.
///
/// # Errors
/// [`StoreError::Unreachable`] when none of them answers, or none is elected within `time`.
pub async fn promote(
    dead: Option<SocketAddr>,
    replicas: &[SocketAddr],
    options: &Options,
    time: Duration,
) -> Result<SocketAddr, StoreError> {
    promote_by(By::Votes, dead, replicas, options, time).await
}

/// As [`promote`], but nobody is asked for a vote: where most of the primaries are gone, too. Right only for one who knows
/// that nobody else orders so, and that the dead primary has stopped.
///
/// # Errors
/// As [`promote`].
pub async fn promote_unasked(
    dead: Option<SocketAddr>,
    replicas: &[SocketAddr],
    options: &Options,
    time: Duration,
) -> Result<SocketAddr, StoreError> {
    promote_by(By::Order, dead, replicas, options, time).await
}

/// Who makes a replica a primary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// The other primaries elect it.
    Votes,
    /// It is one at once.
    Order,
}

async fn promote_by(
    by: By,
    dead: Option<SocketAddr>,
    replicas: &[SocketAddr],
    options: &Options,
    time: Duration,
) -> Result<SocketAddr, StoreError> {
    let deadline = Instant::now() + time;
    let shard = || {
        format!("the shard of {}", replicas.first().map_or_else(String::new, ToString::to_string))
    };
    let failed =
        |reason: &str| StoreError::Unreachable { shard: shard(), reason: reason.to_owned() };
    let asked = replicas.iter().map(|&server| role(server, options));
    let roles: Vec<Role> = join_all(asked).await.into_iter().flatten().collect();
    if let Some(primary) = roles.iter().find(|role| role.is_primary) {
        return Ok(primary.server);
    }
    let follows_another = |role: &Role| role.of.zip(dead).is_some_and(|(of, dead)| of != dead);
    let best = roles.iter().filter(|role| !follows_another(role)).max_by_key(|role| role.offset);
    let best = best.ok_or_else(|| failed("none of its replicas answers"))?.server;
    let succession = succession(&report(best, options).await?, options).await;
    let connection =
        Connection::open(best, options).await.map_err(|error| failed(&error.to_string()))?;
    order(&connection, by, &succession).await.map_err(|error| failed(&error.to_string()))?;
    loop {
        if is_primary(&connection, &succession).await {
            return Ok(best);
        }
        if Instant::now() >= deadline {
            return Err(failed("the other primaries did not vote for its replica in time"));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What this replica has to be told, by what those say whom it knows. Nobody waits for one that is silent: what has gone to it is
/// taken for absent until somebody looks at its slots again, as managers do.
async fn succession(replica: &Report, options: &Options) -> Succession {
    let asked = Succession::to_ask(replica).map(|server| async move {
        let silent = |error: &StoreError| {
            info!(%server, %error, "does not say what was on its way from or to a primary that is replaced");
        };
        report(server, options).await.inspect_err(silent).ok()
    });
    let others: Vec<Report> = join_all(asked).await.into_iter().flatten().collect();
    Succession::of(replica, &others)
}

/// Orders the promotion. Without votes it is one step with what the new primary has to know; of what others have got meanwhile it
/// refuses to know anything.
async fn order(connection: &Connection, by: By, succession: &Succession) -> Result<(), Lost> {
    let mut orders = Pipeline::with_capacity(succession.orders() + 3);
    match by {
        By::Votes => {
            orders.cmd("CLUSTER").arg("FAILOVER").arg("FORCE");
        }
        By::Order => {
            orders.cmd("MULTI").cmd("CLUSTER").arg("FAILOVER").arg("TAKEOVER");
            succession.tell(&mut orders);
            orders.cmd("EXEC");
        }
    }
    let answer = patiently(connection.exchange(&orders)).await?.pop();
    match answer {
        Some(Value::Array(done)) => text(done.into_iter().next().unwrap_or_default()).map(drop),
        answer => text(answer.unwrap_or_default()).map(drop),
    }
}

/// Whether it is one by now; it knows then what was moving.
async fn is_primary(connection: &Connection, succession: &Succession) -> bool {
    let mut look = Pipeline::with_capacity(succession.orders() + 1);
    // What is behind the look finds at least what the look has found.
    look.cmd("INFO").arg("replication");
    succession.tell(&mut look);
    let Ok(answers) = patiently(connection.exchange(&look)).await else { return false };
    let info = answers.into_iter().next().map(text).and_then(Result::ok).unwrap_or_default();
    field(&info, "role:") == Some("master")
}

async fn role(server: SocketAddr, options: &Options) -> Option<Role> {
    let connection = Connection::open(server, options).await.ok()?;
    let mut info = cmd("INFO");
    info.arg("replication");
    let info = connection.ask_text(info).await.ok()?;
    let of = field(&info, "master_host:").zip(field(&info, "master_port:"));
    let of = of.and_then(|(host, port)| Some((host.parse::<IpAddr>().ok()?, port.parse().ok()?)));
    Some(Role {
        server,
        is_primary: field(&info, "role:") == Some("master"),
        of: of.map(SocketAddr::from),
        offset: field(&info, "slave_repl_offset:").and_then(|it| it.parse().ok()).unwrap_or(0),
    })
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
