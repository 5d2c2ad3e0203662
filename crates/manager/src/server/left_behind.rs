//! A node without manager, seen from outside: whether somebody will start one, and what of it lives on.
//!
//! What lives is read off the last manager's record, and believed only where the kernel agrees: this boot of the machine,
//! the process id, its start time. Changes nothing.

use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use topology::protocol::NodeStatus;
use topology::view::{ProcessEntry, ProcessState, ProcessType, TopologyView, WEIGHT_DEFAULT};

use super::directory::NodeDirectory;
use super::listeners::EdgeListeners;
use super::record::{Record, RecordedProcess};

/// The process id of the guardian of the node in that directory, if it has one.
pub fn guardian_of(directory: &Path) -> Option<u32> {
    let socket = NodeDirectory::at(directory).guardian_socket();
    let stream = UnixStream::connect(socket).ok()?;
    // Of who listens, as the kernel knows it.
    let credentials = socket_peercred(&stream).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}

/// The processes of the node in that directory, as its last manager knew them, without a manager; `None` when none of
/// them lives. One that has died is down.
pub fn left_behind(directory: &Path) -> Option<NodeStatus> {
    let record = Record::read(&NodeDirectory::at(directory).record())?;
    let edges = EdgeListeners::restore(&record.edges, Vec::new());
    let processes: Vec<ProcessEntry> =
        record.processes.iter().map(|process| entry(process, &edges)).collect();
    let lives = processes.iter().any(|process| process.pid.is_some());
    let node = record.settings["node"]["name"].as_str().unwrap_or_default().to_owned();
    lives.then(|| NodeStatus {
        view: TopologyView {
            version: record.numbers_used,
            node,
            processes,
            ..TopologyView::default()
        },
        ..NodeStatus::default()
    })
}

fn entry(process: &RecordedProcess, edges: &[EdgeListeners]) -> ProcessEntry {
    let life = &process.life;
    let living = process.identity.filter(|identity| identity.lives());
    let edge = edges.iter().find(|edge| edge.name == life.name);
    ProcessEntry {
        name: life.name.clone(),
        process_type: life.process_type.unwrap_or(match edge {
            Some(_) => ProcessType::Edge,
            None => ProcessType::Container,
        }),
        incarnation: life.incarnation,
        pid: living.map(|identity| identity.pid),
        state: living.map_or(ProcessState::Down, |_| life.state),
        restarts: life.restarts,
        link: None,
        link_address: life.link_address,
        addresses: edge.map(EdgeListeners::addresses).unwrap_or_default(),
        http: life.http,
        weight: WEIGHT_DEFAULT,
        is_silent: false,
    }
}
