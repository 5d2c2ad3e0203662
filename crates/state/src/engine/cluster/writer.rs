//! Commits of one primary: groups of them in a row, and one `WAIT` behind each.
//!
//! One task per node. It takes what waits, sends a call per batch and `WAIT`, and answers when enough replicas have what
//! was written (see [`quota`](super::quota)). What a node turns away unchanged (a slot that moved, a node that starts)
//! goes back to be sent elsewhere. When the connection is lost, everything in the group is in doubt: it is sent again,
//! to whoever serves it then, and the ledger tells what was done. Before a new connection to the same process is used,
//! Redis is told to drop the old one: so a node that was only stopped does not do later what was sent long ago.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::{Cmd, Pipeline, Value, cmd};
use tracing::{debug, warn};

use super::commit::{self, Call};
use super::connection::{Connection, Lost, SILENCE_MAX, SILENCE_SUSPICIOUS, text};
use super::job::Job;
use super::node::Node;
use super::nodes;
use super::options::{BelowQuota, QuotaChange};
use super::quota::{Copies, Standing};
use super::reply::{Reply, classify};
use super::routes::{RETRY_AFTER, Shared};
use crate::error::{CommitError, StoreError};
use crate::record::Version;
use crate::store::CommitOutcome;

/// How long one `WAIT` waits; then one looks why. Shorter than what makes a silent node suspicious.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// A connection for writes, and who it is to the node.
struct Line {
    connection: Connection,
    run_id: String,
    client_id: i64,
}

/// Commits that Redis has done, with what is to be answered.
type Done = Vec<(Job, CommitOutcome)>;

/// Works until the node is retired.
pub(super) async fn run(shared: Arc<Shared>, node: Arc<Node>) {
    let mut line: Option<Line> = None;
    let mut former = None;
    while let Some(group) = node.next_group().await {
        let group = without_late(group);
        if group.is_empty() {
            continue;
        }
        let open = match line.take() {
            Some(open) => open,
            None => match open(&shared, &node, former.as_ref()).await {
                Ok(open) => open,
                Err(error) => {
                    debug!(node = %node.address, %error, "no connection for writes");
                    shared.park_all(group, false);
                    continue;
                }
            },
        };
        let group = without_refused(&shared, &node, group);
        if group.is_empty() {
            line = Some(open);
            continue;
        }
        match write(&shared, &node, &open.connection, group).await {
            Ok(()) => line = Some(open),
            Err((jobs, error)) => {
                debug!(node = %node.address, %error, in_doubt = jobs.len(), "lost the connection for writes");
                former = Some((open.run_id.clone(), open.client_id));
                shared.park_all(jobs, true);
            }
        }
    }
}

fn without_late(group: Vec<Job>) -> Vec<Job> {
    let now = Instant::now();
    let (late, group): (Vec<_>, Vec<_>) = group.into_iter().partition(|job| job.deadline <= now);
    for job in late {
        job.give_up("its node did not come to it in time");
    }
    group
}

/// What may not be written now is refused unsent.
fn without_refused(shared: &Shared, node: &Node, group: Vec<Job>) -> Vec<Job> {
    let quota = shared.quota();
    let Some(Standing::Below { awaited, .. }) = node.standing() else { return group };
    if quota.below == BelowQuota::Continue {
        return group;
    }
    for job in group {
        if job.in_doubt {
            node.unsettle(job.partition);
            job.end(Err(CommitError::Unknown { reason: "too few copies of it can be had" }));
        } else {
            job.end(Err(refusal(shared, node, awaited).into()));
        }
    }
    Vec::new()
}

/// What is answered while a node lacks copies.
pub(super) fn refusal(shared: &Shared, node: &Node, found: usize) -> StoreError {
    StoreError::BelowQuota { primary: node.address, copies: shared.quota().copies, found }
}

async fn open(
    shared: &Shared,
    node: &Arc<Node>,
    former: Option<&(String, i64)>,
) -> Result<Line, Lost> {
    let connection = tokio::select! {
        open = Connection::open(node.address, &shared.options) => open?,
        () = shared.is_replaced(node) => return Err(Lost::Replaced),
    };
    let mut ask = Pipeline::with_capacity(5);
    ask.add_command(info("server"));
    ask.cmd("CLIENT").arg("ID");
    ask.add_command(shared.functions.list());
    look(&mut ask);
    let answers = exchange(shared, node, &connection, &ask).await?;
    let [server, client, library, nodes, replication] = all_of(answers)?;
    let server = text(server)?;
    let run_id = server.lines().find_map(|line| line.strip_prefix("run_id:"));
    let run_id = run_id.ok_or_else(|| Lost::Odd("it has no run_id".to_owned()))?.trim().to_owned();
    let Value::Int(client_id) = client else {
        return Err(Lost::Odd("it does not number its clients".to_owned()));
    };
    if let Some((_, former)) = former.filter(|(run, _)| *run == run_id) {
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("ID").arg(*former);
        let Value::Int(_) = connection.ask(kill).await? else {
            return Err(Lost::Odd("it does not let CLIENT KILL be used".to_owned()));
        };
    }
    if matches!(&library, Value::Array(found) if found.is_empty()) {
        text(connection.ask(shared.functions.load()).await?)?;
    }
    assess(shared, node, nodes, replication)?;
    Ok(Line { connection, run_id, client_id })
}

