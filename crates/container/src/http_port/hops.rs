//! What a container tells another one with a request that it forwards, and what it leaves out.

use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// How often the request was forwarded.
const HOPS: HeaderName = HeaderName::from_static("outlast-hops");

/// In an answer to another container: nothing was done with the request, and somebody else may be asked.
const NOT_HANDLED: HeaderName = HeaderName::from_static("outlast-not-handled");

/// Says that nothing was done.
pub(super) fn say_not_handled(headers: &mut HeaderMap) {
    headers.insert(NOT_HANDLED, HeaderValue::from_static("1"));
}

/// Whether another container says that nothing was done.
pub(super) fn is_not_handled(headers: &HeaderMap) -> bool {
    headers.contains_key(NOT_HANDLED)
}

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Anybody.
    Stranger,
    /// Another container, of this node or another of the cluster.
    Neighbour,
}

/// Takes out what only containers say to each other.
pub(super) fn leave_out_own(headers: &mut HeaderMap) {
    headers.remove(HOPS);
    headers.remove(NOT_HANDLED);
}

/// Takes out how often a request was forwarded, and whatever else only containers say. Of strangers nothing is believed.
pub(super) fn take(headers: &mut HeaderMap, sender: Sender) -> u8 {
    let said = headers.remove(HOPS);
    leave_out_own(headers);
    match sender {
        Sender::Stranger => 0,
        Sender::Neighbour => {
            let said = said.as_ref().and_then(|hops| hops.to_str().ok());
            said.and_then(|hops| hops.parse().ok()).unwrap_or(u8::MAX)
        }
    }
}

/// Notes how often a request was forwarded.
pub(super) fn note(headers: &mut HeaderMap, hops: u8) {
    headers.insert(HOPS, HeaderValue::from(u16::from(hops)));
}

/// Takes out what concerns one connection only (RFC 9110 §7.6.1), and how the body is transferred.
pub(super) fn leave_out_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    const OF_CONNECTIONS: [HeaderName; 9] = [
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in named.iter().chain(&OF_CONNECTIONS) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_neighbour_says_how_often_and_a_stranger_nothing() {
        let mut headers = HeaderMap::new();
        note(&mut headers, 1);
        say_not_handled(&mut headers);
        assert_eq!(take(&mut headers.clone(), Sender::Neighbour), 1);
        assert_eq!(take(&mut headers, Sender::Stranger), 0);
        assert!(headers.is_empty(), "applications do not see it");
        assert_eq!(take(&mut headers, Sender::Neighbour), u8::MAX, "a neighbour always says it");
    }

    #[test]
    fn headers_of_a_connection_stay_behind() {
        let mut headers: HeaderMap = [
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-for", "192.0.2.1"),
        ]
        .into_iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
        leave_out_connection(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-forwarded-for"]);
    }
}
