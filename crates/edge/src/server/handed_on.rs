//! Messages that a container handed on to a life of another one that has no link here yet.
//!
//! A restarted container owns calls before every worker of every edge has linked to it; until then what is handed on to
//! it waits here. A stream does not repeat what is lost. Pure: time is an argument.
//!
//! Bounds: `KEPT_MAX` messages, `KEPT_BYTES_MAX` and `KEPT_TIME`; what is over one of them is dropped and counted.
//! Should the life have ended meanwhile, nothing is missing: whoever handed a message on remembers it for longer than
//! this, and takes the call over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use topology::Incarnation;
use transport::Flow;

/// A link comes within some tens of milliseconds; a busy machine takes longer.
const KEPT_TIME: Duration = Duration::from_secs(2);
/// Most messages that wait.
const KEPT_MAX: usize = 1_024;
/// Most bytes of messages that wait.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A message on its way to the life that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOn {
    /// Who owns it.
    pub to: Incarnation,
    /// The hops that it had made when it was handed on.
    pub hops: u8,
    /// The flow it came by.
    pub flow: Flow,
    /// The message.
    pub bytes: Bytes,
}

/// What waits for links.
#[derive(Debug, Default)]
pub struct WaitingRoom {
    /// In the order in which they came.
    kept: VecDeque<(Instant, HandedOn)>,
    kept_bytes: usize,
}

/// No room: the message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl WaitingRoom {
    /// Keeps a message until `KEPT_TIME` from `now`.
    ///
    /// # Errors
    /// [`Full`].
    pub fn keep(&mut self, message: HandedOn, now: Instant) -> Result<(), Full> {
        if self.kept.len() >= KEPT_MAX || self.kept_bytes + message.bytes.len() > KEPT_BYTES_MAX {
            return Err(Full);
        }
        self.kept_bytes += message.bytes.len();
        // In memory of its own: it shall not keep the chunk that it was read in.
        let bytes = Bytes::copy_from_slice(&message.bytes);
        self.kept.push_back((now + KEPT_TIME, HandedOn { bytes, ..message }));
        Ok(())
    }

    /// A life has a link: what waited for it, in the order in which it came.
    pub fn linked(&mut self, life: Incarnation) -> Vec<HandedOn> {
        let (its, others) =
            std::mem::take(&mut self.kept).into_iter().partition(|(_, kept)| kept.to == life);
        self.kept = others;
        let its: VecDeque<(Instant, HandedOn)> = its;
        its.into_iter().map(|(_, message)| self.count_out(message)).collect()
    }

    /// How many have waited for too long; they are forgotten.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        while let Some((_, message)) = self.kept.pop_front_if(|(until, _)| *until <= now) {
            self.count_out(message);
            expired += 1;
        }
        expired
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.kept.front().map(|(until, _)| *until)
    }

    fn count_out(&mut self, message: HandedOn) -> HandedOn {
        self.kept_bytes -= message.bytes.len();
        message
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(to: u64, bytes: usize) -> HandedOn {
        let address = "192.0.2.1:5060".parse().unwrap();
        let flow = Flow::new(transport::Transport::Tcp, address, address);
        HandedOn { to: Incarnation(to), hops: 1, flow, bytes: vec![0; bytes].into() }
    }

    fn sizes(messages: &[HandedOn]) -> Vec<usize> {
        messages.iter().map(|message| message.bytes.len()).collect()
    }

    #[test]
    fn what_waits_for_a_life_leaves_in_its_order_when_that_is_linked_and_no_other() {
        let (mut room, now) = (WaitingRoom::default(), Instant::now());
        for (to, bytes) in [(7, 1), (8, 2), (7, 3)] {
            room.keep(message(to, bytes), now).unwrap();
        }
        assert_eq!(sizes(&room.linked(Incarnation(9))), [0; 0]);
        assert_eq!(sizes(&room.linked(Incarnation(7))), [1, 3]);
        assert_eq!(sizes(&room.linked(Incarnation(7))), [0; 0]);
        assert_eq!(sizes(&room.linked(Incarnation(8))), [2]);
        assert_eq!((room.kept_bytes, room.next_deadline()), (0, None));
    }

    #[test]
    fn nobody_is_waited_for_longer_than_the_bound() {
        let (mut room, now) = (WaitingRoom::default(), Instant::now());
        room.keep(message(7, 1), now).unwrap();
        room.keep(message(7, 2), now + KEPT_TIME / 2).unwrap();
        assert_eq!(room.next_deadline(), Some(now + KEPT_TIME));
        assert_eq!(room.expire(now + KEPT_TIME - Duration::from_millis(1)), 0);
        assert_eq!(room.expire(now + KEPT_TIME), 1);
        assert_eq!(sizes(&room.linked(Incarnation(7))), [2]);
        assert_eq!(room.kept_bytes, 0);
    }

    #[test]
    fn what_is_over_the_bounds_is_not_kept() {
        let (mut room, now) = (WaitingRoom::default(), Instant::now());
        for _ in 0..KEPT_MAX {
            room.keep(message(7, 1), now).unwrap();
        }
        assert_eq!(room.keep(message(7, 1), now), Err(Full));
        assert_eq!(room.expire(now + KEPT_TIME), KEPT_MAX);
        let half = KEPT_BYTES_MAX / 2;
        for _ in 0..2 {
            room.keep(message(7, half), now).unwrap();
        }
        assert_eq!(room.keep(message(7, 1), now), Err(Full));
        assert_eq!(room.linked(Incarnation(7)).len(), 2);
        room.keep(message(7, half), now).unwrap();
    }
}