fn info(section: &str) -> Cmd {
    let mut info = cmd("INFO");
    info.arg(section);
    info
}

/// Asks how a primary's replicas are.
pub(super) fn look(pipeline: &mut Pipeline) {
    pipeline.cmd("CLUSTER").arg("NODES");
    pipeline.add_command(info("replication"));
}

/// Takes over what a primary says of its replicas.
pub(super) fn assess(
    shared: &Shared,
    node: &Node,
    nodes: Value,
    replication: Value,
) -> Result<Standing, Lost> {
    let view = nodes::parse(&text(nodes)?, node.address);
    let copies = Copies::of(&view, &text(replication)?);
    let quota = shared.quota();
    let standing = Standing::of(&copies, &quota, node.standing());
    let before = node.set_standing(standing);
    let below = |standing| match standing {
        Standing::Kept { .. } => None,
        Standing::Below { awaited, .. } => Some(awaited),
    };
    if before.and_then(below) != below(standing) {
        let change =
            QuotaChange { primary: node.address, copies: quota.copies, below: below(standing) };
        warn!(primary = %change.primary, copies = change.copies, below = ?change.below, rule = ?quota.below,
            "a shard's copies fell below the write quota, or are enough again");
        if let Some(on_quota) = &shared.options.on_quota {
            on_quota(&change);
        }
    }
    Ok(standing)
}

/// The answer to each of so many questions.
pub(super) fn all_of<const N: usize>(answers: Vec<Value>) -> Result<[Value; N], Lost> {
    answers.try_into().map_err(|_| Lost::Odd("not as many answers as questions".to_owned()))
}

/// Waits for answers as long as a node may be silent, and as long as it has its place.
pub(super) async fn exchange(
    shared: &Shared,
    node: &Arc<Node>,
    connection: &Connection,
    commands: &Pipeline,
) -> Result<Vec<Value>, Lost> {
    let answers = connection.exchange(commands);
    tokio::pin!(answers);
    tokio::select! {
        biased;
        answers = &mut answers => return answers,
        () = tokio::time::sleep(SILENCE_SUSPICIOUS) => shared.refresh.notify_one(),
    }
    tokio::select! {
        biased;
        answers = &mut answers => answers,
        () = tokio::time::sleep(SILENCE_MAX - SILENCE_SUSPICIOUS) => Err(Lost::Silent),
        () = shared.is_replaced(node) => Err(Lost::Replaced),
    }
}

/// Sends a group and answers it. `Err`: those in doubt, and why.
async fn write(
    shared: &Shared,
    node: &Arc<Node>,
    connection: &Connection,
    group: Vec<Job>,
) -> Result<(), (Vec<Job>, Lost)> {
    let needed = needed(shared, node);
    let mut commands = Pipeline::with_capacity(group.len() + 1);
    for job in &group {
        if job.is_asking {
            commands.cmd("ASKING");
        }
        let call = Call {
            id: job.id,
            version: version(job),
            now: shared.options.clock.now(),
            in_doubt: job.in_doubt,
            level: shared.level(),
        };
        commands.add_command(commit::encode(
            &shared.functions,
            &shared.layout,
            job.partition,
            &job.batch,
            call,
        ));
    }
    if needed > 0 {
        wait(&mut commands, needed);
    }
    let mut answers = match exchange(shared, node, connection, &commands).await {
        Ok(answers) if answers.len() == commands.len() => answers.into_iter(),
        Ok(_) => return Err((group, Lost::Odd("not as many answers as questions".to_owned()))),
        Err(error) => return Err((group, error)),
    };
    let mut done = Vec::with_capacity(group.len());
    let mut lacks_library = Vec::new();
    for job in group {
        if job.is_asking {
            answers.next();
        }
        let answer = classify(answers.next().unwrap_or_default(), node.address);
        route(shared, job, answer, &mut done, &mut lacks_library);
    }
    if !lacks_library.is_empty() {
        let loaded = connection.ask(shared.functions.load()).await.and_then(text);
        if let Err(error) = loaded {
            warn!(node = %node.address, %error, "the functions could not be loaded");
        }
        shared.park_all(lacks_library, false);
    }
    let acknowledged = answers.next().map_or(Some(0), count);
    copied(shared, node, connection, done, acknowledged).await
}

