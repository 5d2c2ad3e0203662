//! Chooses the one final response a caller gets from those of all branches (RFC 3261 §16.7(6)).
//!
//! Outcomes are collected as branches end; when all have, the best is rendered: a received one with our Via
//! popped and nothing else touched (but gathered challenges), or one of our own. What a caller must not see is
//! translated here: 503 and 430 speak of a hop, not of the callee; 408 comes too late for anything but INVITE.
//!
//! Deliberately absent: 2xx and provisional responses, which the proxy context relays at once.

use bytes::{Bytes, BytesMut};
use sip::{Edits, HeaderName, Message};

use super::challenges;

/// How one branch ended, other than by 2xx.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// The final response that came, 300–699.
    Received(Box<Message>),
    /// What we say in its place (RFC 3261 §16.7(6), §16.8, §16.9), 400–599.
    Own(u16),
}

impl Outcome {
    fn status(&self) -> u16 {
        match self {
            Outcome::Received(response) => response.status().unwrap_or(500),
            Outcome::Own(status) => *status,
        }
    }
}

/// What the caller gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A received response, ready to be sent.
    Relayed(Bytes),
    /// A response of our own with this status.
    Own(u16),
    /// Nothing (RFC 4320 §4.2).
    Silence,
}

/// Which request the responses answer, as far as the choice depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// An INVITE whose caller still waits.
    Invite,
    /// An INVITE whose caller sent CANCEL and expects 487.
    CancelledInvite,
    /// Any other method.
    NonInvite,
}

/// The outcomes so far; at most one for each branch.
#[derive(Debug, Default)]
pub(super) struct Outcomes(Vec<Outcome>);

impl Outcomes {
    pub(super) fn add(&mut self, outcome: Outcome) {
        self.0.push(outcome);
    }

    /// The answer when every branch has ended and none with 2xx.
    pub(super) fn best(&self, asked: Asked) -> Answer {
        let best = self
            .0
            .iter()
            .enumerate()
            // RFC 4320 §4.2: a caller has timed out itself before a 408 to its non-INVITE could arrive.
            .filter(|(_, outcome)| asked != Asked::NonInvite || outcome.status() != 408)
            .min_by_key(|(_, outcome)| rank(outcome, asked));
        let Some((index, best)) = best else {
            // No outcome at all: nobody to ask.
            return if self.0.is_empty() { Answer::Own(480) } else { Answer::Silence };
        };
        match (best, best.status()) {
            // RFC 3261 §16.7(6): 503 upstream would make the caller avoid us for another hop's fault.
            (_, 503) => Answer::Own(500),
            // RFC 5626 on 430 (Flow Failed): it is for proxies; endpoints should never receive it.
            (_, 430) => Answer::Own(480),
            (Outcome::Own(status), _) => Answer::Own(*status),
            (Outcome::Received(response), status) => {
                let mut edits = Edits::new();
                if challenges::is_challenge(status) {
                    challenges::gather(self.received_except(index), &mut edits);
                }
                match relayed(response, edits) {
                    Some(bytes) => Answer::Relayed(bytes),
                    None => Answer::Own(502),
                }
            }
        }
    }

    fn received_except(&self, best: usize) -> impl Iterator<Item = &Message> {
        self.0.iter().enumerate().filter_map(move |(index, outcome)| match outcome {
            Outcome::Received(response) if index != best => Some(&**response),
            Outcome::Received(_) | Outcome::Own(_) => None,
        })
    }
}

/// The response with our Via popped; None if no Via is left, so that nobody upstream can be meant by it
/// (RFC 3261 §16.7(3)).
pub(crate) fn relayed(response: &Message, mut edits: Edits) -> Option<Bytes> {
    response.values(HeaderName::Via).nth(1)?;
    edits.remove_first_value(HeaderName::Via);
    let mut bytes = BytesMut::with_capacity(response.buffer().len());
    edits.render(response, &mut bytes);
    Some(bytes.freeze())
}

