//! The interface `log`, and what a guest prints: lines for the operator, bounded.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use container::session::SessionId;
use tracing::{debug, error, info, warn};

use super::{Host, wit};
use crate::application::Identity;
use crate::failure::LogRate;
use crate::limits::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX, LOG_LINES_PER_SECOND_MAX};

/// The lines of one application.
#[derive(Debug)]
pub(crate) struct Lines {
    since: Instant,
    rate: Mutex<LogRate>,
}

impl Default for Lines {
    fn default() -> Lines {
        let rate = Mutex::new(LogRate::new(LOG_LINES_PER_SECOND_MAX));
        Lines { since: Instant::now(), rate }
    }
}

impl Lines {
    /// Whether one more may be written; says what was not.
    fn admit(&self, application: &str) -> bool {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = rate.admits(self.since.elapsed().as_secs());
        drop(rate);
        if let Some(dropped @ 1..) = admitted {
            let max = LOG_LINES_PER_SECOND_MAX;
            warn!(application, dropped, "it logged more than {max} lines in one second");
        }
        admitted.is_some()
    }
}

/// The lines of one event.
#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: usize,
    dropped: usize,
}

impl Log {
    /// Whether one more line may be written.
    fn admits(&mut self) -> bool {
        let admits = self.lines < LOG_LINES_MAX;
        self.lines += usize::from(admits);
        self.dropped += usize::from(!admits);
        admits
    }

    /// Says what was dropped.
    pub(crate) fn conclude(&mut self, application: &Identity, session: Option<SessionId>) {
        if self.dropped > 0 {
            let (dropped, max) = (self.dropped, LOG_LINES_MAX);
            warn!(
                application = application.versioned,
                session = %Named(session), dropped, "an event logged more than {max} lines"
            );
        }
        *self = Log::default();
    }
}

impl wit::log::Host for Host {
    fn write(&mut self, level: wit::log::Level, message: String) {
        if !self.log.admits() || !self.application.lines.admit(&self.application.versioned) {
            return;
        }
        let application = &self.application.versioned;
        let session = Named(self.session_id());
        let line = cut(&message);
        match level {
            wit::log::Level::Debug => debug!(target: "app", application, %session, "{line}"),
            wit::log::Level::Info => info!(target: "app", application, %session, "{line}"),
            wit::log::Level::Warn => warn!(target: "app", application, %session, "{line}"),
            wit::log::Level::Error => error!(target: "app", application, %session, "{line}"),
        }
    }
}

impl Host {
    /// What the guest printed during this event (a panic's message, most often) is logged like its other lines.
    pub(super) fn log_output(&mut self) {
        let Some(wasi) = &self.wasi else { return };
        let output = wasi.printed();
        if output.is_empty() {
            return;
        }
        let (application, session) = (&self.application.versioned, Named(self.session_id()));
        for line in String::from_utf8_lossy(&output).lines().filter(|line| !line.is_empty()) {
            if self.log.admits() && self.application.lines.admit(application) {
                let line = cut(line);
                info!(target: "app", application, %session, "printed: {line}");
            }
        }
    }
}

/// At most the longest line, cut between two characters.
fn cut(line: &str) -> &str {
    &line[..line.floor_char_boundary(LOG_LINE_BYTES_MAX)]
}

/// A session, or none.
struct Named(Option<SessionId>);

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_so_many_lines_and_the_others_are_counted() {
        let mut log = Log::default();
        assert_eq!((0..1_000).filter(|_| log.admits()).count(), LOG_LINES_MAX);
        assert_eq!(log.dropped, 1_000 - LOG_LINES_MAX);
    }

    #[test]
    fn a_long_line_is_cut_between_two_characters() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(LOG_LINE_BYTES_MAX);
        let cut = cut(&format!("a{long}")).len();
        assert_eq!(cut, LOG_LINE_BYTES_MAX - 1);
    }
}
