//! The file that the first run of a node writes: every setting with its meaning and its default.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::listen::Listen;
use crate::problem::ConfigError;
use crate::settings::{LISTEN_DEFAULT, NodeConfig, RegistrarSettings};

/// What `outlast up` was told on its first run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstRun {
    /// Where the first edge listens. Default: `0.0.0.0:5060`.
    pub listen: Vec<Listen>,
    /// The domains served. Default: `localhost`.
    pub domains: Vec<String>,
}

impl Default for FirstRun {
    fn default() -> FirstRun {
        FirstRun { listen: vec![LISTEN_DEFAULT], domains: RegistrarSettings::default().domains }
    }
}

const TEMPLATE: &str = include_str!("first_run.toml");

impl FirstRun {
    /// The text of the file.
    pub fn text(&self) -> String {
        let list = |elements: Vec<String>| {
            let quoted: Vec<String> =
                elements.iter().map(|element| format!("\"{element}\"")).collect();
            format!("[{}]", quoted.join(", "))
        };
        let listen = list(self.listen.iter().map(ToString::to_string).collect());
        TEMPLATE
            .replace("[\"localhost\"]", &list(self.domains.clone()))
            .replace("[\"0.0.0.0:5060\"]", &listen)
    }
}

/// Writes the file at `path` and reads it back. A file that is there already is left alone.
///
/// # Errors
/// [`ConfigError::Unwritable`] when the file exists or cannot be written, [`ConfigError::Refused`]
/// when a domain is none (see [`domain_name`](crate::domain_name)); nothing is written then.
pub fn first_run(path: &Path, wishes: &FirstRun) -> Result<NodeConfig, ConfigError> {
    let text = wishes.text();
    let config = crate::parse(&text)
        .map_err(|problems| ConfigError::Refused { path: path.to_owned(), problems })?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|source| ConfigError::Unwritable { path: path.to_owned(), source })?;
    Ok(config)
}

#[cfg(test)]
mod tests;
