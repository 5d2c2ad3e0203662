//! Ends the containers of a node, and starts them again: on another state than they had.
//!
//! They are drained, one after the other: what one hands over another one takes, here or on another node, and the last leaves it in the
//! state.

use std::path::Path;
use std::time::{Duration, Instant};

use topology::protocol::{Answer, Request};
use topology::{ProcessName, ProcessState, TopologyView};

use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::output;

/// What a container may still finish: the record of a call has all that another one needs.
const DRAIN: Duration = Duration::from_millis(200);

/// How long the containers may take to end.
const END_WITHIN: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Has them ended, does `work`, and starts them again whatever came of it.
pub(super) fn without<T>(
    directory: &Path,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let containers = running(directory)?;
    let done = ended(directory, &containers).and_then(|()| work());
    let mut failed = None;
    for name in containers {
        if let Err(failure) = self::done(ask(directory, Request::Start { name: name.clone() })) {
            failed.get_or_insert((name, failure));
        }
    }
    if let (Ok(_), Some((name, failure))) = (&done, failed) {
        output::remark(&format!("{name} did not start again: {failure}"));
    }
    done
}

/// What the manager shows.
pub(super) fn view(directory: &Path) -> Result<TopologyView, Failure> {
    match ask(directory, Request::Status)? {
        Answer::Status(status) => Ok(status.view),
        other => Err(unexpected(&other)),
    }
}

/// Nothing but that it was done.
pub(super) fn done(answer: Result<Answer, Failure>) -> Result<(), Failure> {
    match answer? {
        Answer::Done => Ok(()),
        Answer::Refused { reason } => Err(anyhow::Error::msg(reason).into()),
        other => Err(unexpected(&other)),
    }
}

/// Those that are to run again.
fn running(directory: &Path) -> Result<Vec<ProcessName>, Failure> {
    let view = view(directory)?;
    let own = view.containers().filter(|it| it.name.parts().1.is_none());
    let up = own.filter(|container| container.state != ProcessState::Down);
    Ok(up.map(|container| container.name.clone()).collect())
}

fn ended(directory: &Path, containers: &[ProcessName]) -> Result<(), Failure> {
    for name in containers {
        let deadline_ms = u64::try_from(DRAIN.as_millis()).ok();
        done(ask(directory, Request::Drain { name: name.clone(), deadline_ms }))?;
    }
    let began = Instant::now();
    loop {
        let view = view(directory)?;
        let left = view.containers().filter(|it| it.name.parts().1.is_none() && it.pid.is_some());
        let left: Vec<_> = left.map(|container| container.name.to_string()).collect();
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > END_WITHIN {
            let told = format!("{} do not end, so nothing was changed", left.join(", "));
            return Err(anyhow::Error::msg(told).into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
