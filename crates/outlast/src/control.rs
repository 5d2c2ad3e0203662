//! `outlast start`, `stop` and `restart`: one process by hand; and how a command asks the manager.

use std::io;
use std::path::Path;

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
        other @ (Answer::Status(_) | Answer::Keys(_) | Answer::Progress { .. }) => {
            Err(unexpected(&other))
        }
    }
}

/// One question to the manager of the node in that directory.
pub(crate) fn ask(directory: &Path, request: Request) -> Result<Answer, Failure> {
    ask_with_progress(directory, request, |_, _| {})
}

/// The same for a request that tells how far it is: what is left, and the milliseconds until the deadline.
pub(crate) fn ask_with_progress(
    directory: &Path,
    request: Request,
    on_progress: impl FnMut(u64, u64),
) -> Result<Answer, Failure> {
    let socket = manager::server::socket_path(directory);
    let answer = admin_request_with_progress(&socket, request, on_progress);
    answer.map_err(|error| match error {
        ManagerError::NotUp { source, .. } if says_that_nobody_listens(&source) => {
            Failure::NotUp { directory: directory.to_owned(), source }
        }
        // Another user's node may well be up.
        ManagerError::NotUp { .. }
        | ManagerError::Broken(_)
        | ManagerError::Unexpected(_)
        | ManagerError::Refused(_) => Failure::Other(error.into()),
    })
}

fn says_that_nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// An answer to another question.
pub(crate) fn unexpected(answer: &Answer) -> Failure {
    Failure::Other(ManagerError::Unexpected(format!("{answer:?}")).into())
}
