//! `outlast config history`: who changed the cluster's configuration, when, and what of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use config::document::{Changed, changes};
use manager::configuration::Change;
use serde::Serialize;

use super::with_repository;
use crate::command_line::Reader;
use crate::failure::Failure;
use crate::output;

/// A change, for programs.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    change: &'a Change,
    /// Against the version before it, if that is remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<Changed>>,
}

pub(super) fn history(directory: &Path, reader: Reader) -> Result<(), Failure> {
    let all =
        with_repository(directory, async |store| manager::configuration::history(store).await)?;
    let texts: BTreeMap<u64, &str> =
        all.iter().map(|change| (change.version, change.text.as_str())).collect();
    let changed = |change: &Change| {
        let before = match change.version {
            1 => "",
            version => texts.get(&(version - 1)).copied()?,
        };
        Some(changes(before, &change.text))
    };
    if reader == Reader::Program {
        let shown: Vec<Shown<'_>> =
            all.iter().map(|change| Shown { change, changed: changed(change) }).collect();
        return output::json(&shown);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|change| {
            let keys = changed(change).map_or_else(|| "-".to_owned(), |changed| keys(&changed));
            vec![
                change.version.to_string(),
                when(change.at_ms),
                format!("{}@{}", change.by, change.node),
                keys,
                change.comment.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output::table(&["VERSION", "WHEN", "WHO", "WHAT", "COMMENT"], &rows);
    Ok(())
}

/// The keys that changed, the first of them.
fn keys(changed: &[Changed]) -> String {
    const SHOWN_MAX: usize = 3;
    let shown: Vec<&str> = changed.iter().take(SHOWN_MAX).map(|it| it.key.as_str()).collect();
    match (shown.len(), changed.len() - shown.len()) {
        (0, _) => "no setting".to_owned(),
        (_, 0) => shown.join(", "),
        (_, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

fn when(at_ms: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at_ms));
    at.map_or_else(|| "-".to_owned(), |at| humantime::format_rfc3339_seconds(at).to_string())
}
