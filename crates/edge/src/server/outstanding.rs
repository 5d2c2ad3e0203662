//! Who is to be told when a message that was handed to a socket turns out undeliverable.
//!
//! Sockets take a number and give it back. The numbers name places of a ring: an entry that is
//! overwritten before its message failed is forgotten, and the failure then goes unreported (the
//! sender's timers notice).

use sip::Message;
use transport::Flow;

use crate::forward::{Attempt, Source};

/// Entries of the ring; each may keep one message.
const ENTRIES: usize = 1_024;

/// Most bytes of kept messages; beyond, the oldest are forgotten.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where a message came from, as far as it matters when it cannot be sent.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A request from outside: answered with an error, or offered to the next candidate.
    Request(Box<SentRequest>),
    /// A message of a container: it is told.
    Link {
        /// Place among the links.
        link: usize,
        /// Which life of the link: a new one has not asked.
        life: u64,
        /// The container's number.
        id: u64,
    },
    /// Nobody is told: a response, a keep-alive.
    Nobody,
}

/// A request from outside that was handed to a socket.
#[derive(Clone, Debug)]
pub(super) struct SentRequest {
    /// As it came, in memory of its own: it may be kept for long, and shall not keep the chunk that
    /// it was received into.
    pub(super) message: Message,
    /// How it came.
    pub(super) flow: Flow,
    /// From whom.
    pub(super) source: Source,
    /// Which candidate was asked.
    pub(super) attempt: Attempt,
    /// Whether another candidate may be asked.
    pub(super) goes_to: GoesTo,
}

/// What a request was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoesTo {
    /// The only one that can take it.
    OnlyOne,
    /// A stream that may be gone.
    Flow,
    /// One of two candidates.
    Candidate,
}

/// An origin and the worker that knows it.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) worker: u16,
    pub(super) origin: Origin,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Outstanding {
    entries: Vec<Option<(u64, Ticket)>>,
    next: u64,
    /// Numbers below this one are forgotten.
    oldest: u64,
    kept_bytes: usize,
}

/// The number of a message whose failure nobody wants to hear of.
pub(super) const UNTRACKED: u64 = 0;

impl Outstanding {
    pub(super) fn new() -> Outstanding {
        let next = UNTRACKED + 1;
        Outstanding { entries: vec![const { None }; ENTRIES], next, oldest: next, kept_bytes: 0 }
    }

    /// The number to give to a socket.
    pub(super) fn insert(&mut self, ticket: Ticket) -> u64 {
        if let Origin::Nobody = ticket.origin {
            return UNTRACKED;
        }
        let number = self.next;
        self.next += 1;
        self.forget(place(number));
        self.kept_bytes += ticket.kept_bytes();
        self.entries[place(number)] = Some((number, ticket));
        self.oldest = self.oldest.max(self.next.saturating_sub(ENTRIES as u64));
        while self.kept_bytes > KEPT_BYTES_MAX && self.oldest < number {
            self.forget(place(self.oldest));
            self.oldest += 1;
        }
        number
    }

    /// Who is to be told about that number.
    pub(super) fn take(&mut self, number: u64) -> Option<Ticket> {
        match &self.entries[place(number)] {
            Some((kept, _)) if *kept == number => self.forget(place(number)),
            Some(_) | None => None,
        }
    }

    fn forget(&mut self, place: usize) -> Option<Ticket> {
        let (_, ticket) = self.entries[place].take()?;
        self.kept_bytes -= ticket.kept_bytes();
        Some(ticket)
    }
}

impl Ticket {
    fn kept_bytes(&self) -> usize {
        match &self.origin {
            Origin::Request(sent) => sent.message.buffer().len(),
            Origin::Link { .. } | Origin::Nobody => 0,
        }
    }
}

fn place(number: u64) -> usize {
    (number % ENTRIES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(id: u64) -> Ticket {
        Ticket { worker: 0, origin: Origin::Link { link: 0, life: 1, id } }
    }

    #[test]
    fn a_number_names_its_ticket_once_and_only_until_it_is_overwritten() {
        let mut outstanding = Outstanding::new();
        let first = outstanding.insert(ticket(1));
        assert!(outstanding.take(first).is_some());
        assert!(outstanding.take(first).is_none());
        let overwritten = outstanding.insert(ticket(2));
        for id in 0..ENTRIES as u64 {
            outstanding.insert(ticket(id));
        }
        assert!(outstanding.take(overwritten).is_none());
    }

    #[test]
    fn what_nobody_wants_to_hear_of_takes_no_entry() {
        let mut outstanding = Outstanding::new();
        assert_eq!(outstanding.insert(Ticket { worker: 0, origin: Origin::Nobody }), UNTRACKED);
        assert!(outstanding.take(UNTRACKED).is_none());
    }

    fn request(bytes: usize) -> Ticket {
        let text = format!("OPTIONS sip:a SIP/2.0\r\nX: {}\r\n\r\n", "x".repeat(bytes));
        let address = "127.0.0.1:5060".parse().expect("an address");
        let sent = SentRequest {
            message: Message::parse(text.into()).expect("a message"),
            flow: Flow::new(transport::Transport::Udp, address, address),
            source: Source::Outside,
            attempt: Attempt::First,
            goes_to: GoesTo::OnlyOne,
        };
        Ticket { worker: 0, origin: Origin::Request(Box::new(sent)) }
    }

    #[test]
    fn the_oldest_messages_are_forgotten_when_they_take_too_much_memory() {
        let mut outstanding = Outstanding::new();
        // Twice around the ring, so that places are used again.
        let numbers: Vec<u64> =
            (0..2 * ENTRIES).map(|_| outstanding.insert(request(60_000))).collect();
        assert!(outstanding.kept_bytes <= KEPT_BYTES_MAX);
        let kept = numbers.iter().filter(|number| outstanding.take(**number).is_some()).count();
        assert_eq!(kept, KEPT_BYTES_MAX / 60_038);
        assert_eq!(outstanding.kept_bytes, 0);
    }
}
