//! What is remembered, as text.

use std::fmt;

/// A timer has fired.
pub struct Firing<'a> {
    pub name: &'a str,
    /// When it was to, and when it did: in milliseconds since 1970.
    pub due: u64,
    pub now: u64,
}

impl fmt::Display for Firing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Firing { name, due, now } = self;
        write!(f, "{name} due={due} now={now}")
    }
}

/// When a repeating timer was due that is due `next` now. What was remembered of one that a handler has just started is
/// early by the time that the handler took.
pub fn due(remembered: u64, next: u64, period: u64) -> u64 {
    next - next.saturating_sub(remembered) / period * period
}

/// What the request of that number was answered, if it was the last one: `answered` is `NUMBER SAID`.
pub fn said_to<'a>(answered: &'a str, number: &str) -> Option<&'a str> {
    answered.split_once(' ').filter(|(last, _)| *last == number).map(|(_, said)| said)
}

/// Which session a request asks for.
pub fn session_of(path_with_query: &str) -> Option<&str> {
    let (_, query) = path_with_query.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("session="))
}

/// An attribute as the report shows it: a line, or one for each of the value's lines.
pub fn line(name: &str, value: &str) -> String {
    value.lines().map(|line| format!("{name}: {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_request_is_known_again() {
        assert_eq!(said_to("7 3 notes", "7"), Some("3 notes"));
        assert_eq!(said_to("7 3 notes", "8"), None);
        assert_eq!(said_to("", ""), None);
    }

    #[test]
    fn the_session_is_a_parameter() {
        assert_eq!(session_of("/witness?number=1&session=a-1"), Some("a-1"));
        assert_eq!(session_of("/witness?number=1"), None);
        assert_eq!(session_of("/session=a"), None);
    }

    #[test]
    fn a_due_time_is_on_the_grid_of_the_next_one() {
        assert_eq!(due(1_000, 1_500, 500), 1_000);
        assert_eq!(due(998, 1_500, 500), 1_000, "remembered when it was started");
        assert_eq!(due(1_000, 3_000, 500), 1_000, "periods were missed");
    }

    #[test]
    fn a_report_has_a_line_for_each_thing() {
        let firing = Firing { name: "beat", due: 7, now: 9 }.to_string();
        assert_eq!(line("fired", &format!("{firing}\n{firing}\n")).lines().count(), 2);
        assert_eq!(line("fired", &firing), "fired: beat due=7 now=9\n");
        assert_eq!(line("count", "3"), "count: 3\n");
    }
}
