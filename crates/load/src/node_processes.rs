//! The processes of an Outlast node, by what lies in its directory: `run/processes.json` for edges and containers,
//! `run/manager.lock` and `run/node.lock` for manager and guardian.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// Why the processes of a node are not known.
#[derive(Debug, Error)]
pub(crate) enum NodeError {
    /// A file of the directory cannot be read.
    #[error("{path}: {source}; is that the directory of a node that is up?", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file says something else than it should.
    #[error("{path} is not understood: {source}; is that node of another release?", path = path.display())]
    NotUnderstood {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct Identity {
    pid: i32,
}

#[derive(Deserialize)]
struct Process {
    identity: Option<Identity>,
}

#[derive(Deserialize)]
struct Record {
    processes: Vec<Process>,
}

/// Guardian, manager, edges and containers of the node in `directory`.
pub(crate) fn pids(directory: &Path) -> Result<Vec<i32>, NodeError> {
    let run = directory.join("run");
    let record: Record = read(run.join("processes.json"))?;
    let manager: Identity = read(run.join("manager.lock"))?;
    let guardian: i32 = read(run.join("node.lock"))?;
    let processes = record.processes.into_iter().filter_map(|process| process.identity);
    Ok([guardian, manager.pid].into_iter().chain(processes.map(|identity| identity.pid)).collect())
}

fn read<T: for<'de> Deserialize<'de>>(path: PathBuf) -> Result<T, NodeError> {
    match fs::read(&path) {
        Err(source) => Err(NodeError::Unreadable { path, source }),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| NodeError::NotUnderstood { path, source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_processes_that_live_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        fs::create_dir(&run).unwrap();
        let error = pids(directory.path()).unwrap_err().to_string();
        assert!(error.contains("processes.json") && error.contains("is up"), "{error}");
        let record = r#"{"format_level": 1, "processes": [
            {"name": "edge1", "identity": {"pid": 30, "start_time": 1}},
            {"name": "container1", "identity": null}]}"#;
        fs::write(run.join("processes.json"), record).unwrap();
        fs::write(run.join("manager.lock"), r#"{"pid": 20, "start_time": 1}"#).unwrap();
        fs::write(run.join("node.lock"), "10\n").unwrap();
        assert_eq!(pids(directory.path()).unwrap(), [10, 20, 30]);
        fs::write(run.join("node.lock"), "").unwrap();
        let error = pids(directory.path()).unwrap_err().to_string();
        assert!(error.contains("node.lock") && error.contains("release"), "{error}");
    }
}
