//! `outlast start`, `stop` and `restart`: processes by hand; and how a command asks the manager.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use manager::server::{guardian_of, left_behind};
use topology::protocol::{Answer, Request};
use topology::server::{ManagerError, admin_request_with_progress};
use topology::{NodeState, ProcessName};

use crate::command_line::Which;
use crate::failure::Failure;
use crate::output;

pub(crate) fn start(directory: &Path, which: &Which) -> Result<(), Failure> {
    each(directory, which, "is ready", |name| Request::Start { name })
}

pub(crate) fn stop(directory: &Path, which: &Which) -> Result<(), Failure> {
    each(directory, which, "is down", |name| Request::Stop { name })
}

pub(crate) fn restart(directory: &Path, which: &Which) -> Result<(), Failure> {
    each(directory, which, "is ready again", |name| Request::Restart { name })
}

fn each(
    directory: &Path,
    which: &Which,
    done: &str,
    of: impl Fn(ProcessName) -> Request,
) -> Result<(), Failure> {
    for name in names(directory, which)? {
        let done = format!("{name} {done}");
        request(directory, of(name), &done)?;
    }
    Ok(())
}

/// The processes that are meant: one, or with `--cluster` that of every node that is up and has one of that name.
pub(crate) fn names(directory: &Path, which: &Which) -> Result<Vec<ProcessName>, Failure> {
    let name = ProcessName::new(&which.name);
    if !which.cluster {
        return Ok(vec![name]);
    }
    let status = match ask(directory, Request::Status)? {
        Answer::Status(status) => status,
        other => return Err(unexpected(&other)),
    };
    let view = &status.view;
    if view.nodes.is_empty() {
        let told = "this node is in no cluster; see outlast cluster create, or leave --cluster out";
        return Err(anyhow::Error::msg(told).into());
    }
    let plain = which.name.split('@').next().unwrap_or_default();
    let up = view.nodes.iter().filter(|node| node.state == NodeState::Up);
    let all: Vec<ProcessName> =
        up.map(|node| ProcessName::of_node(&ProcessName::new(plain), &node.name)).collect();
    let is_there = |full: &ProcessName| {
        view.processes.iter().any(|process| &view.cluster_name(&process.name) == full)
    };
    let found: Vec<ProcessName> = all.into_iter().filter(is_there).collect();
    if found.is_empty() {
        let told =
            format!("no node that is up has a process named {plain}; see outlast status --cluster");
        return Err(anyhow::Error::msg(told).into());
    }
    Ok(found)
}

#[cfg(feature = "faults")]
pub(crate) fn fault(
    directory: &Path,
    name: String,
    fault: crate::command_line::FaultName,
) -> Result<(), Failure> {
    let fault = match fault {
        crate::command_line::FaultName::WedgeSip => topology::protocol::Fault::WedgeSip,
    };
    let done = format!("{name} was told");
    request(directory, Request::Fault { name: ProcessName(name), fault }, &done)
}

fn request(directory: &Path, request: Request, done: &str) -> Result<(), Failure> {
    match ask(directory, request)? {
        Answer::Done => {
            output::line(done);
            Ok(())
        }
        Answer::Refused { reason } => Err(anyhow::Error::msg(reason).into()),
        other => Err(unexpected(&other)),
    }
}

/// How long a manager that died may take to be replaced: the guardian needs a second at most.
const REVIVED_WITHIN: Duration = Duration::from_secs(2);

const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// One question to the manager of the node in that directory.
pub(crate) fn ask(directory: &Path, request: Request) -> Result<Answer, Failure> {
    ask_with_progress(directory, request, |_| {})
}

/// The same for a request that tells how far it is.
pub(crate) fn ask_with_progress(
    directory: &Path,
    request: Request,
    mut on_progress: impl FnMut(Answer),
) -> Result<Answer, Failure> {
    let socket = manager::server::socket_path(directory);
    let begun = Instant::now();
    let answer = loop {
        match admin_request_with_progress(&socket, request.clone(), &mut on_progress) {
            Err(error)
                if may_be_replaced(&error, &request)
                    && begun.elapsed() < REVIVED_WITHIN
                    && guardian_of(directory).is_some() =>
            {
                thread::sleep(ASK_AGAIN_AFTER);
            }
            answer => break answer,
        }
    };
    answer.map_err(|error| match error {
        ManagerError::NotUp { source, .. } if says_that_nobody_listens(&source) => {
            unanswered(directory, source)
        }
        ManagerError::Broken(source) if source.kind() == io::ErrorKind::WouldBlock => {
            let says_nothing = io::Error::new(io::ErrorKind::TimedOut, "its manager hangs");
            unanswered(directory, says_nothing)
        }
        ManagerError::NotUp { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            let directory = directory.display();
            let foreign =
                format!("{directory} is another user's ({source}): run this as that user");
            Failure::Other(anyhow::Error::msg(foreign))
        }
        ManagerError::NotUp { .. }
        | ManagerError::Broken(_)
        | ManagerError::Unexpected(_)
        | ManagerError::Refused(_) => Failure::Other(error.into()),
    })
}

/// What is there instead of a manager that answers.
fn unanswered(directory: &Path, source: io::Error) -> Failure {
    let directory = directory.to_owned();
    match (guardian_of(&directory), left_behind(&directory)) {
        (Some(guardian), _) => Failure::ComingUp { directory, guardian },
        (None, Some(status)) => Failure::Unmanaged { directory, status: Box::new(status) },
        (None, None) => Failure::NotUp { directory, source },
    }
}

/// Whether the manager seems to have died, so that the next one can be asked the same.
fn may_be_replaced(error: &ManagerError, request: &Request) -> bool {
    match error {
        // The next one takes the dead one's socket away before it has its own.
        ManagerError::NotUp { source, .. } => says_that_nobody_listens(source),
        // It may have carried out what it did not answer any more: only what changes nothing is asked twice.
        ManagerError::Broken(_) => {
            matches!(
                request,
                Request::Status
                    | Request::Keys
                    | Request::Applications
                    | Request::ClusterApplications
            )
        }
        ManagerError::Unexpected(_) | ManagerError::Refused(_) => false,
    }
}

fn says_that_nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// An answer to another question.
pub(crate) fn unexpected(answer: &Answer) -> Failure {
    Failure::Other(ManagerError::Unexpected(format!("{answer:?}")).into())
}
