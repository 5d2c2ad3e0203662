//! What is known of a call: as it is remembered, and as a line of the log.

use crate::session_timer::Asked;

/// A call.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Who calls: a URI.
    pub from: String,
    /// Whom: a URI.
    pub to: String,
    /// The caller's INVITE.
    pub request: u64,
    /// When it came, in milliseconds since 1970.
    pub begun: u64,
    /// When the callee answered.
    pub answered: Option<u64>,
    /// What the INVITE to the callee said about refreshing.
    pub asked: Asked,
}

impl Call {
    /// As it is remembered.
    pub fn written(&self) -> String {
        let answered = self.answered.map(|at| at.to_string()).unwrap_or_default();
        let Asked { seconds, caller_refreshes } = self.asked;
        format!(
            "{}\n{}\n{}\n{}\n{answered}\n{seconds}\n{caller_refreshes}",
            self.from, self.to, self.request, self.begun
        )
    }

    /// What [`Call::written`] wrote.
    pub fn read(written: &str) -> Option<Call> {
        let mut lines = written.split('\n');
        let mut next = || lines.next();
        let (from, to) = (next()?.to_owned(), next()?.to_owned());
        let (request, begun) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let answered = match next()? {
            "" => None,
            at => Some(at.parse().ok()?),
        };
        let asked =
            Asked { seconds: next()?.parse().ok()?, caller_refreshes: next()?.parse().ok()? };
        Some(Call { from, to, request, begun, answered, asked })
    }

    /// The line of the log at its end.
    pub fn line(&self, now: u64, how: &str) -> String {
        let talked = self.answered.map_or(0, |at| now.saturating_sub(at) / 1000);
        let rang = self.answered.unwrap_or(now).saturating_sub(self.begun) / 1000;
        format!(
            "call from={} to={} rang={rang}s talked={talked}s end=\"{how}\"",
            self.from, self.to
        )
    }
}

/// What a refusal of one leg is on the other: some speak of their own leg only.
pub fn told(status: u16) -> u16 {
    match status {
        // The Contact would name a way past us.
        300..=399 => 480,
        // Whoever asks it of us asks nothing that the other side could prove.
        401 | 407 => 403,
        // RFC 3261 §16.7(6): overload of one way is not overload of the other.
        503 => 500,
        _ => status,
    }
}

/// A value of From or To. RFC 3261 §25.1: quotes and backslashes of a display name are escaped.
pub fn written_address(display_name: &str, uri: &str) -> String {
    if display_name.is_empty() {
        return format!("<{uri}>");
    }
    let escaped = display_name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\" <{uri}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(answered: Option<u64>) -> Call {
        Call {
            from: "sip:alice@example.com".to_owned(),
            to: "sip:bob@example.com".to_owned(),
            request: 7,
            begun: 1_000_000,
            answered,
            asked: Asked { seconds: 1800, caller_refreshes: true },
        }
    }

    #[test]
    fn a_call_is_remembered_as_it_is() {
        for call in [call(None), call(Some(1_004_500))] {
            assert_eq!(Call::read(&call.written()), Some(call));
        }
        assert_eq!(Call::read("sip:alice@example.com\nx"), None);
    }

    #[test]
    fn the_log_tells_ringing_from_talking() {
        assert_eq!(
            call(Some(1_004_500)).line(1_064_500, "caller hung up"),
            "call from=sip:alice@example.com to=sip:bob@example.com rang=4s talked=60s end=\"caller hung up\""
        );
        let line = call(None).line(1_030_000, "answered 486");
        assert!(line.contains(" rang=30s talked=0s "), "{line}");
    }

    #[test]
    fn a_refusal_of_one_leg_is_said_to_the_other_in_its_own_terms() {
        for (status, expected) in [(302, 480), (401, 403), (407, 403), (503, 500), (486, 486)] {
            assert_eq!(told(status), expected, "{status}");
        }
    }

    #[test]
    fn display_names_are_quoted() {
        assert_eq!(written_address("", "sip:a@b"), "<sip:a@b>");
        assert_eq!(written_address(r#"A "B" \"#, "sip:a@b"), r#""A \"B\" \\" <sip:a@b>"#);
    }
}
