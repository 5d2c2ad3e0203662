//! When a cluster is whole: every process of every node ready, and every part of the state, as large as the others, with its copy
//! on another host.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use testbed::members::{ClusterView, Members};
use testbed::wait;

/// A cluster that is not whole again after this never will be.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks: each starts a command for every node, whose processor time the load needs.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Waits until it is.
///
/// # Panics
/// When that takes too long, with what is missing.
pub(super) fn wait(members: &Members<'_>) {
    wait::until("all to be whole", LIMIT, || {
        let looked = look(members);
        if looked.is_err() {
            thread::sleep(LOOK_INTERVAL);
        }
        looked
    });
}

/// `outlast state status` of a member, if it finds nothing amiss.
pub(super) fn state_status(members: &Members<'_>, member: usize) -> Result<Value, String> {
    let node = members.node(member);
    let said = members.host(member).enter(|| node.outlast(&["state", "status", "--json"]));
    if !said.status.success() {
        return Err(format!("{said:?}"));
    }
    serde_json::from_slice(&said.stdout).map_err(|error| error.to_string())
}

/// Whether every member sees every process ready and the stores well, and each part of the state has its copy on another host.
fn look(members: &Members<'_>) -> Result<(), String> {
    let count = members.count();
    let names: Vec<&str> = (0..count).map(|member| members.host(member).name()).collect();
    for member in 0..count {
        let said = members.node(member).outlast(&["status", "--cluster", "--json"]);
        let view: ClusterView =
            serde_json::from_slice(&said.stdout).map_err(|error| error.to_string())?;
        if !view.is_whole(&names) {
            return Err(format!("{} sees {view:?}", names[member]));
        }
        let status: Value = serde_json::from_slice(&said.stdout).expect("it was JSON just now");
        let amiss = &status["stores"];
        if !amiss.is_null() && !is_well(amiss) {
            return Err(format!("{} says of the stores {amiss}", names[member]));
        }
    }
    let status = state_status(members, 0)?;
    let shards = status["shards"].as_array().map_or(&[][..], Vec::as_slice);
    let has_copy = |shard: &Value| {
        let mut replicas = shard["replicas"].as_array().into_iter().flatten();
        replicas.any(|it| it["link"] == "online" && it["on_own_host"] == false)
    };
    // Nobody else could have the copy of one that is alone.
    let are_copied = count == 1 || shards.iter().all(has_copy);
    // What is still on its way to a node that joined is no fault's doing.
    let shares = shards.iter().filter_map(|shard| shard["slots"].as_u64());
    let (least, most) = (shares.clone().min(), shares.max());
    let are_even = least.zip(most).is_some_and(|(least, most)| most - least <= 1);
    if shards.len() == count && are_copied && are_even { Ok(()) } else { Err(status.to_string()) }
}

/// Whether a report of the stores complains of nothing.
fn is_well(report: &Value) -> bool {
    let is_empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    report["unserved_per_mille"] == 0 && is_empty(&report["silent"]) && is_empty(&report["below"])
}
