//! Derives the Via branch of every forwarded request from what came in: a pure function, so that whoever
//! continues a set-up after its container died resends under the same branches (RFC 3261 §16.6(8),
//! RFC 5393 §4.2).
//!
//! ```text
//! z9hG4bK OWNER MAC MARK
//!         |     |   +-- 12 characters, loop mark: keyed hash of what the routing of this request depends on
//!         |     +------ 20 characters, keyed hash of server branch, target, Path, attempt: the client transaction
//!         +------------ 28 characters, owner token: which container the responses belong to
//! ```
//!
//! What a session has let go on carries its session token (52 characters) in place of the owner token, so that responses
//! find it wherever it is by then. Its loop mark is of the application, too: the same request may pass several of them, and
//! the registrar behind.
//!
//! The mark decides loop or spiral: a request that comes back with the same Request-URI and routing fields
//! yields the mark that one of its Vias already carries; one that was retargeted on its way does not. As the
//! mark is keyed, no sent-by needs comparing, and any container of the cluster recognises a loop that
//! another one closed.
//!
//! Deliberately absent: the making and checking of owner tokens (`topology::token`), key rotation.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sip::{BRANCH_COOKIE, HeaderName, Message, Via};
use topology::Key;
use topology::token::{OWNER_TOKEN_CHARS, SESSION_TOKEN_CHARS};

use crate::application::Target;

/// 120 bits, 20 characters of base64url: no two client transactions of a cluster share them.
const MAC_BYTES: usize = 15;
/// 72 bits, 12 characters: no request is taken for a loop by accident.
const MARK_BYTES: usize = 9;

const MARK_START: usize = BRANCH_COOKIE.len() + OWNER_TOKEN_CHARS + MAC_BYTES / 3 * 4;
const BRANCH_CHARS: usize = MARK_START + MARK_BYTES / 3 * 4;
const FORWARDED_MARK_START: usize = BRANCH_COOKIE.len() + SESSION_TOKEN_CHARS + MAC_BYTES / 3 * 4;
const FORWARDED_CHARS: usize = FORWARDED_MARK_START + MARK_BYTES / 3 * 4;

/// What the Via of a copy says besides, by target and branch: parameters, each with the semicolon before it.
pub type ViaMark = Arc<dyn Fn(&[u8], &[u8]) -> String + Send + Sync>;

/// Makes branches, and the Via and Record-Route values around them, for one container.
#[derive(Clone)]
pub struct BranchDeriver {
    key: Key,
    owner_token: [u8; OWNER_TOKEN_CHARS],
    sent_by: Bytes,
    forwarder: Option<Forwarder>,
}

/// The session that lets a request go on.
#[derive(Clone)]
struct Forwarder {
    token: [u8; SESSION_TOKEN_CHARS],
    application: Bytes,
    via_mark: ViaMark,
}

impl BranchDeriver {
    /// `key` is the cluster's for the purpose `"branch"`, `owner_token` names the container (encoded
    /// [`topology::OwnerToken`]), `sent_by` is what its Vias say, such as `c1.node1.outlast.invalid`.
    pub fn new(
        key: &Key,
        owner_token: [u8; OWNER_TOKEN_CHARS],
        sent_by: impl Into<Bytes>,
    ) -> BranchDeriver {
        let forwarder = None;
        BranchDeriver { key: key.clone(), owner_token, sent_by: sent_by.into(), forwarder }
    }

    /// For what the session of this token, of an application named without version, lets go on.
    pub fn for_session(
        &self,
        token: [u8; SESSION_TOKEN_CHARS],
        application: &str,
        via_mark: ViaMark,
    ) -> BranchDeriver {
        let application = Bytes::copy_from_slice(application.as_bytes());
        let forwarder = Some(Forwarder { token, application, via_mark });
        BranchDeriver { forwarder, ..self.clone() }
    }

    /// The deriver of the container that began a set-up, for whoever continues it.
    pub fn in_place_of(
        &self,
        owner_token: [u8; OWNER_TOKEN_CHARS],
        sent_by: Bytes,
    ) -> BranchDeriver {
        BranchDeriver { owner_token, sent_by, ..self.clone() }
    }

    /// The token of the container that writes these branches.
    pub fn owner_token(&self) -> [u8; OWNER_TOKEN_CHARS] {
        self.owner_token
    }

    /// The mark of a request: equal for two passes of it exactly when both are routed by the same input.
    pub(super) fn loop_mark(&self, request: &Message) -> LoopMark {
        let mut hash = Fields::new(self.key.current(), b"loop mark");
        hash.add(request.method().map_or(&b""[..], |method| method.as_bytes()));
        // RFC 5393 §4.2.1: everything that decides where the request goes ...
        hash.add(request.request_uri().unwrap_or_default());
        for name in [
            HeaderName::Route,
            HeaderName::ProxyRequire,
            HeaderName::ProxyAuthorization,
            // ... and RFC 3261 §16.6(8): what tells one request from another.
            HeaderName::From,
            HeaderName::To,
            HeaderName::CallId,
            HeaderName::CSeq,
        ] {
            for value in request.fields(name) {
                hash.add(value);
            }
            hash.end_of_list();
        }
        if let Some(forwarder) = &self.forwarder {
            hash.add(&forwarder.application);
        }
        LoopMark(hash.base64::<MARK_BYTES>())
    }

