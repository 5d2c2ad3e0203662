//! `outlast drain`: a process finishes what it has, and the operator sees how far it is.
//!
//! The manager does it; this only watches. So Ctrl-C ends the watching and not the drain, and says so.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;
use topology::protocol::{Answer, Request};
use topology::{ProcessName, ProcessType};

use crate::command_line::{DrainWishes, Json, Reader};
use crate::control::{ask, ask_with_progress, names, unexpected};
use crate::failure::Failure;
use crate::{output, stores};

pub(crate) fn drain(directory: &Path, wishes: DrainWishes) -> Result<(), Failure> {
    for name in names(directory, &wishes.which)? {
        drain_one(directory, name.to_string(), wishes.deadline, wishes.json)?;
    }
    Ok(())
}

fn drain_one(
    directory: &Path,
    name: String,
    deadline: Option<Duration>,
    json: Json,
) -> Result<(), Failure> {
    let request = Request::Drain {
        name: ProcessName::new(&name),
        deadline_ms: deadline
            .map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
    };
    let progress = Progress::new(name.clone(), noun(directory, &name)?, json.into());
    let (ended, answer) = oneshot::channel();
    let watched = directory.to_owned();
    thread::spawn(move || {
        // Nobody waits for it any more after Ctrl-C.
        let _ = ended.send(watch(&watched, request, progress));
    });
    let answer = stores::runtime()?.block_on(async {
        tokio::select! {
            answer = answer => answer.map_err(|_| anyhow::Error::msg("the watching thread panicked")),
            Ok(()) = tokio::signal::ctrl_c() => Err(left_alone(&name)),
        }
    })?;
    match answer? {
        Answer::Done => Ok(()),
        Answer::Refused { reason } => Err(anyhow::Error::msg(reason).into()),
        other => Err(unexpected(&other)),
    }
}

/// The end of watching.
fn left_alone(name: &str) -> anyhow::Error {
    if io::stdout().is_terminal() {
        output::line(""); // below the line that was written over and over
    }
    anyhow::Error::msg(format!("no longer watching; {name} goes on draining, see: outlast status"))
}

fn watch(directory: &Path, request: Request, mut progress: Progress) -> Result<Answer, Failure> {
    let answer = ask_with_progress(directory, request, |answer| {
        if let Answer::Progress { left, deadline_in_ms } = answer {
            progress.show(left, Duration::from_millis(deadline_in_ms));
        }
    });
    progress.end(matches!(answer, Ok(Answer::Done)));
    answer
}

/// What a process of that name has left to finish. That there is none of that name is for the manager to say.
fn noun(directory: &Path, name: &str) -> Result<&'static str, Failure> {
    let status = match ask(directory, Request::Status)? {
        Answer::Status(status) => status,
        other => return Err(unexpected(&other)),
    };
    let view = &status.view;
    let name = view.cluster_name(&ProcessName::new(name));
    let process = view.processes.iter().find(|process| view.cluster_name(&process.name) == name);
    Ok(match process.map(|process| process.process_type) {
        Some(ProcessType::Edge) => "connections",
        Some(ProcessType::Container) | None => "calls",
        Some(ProcessType::Store | ProcessType::Repository) => "clients",
    })
}

/// How the progress is shown.
enum Style {
    /// One line, written over and over.
    Terminal,
    /// A line whenever something has changed.
    Lines,
    /// A JSON object for every word of the manager.
    Json,
}

struct Progress {
    name: String,
    noun: &'static str,
    style: Style,
    /// What was shown last.
    left: Option<u64>,
}

impl Progress {
    fn new(name: String, noun: &'static str, reader: Reader) -> Progress {
        let style = match reader {
            Reader::Program => Style::Json,
            Reader::Person if io::stdout().is_terminal() => Style::Terminal,
            Reader::Person => Style::Lines,
        };
        Progress { name, noun, style, left: None }
    }

    fn show(&mut self, left: u64, deadline_in: Duration) {
        let has_changed = self.left.replace(left) != Some(left);
        match self.style {
            Style::Terminal => {
                // Who closed the terminal wants no more.
                let text = self.text(left, deadline_in);
                let _ = write!(io::stdout(), "\r{text}\x1b[K").and_then(|()| io::stdout().flush());
            }
            Style::Lines if has_changed => output::line(&self.text(left, deadline_in)),
            Style::Lines => {}
            Style::Json => {
                let deadline_in_ms = u64::try_from(deadline_in.as_millis()).unwrap_or(u64::MAX);
                let progress =
                    json!({"name": self.name, "left": left, "deadline_in_ms": deadline_in_ms});
                output::line(&progress.to_string());
            }
        }
    }

    fn text(&self, left: u64, deadline_in: Duration) -> String {
        let seconds = Duration::from_secs(deadline_in.as_millis().div_ceil(1_000) as u64);
        let deadline = humantime::format_duration(seconds);
        format!("{} drains: {left} {} left, {deadline} until it is stopped", self.name, self.noun)
    }

    fn end(self, is_down: bool) {
        if matches!(self.style, Style::Terminal) && self.left.is_some() {
            output::line("");
        }
        match self.style {
            _ if !is_down => {} // the error says what else
            Style::Terminal | Style::Lines => output::line(&format!("{} is down", self.name)),
            Style::Json => {
                output::line(&json!({"name": self.name, "state": "down"}).to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_what_is_left_and_rounds_the_deadline_up() {
        let progress = Progress::new("container1".to_owned(), "calls", Reader::Program);
        assert_eq!(
            progress.text(3, Duration::from_millis(299_001)),
            "container1 drains: 3 calls left, 5m until it is stopped"
        );
        assert_eq!(
            progress.text(0, Duration::ZERO),
            "container1 drains: 0 calls left, 0s until it is stopped"
        );
    }
}