/// Does with a batch what its answer asks for.
fn route(
    shared: &Shared,
    mut job: Job,
    answer: Reply,
    done: &mut Done,
    lacks_library: &mut Vec<Job>,
) {
    match answer {
        Reply::Value(answer) => {
            let outcome = commit::outcome(&job.batch, answer);
            done.push((job, outcome));
        }
        Reply::Moved(to) => {
            shared.moved(job.partition, to);
            if to.is_some_and(|to| shared.at(to).is_some()) {
                shared.dispatch(job);
            } else {
                shared.park(job, RETRY_AFTER);
            }
        }
        Reply::Ask(to) => match shared.at(to) {
            Some(node) => {
                job.is_asking = true;
                if let Err(job) = node.push(job) {
                    shared.park(job, RETRY_AFTER);
                }
            }
            None => {
                shared.refresh.notify_one();
                shared.park(job, RETRY_AFTER);
            }
        },
        Reply::Later => {
            shared.refresh.notify_one();
            shared.park(job, RETRY_AFTER);
        }
        Reply::NoLibrary => lacks_library.push(job),
        Reply::Refused(why) => {
            let error = StoreError::engine("commit", why);
            job.end(Err(error.into()));
        }
    }
}

/// What the versions of a batch begin from: microseconds, and what tells clients apart within one.
fn version(job: &Job) -> Version {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX >> 12);
    let spread = u64::from_be_bytes(job.id).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52;
    Version(micros << 12 | spread)
}

fn needed(shared: &Shared, node: &Node) -> usize {
    node.standing().map_or(0, |standing| standing.needed(&shared.quota()))
}

fn wait(commands: &mut Pipeline, needed: usize) {
    let milliseconds = u64::try_from(WAIT_MAX.as_millis()).unwrap_or(u64::MAX);
    commands.cmd("WAIT").arg(needed).arg(milliseconds);
}

/// `None`: `WAIT` failed, as it does where the node is no primary any more.
fn count(answer: Value) -> Option<usize> {
    if let Value::Int(count) = answer { usize::try_from(count).ok() } else { None }
}

/// Answers what is done as soon as it has its copies, or as is configured when it cannot have them.
async fn copied(
    shared: &Shared,
    node: &Arc<Node>,
    connection: &Connection,
    mut done: Done,
    mut acknowledged: Option<usize>,
) -> Result<(), (Vec<Job>, Lost)> {
    let in_doubt = |done: Done| done.into_iter().map(|(job, _)| job).collect::<Vec<_>>();
    while !done.is_empty() {
        let Some(have) = acknowledged else {
            return Err((in_doubt(done), Lost::Replaced));
        };
        if have >= needed(shared, node) {
            answer(shared, node, done);
            return Ok(());
        }
        let now = Instant::now();
        let (late, rest): (Done, Done) = done.into_iter().partition(|(job, _)| job.deadline <= now);
        for (job, _) in late {
            node.unsettle(job.partition);
            job.end(Err(CommitError::Unknown { reason: "its copies are not there in time" }));
        }
        done = rest;
        if done.is_empty() {
            break;
        }
        let mut ask = Pipeline::with_capacity(3);
        look(&mut ask);
        wait(&mut ask, needed(shared, node));
        let answers = exchange(shared, node, connection, &ask).await;
        let seen = answers.and_then(|answers| {
            let [nodes, replication, have] = all_of(answers)?;
            assess(shared, node, nodes, replication)?;
            Ok(count(have))
        });
        match seen {
            Ok(have) => acknowledged = have,
            Err(error) => return Err((in_doubt(done), error)),
        }
    }
    Ok(())
}

/// What is done has the copies that it must have, or those that can be had.
fn answer(shared: &Shared, node: &Node, done: Done) {
    let is_below = matches!(node.standing(), Some(Standing::Below { .. }));
    if is_below && shared.options.quota.below == BelowQuota::Refuse {
        for (job, outcome) in done {
            node.unsettle(job.partition);
            // Written it is, and stays so if this primary lives: nobody may count on it.
            let unknown = CommitError::Unknown { reason: "too few copies of it can be had" };
            job.end(outcome.and(Err(unknown)));
        }
        return;
    }
    node.settle();
    for (job, outcome) in done {
        job.end(outcome);
    }
}
