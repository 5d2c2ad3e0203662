//! By what a message finds its transaction.
//!
//! A request with an RFC 3261 branch: branch and method, an ACK as its INVITE (§17.2.3). The sent-by that the
//! RFC also names is left out: all our requests come with an edge's Via on top, whose branch is a keyed hash
//! that nobody can guess, while a CANCEL may come through another edge than its INVITE. A request without
//! such a branch, from an RFC 2543 element: the fields that §17.2.3 lists. A response: the branch of our own
//! Via and the method in CSeq (§17.1.3).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use sip::{HeaderName, Message, Method};
use smallvec::SmallVec;

/// Names a server transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerKey(SmallVec<[u8; 64]>);

/// Names a client transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientKey(SmallVec<[u8; 96]>);

/// Names the request that several server transactions may carry, come by different ways (§8.2.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MergeKey(SmallVec<[u8; 128]>);

/// A key as tables hold it, of hundreds of thousands of transactions: 128 bits of it.
///
/// They stand for all of it. They are SipHash under secrets of this process, so nobody outside can look for two
/// requests that share them, and by chance they meet once in 2^128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyHash([u64; 2]);

/// Makes [`KeyHash`]es, which are comparable among those of one maker only.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyHasher([RandomState; 2]);

impl KeyHasher {
    pub(crate) fn server(&self, key: &ServerKey) -> KeyHash {
        self.hash(&key.0)
    }

    pub(crate) fn client(&self, key: &ClientKey) -> KeyHash {
        self.hash(&key.0)
    }

    pub(crate) fn merge(&self, key: &MergeKey) -> KeyHash {
        self.hash(&key.0)
    }

    fn hash(&self, octets: &[u8]) -> KeyHash {
        KeyHash([self.0[0].hash_one(octets), self.0[1].hash_one(octets)])
    }
}

impl ServerKey {
    /// The key whose octets these are.
    pub(crate) fn from_bytes(octets: &[u8]) -> ServerKey {
        ServerKey(SmallVec::from_slice(octets))
    }

    /// The transaction that `request` belongs to; for an ACK that of its INVITE, for a CANCEL its own.
    pub(crate) fn of(request: &Message) -> Option<ServerKey> {
        match request.method()? {
            Method::Ack => ServerKey::with_method(request, Method::Invite),
            method => ServerKey::with_method(request, method),
        }
    }

    /// The INVITE transaction that a CANCEL is about (§9.2).
    pub(crate) fn cancelled_by(cancel: &Message) -> Option<ServerKey> {
        ServerKey::with_method(cancel, Method::Invite)
    }

    /// The INVITE transaction that has this RFC 3261 branch.
    pub(crate) fn of_invite_branch(branch: &[u8]) -> ServerKey {
        let mut key = SmallVec::new();
        push(&mut key, Method::Invite.as_bytes());
        push(&mut key, branch);
        ServerKey(key)
    }

    /// For hashing: different for any two transactions.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn with_method(request: &Message, method: Method<'_>) -> Option<ServerKey> {
        let via = request.top_via().ok()?;
        let mut key = SmallVec::new();
        match via.rfc3261_branch() {
            Some(branch) => {
                push(&mut key, method.as_bytes());
                push(&mut key, branch);
            }
            None => {
                // §17.2.3: not the To tag, which an ACK has from our response and the INVITE has not; the
                // CSeq number tells the requests of a dialog apart.
                push(&mut key, b"");
                push(&mut key, method.as_bytes());
                push(&mut key, request.request_uri()?);
                push(&mut key, request.from().ok()?.tag().unwrap_or_default());
                push(&mut key, request.call_id().ok()?);
                push(&mut key, &request.cseq().ok()?.number.to_be_bytes());
                push(&mut key, via.value);
            }
        }
        Some(ServerKey(key))
    }
}

impl ClientKey {
    /// The transaction that sent a request of `method` under `branch`.
    pub(crate) fn new(branch: &[u8], method: &[u8]) -> ClientKey {
        let mut key = SmallVec::new();
        key.extend_from_slice(branch);
        // A token has no space, so the two parts stay apart.
        key.push(b' ');
        key.extend_from_slice(method);
        ClientKey(key)
    }

