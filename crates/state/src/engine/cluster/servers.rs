//! What whoever runs the servers asks them, and tells them.
//!
//! Each call opens a connection of its own, asks, and gives up by the time that a node has ([`Options`] say how it is
//! opened; their seeds are not used). These are for a tokio runtime of the caller's.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::sync::Mutex;

use super::connection::{Connection, Lost, patiently, text};
use super::layout::{Layout, SLOTS};
use super::library::Library;
use super::nodes::{self, NodeLine};
use super::options::Options;
use super::quota::{self, Stream};
use super::writer;
use crate::error::StoreError;

/// How long a server may take to move what it has: a slot holds a few thousand records.
const MOVING_MAX: Duration = Duration::from_secs(10);
/// Records that are sent at once.
const MOVED_AT_ONCE: usize = 500;
/// How long the replicas of a primary that records come to may take to have them.
const COPIED_WITHIN: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What a server answers to the question whether it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// It serves.
    Serves,
    /// It lives and does not serve yet: it reads what it has written before.
    Begins,
    /// It does not answer, or nobody listens.
    Silent,
}

/// Asks one server again and again whether it serves, over one connection as long as that lasts.
pub struct Pinger {
    server: SocketAddr,
    options: Options,
    connection: Mutex<Option<Connection>>,
}

impl fmt::Debug for Pinger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinger").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Pinger {
    /// Asks nothing yet.
    pub fn new(server: SocketAddr, options: Options) -> Self {
        Self { server, options, connection: Mutex::new(None) }
    }

    /// Asks it, and waits for ever. A question that is given up by its caller ends the connection.
    pub async fn ask(&self) -> Pulse {
        let mut kept = self.connection.lock().await;
        let connection = match kept.take() {
            Some(connection) => connection,
            None => match Connection::open_whenever(self.server, &self.options).await {
                Ok(connection) => connection,
                Err(_) => return Pulse::Silent,
            },
        };
        let mut question = Pipeline::with_capacity(1);
        question.add_command(cmd("PING"));
        let answer = connection.exchange(&question).await.map(|mut answers| answers.pop());
        let pulse = match answer {
            Ok(Some(Value::ServerError(error))) if error.code() == "LOADING" => Pulse::Begins,
            // Whoever refuses it is there all the same: a function runs for long, perhaps.
            Ok(_) => Pulse::Serves,
            Err(_) => return Pulse::Silent,
        };
        *kept = Some(connection);
        pulse
    }
}

/// What a server says of itself and of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its own name, 40 hexadecimal digits.
    pub id: String,
    /// Whose replica it is; `None`: a primary.
    pub replica_of: Option<String>,
    /// What it serves, as a primary.
    pub slots: Vec<RangeInclusive<u16>>,
    /// Slots that are on their way from it, and to whom.
    pub leaving: Vec<(u16, String)>,
    /// Slots that were to come to it, and from whom.
    pub coming: Vec<(u16, String)>,
    /// Octets of the stream of changes that it has written, or received.
    pub offset: u64,
    /// The name of that stream. Who was told to follow another primary keeps that of the former one, and the offset in it,
    /// until it has everything of the new one.
    pub stream: String,
    /// The name of the stream that it continued when it became a primary.
    pub former_stream: String,
    /// A replica that has everything and receives changes.
    pub is_synced: bool,
    /// The replicas that receive its changes, and whether each has everything else.
    pub followers: Vec<(SocketAddr, bool)>,
    /// Everybody whom it knows, itself among them.
    pub known: Vec<Known>,
}

/// A server as another one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub id: String,
    /// Where; `None`: nobody knows.
    pub address: Option<SocketAddr>,
    /// The majority holds it failed.
    pub is_failed: bool,
    /// Whose replica it is; `None`: a primary.
    pub replica_of: Option<String>,
    /// What it serves, as a primary.
    pub slots: Vec<RangeInclusive<u16>>,
    /// Of two that claim a slot, the greater one has it.
    pub epoch: u64,
}

