//! A node's snapshot as the gossip's library carries it: one key for each process, so that a change travels alone, and
//! one for the node. Pure.
//!
//! Keys arrive in the order in which they were set, the node's last. So who reads a node's key of some version has its
//! processes of that version or a later one, and in the second case will soon have the later node's key, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::node::{NodeNumber, NodeSnapshot, RunsWith};
use crate::view::{Incarnation, ProcessEntry, ProcessName};

const NODE_KEY: &str = "node";
const PROCESS_KEY: &str = "process/";

/// The node's key.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    node: String,
    number: NodeNumber,
    version: u64,
    address: SocketAddr,
    last_life: Incarnation,
    #[serde(default)]
    runs_with: RunsWith,
    /// The processes that there are, in their order.
    processes: Vec<ProcessName>,
}

/// What has to be told the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Of a key that is new or has another value.
    Set(String, String),
    /// Of a key of a process that is no more.
    Delete(String),
}

/// What was published last.
#[derive(Debug, Default)]
pub(super) struct Published(BTreeMap<String, String>);

impl Published {
    /// What changes with this snapshot, in the order in which it has to be told.
    pub(super) fn publish(&mut self, snapshot: &NodeSnapshot) -> Vec<Change> {
        let mut values = BTreeMap::new();
        let mut changes = Vec::new();
        let json = |value: Result<String, _>| value.expect("our messages have string keys only");
        for process in &snapshot.processes {
            let key = format!("{PROCESS_KEY}{}", process.name);
            values.insert(key, json(serde_json::to_string(process)));
        }
        let head = Head {
            node: snapshot.node.clone(),
            number: snapshot.number,
            version: snapshot.version,
            address: snapshot.address,
            last_life: snapshot.last_life,
            runs_with: snapshot.runs_with,
            processes: snapshot.processes.iter().map(|process| process.name.clone()).collect(),
        };
        let head = json(serde_json::to_string(&head));
        for (key, value) in &values {
            if self.0.get(key) != Some(value) {
                changes.push(Change::Set(key.clone(), value.clone()));
            }
        }
        let gone = self.0.keys().filter(|key| *key != NODE_KEY && !values.contains_key(*key));
        changes.extend(gone.cloned().map(Change::Delete));
        if self.0.get(NODE_KEY) != Some(&head) {
            changes.push(Change::Set(NODE_KEY.to_owned(), head.clone()));
        }
        values.insert(NODE_KEY.to_owned(), head);
        self.0 = values;
        changes
    }
}

/// The snapshot that these keys are of; `None` if there is none yet, or only a part.
pub(super) fn read<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<NodeSnapshot> {
    let head: Head = serde_json::from_str(value(NODE_KEY)?).ok()?;
    let process = |name: &ProcessName| -> Option<ProcessEntry> {
        let process: ProcessEntry =
            serde_json::from_str(value(&format!("{PROCESS_KEY}{name}"))?).ok()?;
        (process.name == *name).then_some(process)
    };
    Some(NodeSnapshot {
        processes: head.processes.iter().map(process).collect::<Option<_>>()?,
        node: head.node,
        number: head.number,
        version: head.version,
        address: head.address,
        last_life: head.last_life,
        runs_with: head.runs_with,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::snapshot;
    use super::*;
    use crate::view::ProcessState;

    fn apply(values: &mut BTreeMap<String, String>, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Set(key, value) => drop(values.insert(key.clone(), value.clone())),
                Change::Delete(key) => drop(values.remove(key)),
            }
        }
    }

    fn read_of(values: &BTreeMap<String, String>) -> Option<NodeSnapshot> {
        read(|key| values.get(key).map(String::as_str))
    }

    #[test]
    fn a_snapshot_reads_back_and_only_what_changed_is_told() {
        let (mut published, mut values) = (Published::default(), BTreeMap::new());
        let mut node = snapshot(3, 6200);
        apply(&mut values, &published.publish(&node));
        assert_eq!(read_of(&values), Some(node.clone()));
        assert_eq!(published.publish(&node), []);
        node.version += 1;
        node.processes[1].state = ProcessState::Draining;
        let changes = published.publish(&node);
        let told = |change: &Change| match change {
            Change::Set(key, _) | Change::Delete(key) => key.clone(),
        };
        let keys: Vec<String> = changes.iter().map(told).collect();
        assert_eq!(keys, [format!("process/{}", node.processes[1].name), "node".to_owned()]);
        apply(&mut values, &changes);
        assert_eq!(read_of(&values), Some(node.clone()));
        node.version += 1;
        node.processes.remove(0);
        apply(&mut values, &published.publish(&node));
        assert_eq!(read_of(&values), Some(node));
        assert_eq!(values.len(), 2);
    }

    #[test]
    fn a_part_of_a_snapshot_is_none() {
        let node = snapshot(3, 6200);
        let changes = Published::default().publish(&node);
        for missing in 0..changes.len() {
            let mut values = BTreeMap::new();
            let (before, from) = changes.split_at(missing);
            apply(&mut values, before);
            apply(&mut values, &from[1..]);
            assert_eq!(read_of(&values), None, "{missing}");
        }
    }
}
