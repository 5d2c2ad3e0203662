//! Who is heard: a member that was silent for interval × (allowed misses + 1) is lost until it is heard again.
//!
//! Heard is who says something himself, whatever it is: everybody asks everybody for the time, twice an interval. That
//! others hear him is no sign of life to us, for what he has last said still goes round when he is gone. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::node::NodeNumber;
use crate::routing_table::HeartbeatSettings;

/// When whom was heard last.
#[derive(Debug)]
pub(super) struct Hearing {
    settings: HeartbeatSettings,
    looked_at: Instant,
    members: BTreeMap<NodeNumber, Heard>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    /// Which life of the member.
    life: u64,
    at: Instant,
    is_lost: bool,
}

impl Hearing {
    /// Nobody is known yet.
    pub(super) fn new(settings: HeartbeatSettings, now: Instant) -> Hearing {
        Hearing { settings, looked_at: now, members: BTreeMap::new() }
    }

    /// How often whoever keeps this looks.
    pub(super) fn look_interval(&self) -> Duration {
        self.settings.interval / 4
    }

    /// A member said something. It is lost no more at the next look.
    pub(super) fn heard(&mut self, node: NodeNumber, life: u64, now: Instant) {
        self.known(node, life, now);
        if let Some(heard) = self.members.get_mut(&node).filter(|heard| heard.life == life) {
            heard.at = now;
        }
    }

    /// Others say that there is a member in this life: it has as long as anybody to be heard.
    pub(super) fn known(&mut self, node: NodeNumber, life: u64, now: Instant) {
        let begun = Heard { life, at: now, is_lost: false };
        let heard = self.members.entry(node).or_insert(begun);
        if heard.life < life {
            *heard = begun;
        }
    }

    /// Judges by the time; whatever has come must have been handed in before. Who was kept from looking for more than an
    /// interval hears everybody anew: what came meanwhile is still to be read.
    pub(super) fn look(&mut self, now: Instant) {
        let was_kept = now.saturating_duration_since(self.looked_at) > self.settings.interval;
        self.looked_at = now;
        for heard in self.members.values_mut() {
            if was_kept && !heard.is_lost {
                heard.at = now;
            }
            heard.is_lost = now.saturating_duration_since(heard.at) >= self.settings.silence_max();
        }
    }

    /// Whether that life of the member counts as lost, by silence or since there is a later one. Nobody does who is not
    /// known.
    pub(super) fn is_lost(&self, node: NodeNumber, life: u64) -> bool {
        let heard = self.members.get(&node);
        heard.is_some_and(|heard| heard.life > life || (heard.life == life && heard.is_lost))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SETTINGS: HeartbeatSettings =
        HeartbeatSettings { interval: Duration::from_millis(500), allowed_miss_count: 2 };
    const LOOK: Duration = Duration::from_millis(125);

    fn two() -> NodeNumber {
        NodeNumber::new(2).unwrap()
    }

    /// The milliseconds without a word after which the member is lost.
    fn lost_after(hearing: &mut Hearing, mut now: Instant) -> u128 {
        let begun = now;
        while !hearing.is_lost(two(), 1) {
            assert!(now - begun < Duration::from_secs(60), "never lost");
            now += LOOK;
            hearing.look(now);
        }
        (now - begun).as_millis()
    }

    #[test]
    fn silence_is_loss_after_the_allowed_misses_and_a_word_ends_it() {
        let now = Instant::now();
        let mut hearing = Hearing::new(SETTINGS, now);
        assert!(!hearing.is_lost(two(), 1));
        hearing.heard(two(), 1, now);
        assert_eq!(lost_after(&mut hearing, now), 1_500);
        let now = now + Duration::from_secs(20);
        hearing.look(now);
        assert!(hearing.is_lost(two(), 1), "however long nobody looked");
        hearing.known(two(), 1, now);
        hearing.look(now + LOOK);
        assert!(hearing.is_lost(two(), 1), "others speak of it, it does not speak");
        hearing.heard(two(), 1, now + LOOK);
        hearing.look(now + LOOK);
        assert!(!hearing.is_lost(two(), 1));
        assert_eq!(lost_after(&mut hearing, now + LOOK), 1_500);
    }

    #[test]
    fn who_was_only_told_of_has_as_long_to_be_heard() {
        let now = Instant::now();
        let mut hearing = Hearing::new(SETTINGS, now);
        hearing.known(two(), 1, now);
        assert_eq!(lost_after(&mut hearing, now), 1_500);
    }

    #[test]
    fn who_stood_still_takes_nobody_for_lost() {
        let now = Instant::now();
        let mut hearing = Hearing::new(SETTINGS, now);
        hearing.heard(two(), 1, now);
        let later = now + Duration::from_secs(30);
        hearing.look(later);
        assert!(!hearing.is_lost(two(), 1));
        assert_eq!(lost_after(&mut hearing, later), 1_500);
    }

    #[test]
    fn a_later_life_ends_the_one_before_and_is_judged_for_itself() {
        let now = Instant::now();
        let mut hearing = Hearing::new(SETTINGS, now);
        hearing.heard(two(), 1, now);
        hearing.heard(two(), 2, now);
        hearing.heard(two(), 1, now); // overtaken on its way
        assert!(hearing.is_lost(two(), 1) && !hearing.is_lost(two(), 2));
        assert!(!hearing.is_lost(two(), 3), "not heard of");
        for look in 1..=16 {
            hearing.look(now + LOOK * look);
        }
        assert!(hearing.is_lost(two(), 2));
        hearing.known(two(), 3, now + LOOK * 16);
        assert!(hearing.is_lost(two(), 2) && !hearing.is_lost(two(), 3));
    }
}
