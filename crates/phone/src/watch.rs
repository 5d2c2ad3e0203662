//! Watching the messages of a phone: a test acts after exactly the n-th one.
//!
//! A watcher is called in the task that reads or writes the line, before the phone does anything about what it
//! received and right after what it sent has been handed to the system. So when it kills a process, nothing
//! that the message brings about has happened yet on the phone's side.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use sip::Message;

/// Which way a message went, seen from the phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the phone to its edge.
    Sent,
    /// From the edge to the phone.
    Received,
}

/// A message that passes.
#[derive(Debug)]
pub struct Passed<'a> {
    /// User of the phone.
    pub user: &'a str,
    /// Which of its lines.
    pub line: usize,
    /// Which way.
    pub direction: Direction,
    /// The message.
    pub message: &'a Message,
    /// Whether the same octets passed this line this way before.
    pub repeated: bool,
}

impl fmt::Display for Passed<'_> {
    /// `alice > INVITE`, `bob < 200 INVITE`; a repetition ends with `again`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.direction {
            Direction::Sent => '>',
            Direction::Received => '<',
        };
        let user = self.user;
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let method = self.message.cseq().map(|cseq| text(cseq.method.as_bytes()));
        let method = method.unwrap_or_default();
        match self.message.status() {
            Some(status) => write!(f, "{user} {arrow} {status} {method}")?,
            None => write!(f, "{user} {arrow} {method}")?,
        }
        if self.repeated { f.write_str(" again") } else { Ok(()) }
    }
}

/// Called for each message; it may block for a moment, and holds up its line meanwhile.
pub type Watcher = Arc<dyn Fn(&Passed<'_>) + Send + Sync>;

/// A watcher that calls `action` once, at the `n`-th message (from 1) that is no repetition. Phones that share
/// it are counted together.
pub fn after_nth(n: usize, action: impl FnOnce() + Send + 'static) -> Watcher {
    let passed = AtomicUsize::new(0);
    let action = Mutex::new(Some(action));
    Arc::new(move |message| {
        if !message.repeated && passed.fetch_add(1, Ordering::SeqCst) + 1 == n {
            let action = action.lock().expect("no panic under the lock").take();
            if let Some(action) = action {
                action();
            }
        }
    })
}

/// Distinct messages that one line remembers, to tell repetitions; past it everything is new again.
const REMEMBERED_MAX: usize = 10_000;

/// The watcher of a phone, if it has one, and what its lines saw.
#[derive(Default)]
pub(crate) struct Watch {
    watcher: Mutex<Option<Watcher>>,
    hasher: RandomState,
    seen: Mutex<HashSet<u64>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn set(&self, watcher: Watcher) {
        *self.watcher.lock().expect("no panic under the lock") = Some(watcher);
    }

    /// A message passes.
    pub(crate) fn passes(&self, user: &str, line: usize, direction: Direction, octets: &Bytes) {
        // Not under the lock: the watcher may take its time.
        let watcher = self.watcher.lock().expect("no panic under the lock").clone();
        let Some(watcher) = watcher else { return };
        let Ok(message) = Message::parse(octets.clone()) else { return };
        let mark = self.hasher.hash_one((line, direction, octets));
        let repeated = {
            let mut seen = self.seen.lock().expect("no panic under the lock");
            if seen.len() >= REMEMBERED_MAX {
                seen.clear();
            }
            !seen.insert(mark)
        };
        watcher(&Passed { user, line, direction, message: &message, repeated });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(number: u32) -> Bytes {
        Bytes::from(format!(
            "INFO sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK{number}\r\n\
             CSeq: {number} INFO\r\n\r\n"
        ))
    }

    #[test]
    fn the_nth_message_acts_once_and_repetitions_do_not_count() {
        let acted = Arc::new(AtomicUsize::new(0));
        let (one, other) = (Watch::default(), Watch::default());
        let watcher = {
            let acted = Arc::clone(&acted);
            after_nth(3, move || {
                acted.fetch_add(1, Ordering::SeqCst);
            })
        };
        one.set(Arc::clone(&watcher));
        other.set(watcher);
        let acted = || acted.load(Ordering::SeqCst);
        one.passes("alice", 0, Direction::Sent, &info(1));
        one.passes("alice", 0, Direction::Sent, &info(1));
        other.passes("bob", 0, Direction::Received, &info(1));
        assert_eq!(acted(), 0, "two messages and a repetition");
        one.passes("alice", 0, Direction::Received, &info(1));
        assert_eq!(acted(), 1, "the same octets the other way are another message");
        one.passes("alice", 0, Direction::Sent, &info(2));
        assert_eq!(acted(), 1);
    }

    #[test]
    fn a_passing_message_is_told_in_a_line() {
        let watch = Watch::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        watch.set(Arc::new(move |passed| sink.lock().expect("lock").push(passed.to_string())));
        watch.passes("bob", 0, Direction::Received, &info(7));
        watch.passes("bob", 0, Direction::Received, &info(7));
        assert_eq!(*told.lock().expect("lock"), ["bob < INFO", "bob < INFO again"]);
    }
}
