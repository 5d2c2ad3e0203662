//! Durations as a person writes them ("500ms", "2m 30s"), for serde and for messages.

use std::fmt::Display;
use std::time::Duration;

use serde::{Deserialize as _, Deserializer, Serializer};

const DAY_SECONDS: u64 = 86_400;

/// Whole days as days: a month is no number of days that anybody would write down.
pub(crate) fn shown(time: Duration) -> impl Display {
    match time.as_secs() / DAY_SECONDS {
        days @ 2.. if time == Duration::from_secs(days * DAY_SECONDS) => format!("{days}days"),
        _ => humantime::format_duration(time).to_string(),
    }
}

pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&shown(*time))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}
