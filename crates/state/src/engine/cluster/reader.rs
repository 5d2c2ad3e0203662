//! Questions to the node that serves a partition, and to whoever comes after it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use redis::{Cmd, Pipeline, Value};
use tracing::{debug, warn};

use super::connection::{Lost, text};
use super::layout::Partition;
use super::node::Node;
use super::reply::{Reply, classify};
use super::routes::{RETRY_AFTER, Shared};
use super::writer;
use crate::error::StoreError;

/// How an attempt ended without an answer.
enum Again {
    /// There, at once.
    At(SocketAddr),
    /// In a moment.
    Later(String),
}

/// Asks the node of a partition until there is an answer, or patience is at its end. `command` must change nothing that
/// may not be changed twice.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    partition: Partition,
    command: Cmd,
) -> Result<Value, StoreError> {
    let deadline = Instant::now() + shared.options.patience;
    let mut reason = "no node is known to serve it".to_owned();
    let mut asking: Option<SocketAddr> = None;
    loop {
        let node = asking.and_then(|address| shared.at(address));
        let is_asking = node.is_some();
        if let Some(node) = node.or_else(|| shared.owner(partition)) {
            if node.is_unsettled(partition) {
                // What is read there may be lost with this primary, though its writer was told nothing for sure.
                return Err(writer::refusal(shared, &node, 0));
            }
            match attempt(shared, &node, partition, &command, is_asking).await? {
                Ok(answer) => return Ok(answer),
                Err(Again::At(address)) => asking = Some(address),
                Err(Again::Later(why)) => {
                    reason = format!("{}: {why}", node.address);
                    asking = None;
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(StoreError::Unreachable { shard: partition.to_string(), reason });
        }
        if asking.is_none_or(|address| shared.at(address).is_none()) {
            asking = None;
            let mut changes = shared.map_changes.subscribe();
            shared.refresh.notify_one();
            let _ = tokio::time::timeout(RETRY_AFTER, changes.changed()).await;
        }
    }
}

/// Asks the node of a partition once. `Ok(Err)`: why there is no answer yet.
pub(super) async fn ask_once(
    shared: &Arc<Shared>,
    partition: Partition,
    command: &Cmd,
) -> Result<Result<Value, String>, StoreError> {
    let Some(node) = shared.owner(partition) else {
        return Ok(Err("no node is known to serve it".to_owned()));
    };
    let answer = attempt(shared, &node, partition, command, false).await?;
    Ok(match answer {
        // While a slot is being moved, its list is in two places.
        Err(Again::At(_)) => Err("its slot is being moved".to_owned()),
        Err(Again::Later(why)) => Err(format!("{}: {why}", node.address)),
        Ok(answer) => Ok(answer),
    })
}

async fn attempt(
    shared: &Arc<Shared>,
    node: &Arc<Node>,
    partition: Partition,
    command: &Cmd,
    is_asking: bool,
) -> Result<Result<Value, Again>, StoreError> {
    let mut commands = Pipeline::with_capacity(2);
    if is_asking {
        commands.cmd("ASKING");
    }
    commands.add_command(command.clone());
    let answer = match exchange(shared, node, &commands).await {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(Again::Later(error.to_string()))),
    };
    Ok(match classify(answer, node.address) {
        Reply::Value(answer) => Ok(answer),
        Reply::Moved(to) => {
            shared.moved(partition, to);
            Err(to.map_or_else(|| Again::Later("its slot has moved".to_owned()), Again::At))
        }
        Reply::Ask(to) => Err(Again::At(to)),
        Reply::Later => Err(Again::Later("it is not ready".to_owned())),
        Reply::NoLibrary => {
            load_library(shared, node).await;
            Err(Again::Later("its functions are missing".to_owned()))
        }
        Reply::Refused(why) => return Err(StoreError::engine("read", why)),
    })
}

/// The last answer.
async fn exchange(
    shared: &Arc<Shared>,
    node: &Arc<Node>,
    commands: &Pipeline,
) -> Result<Value, Lost> {
    let connection = tokio::select! {
        biased;
        open = node.reader(&shared.options) => open?,
        () = shared.is_replaced(node) => return Err(Lost::Replaced),
    };
    match writer::exchange(shared, node, &connection, commands).await {
        Ok(mut answers) => Ok(answers.pop().unwrap_or_default()),
        Err(error) => {
            debug!(node = %node.address, %error, "lost the connection for reads");
            node.give_up(&connection).await;
            Err(error)
        }
    }
}

async fn load_library(shared: &Shared, node: &Arc<Node>) {
    let loaded = async {
        let connection = node.reader(&shared.options).await?;
        text(connection.ask(shared.functions.load()).await?)
    };
    if let Err(error) = loaded.await {
        warn!(node = %node.address, %error, "the functions could not be loaded");
    }
}
