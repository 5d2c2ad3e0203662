//! The cookie that brings a client back to its session.
//!
//! Its value is a session token, MACed with a key of its own: the token in the messages of a call does not open the
//! session of a browser.

use http::HeaderValue;
use http::header::{COOKIE, HeaderMap};
use topology::token::{OwnerToken, SessionToken};
use topology::{Key, KeyRing};

use crate::session::SessionId;

/// Reads and writes the cookies of one life of a container.
#[derive(Clone)]
pub struct Cookies {
    key: Key,
    owner: OwnerToken,
}

impl Cookies {
    /// With the keys that all containers share. A token tells who held the session when it was written.
    pub fn new(keys: &KeyRing, owner: OwnerToken) -> Cookies {
        Cookies { key: keys.derive("http-session"), owner }
    }

    /// The session that a request's cookie of this name brings it to. Of several (paths that overlap) the first that is
    /// ours; what is not ours is no cookie.
    pub fn session(&self, name: &str, headers: &HeaderMap) -> Option<SessionId> {
        let values = headers.get_all(COOKIE).iter();
        let pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        pairs.filter_map(|pair| value_of(name, pair.trim_ascii())).find_map(|value| {
            let token = SessionToken::decode(value, &self.key).ok()?;
            Some(SessionId(token.session))
        })
    }

    /// The `Set-Cookie` value that brings a client back to `session` below `path`, until it closes.
    pub fn set(&self, name: &str, path: &str, session: SessionId) -> Option<HeaderValue> {
        let token = SessionToken { owner: self.owner, session: session.0 }.encode(&self.key);
        let attributes = format!("; Path={path}; HttpOnly; SameSite=Lax");
        let parts = [name.as_bytes(), b"=", &token, attributes.as_bytes()];
        // Names and paths of manifests hold nothing that a header could not.
        HeaderValue::from_bytes(&parts.concat()).ok()
    }
}

/// RFC 6265 §4.2.1: `name=value`, the value perhaps in quotes.
fn value_of<'a>(name: &str, pair: &'a [u8]) -> Option<&'a [u8]> {
    let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use topology::Incarnation;

    use super::*;

    const NAME: &str = "OUTLASTSESSION";
    const ID: SessionId = SessionId([7; 16]);

    fn cookies(secret: u8) -> Cookies {
        let owner = OwnerToken { incarnation: Incarnation(1), shard: 0 };
        Cookies::new(&KeyRing::new([secret; 32]), owner)
    }

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let value = |value: &&[u8]| (COOKIE, HeaderValue::from_bytes(value).unwrap());
        values.iter().map(value).collect()
    }

    /// `NAME=TOKEN` as a client sends it back.
    fn pair(cookies: &Cookies) -> String {
        let set = cookies.set(NAME, "/shop", ID).unwrap();
        let (pair, attributes) = set.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/shop; HttpOnly; SameSite=Lax");
        pair.to_owned()
    }

    #[test]
    fn a_cookie_brings_its_client_back_whoever_set_it_and_whatever_stands_beside_it() {
        let pair = pair(&cookies(1));
        let (_, token) = pair.split_once('=').unwrap();
        for text in [
            pair.clone(),
            format!("a=b; {pair}"),
            format!("{NAME}=forged;{pair}; c"),
            format!("{NAME}=\"{token}\""),
        ] {
            let found = cookies(1).session(NAME, &headers(&[b"x=y", text.as_bytes()]));
            assert_eq!(found, Some(ID), "{text}");
        }
        assert_eq!(cookies(1).session("OTHER", &headers(&[pair.as_bytes()])), None);
        assert_eq!(cookies(2).session(NAME, &headers(&[pair.as_bytes()])), None);
        assert_eq!(cookies(1).session(NAME, &HeaderMap::new()), None);
    }

    #[test]
    fn the_token_of_a_call_is_no_cookie() {
        let keys = KeyRing::new([1; 32]);
        let token = SessionToken { owner: cookies(1).owner, session: ID.0 };
        for purpose in ["owner", "branch", "flow"] {
            let text = [b"OUTLASTSESSION=", &token.encode(&keys.derive(purpose))[..]].concat();
            assert_eq!(cookies(1).session(NAME, &headers(&[&text])), None, "{purpose}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_differs_from_a_cookie_of_ours_is_one(
            at in 0_usize..52,
            octet in "[A-Za-z0-9_-]",
        ) {
            let text = pair(&cookies(1));
            let mut forged = text.clone();
            forged.replace_range(NAME.len() + 1 + at..=NAME.len() + 1 + at, &octet);
            let found = cookies(1).session(NAME, &headers(&[forged.as_bytes()]));
            prop_assert_eq!(found.is_some(), forged == text, "{}", forged);
        }

        #[test]
        fn no_octets_panic_or_are_a_cookie(value in proptest::collection::vec(0x20_u8..0x7f, 0..200)) {
            prop_assert_eq!(cookies(1).session(NAME, &headers(&[&value])), None);
            let value = [b"OUTLASTSESSION=", &value[..]].concat();
            prop_assert_eq!(cookies(1).session(NAME, &headers(&[&value])), None);
        }
    }
}
