//! What happened, for a person to read, and its hash, for two runs to be compared.
//!
//! The hash always covers everything; lines are written only when somebody asked for them, since a world is run again
//! in no time.

use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use sip::{HeaderName, Message};

use crate::schedule::Moment;

/// Whether lines are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// The hash only.
    Hash,
    /// All lines.
    Lines,
}

/// The story of a world.
#[derive(Debug)]
pub struct Trace {
    recording: Recording,
    now: Moment,
    hash: DefaultHasher,
    lines: Vec<String>,
}

impl Trace {
    /// An empty story.
    pub fn new(recording: Recording) -> Trace {
        // The fixed keys of `DefaultHasher::new` make the hash the same in every run.
        Trace { recording, now: Moment::ZERO, hash: DefaultHasher::new(), lines: Vec::new() }
    }

    /// What follows happens at that moment.
    pub fn at(&mut self, now: Moment) {
        self.now = now;
    }

    /// Something happened.
    pub fn note(&mut self, who: impl Display, what: impl Display) {
        let line = format!("{who}: {what}");
        (self.now, &line).hash(&mut self.hash);
        self.push(line);
    }

    /// A message went from one to another.
    pub fn message(&mut self, who: impl Display, what: &str, bytes: &Bytes) {
        (self.now, what, &bytes[..]).hash(&mut self.hash);
        if self.recording == Recording::Lines {
            self.push(format!("{who}: {what} {}", summary(bytes)));
        }
    }

    /// The hash of all that happened so far.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The lines so far; none when only the hash is kept.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    fn push(&mut self, line: String) {
        if self.recording == Recording::Lines {
            let seconds = self.now.as_secs_f64();
            self.lines.push(format!("{seconds:>12.6}  {line}"));
        }
    }
}

/// First line, Call-ID, CSeq and the top branch of a message.
fn summary(bytes: &Bytes) -> String {
    let Ok(message) = Message::parse(bytes.clone()) else {
        return format!("{} octets", bytes.len());
    };
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let field = |name| text(message.field(name).unwrap_or_default());
    let branch = message.top_via().ok().and_then(|via| via.branch().map(text)).unwrap_or_default();
    let branch: String = branch.chars().rev().take(8).collect::<Vec<_>>().iter().rev().collect();
    let first = match (message.method(), message.status()) {
        (Some(method), _) => {
            let uri = text(message.request_uri().unwrap_or_default());
            format!("{} {uri}", text(method.as_bytes()))
        }
        (None, status) => format!("{}", status.unwrap_or_default()),
    };
    format!("{first} [{} | {} | …{branch}]", field(HeaderName::CallId), field(HeaderName::CSeq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_what_when_and_in_which_order() {
        let hash = |story: &[(u64, &str)]| {
            let mut trace = Trace::new(Recording::Hash);
            for (second, what) in story {
                trace.at(Moment::from_secs(*second));
                trace.note("somebody", what);
            }
            trace.hash()
        };
        assert_eq!(hash(&[(1, "a"), (2, "b")]), hash(&[(1, "a"), (2, "b")]));
        for other in [[(1, "a"), (2, "c")], [(1, "a"), (3, "b")], [(1, "b"), (2, "a")]] {
            assert_ne!(hash(&[(1, "a"), (2, "b")]), hash(&other));
        }
    }

    #[test]
    fn a_message_is_told_in_one_line() {
        let mut trace = Trace::new(Recording::Lines);
        let bye = "BYE sip:bob@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK12345678\r\n\
                   Call-ID: call-1\r\nCSeq: 2 BYE\r\n\r\n";
        trace.message("alice", "sends", &Bytes::from_static(bye.as_bytes()));
        let expected =
            "    0.000000  alice: sends BYE sip:bob@192.0.2.1 [call-1 | 2 BYE | …12345678]";
        assert_eq!(trace.lines(), [expected]);
    }
}