impl Report {
    /// The report of the server at `asked`, from its answers to `CLUSTER NODES` and `INFO replication`.
    pub fn of(nodes: &str, replication: &str, asked: SocketAddr) -> Self {
        let view = nodes::parse(nodes, asked);
        let own = view.iter().find(|line| line.is_myself);
        let field = |name: &str| {
            replication.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
        };
        let number = |name: &str| field(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let is_replica = field("role:") == Some("slave");
        let followers = replication.lines().filter_map(quota::parse_stream);
        Self {
            id: own.map_or_else(String::new, |line| line.id.to_string()),
            replica_of: own.and_then(|line| line.replica_of.as_deref()).map(str::to_owned),
            slots: own.map(|line| line.slots.clone()).unwrap_or_default(),
            leaving: on_their_way(nodes, "->-"),
            coming: on_their_way(nodes, "-<-"),
            stream: field("master_replid:").unwrap_or_default().to_owned(),
            former_stream: field("master_replid2:").unwrap_or_default().to_owned(),
            offset: number(if is_replica { "slave_repl_offset:" } else { "master_repl_offset:" }),
            is_synced: is_replica
                && field("master_link_status:") == Some("up")
                && field("master_sync_in_progress:") == Some("0"),
            followers: followers
                .map(|(address, stream)| (address, matches!(stream, Stream::Online { .. })))
                .collect(),
            known: view.iter().map(Known::of).collect(),
        }
    }
}

impl Known {
    fn of(line: &NodeLine) -> Self {
        Self {
            id: line.id.to_string(),
            address: line.address,
            is_failed: line.is_failed,
            replica_of: line.replica_of.as_deref().map(str::to_owned),
            slots: line.slots.clone(),
            epoch: line.epoch,
        }
    }
}

/// With `->-`: `[93->-ID]` in the own line; with `-<-`: `[94-<-ID]`.
fn on_their_way(nodes: &str, arrow: &str) -> Vec<(u16, String)> {
    let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default();
    let fields = own.split(' ').filter_map(|field| field.strip_prefix('[')?.strip_suffix(']'));
    let slot = |field: &str| {
        let (slot, id) = field.split_once(arrow)?;
        Some((slot.parse().ok()?, id.to_owned()))
    };
    fields.filter_map(slot).collect()
}

/// Asks a server what it knows.
///
/// # Errors
/// [`StoreError::Unreachable`] when it does not say.
pub async fn report(server: SocketAddr, options: &Options) -> Result<Report, StoreError> {
    let ask = async {
        let connection = Connection::open(server, options).await?;
        let mut look = Pipeline::with_capacity(2);
        writer::look(&mut look);
        let [nodes, replication] = writer::all_of(patiently(connection.exchange(&look)).await?)?;
        Ok(Report::of(&text(nodes)?, &text(replication)?, server))
    };
    ask.await.map_err(|error: Lost| unreachable_at(server, &error))
}

/// Has a server meet another one: they, and all whom either knows, are one cluster then.
///
/// # Errors
/// As [`report`]; so for all below.
pub async fn meet(
    server: SocketAddr,
    other: SocketAddr,
    other_bus: u16,
    options: &Options,
) -> Result<(), StoreError> {
    let mut meet = cmd("CLUSTER");
    meet.arg("MEET").arg(other.ip().to_string()).arg(other.port()).arg(other_bus);
    tell(server, meet, options).await
}

/// Has a primary serve slots that nobody serves.
///
/// # Errors
/// When somebody does.
pub async fn claim(
    server: SocketAddr,
    slots: RangeInclusive<u16>,
    options: &Options,
) -> Result<(), StoreError> {
    let mut claim = cmd("CLUSTER");
    claim.arg("ADDSLOTSRANGE").arg(*slots.start()).arg(*slots.end());
    tell(server, claim, options).await
}

/// Makes a server, which serves nothing, a replica of that primary. What it had is gone.
///
/// # Errors
/// When it serves something, or does not know the primary.
pub async fn follow(
    server: SocketAddr,
    primary: &str,
    options: &Options,
) -> Result<(), StoreError> {
    let mut follow = cmd("CLUSTER");
    follow.arg("REPLICATE").arg(primary);
    let told = async {
        let connection = Connection::open(server, options).await?;
        // Redis deletes by itself what a primary has of slots that it lost, and says nothing of it in its stream. So its
        // successor, once its replica, would take it to have all of that, and send the rest only. A word more in the stream of the
        // former primary, any, and the successor sends everything. A replica refuses to say one, and needs none.
        drop(connection.ask(Library::new().load()).await?);
        connection.ask_text(follow).await
    };
    told.await.map(drop).map_err(|error| unreachable_at(server, &error))
}

/// Empties a replica, which forgets whom it followed and all others. A primary that has records refuses.
///
/// # Errors
/// When it does.
pub async fn reset(server: SocketAddr, options: &Options) -> Result<(), StoreError> {
    let mut reset = cmd("CLUSTER");
    reset.arg("RESET").arg("SOFT");
    tell(server, reset, options).await
}

/// Has a server forget another one, for a minute: within that, all others must have done so.
///
/// # Errors
/// When it does not know that one.
pub async fn forget(server: SocketAddr, other: &str, options: &Options) -> Result<(), StoreError> {
    let mut forget = cmd("CLUSTER");
    forget.arg("FORGET").arg(other);
    tell(server, forget, options).await
}

/// Has a server read its certificate and key again.
///
/// # Errors
/// When it cannot use them: it goes on with what it had.
pub async fn reload_certificate(
    server: SocketAddr,
    certificate: &Path,
    key: &Path,
    options: &Options,
) -> Result<(), StoreError> {
    let mut set = cmd("CONFIG");
    set.arg("SET").arg("tls-cert-file").arg(certificate.display().to_string());
    set.arg("tls-key-file").arg(key.display().to_string());
    tell(server, set, options).await
}

/// Has a replica take over from its primary, which is well and loses nothing by it. Returns when it serves.
///
/// # Errors
/// When it does not within `time`.
pub async fn hand_over(
    replica: SocketAddr,
    options: &Options,
    time: Duration,
) -> Result<(), StoreError> {
    let deadline = Instant::now() + time;
    let mut order = cmd("CLUSTER");
    order.arg("FAILOVER");
    tell(replica, order, options).await?;
    loop {
        let is_primary = report(replica, options).await.is_ok_and(|it| it.replica_of.is_none());
        if is_primary {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let reason = "it did not take over in time".to_owned();
            return Err(StoreError::Unreachable {
                shard: format!("the store at {replica}"),
                reason,
            });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Slots in which no record can lie.
pub fn vacant_slots() -> Vec<u16> {
    let taken: Vec<u16> = Layout::new("").slots().collect();
    (0..SLOTS).filter(|slot| !taken.contains(slot)).collect()
}

/// A primary, by its name and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub id: String,
    /// Where.
    pub address: SocketAddr,
}

/// Moves slots with all that is in them from one primary to another. One that was interrupted is done by doing it again.
///
/// The old primary deletes records as soon as the new one has them, and would do so before that one's replicas do. So some go at a
/// time, and only while all replicas of the new one have what came before: at most these few are for a moment where its loss
/// alone would lose them.
///
/// # Errors
/// When replicas of the new one stand still, too. The slots that were moved before are moved.
pub async fn move_slots(
    from: &Place,
    to: &Place,
    slots: &[u16],
    options: &Options,
) -> Result<(), StoreError> {
    let at = |place: &Place| {
        let address = place.address;
        move |error: Lost| unreachable_at(address, &error)
    };
    let source = Connection::open(from.address, options).await.map_err(at(from))?;
    let target = Connection::open(to.address, options).await.map_err(at(to))?;
    // A server that waits for slots hears nothing of a new owner: with the former one it forgets that there is any, and takes
    // no records then.
    let view = report(to.address, options).await?;
    let is_known = |slot: &u16| {
        view.known.iter().flat_map(|known| &known.slots).any(|range| range.contains(slot))
    };
    let unknown: Vec<u16> = slots.iter().copied().filter(|slot| !is_known(slot)).collect();
    set_slots(&target, &unknown, "NODE", &from.id).await.map_err(at(to))?;
    set_slots(&target, slots, "IMPORTING", &from.id).await.map_err(at(to))?;
    set_slots(&source, slots, "MIGRATING", &to.id).await.map_err(at(from))?;
    let filled = filled(&source, slots).await.map_err(at(from))?;
    if !filled.is_empty() {
        copied(&target, to.address).await.map_err(at(to))?;
    }
    for slot in filled {
        while move_some(&source, to, slot, options).await.map_err(at(from))? {
            copied(&target, to.address).await.map_err(at(to))?;
        }
    }
    // The new one first: nobody claims a slot in between otherwise.
    set_slots(&target, slots, "NODE", &to.id).await.map_err(at(to))?;
    set_slots(&source, slots, "NODE", &to.id).await.map_err(at(from))
}

/// Gives slots of a primary that is gone, with all that it had, to one that lives; what it has of them already stays. The others follow
/// it by the higher epoch that it takes with them.
///
/// # Errors
/// As [`report`], and when it does not know the one that is gone. Some slots may be its own then.
pub async fn take_slots(
    server: &Place,
    gone: &str,
    slots: &[u16],
    options: &Options,
) -> Result<(), StoreError> {
    let taken = async {
        let connection = Connection::open(server.address, options).await?;
        // Who ends an import takes an epoch of its own for it, above all others.
        set_slots(&connection, slots, "IMPORTING", gone).await?;
        set_slots(&connection, slots, "NODE", &server.id).await
    };
    taken.await.map_err(|error| unreachable_at(server.address, &error))
}

/// Ends a primary's part in moves of slots that have arrived where they were to go.
///
/// # Errors
/// As [`report`].
pub async fn settle(
    server: SocketAddr,
    slots: &[u16],
    options: &Options,
) -> Result<(), StoreError> {
    let settled = async {
        let connection = Connection::open(server, options).await?;
        let mut all = Pipeline::with_capacity(slots.len());
        for slot in slots {
            all.cmd("CLUSTER").arg("SETSLOT").arg(*slot).arg("STABLE");
        }
        at_length(connection.exchange(&all)).await
    };
    settled.await.map(drop).map_err(|error| unreachable_at(server, &error))
}

async fn set_slots(
    server: &Connection,
    slots: &[u16],
    state: &str,
    other: &str,
) -> Result<(), Lost> {
    if slots.is_empty() {
        return Ok(());
    }
    let mut all = Pipeline::with_capacity(slots.len());
    for slot in slots {
        all.cmd("CLUSTER").arg("SETSLOT").arg(*slot).arg(state).arg(other);
    }
    for answer in at_length(server.exchange(&all)).await? {
        text(answer)?;
    }
    Ok(())
}

/// Those of the slots that hold something.
async fn filled(server: &Connection, slots: &[u16]) -> Result<Vec<u16>, Lost> {
    let mut all = Pipeline::with_capacity(slots.len());
    for slot in slots {
        all.cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(*slot);
    }
    let counts = at_length(server.exchange(&all)).await?;
    let filled = slots.iter().zip(counts).filter(|(_, count)| *count != Value::Int(0));
    Ok(filled.map(|(slot, _)| *slot).collect())
}

/// Waits until those replicas of a primary that follow it have everything that it has. One that the majority holds failed is not
/// waited for: what it had of the old primary nobody has either.
async fn copied(primary: &Connection, at: SocketAddr) -> Result<(), Lost> {
    let mut look = Pipeline::with_capacity(2);
    writer::look(&mut look);
    let [nodes, replication] = writer::all_of(patiently(primary.exchange(&look)).await?)?;
    let report = Report::of(&text(nodes)?, &text(replication)?, at);
    let is_failed = |replica: SocketAddr| {
        report.known.iter().any(|known| known.address == Some(replica) && known.is_failed)
    };
    let online =
        report.followers.iter().filter(|(replica, is_online)| *is_online && !is_failed(*replica));
    let online = online.count();
    // `WAIT` is about what came before the last write of this connection, of which there is none but this.
    primary.ask_text(Library::new().load()).await?;
    let mut wait = Pipeline::with_capacity(1);
    let limit = u64::try_from(COPIED_WITHIN.as_millis()).unwrap_or(u64::MAX);
    wait.cmd("WAIT").arg(online).arg(limit);
    let have = at_length(primary.exchange(&wait)).await?.pop();
    match have {
        Some(Value::Int(have)) if usize::try_from(have).is_ok_and(|have| have >= online) => Ok(()),
        Some(Value::Int(have)) => Err(Lost::Odd(format!(
            "{have} of its {online} replicas have what has come to it; the others stand still"
        ))),
        Some(_) | None => Err(Lost::Odd("no count of replicas".to_owned())),
    }
}

/// Moves some records of a slot; whether there were any.
async fn move_some(
    source: &Connection,
    to: &Place,
    slot: u16,
    options: &Options,
) -> Result<bool, Lost> {
    let mut list = cmd("CLUSTER");
    list.arg("GETKEYSINSLOT").arg(slot).arg(MOVED_AT_ONCE);
    let Value::Array(names) = source.ask(list).await? else {
        return Err(Lost::Odd("no list of names".to_owned()));
    };
    if names.is_empty() {
        return Ok(false);
    }
    let mut migrate = cmd("MIGRATE");
    migrate.arg(to.address.ip().to_string()).arg(to.address.port()).arg("").arg(0);
    migrate.arg(u64::try_from(MOVING_MAX.as_millis()).unwrap_or(u64::MAX));
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        migrate.arg("AUTH2").arg(user).arg(password);
    }
    // What a move that was interrupted left there is the same, or older.
    migrate.arg("REPLACE").arg("KEYS");
    for name in names {
        if let Value::BulkString(name) = name {
            migrate.arg(name);
        }
    }
    let mut one = Pipeline::with_capacity(1);
    one.add_command(migrate);
    for answer in at_length(source.exchange(&one)).await? {
        text(answer)?;
    }
    Ok(true)
}

async fn at_length<T>(answer: impl Future<Output = Result<T, Lost>>) -> Result<T, Lost> {
    tokio::time::timeout(MOVING_MAX, answer).await.unwrap_or(Err(Lost::Silent))
}

async fn tell(server: SocketAddr, command: Cmd, options: &Options) -> Result<(), StoreError> {
    let told = async { Connection::open(server, options).await?.ask_text(command).await };
    told.await.map(drop).map_err(|error| unreachable_at(server, &error))
}

fn unreachable_at(server: SocketAddr, error: &Lost) -> StoreError {
    StoreError::Unreachable { shard: format!("the store at {server}"), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_report_is_read_from_what_servers_say() {
        let nodes = "aa 10.0.0.1:7000@7001 myself,master - 0 0 3 connected 0-5460 [93->-bb] [94-<-cc]\n\
            bb 10.0.0.2:7000@7001 master,fail - 1 2 4 disconnected 5461-6999\n\
            cc 10.0.0.3:7000@7001 slave aa 1 2 3 connected\n";
        let info = "role:master\r\nslave0:ip=10.0.0.3,port=7000,state=online,offset=42,lag=0\r\n\
            slave1:ip=10.0.0.4,port=7000,state=wait_bgsave,offset=0,lag=0\r\nmaster_repl_offset:50\r\n";
        let at: SocketAddr = "10.0.0.1:7000".parse().unwrap();
        let report = Report::of(nodes, info, at);
        assert_eq!((report.id.as_str(), report.replica_of.as_deref()), ("aa", None));
        assert_eq!(report.slots, [0..=5460]);
        assert_eq!(
            (&report.leaving[..], &report.coming[..]),
            (&[(93, "bb".to_owned())][..], &[(94, "cc".to_owned())][..])
        );
        assert_eq!(report.offset, 50);
        let followers: Vec<bool> =
            report.followers.iter().map(|(_, is_online)| *is_online).collect();
        assert_eq!(followers, [true, false]);
        assert!(report.known[1].is_failed && report.known.len() == 3);

        let nodes = "cc 10.0.0.3:7000@7001 myself,slave aa 1 2 3 connected\n";
        let info = "role:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0\r\nslave_repl_offset:42\r\n";
        let report = Report::of(nodes, info, at);
        assert!(
            report.is_synced && report.replica_of.as_deref() == Some("aa") && report.offset == 42
        );
        let behind = info.replace("progress:0", "progress:1");
        assert!(!Report::of(nodes, &behind, at).is_synced);
    }
}