    /// The branch of the client transaction to `target`.
    ///
    /// `attempt` counts repeated tries of one target (a next address of the same name, RFC 3263 §4.3), each
    /// of which is a client transaction of its own.
    pub(super) fn branch(
        &self,
        server_branch: &[u8],
        target: &Target,
        attempt: u8,
        mark: &LoopMark,
    ) -> Bytes {
        let mut hash = Fields::new(self.key.current(), b"client branch");
        hash.add(server_branch);
        hash.add(&target.uri);
        // Two flows of one phone may share the contact URI and differ in the Path only.
        for value in &target.route {
            hash.add(value);
        }
        hash.end_of_list();
        hash.add(&[attempt]);
        let mac = hash.base64::<MAC_BYTES>();
        let token = self.forwarder.as_ref().map_or(&self.owner_token[..], |session| &session.token);
        [BRANCH_COOKIE, token, mac.as_bytes(), mark.0.as_bytes()].concat().into()
    }

    /// Whether one of the request's Vias carries `mark`: it passed this cluster before, and nothing that
    /// routes it has changed since.
    ///
    /// Source: RFC 3261 §16.3(4), RFC 5393 §4.2.2
    pub(super) fn is_loop(request: &Message, mark: &LoopMark) -> bool {
        request
            .values(HeaderName::Via)
            .filter_map(|value| Via::parse(value).ok())
            .filter_map(|via| via.branch().and_then(mark_of))
            .any(|seen| seen == mark.0.as_bytes())
    }

    /// The Via value of a request that leaves to `target` under `branch`.
    pub(super) fn via(&self, target: &Target, branch: &[u8]) -> Vec<u8> {
        let forwarder = self.forwarder.as_ref();
        let mark =
            forwarder.map_or_else(String::new, |session| (session.via_mark)(&target.uri, branch));
        // The link to the edge is a stream, so the transport of this hop is named as one.
        [b"SIP/2.0/TCP ", &self.sent_by[..], b";branch=", branch, mark.as_bytes()].concat()
    }

    /// The Record-Route value by which later requests of the dialog find this container.
    pub(super) fn record_route(&self) -> Vec<u8> {
        [b"<sip:", &self.owner_token[..], b"@", &self.sent_by, b";lr>"].concat()
    }
}

/// Identifies the routing input of a request; see [`BranchDeriver::loop_mark`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoopMark(String);

/// The loop mark inside a branch of ours; None if the branch has another form.
fn mark_of(branch: &[u8]) -> Option<&[u8]> {
    let branch = Some(branch).filter(|branch| branch.starts_with(BRANCH_COOKIE))?;
    match branch.len() {
        BRANCH_CHARS => Some(&branch[MARK_START..]),
        FORWARDED_CHARS => Some(&branch[FORWARDED_MARK_START..]),
        _ => None,
    }
}

/// The token of the session that has let the request with this branch go on; None if the branch has another form.
pub(crate) fn forwarder_token(branch: &[u8]) -> Option<&[u8]> {
    let is_forwarded = branch.len() == FORWARDED_CHARS && branch.starts_with(BRANCH_COOKIE);
    is_forwarded.then(|| &branch[BRANCH_COOKIE.len()..][..SESSION_TOKEN_CHARS])
}

