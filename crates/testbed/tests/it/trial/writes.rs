//! Writes to sessions by HTTP, and whether each that was acknowledged is there at the next one.
//!
//! The application counts: every request of a session adds one to what it remembers, and answers with that. So an answer
//! that is lower than the last one and this request make it tells of a write that is lost; a request that was not
//! answered may have counted or not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::client::ask_within;

/// Who does not answer within this is asked no more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// When all serve again, a session has to answer within this.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Where sessions can be reached, any by all of these.
#[derive(Debug, Clone, Default)]
pub(super) struct Doors(Arc<Mutex<Vec<SocketAddr>>>);

impl Doors {
    /// From now on it is these.
    pub(super) fn are(&self, doors: Vec<SocketAddr>) {
        *self.0.lock().expect("no panic under the lock") = doors;
    }

    fn door(&self, turn: usize) -> SocketAddr {
        let doors = self.0.lock().expect("no panic under the lock");
        doors[turn % doors.len()]
    }
}

/// What became of the writes.
#[derive(Debug, Default)]
pub(super) struct WriteTally {
    pub(super) acknowledged: usize,
    /// What tells that an acknowledged write is not there any more.
    pub(super) lost: Vec<String>,
}

impl WriteTally {
    pub(super) fn add(&mut self, other: WriteTally) {
        self.acknowledged += other.acknowledged;
        self.lost.extend(other.lost);
    }
}

/// What is known of a session.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The last answer; it is counted in an octet.
    count: u8,
    /// Requests since then that were not answered.
    unanswered: u8,
}

impl Known {
    /// Whether this answer to one more request can be, if nothing was lost.
    fn is_next(self, count: u8) -> bool {
        let more = count.wrapping_sub(self.count);
        (1..=self.unanswered.saturating_add(1)).contains(&more)
    }
}

/// Writes that go on until they are told to stop.
pub(super) struct Writes {
    is_over: Arc<AtomicBool>,
    writer: JoinHandle<WriteTally>,
}

impl Writes {
    /// Begins to write to so many sessions in turn, by these doors in turn.
    pub(super) fn begin(doors: Doors, sessions: usize) -> Writes {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let writer = thread::spawn(move || {
            let mut writer = Writer { doors, turn: 0, tally: WriteTally::default() };
            let mut known = vec![Known::default(); sessions];
            while !ends.load(Ordering::Relaxed) {
                for (session, known) in known.iter_mut().enumerate() {
                    writer.write(session, known);
                    thread::sleep(PAUSE);
                }
            }
            writer.finish(&mut known);
            writer.tally
        });
        Writes { is_over, writer }
    }

    /// Begins no further write, and looks at all sessions once more.
    pub(super) fn end(self) -> WriteTally {
        self.is_over.store(true, Ordering::Relaxed);
        self.writer.join().expect("the writer does not panic")
    }
}

struct Writer {
    doors: Doors,
    turn: usize,
    tally: WriteTally,
}

impl Writer {
    /// Whether it was answered.
    fn write(&mut self, session: usize, known: &mut Known) -> bool {
        self.turn += 1;
        let door = self.doors.door(self.turn);
        // The digits are the key of the session, the letter asks to count.
        let request = format!("GET /desk/{session}n");
        let answer = ask_within(PATIENCE, door, &request, "", b"");
        let Some(count) = answer.ok().filter(|answer| answer.status == 200) else {
            known.unanswered = known.unanswered.saturating_add(1);
            return false;
        };
        let count = count.octet();
        if !known.is_next(count) {
            self.tally.lost.push(format!("session {session}: {known:?}, and now {count}"));
        }
        *known = Known { count, unanswered: 0 };
        self.tally.acknowledged += 1;
        true
    }

    fn finish(&mut self, known: &mut [Known]) {
        for (session, known) in known.iter_mut().enumerate() {
            let began = Instant::now();
            while !self.write(session, known) {
                if began.elapsed() > END_LIMIT {
                    self.tally.lost.push(format!("session {session} does not answer: {known:?}"));
                    break;
                }
                thread::sleep(PAUSE);
            }
        }
    }
}

#[test]
fn an_answer_tells_of_every_write_that_is_lost() {
    let known = Known { count: 254, unanswered: 2 };
    assert!([255, 0, 1].into_iter().all(|count| known.is_next(count)));
    assert!([254, 253, 2].into_iter().all(|count| !known.is_next(count)));
}
