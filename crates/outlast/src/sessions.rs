//! `outlast sessions`: the sessions of applications, read from the store, with the node up or down.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use container::session::summary::SessionSummary;
use container::session::{LegDirection, LegState};
use container::shard;
use serde::Serialize;
use state::UnixMillis;
use topology::TopologyView;
use topology::protocol::{Answer, Request};

use crate::command_line::{Reader, SessionsWishes};
use crate::control::ask;
use crate::failure::Failure;
use crate::{output, stores};

pub(crate) fn sessions(directory: &Path, wishes: &SessionsWishes) -> Result<(), Failure> {
    let view = view(directory);
    let mut all = Vec::new();
    each(directory, |session| {
        if wishes.application.as_ref().is_none_or(|wanted| is_of(&session.application, wanted)) {
            all.push(shown(&session, view.as_ref()));
        }
    })?;
    match wishes.json.into() {
        Reader::Program => output::json(&all),
        Reader::Person => {
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            let head = ["SESSION", "APPLICATION", "CONTAINER", "SINCE", "EXPIRES", "LEGS"];
            output::table(&head, &rows);
            Ok(())
        }
    }
}

/// How many sessions of that application, or of one version of it, live.
pub(crate) fn count(directory: &Path, name: &str, version: Option<&str>) -> Result<usize, Failure> {
    let wanted = version.map_or_else(|| name.to_owned(), |version| format!("{name}@{version}"));
    let mut count = 0;
    each(directory, |session| count += usize::from(is_of(&session.application, &wanted)))?;
    Ok(count)
}

/// How many there are.
pub(crate) fn count_all(directory: &Path) -> Result<usize, Failure> {
    let mut count = 0;
    each(directory, |_| count += 1)?;
    Ok(count)
}

fn each(directory: &Path, each: impl FnMut(SessionSummary)) -> Result<(), Failure> {
    stores::must_exist(directory)?;
    let store = stores::open_state(directory)?;
    let listed = stores::runtime()?.block_on(shard::sessions(&*store, each));
    Ok(listed.map_err(anyhow::Error::from)?)
}

/// Whose a session is: `NAME@VERSION`, of which either the name or all is wanted.
fn is_of(application: &str, wanted: &str) -> bool {
    application == wanted || application.split_once('@').is_some_and(|(name, _)| name == wanted)
}

/// The containers by their lives, if a manager tells.
fn view(directory: &Path) -> Option<TopologyView> {
    match ask(directory, Request::Status) {
        Ok(Answer::Status(status)) => Some(status.view),
        Ok(_) | Err(_) => None,
    }
}

/// What programs read.
#[derive(Serialize)]
struct Shown {
    id: String,
    application: String,
    /// None: the container that held it is gone, and none has needed it since, or the node is down.
    container: Option<String>,
    created_ms: u64,
    expires_ms: u64,
    legs: Vec<ShownLeg>,
    timers: Vec<String>,
    attribute_bytes: usize,
}

#[derive(Serialize)]
struct ShownLeg {
    name: String,
    direction: &'static str,
    state: &'static str,
}

fn shown(session: &SessionSummary, view: Option<&TopologyView>) -> Shown {
    let container = view.and_then(|view| {
        view.processes.iter().find(|process| process.incarnation == session.owner)
    });
    Shown {
        id: session.id.to_string(),
        application: session.application.clone(),
        container: container.map(|process| process.name.to_string()),
        created_ms: session.created.0,
        expires_ms: session.expires.0,
        legs: session
            .legs
            .iter()
            .map(|(name, direction, state)| ShownLeg {
                name: name.to_string(),
                direction: match direction {
                    LegDirection::Incoming => "incoming",
                    LegDirection::Outgoing => "outgoing",
                },
                state: match state {
                    LegState::Early => "early",
                    LegState::Confirmed => "confirmed",
                    LegState::Ended => "ended",
                },
            })
            .collect(),
        timers: session.timers.clone(),
        attribute_bytes: session.attribute_bytes,
    }
}

fn row(session: &Shown) -> Vec<String> {
    let legs: Vec<String> =
        session.legs.iter().map(|leg| format!("{} {}", leg.name, leg.state)).collect();
    vec![
        session.id.clone(),
        session.application.clone(),
        session.container.clone().unwrap_or_else(|| "-".to_owned()),
        date(UnixMillis(session.created_ms)),
        date(UnixMillis(session.expires_ms)),
        if legs.is_empty() { "-".to_owned() } else { legs.join(", ") },
    ]
}

fn date(at: UnixMillis) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(at.0)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_named_with_its_version_or_without() {
        for (wanted, is) in
            [("echo", true), ("echo@1.0.0", true), ("echo@1.0.1", false), ("ech", false)]
        {
            assert_eq!(is_of("echo@1.0.0", wanted), is, "{wanted}");
        }
        assert!(is_of("back-to-back", "back-to-back"));
    }
}