/// A keyed hash over fields whose borders count: `("ab", "c")` and `("a", "bc")` differ.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(key: &[u8; 32], purpose: &[u8]) -> Fields {
        let mut fields = Fields(blake3::Hasher::new_keyed(key));
        fields.add(purpose);
        fields
    }

    fn add(&mut self, field: &[u8]) {
        self.0.update(&(field.len() as u64).to_be_bytes());
        self.0.update(field);
    }

    /// No field has this length, so a list's end is not taken for a member.
    fn end_of_list(&mut self) {
        self.0.update(&u64::MAX.to_be_bytes());
    }

    fn base64<const BYTES: usize>(self) -> String {
        let mut bytes = [0; BYTES];
        self.0.finalize_xof().fill(&mut bytes);
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use topology::KeyRing;

    use super::*;

    const INVITE: &str = "INVITE sip:bob@example.com SIP/2.0\r\n\
        Via: SIP/2.0/UDP edge.example.com;branch=z9hG4bKserver\r\n\
        From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\n\
        Call-ID: call-1\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n";

    fn deriver_with(secret: u8, owner: u8) -> BranchDeriver {
        let key = KeyRing::new([secret; 32]).derive("branch");
        BranchDeriver::new(&key, [owner; OWNER_TOKEN_CHARS], "c1.node1.outlast.invalid")
    }

    fn deriver() -> BranchDeriver {
        deriver_with(7, b'a')
    }

    fn parsed(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn target(uri: &'static str, path: &[&'static str]) -> Target {
        Target {
            route: path.iter().map(|value| Bytes::from_static(value.as_bytes())).collect(),
            ..Target::new(uri)
        }
    }

    /// `text` after one pass through the proxy under `branch`.
    fn with_via(text: &str, branch: &[u8]) -> String {
        let via = String::from_utf8(deriver().via(&Target::new("sip:b@h"), branch)).unwrap();
        text.replacen("Via:", &format!("Via: SIP/2.0/UDP e;branch=z9hG4bKx, {via}\r\nVia:"), 1)
    }

    #[test]
    fn same_input_gives_same_branch_and_any_difference_another() {
        let mark = deriver().loop_mark(&parsed(INVITE));
        let bob = target("sip:bob@192.0.2.1", &["<sip:f1@edge;lr>"]);
        let branch = deriver().branch(b"z9hG4bKserver", &bob, 0, &mark);
        assert_eq!(branch, deriver().branch(b"z9hG4bKserver", &bob, 0, &mark));

        let other_key = deriver_with(8, b'a');
        for (difference, other) in [
            ("server branch", deriver().branch(b"z9hG4bKserver2", &bob, 0, &mark)),
            (
                "uri",
                deriver().branch(
                    b"z9hG4bKserver",
                    &target("sip:bob@192.0.2.2", &["<sip:f1@edge;lr>"]),
                    0,
                    &mark,
                ),
            ),
            (
                "path",
                deriver().branch(
                    b"z9hG4bKserver",
                    &target("sip:bob@192.0.2.1", &["<sip:f2@edge;lr>"]),
                    0,
                    &mark,
                ),
            ),
            ("attempt", deriver().branch(b"z9hG4bKserver", &bob, 1, &mark)),
            ("key", other_key.branch(b"z9hG4bKserver", &bob, 0, &mark)),
        ] {
            assert_ne!(branch, other, "{difference}");
        }
    }

    #[test]
    fn branch_is_a_token_that_names_its_owner() {
        let mark = deriver().loop_mark(&parsed(INVITE));
        let branch =
            deriver().branch(b"z9hG4bKserver", &target("sip:bob@192.0.2.1", &[]), 0, &mark);
        assert!(branch.starts_with(BRANCH_COOKIE), "{branch:?}");
        assert!(branch.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
        // Where an edge looks for it.
        let owner = BRANCH_COOKIE.len()..BRANCH_COOKIE.len() + OWNER_TOKEN_CHARS;
        assert_eq!(branch[owner], [b'a'; OWNER_TOKEN_CHARS]);
    }

    #[test]
    fn mark_is_read_from_branches_of_our_form_only() {
        let mark = deriver().loop_mark(&parsed(INVITE));
        let branch =
            deriver().branch(b"z9hG4bKserver", &target("sip:bob@192.0.2.1", &[]), 0, &mark);
        assert_eq!(mark_of(&branch), Some(mark.0.as_bytes()));
        for foreign in
            [&b""[..], b"z9hG4bK", b"z9hG4bKabc", &branch[1..], &branch[..BRANCH_CHARS - 1]]
        {
            assert_eq!(mark_of(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn loop_is_the_same_routing_input_twice_and_a_spiral_is_not() {
        let mark = deriver().loop_mark(&parsed(INVITE));
        let branch =
            deriver().branch(b"z9hG4bKserver", &target("sip:bob@192.0.2.1", &[]), 0, &mark);
        let looped = with_via(INVITE, &branch);
        for (what, request, expected) in [
            ("first pass", INVITE.to_owned(), false),
            ("unchanged", looped.clone(), true),
            ("fewer hops left", looped.replace("Max-Forwards: 70", "Max-Forwards: 68"), true),
            ("other Request-URI", looped.replace("INVITE sip:bob@", "INVITE sip:carol@"), false),
            ("other Route", looped.replace("From:", "Route: <sip:next;lr>\r\nFrom:"), false),
            (
                "other credentials",
                looped.replace("From:", "Proxy-Authorization: Digest a=b\r\nFrom:"),
                false,
            ),
            ("other sequence number", looped.replace("CSeq: 1 ", "CSeq: 2 "), false),
        ] {
            let request = parsed(&request);
            let mark = deriver().loop_mark(&request);
            assert_eq!(BranchDeriver::is_loop(&request, &mark), expected, "{what}");
        }
    }

    #[test]
    fn loop_closed_by_another_container_of_the_cluster_is_recognised() {
        let other = deriver_with(7, b'b');
        let mark = other.loop_mark(&parsed(INVITE));
        let branch = other.branch(b"z9hG4bKserver", &target("sip:bob@192.0.2.1", &[]), 0, &mark);
        let looped = parsed(&with_via(INVITE, &branch));
        assert!(BranchDeriver::is_loop(&looped, &deriver().loop_mark(&looped)));
    }
}
