//! The pieces of a report, kept as JSON under `bench/results`, so that each can be made alone.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::compare::Comparison;
use crate::latency::LatencyFigures;
use crate::machine::Made;
use crate::scale::ScaleFigures;
use crate::steps::timing::StepTime;

/// Figures, and how they came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piece<T> {
    /// How.
    pub made: Made,
    /// What.
    pub figures: T,
}

/// All that a report may have.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    /// Outlast beside Kamailio and the echo.
    pub compare: Option<Piece<Comparison>>,
    /// An application beside a relayed call and the echo.
    pub applications: Option<Piece<Comparison>>,
    /// Many bindings, calls, flows.
    pub scale: Option<Piece<ScaleFigures>>,
    /// Percentiles below saturation.
    pub latency: Option<Piece<LatencyFigures>>,
    /// The steps of a message's way, each alone.
    pub steps: Option<Piece<Vec<StepTime>>>,
}

impl Pieces {
    /// Reads what there is in a directory.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(directory: &Path) -> anyhow::Result<Pieces> {
        Ok(Pieces {
            compare: read(&directory.join("compare.json"))?,
            applications: read(&directory.join("applications.json"))?,
            scale: read(&directory.join("scale.json"))?,
            latency: read(&directory.join("latency.json"))?,
            steps: read(&directory.join("steps.json"))?,
        })
    }

    /// Writes what there is into a directory.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory)?;
        write(&directory.join("compare.json"), self.compare.as_ref())?;
        write(&directory.join("applications.json"), self.applications.as_ref())?;
        write(&directory.join("scale.json"), self.scale.as_ref())?;
        write(&directory.join("latency.json"), self.latency.as_ref())?;
        write(&directory.join("steps.json"), self.steps.as_ref())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            let piece = serde_json::from_slice(&bytes);
            Ok(Some(piece.with_context(|| {
                format!("{} is of another release: make it anew", path.display())
            })?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn write<T: Serialize>(path: &Path, piece: Option<&T>) -> anyhow::Result<()> {
    let Some(piece) = piece else { return Ok(()) };
    let text = serde_json::to_string_pretty(piece)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_missing_is_no_error() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let piece = Piece {
            made: Made::here("bench/run", directory.path()),
            figures: Comparison::default(),
        };
        let pieces = Pieces { compare: Some(piece.clone()), ..Pieces::default() };
        pieces.write(directory.path()).expect("it is writable");
        let read = Pieces::read(directory.path()).expect("it is readable");
        assert_eq!(read.compare, Some(piece));
        assert!(read.scale.is_none() && read.latency.is_none());
    }
}
