//! Why a command was not carried out, and the exit code that says so.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use config::ConfigError;
use manager::UpError;
use topology::protocol::NodeStatus;

/// A failed command: what its operator reads on stderr.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration is refused.
    Config(ConfigError),
    /// No manager answers in the node's directory.
    NotUp {
        /// The node's directory.
        directory: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A guardian is there, and its manager does not answer yet.
    ComingUp {
        /// The node's directory.
        directory: PathBuf,
        /// The guardian's process id.
        guardian: u32,
    },
    /// Guardian and manager are gone, or do not answer, and other processes of the node live on.
    Unmanaged {
        /// The node's directory.
        directory: PathBuf,
        /// What is known of them.
        status: Box<NodeStatus>,
    },
    /// An application cannot be deployed as it is.
    Application(String),
    /// A version of an application was not brought in.
    RolledBack {
        /// Name and version.
        what: String,
        /// What was wrong.
        reason: String,
    },
    /// A store that was looked at is damaged.
    Damaged(String),
    /// Everything else.
    Other(anyhow::Error),
}

/// What `outlast process verify` says of a damaged store; not for operators.
pub(crate) const DAMAGED: u8 = 3;

/// `EX_USAGE` of sysexits.h, which `config check` is documented to give.
const CONFIGURATION_REFUSED: u8 = 64;

/// `EX_DATAERR` of sysexits.h.
const APPLICATION_REFUSED: u8 = 65;

/// What was begun was undone.
const ROLLED_BACK: u8 = 71;

/// `EX_UNAVAILABLE` of sysexits.h.
const NODE_NOT_UP: u8 = 69;

/// The node serves, and nobody looks after it.
const NODE_UNMANAGED: u8 = 70;

impl Failure {
    /// See `--help`.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Config(ConfigError::Refused { .. }) => ExitCode::from(CONFIGURATION_REFUSED),
            Failure::NotUp { .. } | Failure::ComingUp { .. } => ExitCode::from(NODE_NOT_UP),
            Failure::Unmanaged { .. } => ExitCode::from(NODE_UNMANAGED),
            Failure::Application(_) => ExitCode::from(APPLICATION_REFUSED),
            Failure::RolledBack { .. } => ExitCode::from(ROLLED_BACK),
            Failure::Damaged(_) => ExitCode::from(DAMAGED),
            Failure::Config(ConfigError::Unreadable { .. } | ConfigError::Unwritable { .. })
            | Failure::Other(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Config(error) => write!(f, "{error}"),
            Failure::NotUp { directory, source } => {
                let directory = directory.display();
                let source = match source.kind() {
                    // That nobody listens is what it means, not why.
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => String::new(),
                    _ => format!(" ({source})"),
                };
                write!(
                    f,
                    "no node runs in {directory}{source}; start it with: outlast up --dir {directory}"
                )
            }
            Failure::ComingUp { directory, guardian } => write!(
                f,
                "the node in {directory} is coming up: its guardian (pid {guardian}) runs, its manager does not answer yet; \
                 try again, or see {directory}/log/manager.log",
                directory = directory.display()
            ),
            Failure::Unmanaged { directory, status } => write!(
                f,
                "guardian and manager of the node in {directory} do not answer, and {living} without them: what dies now \
                 stays away. Take over what lives with: outlast up --dir {directory}",
                living = living(status),
                directory = directory.display()
            ),
            Failure::RolledBack { what, reason } => write!(
                f,
                "{what} did not come in: {reason}. New sessions begin as before; see outlast app list"
            ),
            Failure::Application(how) | Failure::Damaged(how) => f.write_str(how),
            Failure::Other(error) => f.write_str(&with_causes(error)),
        }
    }
}

/// `container1 (pid 17) and edge1 (pid 18) live on`
fn living(status: &NodeStatus) -> String {
    let processes = status.view.processes.iter();
    let living: Vec<String> = processes
        .filter_map(|process| Some(format!("{} (pid {})", process.name, process.pid?)))
        .collect();
    match living.split_last() {
        None => "nothing lives on".to_owned(),
        Some((only, [])) => format!("{only} lives on"),
        Some((last, others)) => format!("{} and {last} live on", others.join(", ")),
    }
}

/// The error and its causes on one line. Many of our errors tell their cause in their own text: not twice.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.as_str() {
            "" => cause,
            told if told.contains(&cause) => told.to_owned(),
            told => format!("{told}: {cause}"),
        }
    })
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Config(error)
    }
}

impl From<UpError> for Failure {
    fn from(error: UpError) -> Failure {
        Failure::Other(error.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let source = io::Error::other("disk on fire");
        // Tells its cause in its own text, and as its source.
        let error = UpError::Spawn { name: topology::ProcessName::new("edge1"), source };
        let told = Err::<(), _>(error).context("no start").expect_err("it is one");
        assert_eq!(with_causes(&told), "no start: edge1: disk on fire");
    }
}
