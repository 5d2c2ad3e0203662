//! How much a cache holds, where entries go by themselves and nobody is told.
//!
//! Octets are noted by when they will be gone, rounded up to a time that other entries share: what is past counts no more,
//! without anybody looking at the entries. An entry counts for up to a quarter of its lifetime and 64 ms longer than it
//! lives. Lifetimes of up to a day need some 200 such times, 2 kB.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use state::UnixMillis;
use state::codec::{Reader, RecordError, Writer};

const FORMAT_LEVEL: u8 = 1;

/// The finest step of the times, in milliseconds.
const STEP_MIN: u64 = 64;

/// Octets by when they count no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage(BTreeMap<UnixMillis, u64>);

/// Until when an entry counts that is put for `lifetime` and ends at `expires`.
pub(super) fn counted_until(expires: UnixMillis, lifetime: Duration) -> UnixMillis {
    let lifetime = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
    let step = (lifetime / 8).clamp(STEP_MIN, 1 << 32).next_power_of_two();
    UnixMillis(expires.0.saturating_add(step - 1) / step * step)
}

impl Usage {
    /// What is counted at `now`; what is past is forgotten.
    pub(super) fn octets(&mut self, now: UnixMillis) -> u64 {
        self.0.retain(|until, _| *until > now);
        self.0.values().sum()
    }

    /// An entry comes.
    pub(super) fn add(&mut self, until: UnixMillis, octets: u64) {
        *self.0.entry(until).or_default() += octets;
    }

    /// An entry goes before its time.
    pub(super) fn remove(&mut self, until: UnixMillis, octets: u64) {
        if let Some(counted) = self.0.get_mut(&until) {
            *counted = counted.saturating_sub(octets);
            if *counted == 0 {
                self.0.remove(&until);
            }
        }
    }

    /// When nothing counts any more; None: nothing does.
    pub(super) fn until(&self) -> Option<UnixMillis> {
        self.0.last_key_value().map(|(until, _)| *until)
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, 4 + self.0.len() * 10);
        writer.number(self.0.len() as u64);
        for (until, octets) in &self.0 {
            writer.number(until.0);
            writer.number(*octets);
        }
        writer.finish()
    }

    /// # Errors
    /// [`RecordError`] when it is of another release or damaged.
    pub(super) fn decode(record: &Bytes) -> Result<Usage, RecordError> {
        let mut reader = Reader::new(record, FORMAT_LEVEL)?;
        let count: usize = reader.small()?;
        let mut read = || Ok((UnixMillis(reader.number()?), reader.number()?));
        let usage = (0..count).map(|_| read()).collect::<Result<_, RecordError>>()?;
        reader.finish()?;
        Ok(Usage(usage))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::super::limits::{LIFETIME_MAX, LIFETIME_MIN};
    use super::*;

    fn lifetime() -> impl Strategy<Value = Duration> {
        let [min, max] = [LIFETIME_MIN, LIFETIME_MAX].map(|time| time.as_millis() as u64);
        prop_oneof![min..=1_000, min..=max].prop_map(Duration::from_millis)
    }

    proptest! {
        #[test]
        fn entries_count_as_long_as_they_live_and_not_much_longer(
            puts in prop::collection::vec(
                (0_u64..1_000, lifetime(), 1_u64..70_000), 1..50),
            later in 0_u64..100_000_000,
        ) {
            let (mut usage, mut now) = (Usage::default(), UnixMillis(1_800_000_000_000));
            let mut entries = Vec::new();
            for (pause, lifetime, octets) in puts {
                now = UnixMillis(now.0 + pause);
                let expires = now.saturating_add(lifetime);
                usage.add(counted_until(expires, lifetime), octets);
                entries.push((expires, lifetime, octets));
            }
            let now = UnixMillis(now.0 + later);
            let usage = &mut Usage::decode(&usage.encode()).unwrap();
            let counted = usage.octets(now);
            let sum = |kept: &dyn Fn(&(UnixMillis, Duration, u64)) -> bool| -> u64 {
                entries.iter().filter(|entry| kept(entry)).map(|entry| entry.2).sum()
            };
            let living = sum(&|(expires, ..)| *expires > now);
            let surely_counted = |lifetime: Duration| lifetime / 4 + Duration::from_millis(64);
            let recent = sum(&|(expires, lifetime, _)| {
                expires.saturating_add(surely_counted(*lifetime)) > now
            });
            prop_assert!((living..=recent).contains(&counted), "{living} {counted} {recent}");
        }
    }

    #[test]
    fn all_lifetimes_together_need_little_room() {
        let (mut usage, start) = (Usage::default(), 1_800_000_000_000);
        for ms in 0..LIFETIME_MAX.as_millis() as u64 / 977 {
            let lifetime = Duration::from_millis(10 + ms * 977);
            for sixteenth in 0..16 {
                let put = start + lifetime.as_millis() as u64 * sixteenth / 16;
                let expires = UnixMillis(put).saturating_add(lifetime);
                usage.add(counted_until(expires, lifetime), 64 * 1024);
            }
        }
        usage.octets(UnixMillis(start));
        assert!(usage.encode().len() < 8 * 1024, "{}", usage.encode().len());
    }

    #[test]
    fn what_goes_before_its_time_counts_no_more() {
        let (mut usage, now) = (Usage::default(), UnixMillis(1_000_000));
        let second = Duration::from_secs(1);
        let until = counted_until(now.saturating_add(second), second);
        usage.add(until, 10);
        usage.add(until, 5);
        usage.remove(until, 10);
        assert_eq!((usage.octets(now), usage.until()), (5, Some(until)));
        usage.remove(until, 5);
        usage.remove(until, 5);
        assert_eq!((usage.octets(now), usage.until()), (0, None));
    }
}
