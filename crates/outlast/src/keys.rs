//! `outlast keys`: how old the node's keys are, and a rotation by hand.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use topology::protocol::{Answer, KeysStatus, Request};

use crate::command_line::{KeysCommand, Reader};
use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::output;

pub(crate) fn keys(directory: &Path, command: KeysCommand) -> Result<(), Failure> {
    let (request, json) = match command {
        KeysCommand::Show { json } => (Request::Keys, json),
        KeysCommand::Rotate { json } => (Request::RotateKeys, json),
    };
    let keys = match ask(directory, request)? {
        Answer::Keys(keys) => keys,
        Answer::Refused { reason } => return Err(anyhow::Error::msg(reason).into()),
        other => return Err(unexpected(&other)),
    };
    match json.into() {
        Reader::Program => output::json(&keys),
        Reader::Person => {
            output::line(&shown(&keys));
            Ok(())
        }
    }
}

fn shown(keys: &KeysStatus) -> String {
    let since = UNIX_EPOCH + Duration::from_millis(keys.since_ms);
    let in_seconds = Duration::from_secs(keys.rotation_in_ms / 1_000);
    format!(
        "in use since {}, to be rotated in {}; {}",
        humantime::format_rfc3339_seconds(since),
        humantime::format_duration(in_seconds),
        if keys.has_previous {
            "those before are accepted until then"
        } else {
            "there are none before them"
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_dates_and_no_secret() {
        let keys = KeysStatus {
            since_ms: 1_700_000_000_000,
            rotation_in_ms: 6 * 86_400_000 + 999,
            has_previous: true,
        };
        assert_eq!(
            shown(&keys),
            "in use since 2023-11-14T22:13:20Z, to be rotated in 6days; those before are accepted until then"
        );
    }
}
