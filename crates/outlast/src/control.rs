//! `outlast start`, `stop` and `restart`: one process by hand; and how a command asks the manager.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use manager::server::{guardian_of, left_behind};
use topology::ProcessName;
use topology::protocol::{Answer, Request};
use topology::server::{ManagerError, admin_request_with_progress};

use crate::failure::Failure;
use crate::output;

pub(crate) fn start(directory: &Path, name: String) -> Result<(), Failure> {
    let done = format!("{name} is ready");
    request(directory, Request::Start { name: ProcessName(name) }, &done)
}

pub(crate) fn stop(directory: &Path, name: String) -> Result<(), Failure> {
    let done = format!("{name} is down");
    request(directory, Request::Stop { name: ProcessName(name) }, &done)
}

pub(crate) fn restart(directory: &Path, name: String) -> Result<(), Failure> {
    let done = format!("{name} is ready again");
    request(directory, Request::Restart { name: ProcessName(name) }, &done)
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
        // One that ends in an orderly way takes its socket along.
        ManagerError::NotUp { source, .. } => source.kind() == io::ErrorKind::ConnectionRefused,
        // It may have carried out what it did not answer any more: only what changes nothing is asked twice.
        ManagerError::Broken(_) => {
            matches!(request, Request::Status | Request::Keys | Request::Applications)
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
