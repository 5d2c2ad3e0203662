//! Whom a token names: the container that owns what a message belongs to, as it writes it into its Vias, Contacts and
//! Record-Routes.

use sip::{BRANCH_COOKIE, Via};
use topology::token::{OWNER_TOKEN_CHARS, SESSION_ID_BYTES, SESSION_TOKEN_CHARS};
use topology::{Incarnation, Key, OwnerToken, SessionToken};

use crate::route::is_container_host;

/// An owner that a token of ours names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The life that held it when the token was written.
    pub incarnation: Incarnation,
    /// The session that it belongs to, whoever holds it now; `None` for a plain transaction.
    pub session: Option<[u8; SESSION_ID_BYTES]>,
}

impl Owner {
    /// The owner that the user part of a URI names. `key` is of purpose `"owner"`.
    pub(crate) fn of_user(user: &[u8], key: &Key) -> Option<Owner> {
        match user.len() {
            OWNER_TOKEN_CHARS => OwnerToken::decode(user, key).ok().map(Owner::from),
            SESSION_TOKEN_CHARS => SessionToken::decode(user, key).ok().map(Owner::from),
            _ => None,
        }
    }

    /// The owner that a container's Via names: its branch begins with a token.
    pub(crate) fn of_via(via: &Via<'_>, key: &Key) -> Option<Owner> {
        if !is_container_host(&via.host) {
            return None;
        }
        let branch = via.rfc3261_branch()?.get(BRANCH_COOKIE.len()..)?;
        // Branches of transactions are the common ones; the tag tells that a session's begins otherwise.
        let owner = branch.get(..OWNER_TOKEN_CHARS).and_then(|token| Owner::of_user(token, key));
        owner.or_else(|| Owner::of_user(branch.get(..SESSION_TOKEN_CHARS)?, key))
    }
}

impl From<OwnerToken> for Owner {
    fn from(token: OwnerToken) -> Owner {
        Owner { incarnation: token.incarnation, session: None }
    }
}

impl From<SessionToken> for Owner {
    fn from(token: SessionToken) -> Owner {
        Owner { session: Some(token.session), ..Owner::from(token.owner) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use topology::KeyRing;

    use super::*;

    #[test]
    fn branches_of_both_kinds_name_their_owners_and_forged_ones_nobody() {
        let key = KeyRing::new([7; 32]).derive("owner");
        let owner = OwnerToken { incarnation: Incarnation(9), shard: 0 };
        let session = SessionToken { owner, session: [3; SESSION_ID_BYTES] };
        let read = |token: &[u8], host: &str| {
            let token = std::str::from_utf8(token).unwrap();
            let via = format!("SIP/2.0/TCP {host};branch=z9hG4bK{token}tail");
            Owner::of_via(&Via::parse(via.as_bytes()).unwrap(), &key)
        };
        let container = "container1.node1.outlast.invalid";
        let (owner, session) = (owner.encode(&key), session.encode(&key));
        let plain = Owner { incarnation: Incarnation(9), session: None };
        assert_eq!(read(&owner, container), Some(plain));
        let named = Owner { session: Some([3; SESSION_ID_BYTES]), ..plain };
        assert_eq!(read(&session, container), Some(named));
        assert_eq!(read(&session, "192.0.2.1"), None, "no container's Via");
        for length in 0..SESSION_TOKEN_CHARS - "tail".len() {
            assert_eq!(read(&session[..length], container), None, "cut to {length}");
        }
        for at in 0..SESSION_TOKEN_CHARS {
            let mut forged = session;
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(read(&forged, container), None, "changed at {at}");
        }
        assert_eq!(Owner::of_user(&session, &key), Some(named));
        assert_eq!(Owner::of_user(&session[..OWNER_TOKEN_CHARS], &key), None);
    }
}
