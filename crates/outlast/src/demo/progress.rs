//! Tells what the demo is doing: on a terminal a line that changes when it is done, else only what is done.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

use demo::story::Listener;

use crate::command_line::Reader;

/// Back to the beginning of the line, and clear it.
const ANEW: &str = "\r\u{1b}[K";

/// Where progress is told. With JSON on stdout it goes to stderr.
pub(super) struct Progress {
    reader: Reader,
    is_terminal: bool,
    since: Instant,
    /// A line stands on the terminal that is not done.
    is_begun: bool,
}

impl Progress {
    pub(super) fn new(reader: Reader) -> Progress {
        let is_terminal = match reader {
            Reader::Person => io::stdout().is_terminal(),
            Reader::Program => io::stderr().is_terminal(),
        };
        Progress { reader, is_terminal, since: Instant::now(), is_begun: false }
    }

    pub(super) fn headline(&mut self, text: &str) {
        self.write(&format!("{text}\n\n"));
    }

    /// Ends a line that was begun and will not be done.
    pub(super) fn newline(&mut self) {
        if std::mem::take(&mut self.is_begun) {
            self.write("\n");
        }
    }

    /// Who closed the pipe wants no more: that is no error.
    fn write(&self, text: &str) {
        let _ = match self.reader {
            Reader::Person => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
            Reader::Program => io::stderr().lock().write_all(text.as_bytes()),
        };
    }
}

impl Listener for Progress {
    fn begins(&mut self, what: &str) {
        self.since = Instant::now();
        if self.is_terminal {
            self.is_begun = true;
            self.write(&format!("{ANEW}  …       {what}"));
        }
    }

    fn done(&mut self, what: &str) {
        let anew = if self.is_terminal { ANEW } else { "" };
        self.is_begun = false;
        self.write(&format!("{anew}  {:>5.1} s {what}\n", self.since.elapsed().as_secs_f32()));
    }
}
