//! What a user wants, and what is left of it: texts to values and back.

/// The longest interval, in seconds: a day.
const SECONDS_MAX: u64 = 24 * 3600;

/// What a message asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// Say this every so many seconds.
    Remind { seconds: u64, text: String },
    /// Say nothing any more.
    Stop,
}

/// None: it cannot be understood, or the interval is under `seconds_min` or over a day.
pub fn parse(message: &str, seconds_min: u64) -> Option<Wish> {
    let message = message.trim();
    if message.eq_ignore_ascii_case("stop") {
        return Some(Wish::Stop);
    }
    let (seconds, text) = message.split_once(char::is_whitespace)?;
    let seconds = seconds.parse().ok()?;
    let fits = (seconds_min.max(1)..=SECONDS_MAX).contains(&seconds);
    fits.then(|| Wish::Remind { seconds, text: text.trim().to_owned() })
}

/// Reminders that are under way.
#[derive(Debug, PartialEq, Eq)]
pub struct Round {
    /// Who is reminded: a URI.
    pub user: String,
    /// As whom: a URI.
    pub us: String,
    /// Of what.
    pub text: String,
    /// How many this session has sent, earlier rounds included.
    pub sent: u64,
    /// How many are to come.
    pub left: u64,
}

impl Round {
    /// Counts one reminder, and says its number in the session.
    pub fn next(&mut self) -> u64 {
        self.sent += 1;
        self.left = self.left.saturating_sub(1);
        self.sent
    }

    /// As it is remembered. The text comes last, since it may have lines of its own.
    pub fn written(&self) -> String {
        format!("{}\n{}\n{}\n{}\n{}", self.user, self.us, self.sent, self.left, self.text)
    }

    /// What [`Round::written`] wrote.
    pub fn read(written: &str) -> Option<Round> {
        let mut parts = written.splitn(5, '\n');
        let (user, us) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let (sent, left) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Round { user, us, sent, left, text: parts.next()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_understood() {
        let remind = |seconds, text: &str| Some(Wish::Remind { seconds, text: text.to_owned() });
        assert_eq!(parse(" 60 take the cake out\r\n", 1), remind(60, "take the cake out"));
        assert_eq!(parse("86400 x", 1), remind(86_400, "x"));
        assert_eq!(parse("Stop\n", 1), Some(Wish::Stop));
        for nonsense in ["", "60", "soon cake", "0 cake", "4 cake", "86401 cake", "-5 cake"] {
            assert_eq!(parse(nonsense, 5), None, "{nonsense}");
        }
    }

    #[test]
    fn a_round_is_remembered_as_it_is() {
        let mut round = Round {
            user: "sip:alice@example.com".to_owned(),
            us: "sip:reminder@example.com".to_owned(),
            text: "first line\nsecond line".to_owned(),
            sent: 2,
            left: 1,
        };
        assert_eq!(round.next(), 3);
        assert_eq!(round.left, 0);
        assert_eq!(Round::read(&round.written()), Some(round));
        assert_eq!(Round::read("sip:alice@example.com\nx"), None);
    }
}
