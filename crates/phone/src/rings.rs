//! Counts how often each call rang: "the callee rings once" is the promise that a takeover breaks first.
//!
//! A call is known by the session its INVITE describes, else by its Call-ID. It rings again when an INVITE of
//! the same call comes by another branch or with another Call-ID; the same branch again is a retransmission.

use std::collections::HashMap;

use sip::{HeaderName, Message};

use crate::session_description;

/// Calls that are remembered; past it, the phone forgets all of them.
const CALLS_MAX: usize = 10_000;

/// One ring: Call-ID and branch.
type Ring = (Vec<u8>, Vec<u8>);

/// The calls that rang.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    calls: HashMap<String, Vec<Ring>>,
    count: u64,
}

impl Rings {
    /// A new call comes in: an INVITE without To tag.
    pub(crate) fn ring(&mut self, invite: &Message) {
        if self.calls.len() >= CALLS_MAX {
            self.calls.clear();
        }
        let call_id = invite.call_id().unwrap_or_default().to_vec();
        let via = invite.top_via();
        let branch = via.ok().and_then(|via| via.branch()).unwrap_or_default().to_vec();
        let rings = self.calls.entry(name(invite)).or_default();
        let ring = (call_id, branch);
        if !rings.contains(&ring) {
            rings.push(ring);
            self.count += 1;
        }
    }

    /// Rings of all calls together.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The calls that rang more than once, each with its rings.
    pub(crate) fn again(&self) -> Vec<String> {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let several = self.calls.iter().filter(|(_, rings)| rings.len() > 1);
        several
            .map(|(call, rings)| {
                let rings = rings
                    .iter()
                    .map(|(call_id, branch)| format!("{} by {}", text(call_id), text(branch)));
                format!(
                    "{call} rang {} times: {}",
                    rings.len(),
                    rings.collect::<Vec<_>>().join(", ")
                )
            })
            .collect()
    }
}

/// What a call is known by.
fn name(invite: &Message) -> String {
    let content_type = invite.field(HeaderName::ContentType).unwrap_or_default();
    content_type
        .eq_ignore_ascii_case(session_description::CONTENT_TYPE.as_bytes())
        .then(|| session_description::session(invite.body()))
        .flatten()
        .unwrap_or_else(|| {
            String::from_utf8_lossy(invite.call_id().unwrap_or_default()).into_owned()
        })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::session_description::describe;

    fn invite(call_id: &str, branch: &str, session: Option<&str>) -> Message {
        let body = session.map(|session| describe(session, 1)).unwrap_or_default();
        let content = if session.is_some() { "Content-Type: application/sdp\r\n" } else { "" };
        Message::parse(Bytes::from(format!(
            "INVITE sip:bob@x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK{branch}\r\n\
             Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\n{content}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )))
        .expect("an INVITE")
    }

    #[test]
    fn a_retransmission_is_no_ring() {
        let mut rings = Rings::default();
        rings.ring(&invite("c", "1", None));
        rings.ring(&invite("c", "1", None));
        rings.ring(&invite("d", "2", None));
        assert_eq!((rings.count(), rings.again().len()), (2, 0));
    }

    #[test]
    fn a_call_by_another_branch_rings_again() {
        let mut rings = Rings::default();
        rings.ring(&invite("c", "1", None));
        rings.ring(&invite("c", "2", None));
        assert_eq!(rings.count(), 2);
        let again = rings.again();
        assert_eq!(again.len(), 1);
        assert!(again[0].starts_with("c rang 2 times"), "{again:?}");
    }

    #[test]
    fn a_session_that_comes_with_another_call_id_rings_again() {
        let mut rings = Rings::default();
        rings.ring(&invite("c", "1", Some("alice 1")));
        rings.ring(&invite("d", "2", Some("alice 2")));
        assert_eq!(rings.again(), Vec::<String>::new());
        rings.ring(&invite("e", "3", Some("alice 1")));
        assert_eq!(rings.again().len(), 1);
    }
}
