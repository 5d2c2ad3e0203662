//! Lines for a stream that somebody reads, or not: a full pipe, a closed one, a stopped terminal.
//!
//! A thread writes; who has a line to show only queues it. Beyond [`LINES_MAX`] waiting lines further ones are not
//! shown: they stand in the log files.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const LINES_MAX: usize = 256;

/// The queueing end; clones queue for the same stream.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    lines: SyncSender<Vec<u8>>,
    waiting: Arc<Waiting>,
}

/// How many lines are not written yet.
#[derive(Debug, Default)]
struct Waiting {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Outlet {
    pub(crate) fn new(stream: impl Write + Send + 'static) -> Outlet {
        let (lines, queued) = sync_channel(LINES_MAX);
        let waiting = Arc::new(Waiting::default());
        let outlet = Outlet { lines, waiting: Arc::clone(&waiting) };
        let writing = thread::Builder::new().name("outlet".to_owned());
        // Without a thread nothing is shown; the log files have it all.
        let _ = writing.spawn(move || write_all(stream, &queued, &waiting));
        outlet
    }

    /// Shows a line, if there is room.
    pub(crate) fn line(&self, text: &str) {
        self.queue(format!("{text}\n").into_bytes());
    }

    /// Waits until everything is written, or nobody seems to read.
    pub(crate) fn flush(&self, patience: Duration) {
        let count = self.waiting.count.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not written by then stays unwritten.
        let _ = self.waiting.changed.wait_timeout_while(count, patience, |count| *count > 0);
    }

    fn queue(&self, line: Vec<u8>) {
        self.waiting.change(1);
        if self.lines.try_send(line).is_err() {
            self.waiting.change(-1);
        }
    }
}

impl Waiting {
    fn change(&self, by: isize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add_signed(by);
        self.changed.notify_all();
    }
}

fn write_all(mut stream: impl Write, queued: &Receiver<Vec<u8>>, waiting: &Waiting) {
    for line in queued {
        // A stream that fails is tried again with the next line: a terminal may come back.
        let _ = stream.write_all(&line).and_then(|()| stream.flush());
        waiting.change(-1);
    }
}

/// One write is one line, as the log's formatter does it.
impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn lines_come_out_in_their_order() {
        let (mut reader, writer) = io::pipe().unwrap();
        let outlet = Outlet::new(writer);
        outlet.line("one");
        outlet.line("two");
        outlet.flush(PATIENCE);
        drop(outlet);
        let mut shown = String::new();
        reader.read_to_string(&mut shown).unwrap();
        assert_eq!(shown, "one\ntwo\n");
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_up_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        let outlet = Outlet::new(writer);
        // More than the pipe and the queue take together.
        for _ in 0..LINES_MAX * 4 {
            outlet.line(&"x".repeat(1_000));
        }
        outlet.flush(Duration::from_millis(20));
        let unwritten = *outlet.waiting.count.lock().unwrap();
        assert!((1..=LINES_MAX + 1).contains(&unwritten), "{unwritten} lines wait");
        drop(reader);
        outlet.line("to a closed pipe");
        outlet.flush(PATIENCE);
        assert_eq!(*outlet.waiting.count.lock().unwrap(), 0, "what nobody can read is done with");
    }
}
