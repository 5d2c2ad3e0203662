//! Breaking a process, and seeing when that was noticed and when another life of it served.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use topology::{ProcessEntry, ProcessState, ProcessType};

use super::{Look, StoryError};
use crate::report::millis;

/// How often the node's processes are looked at; what is measured is no finer.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// A process that is not back by then is told to have stayed away.
const BACK_LIMIT: Duration = Duration::from_secs(10);

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It ends at once, and can do nothing about it.
    Kill,
    /// It stays, and does nothing more.
    Stop,
}

impl Kind {
    /// As one would type it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill -9",
            Kind::Stop => "kill -STOP",
        }
    }
}

/// The processes of a type that serve, with their ids.
pub(super) fn serving(
    look: &Look,
    process_type: ProcessType,
) -> Result<Vec<(String, u32)>, StoryError> {
    let view = look().map_err(StoryError::Look)?;
    let ready = view.processes.iter().filter(|process| {
        process.process_type == process_type && process.state == ProcessState::Ready
    });
    let named = ready.filter_map(|process| Some((process.name.to_string(), process.pid?)));
    let named: Vec<(String, u32)> = named.collect();
    if named.is_empty() { Err(StoryError::Nobody(process_type)) } else { Ok(named) }
}

/// Breaks the process.
pub(super) fn breaks(kind: Kind, pid: u32) -> Result<(), StoryError> {
    let signal = match kind {
        Kind::Kill => Signal::KILL,
        Kind::Stop => Signal::STOP,
    };
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.expect("a process that runs has an id");
    kill_process(process, signal).map_err(|source| StoryError::Signal {
        signal: kind.name(),
        pid,
        source: source.into(),
    })
}

/// When a broken process was missed and when it was back, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) noticed: Option<u64>,
    pub(super) back: Option<u64>,
}

/// Watches the process `name`, whose broken life had `pid`. Blocks until it is back, or [`BACK_LIMIT`] is over.
pub(super) fn watch(look: &Look, name: &str, pid: u32, broken: Instant) -> Seen {
    let mut seen = Seen::default();
    while seen.back.is_none() && broken.elapsed() < BACK_LIMIT {
        let Ok(view) = look() else {
            std::thread::sleep(LOOK_INTERVAL);
            continue;
        };
        let after = millis(broken.elapsed());
        let Some(process) = view.processes.iter().find(|process| process.name.as_str() == name)
        else {
            return seen;
        };
        if is_missed(process, pid) {
            seen.noticed.get_or_insert(after);
        }
        if process.state == ProcessState::Ready && process.pid != Some(pid) {
            seen.back = Some(after);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    seen
}

/// Whether nobody counts on that life any more.
fn is_missed(process: &ProcessEntry, pid: u32) -> bool {
    process.pid != Some(pid) || !process.state.may_serve()
}
