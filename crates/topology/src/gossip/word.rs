//! What is inside a datagram: who sends it, and one of four kinds of words.
//!
//! A gossip message may be longer than the path takes in one piece (its octets then would travel as fragments, which
//! filters like to drop): it goes in parts ([`split`]) and is put together where they come ([`Parts`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::node::NodeNumber;

/// Octets of a message in one part: with what is around it, less than 1,280, which every path takes.
const PART_BYTES_MAX: usize = 1_150;

/// Parts of the longest message that the gossip's library makes (65,507 octets), and some.
const PARTS_MAX: usize = 64;

/// Messages of which parts are awaited; the one begun first makes room.
const UNFINISHED_MAX: usize = 64;

/// Octets of the longest text of an address: of IPv6 with zone and port.
const ADDRESS_BYTES_MAX: usize = 64;

/// What one datagram says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spoken {
    /// The number of the node that says it.
    pub(super) node: NodeNumber,
    /// In which of its lives; later ones have greater numbers.
    pub(super) life: u64,
    /// Where it is reached: answers go there, wherever the datagram came from.
    pub(super) address: SocketAddr,
    /// What it says.
    pub(super) word: Word,
}

/// One kind of datagram. Times are Unix microseconds, of the clock of whoever names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// A part of a gossip message.
    Part(Part),
    /// What time is it with you?
    Ask {
        /// Of whoever asks.
        asked_at: u64,
    },
    /// The answer to it.
    Answer {
        /// From the question.
        asked_at: u64,
        /// When the question came, and the answer left.
        answered_at: u64,
    },
    /// I am here; said to a multicast address.
    Here,
}

/// A part of a gossip message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Which message of this sender.
    pub(super) message: u32,
    /// Which part of it, from 0.
    pub(super) part: u8,
    /// Of how many.
    pub(super) parts: u8,
    /// Its octets.
    pub(super) octets: Vec<u8>,
}

impl Spoken {
    /// As octets.
    pub(super) fn encode(&self) -> Vec<u8> {
        let address = self.address.to_string();
        let mut octets = Vec::with_capacity(64 + PART_BYTES_MAX);
        octets.extend_from_slice(&self.node.get().to_be_bytes());
        octets.extend_from_slice(&self.life.to_be_bytes());
        octets.push(address.len() as u8);
        octets.extend_from_slice(address.as_bytes());
        match &self.word {
            Word::Part(Part { message, part, parts, octets: own }) => {
                octets.push(1);
                octets.extend_from_slice(&message.to_be_bytes());
                octets.extend_from_slice(&[*part, *parts]);
                octets.extend_from_slice(own);
            }
            Word::Ask { asked_at } => {
                octets.push(2);
                octets.extend_from_slice(&asked_at.to_be_bytes());
            }
            Word::Answer { asked_at, answered_at } => {
                octets.push(3);
                octets.extend_from_slice(&asked_at.to_be_bytes());
                octets.extend_from_slice(&answered_at.to_be_bytes());
            }
            Word::Here => octets.push(4),
        }
        octets
    }