    /// The transaction that `response` answers.
    pub(crate) fn of(response: &Message) -> Option<ClientKey> {
        let via = response.top_via().ok()?;
        let cseq = response.cseq().ok()?;
        Some(ClientKey::new(via.branch()?, cseq.method.as_bytes()))
    }
}

impl MergeKey {
    /// None within a dialog: only a request without To tag can be merged.
    pub(crate) fn of(request: &Message) -> Option<MergeKey> {
        if request.to().ok()?.tag().is_some() {
            return None;
        }
        let cseq = request.field(HeaderName::CSeq)?;
        let from = request.from().ok()?;
        let call_id = request.call_id().ok()?;
        let mut key = SmallVec::new();
        for part in [from.tag().unwrap_or_default(), call_id, cseq] {
            key.extend_from_slice(part);
            key.push(b'\n');
        }
        Some(MergeKey(key))
    }
}

/// Appends a part behind its length, so that two keys are equal only when all parts are.
fn push(key: &mut SmallVec<[u8; 64]>, part: &[u8]) {
    let length = u16::try_from(part.len()).expect("a message has at most 65,535 bytes");
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(part);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(method: &str, via: &str, to_tag: &str) -> Message {
        Message::parse(
            format!(
                "{method} sip:b@example.com SIP/2.0\r\nVia: {via}\r\nFrom: <sip:a@x>;tag=f\r\n\
                 To: <sip:b@x>{to_tag}\r\nCall-ID: c1\r\nCSeq: 7 {method}\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes()
            .into(),
        )
        .unwrap()
    }

    /// Whether the two requests belong to one server transaction.
    fn check(one: (&str, &str, &str), other: (&str, &str, &str), same: bool) {
        let key = |(method, via, to_tag)| ServerKey::of(&request(method, via, to_tag)).unwrap();
        assert_eq!(key(one) == key(other), same, "{one:?} and {other:?}");
    }

    const NEW: &str = "SIP/2.0/UDP edge1;branch=z9hG4bKaaa";
    const OTHER_EDGE: &str = "SIP/2.0/UDP edge2;branch=z9hG4bKaaa";
    const OTHER_BRANCH: &str = "SIP/2.0/UDP edge1;branch=z9hG4bKbbb";
    const OLD: &str = "SIP/2.0/UDP edge1;branch=1";
    const OLDER: &str = "SIP/2.0/UDP edge2";

    #[test]
    fn request_is_matched_by_branch_and_method_with_ack_as_invite() {
        // RFC 3261 §17.2.3
        check(("INVITE", NEW, ""), ("INVITE", OTHER_EDGE, ""), true);
        check(("INVITE", NEW, ""), ("ACK", NEW, ";tag=t"), true);
        check(("INVITE", NEW, ""), ("CANCEL", NEW, ""), false);
        check(("INVITE", NEW, ""), ("INVITE", OTHER_BRANCH, ""), false);
        check(("REGISTER", NEW, ""), ("OPTIONS", NEW, ""), false);
    }

    #[test]
    fn request_without_cookie_is_matched_by_its_fields() {
        check(("INVITE", OLD, ""), ("INVITE", OLD, ""), true);
        check(("INVITE", OLD, ""), ("ACK", OLD, ";tag=t"), true);
        check(("INVITE", OLD, ""), ("INVITE", OLDER, ""), false);
        check(("INVITE", OLD, ""), ("OPTIONS", OLD, ""), false);
    }

    #[test]
    fn cancel_names_its_invite() {
        let invite = ServerKey::of(&request("INVITE", NEW, ""));
        assert_eq!(ServerKey::cancelled_by(&request("CANCEL", OTHER_EDGE, "")), invite);
    }

    #[test]
    fn merged_requests_share_a_key_unless_in_a_dialog() {
        let key = |via, to_tag| MergeKey::of(&request("INVITE", via, to_tag));
        assert_eq!(key(NEW, ""), key(OTHER_BRANCH, ""));
        assert!(key(NEW, "").is_some());
        assert_eq!(key(NEW, ";tag=t"), None);
    }
}
