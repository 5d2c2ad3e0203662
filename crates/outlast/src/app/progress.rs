//! How a version comes in, as whoever waits for it reads it.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use topology::protocol::{Answer, Request, RolloutProgress};

use crate::command_line::Reader;
use crate::control::{ask_with_progress, unexpected};
use crate::failure::Failure;
use crate::output;

/// Asks the manager for it, and shows each step.
pub(super) fn bring_in(
    directory: &Path,
    request: Request,
    name: &str,
    version: &str,
    reader: Reader,
) -> Result<(), Failure> {
    carry_through(directory, request, name, version, |step| match reader {
        Reader::Person => output::line(&text(version, &step)),
        Reader::Program => {
            // Steps have names for keys only.
            let line = serde_json::to_string(&step).unwrap_or_default();
            output::line(&line);
        }
    })?;
    match reader {
        Reader::Person => output::line(&format!("new sessions of {name} begin with {version}")),
        Reader::Program => {
            let done = json!({"step": "done", "name": name, "version": version});
            output::line(&done.to_string());
        }
    }
    Ok(())
}

/// Asks the manager for it, and tells each step.
pub(super) fn carry_through(
    directory: &Path,
    request: Request,
    name: &str,
    version: &str,
    mut on_step: impl FnMut(RolloutProgress),
) -> Result<(), Failure> {
    let answer = ask_with_progress(directory, request, |answer| {
        if let Answer::Rollout(step) = answer {
            on_step(step);
        }
    })?;
    match answer {
        Answer::Done => Ok(()),
        Answer::RolledBack { reason } => {
            Err(Failure::RolledBack { what: format!("{name} {version}"), reason })
        }
        Answer::Refused { reason } => Err(Failure::Application(reason)),
        other => Err(unexpected(&other)),
    }
}

fn text(version: &str, step: &RolloutProgress) -> String {
    match step {
        RolloutProgress::Loaded { containers: 1 } => format!("loaded {version} into 1 container"),
        RolloutProgress::Loaded { containers } => {
            format!("loaded {version} into {containers} containers")
        }
        RolloutProgress::Switched { container, number, of, watch_ms } => {
            let watch = humantime::format_duration(Duration::from_millis(*watch_ms));
            format!(
                "{container} ({number} of {of}) begins sessions with {version}; watching it for {watch}"
            )
        }
        RolloutProgress::Node { node, number, of } => format!("{node} ({number} of {of}) takes it"),
        RolloutProgress::NodeAway { node } => {
            format!("{node} is lost; it takes {version} when it is back")
        }
        RolloutProgress::Healthy { container, events: 0, .. } => {
            format!("{container} is well; nothing came to {version} meanwhile")
        }
        RolloutProgress::Healthy { container, events, failures } => {
            format!("{container} is well; handlers failed in {failures} of {events} events")
        }
    }
}

#[cfg(test)]
mod tests {
    use topology::ProcessName;

    use super::*;

    #[test]
    fn each_step_is_a_line() {
        let container = || ProcessName::new("container1");
        let switched =
            RolloutProgress::Switched { container: container(), number: 1, of: 2, watch_ms: 2_000 };
        assert_eq!(
            text("1.1.0", &switched),
            "container1 (1 of 2) begins sessions with 1.1.0; watching it for 2s"
        );
        let there = switched.of_node("node2");
        assert_eq!(
            text("1.1.0", &there),
            "container1@node2 (1 of 2) begins sessions with 1.1.0; watching it for 2s"
        );
        let node = || "node2".to_owned();
        let next = RolloutProgress::Node { node: node(), number: 2, of: 3 };
        assert_eq!(text("1.1.0", &next), "node2 (2 of 3) takes it");
        let away = RolloutProgress::NodeAway { node: node() };
        assert_eq!(text("1.1.0", &away), "node2 is lost; it takes 1.1.0 when it is back");
        let well = RolloutProgress::Healthy { container: container(), events: 40, failures: 1 };
        assert_eq!(text("1.1.0", &well), "container1 is well; handlers failed in 1 of 40 events");
    }
}