    /// Reads it back; `None` for what has another form: another release's, or a bug.
    pub(super) fn decode(octets: &[u8]) -> Option<Spoken> {
        let (node, rest) = octets.split_first_chunk()?;
        let (life, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let length = usize::from(*length);
        if length > ADDRESS_BYTES_MAX || length > rest.len() {
            return None;
        }
        let (address, rest) = rest.split_at(length);
        let (kind, rest) = rest.split_first()?;
        let word = match kind {
            1 => {
                let (message, rest) = rest.split_first_chunk()?;
                let ([part, parts], octets) = rest.split_first_chunk()?;
                let message = u32::from_be_bytes(*message);
                let is_part = part < parts && usize::from(*parts) <= PARTS_MAX;
                let (part, parts) = is_part.then_some((*part, *parts))?;
                Word::Part(Part { message, part, parts, octets: octets.to_vec() })
            }
            2 => Word::Ask { asked_at: u64::from_be_bytes(rest.try_into().ok()?) },
            3 => {
                let (asked_at, answered_at) = rest.split_first_chunk()?;
                Word::Answer {
                    asked_at: u64::from_be_bytes(*asked_at),
                    answered_at: u64::from_be_bytes(answered_at.try_into().ok()?),
                }
            }
            4 if rest.is_empty() => Word::Here,
            _ => return None,
        };
        Some(Spoken {
            node: NodeNumber::new(u16::from_be_bytes(*node))?,
            life: u64::from_be_bytes(*life),
            address: std::str::from_utf8(address).ok()?.parse().ok()?,
            word,
        })
    }
}

/// A message in parts; `None` if it is too long for all of them.
pub(super) fn split(message: u32, octets: &[u8]) -> Option<Vec<Part>> {
    let parts = octets.len().div_ceil(PART_BYTES_MAX).max(1);
    if parts > PARTS_MAX {
        return None;
    }
    let part = |number: usize| {
        let from = number * PART_BYTES_MAX;
        let to = octets.len().min(from + PART_BYTES_MAX);
        let octets = octets[from..to].to_vec();
        Part { message, part: number as u8, parts: parts as u8, octets }
    };
    Some((0..parts).map(part).collect())
}

/// Messages of which some parts have come.
#[derive(Debug, Default)]
pub(super) struct Parts {
    unfinished: BTreeMap<(SocketAddr, u32), Unfinished>,
    begun: u64,
}

#[derive(Debug)]
struct Unfinished {
    begun: u64,
    parts: Vec<Option<Vec<u8>>>,
}

impl Parts {
    /// A part has come; the whole message if it was the last one missing.
    pub(super) fn came(&mut self, from: SocketAddr, part: Part) -> Option<Vec<u8>> {
        let Part { message, part, parts, octets } = part;
        if parts == 1 {
            return Some(octets);
        }
        let key = (from, message);
        if !self.unfinished.contains_key(&key) && self.unfinished.len() >= UNFINISHED_MAX {
            let oldest = self.unfinished.iter().min_by_key(|(_, unfinished)| unfinished.begun);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.unfinished.remove(&oldest);
            }
        }
        self.begun += 1;
        let begun = self.begun;
        let unfinished = self
            .unfinished
            .entry(key)
            .or_insert_with(|| Unfinished { begun, parts: vec![None; usize::from(parts)] });
        // Another count under the same number is none of the same message.
        *unfinished.parts.get_mut(usize::from(part))? = Some(octets);
        if unfinished.parts.iter().any(Option::is_none) {
            return None;
        }
        let whole = self.unfinished.remove(&key)?;
        Some(whole.parts.into_iter().flatten().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn every_word_reads_back() {
        let part = Part { message: 7, part: 1, parts: 3, octets: b"octets".to_vec() };
        for word in [
            Word::Part(part),
            Word::Ask { asked_at: 5 },
            Word::Answer { asked_at: 5, answered_at: 6 },
            Word::Here,
        ] {
            let spoken =
                Spoken { node: NodeNumber::new(9).unwrap(), life: 77, address: address(1), word };
            assert_eq!(Spoken::decode(&spoken.encode()), Some(spoken));
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets: Vec<u8>) {
            let _ = Spoken::decode(&octets);
        }

        #[test]
        fn parts_make_the_message_in_whatever_order_they_come(
            octets in proptest::collection::vec(any::<u8>(), 0..9_000), turn: usize,
        ) {
            let mut parts = split(3, &octets).unwrap();
            prop_assert!(parts.iter().all(|part| part.octets.len() <= PART_BYTES_MAX));
            let turn = turn % parts.len();
            parts.rotate_left(turn);
            let (last, first) = parts.split_last().unwrap();
            let mut unfinished = Parts::default();
            for part in first {
                prop_assert_eq!(unfinished.came(address(1), part.clone()), None);
                // A part of another sender's message of that number.
                prop_assert_eq!(unfinished.came(address(2), part.clone()), None);
            }
            prop_assert_eq!(unfinished.came(address(1), last.clone()), Some(octets));
        }
    }

    #[test]
    fn the_longest_message_fits_and_a_longer_one_does_not() {
        assert!(split(1, &[0; 65_507]).is_some());
        assert!(split(1, &vec![0; PARTS_MAX * PART_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn unfinished_messages_are_bounded_and_the_oldest_makes_room() {
        let mut parts = Parts::default();
        let messages = |number| split(number, &[number as u8; 2_000]).unwrap();
        for number in 0..=UNFINISHED_MAX as u32 {
            assert_eq!(parts.came(address(1), messages(number).swap_remove(0)), None);
        }
        assert_eq!(parts.unfinished.len(), UNFINISHED_MAX);
        assert_eq!(parts.came(address(1), messages(0).swap_remove(1)), None, "it was forgotten");
        let last = UNFINISHED_MAX as u32;
        assert!(parts.came(address(1), messages(last).swap_remove(1)).is_some());
    }

    #[test]
    fn a_part_beyond_the_count_is_none() {
        let mut parts = Parts::default();
        let part = |part, parts| Part { message: 1, part, parts, octets: vec![1] };
        assert_eq!(parts.came(address(1), part(0, 2)), None);
        assert_eq!(parts.came(address(1), part(3, 4)), None);
        assert!(parts.came(address(1), part(1, 2)).is_some());
    }
}