/// Lower is better; the first among equals wins.
fn rank(outcome: &Outcome, asked: Asked) -> (u16, u8) {
    let status = outcome.status();
    let class = match status / 100 {
        // The callee declines everywhere: before all others.
        6 => 0,
        class => class,
    };
    let preference = match (status, outcome) {
        // The caller has given up; a challenge now would only make it call again.
        (487, _) if asked == Asked::CancelledInvite => 0,
        // These tell the caller how to do it better (§16.7(6)).
        (401 | 407 | 415 | 420 | 484, _) => 1,
        // These tell of a hop's trouble or of a branch nobody looked at: anything else says more.
        (408 | 430 | 440 | 482 | 487 | 503, Outcome::Received(_)) => 3,
        (_, Outcome::Received(_)) => 2,
        (_, Outcome::Own(_)) => 4,
    };
    (class, preference)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const VIAS: &str = "Via: SIP/2.0/TCP c1.invalid;branch=z9hG4bKours\r\n\
        Via: SIP/2.0/UDP edge;branch=z9hG4bKedge\r\n";

    /// `extra` is further header lines.
    fn response(status: u16, extra: &str) -> Message {
        let text = format!(
            "SIP/2.0 {status} As  the callee\tsaid\r\n{VIAS}From: <sip:a@x>;tag=1\r\nTo: <sip:b@x>;tag=2\r\n\
             Call-ID: c\r\nCSeq: 1 INVITE\r\n{extra}Content-Length: 0\r\n\r\n"
        );
        Message::parse(text.into_bytes().into()).unwrap()
    }

    /// `received` or `-own` statuses to the answer's status: negative for our own, 0 for none.
    fn chosen(outcomes: &[i32], asked: Asked) -> i32 {
        let mut all = Outcomes::default();
        for &status in outcomes {
            let code = u16::try_from(status.abs()).unwrap();
            all.add(if status < 0 {
                Outcome::Own(code)
            } else {
                Outcome::Received(Box::new(response(code, "")))
            });
        }
        match all.best(asked) {
            Answer::Relayed(bytes) => i32::from(Message::parse(bytes).unwrap().status().unwrap()),
            Answer::Own(status) => -i32::from(status),
            Answer::Silence => 0,
        }
    }

    #[test]
    fn best_is_6xx_else_of_the_lowest_class_else_the_most_telling() {
        let cases: [(&[i32], i32); 18] = [
            (&[486, 603, 302], 603),
            (&[500, 486, 302], 302),
            (&[500, 486], 486),
            (&[486, 404], 486),
            (&[404, 486], 404),
            (&[486, 401], 401),
            (&[486, 407], 407),
            (&[486, 415], 415),
            (&[486, 420], 420),
            (&[486, 484], 484),
            (&[408, 486], 486),
            (&[487, 482, 486], 486),
            (&[-408, 486], 486),
            (&[-408, 487], 487),
            (&[503, 501], 501),
            (&[-430, 503], -480),
            (&[-408, 500], -408),
            (&[], -480),
        ];
        for (outcomes, expected) in cases {
            assert_eq!(chosen(outcomes, Asked::Invite), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn hop_errors_are_translated_for_the_caller() {
        for (outcome, expected) in [(503, -500), (-503, -500), (430, -480), (-430, -480)] {
            assert_eq!(chosen(&[outcome], Asked::Invite), expected, "{outcome}");
        }
    }

    #[test]
    fn non_invite_gets_no_408() {
        // RFC 4320 §4.2
        let cases: [(&[i32], i32); 5] =
            [(&[408], 0), (&[-408], 0), (&[-408, 408], 0), (&[408, 500], 500), (&[404, -408], 404)];
        for (outcomes, expected) in cases {
            assert_eq!(chosen(outcomes, Asked::NonInvite), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn cancelled_caller_gets_487_rather_than_a_challenge() {
        assert_eq!(chosen(&[401, 486, 487], Asked::CancelledInvite), 487);
        assert_eq!(chosen(&[401, 603, 487], Asked::CancelledInvite), 603);
    }

    #[test]
    fn relayed_response_lacks_our_via_and_is_otherwise_byte_exact() {
        let original = response(486, "X-Unknown:  odd   spacing\r\n");
        let ours = "Via: SIP/2.0/TCP c1.invalid;branch=z9hG4bKours\r\n";
        let expected = String::from_utf8(original.buffer().to_vec()).unwrap().replace(ours, "");
        assert_eq!(relayed(&original, Edits::new()).unwrap(), expected);
    }

    #[test]
    fn response_without_a_second_via_is_not_relayed() {
        let text = String::from_utf8(response(486, "").buffer().to_vec()).unwrap();
        let stripped = text.replace("Via: SIP/2.0/UDP edge;branch=z9hG4bKedge\r\n", "");
        let stripped = Message::parse(stripped.into_bytes().into()).unwrap();
        assert_eq!(relayed(&stripped, Edits::new()), None);
    }

    #[test]
    fn challenges_of_all_branches_are_in_the_one_relayed() {
        let www =
            |realm: &str| format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"1,2\"\r\n");
        let proxy = |realm: &str| format!("Proxy-Authenticate: Digest realm=\"{realm}\"\r\n");
        let mut outcomes = Outcomes::default();
        for (status, challenges) in [
            (486, www("not a challenge")),
            (407, proxy("a")),
            (401, www("b") + &www("c")),
            (407, proxy("d")),
        ] {
            outcomes.add(Outcome::Received(Box::new(response(status, &challenges))));
        }
        let Answer::Relayed(bytes) = outcomes.best(Asked::Invite) else {
            panic!("a challenge is relayed");
        };
        let relayed = Message::parse(bytes).unwrap();
        assert_eq!(relayed.status(), Some(407));
        let fields = |name| relayed.fields(name).collect::<Vec<_>>();
        assert_eq!(
            fields(HeaderName::ProxyAuthenticate),
            [&b"Digest realm=\"a\""[..], b"Digest realm=\"d\""]
        );
        assert_eq!(
            fields(HeaderName::WwwAuthenticate),
            [&b"Digest realm=\"b\", nonce=\"1,2\""[..], b"Digest realm=\"c\", nonce=\"1,2\""]
        );
    }
}
