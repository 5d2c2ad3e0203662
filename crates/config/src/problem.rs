//! What is wrong with a configuration file, as an operator reads it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::manifest;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}{hint}", path = path.display(), hint = unreadable_hint(path, source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file of a first run cannot be written.
    #[error("{path} cannot be written: {source}; the node's directory must be writable, choose another with --dir", path = path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is refused. Displays one line per problem.
    #[error("{path} is refused:{lines}", path = path.display(), lines = Lines(problems))]
    Refused {
        /// The file.
        path: PathBuf,
        /// All of them, in the order of their lines.
        problems: Vec<Problem>,
    },
}

fn unreadable_hint(path: &Path, source: &io::Error) -> &'static str {
    let is_manifest = path.file_name().is_some_and(|name| name == manifest::FILE_NAME);
    match source.kind() {
        io::ErrorKind::NotFound if is_manifest => {
            "; it belongs beside the component, `outlast app new NAME` writes one"
        }
        io::ErrorKind::NotFound => "; the first `outlast up` writes one",
        _ => "",
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

/// One thing that is wrong, where, and what would be right:
/// `outlast.toml:12 edge.instances.listen: "5060" needs address:port, for example "0.0.0.0:5060"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name: `outlast.toml`, `outlast-app.toml` of an application, or what the cluster's document is called.
    pub file: String,
    /// Line of the file, counted from 1.
    pub line: usize,
    /// The setting, dotted; empty when the file as a whole is wrong.
    pub key: String,
    /// The value and what was expected.
    pub message: String,
}

impl Problem {
    pub(crate) fn of_file(file: &str, line: usize, message: String) -> Problem {
        Problem { file: file.to_owned(), line, key: String::new(), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { file, line, key, message } = self;
        match key.as_str() {
            "" => write!(f, "{file}:{line} {message}"),
            key => write!(f, "{file}:{line} {key}: {message}"),
        }
    }
}
