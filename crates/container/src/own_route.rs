//! Takes a container's own entry out of a request's route before an application sees it.
//!
//! A request of a dialog that a container record-routed comes with its Record-Route URI on top of Route,
//! or, from a strict router, as the Request-URI with the real one at the end of Route (RFC 3261 §16.4). The
//! edge before us has done the same with its own entry. It may name a container that is dead: then we are in its place.

use bytes::BytesMut;
use sip::{Edits, HeaderName, Host, Message, NameAddr, SipUri, Uri};

/// The request as it was before it was routed to a container; None when it names none.
///
/// # Errors
/// A Route header that cannot be read; its fault, fit to be a reason phrase.
pub(crate) fn without_own_route(request: &Message) -> Result<Option<Message>, &'static str> {
    let top = request.values(HeaderName::Route).next();
    let Some(top) = top else { return Ok(None) };
    let top = NameAddr::parse(top).map_err(|_| "Malformed Route")?;
    let mut edits = Edits::new();
    if request.request_uri().is_some_and(is_own_route) {
        let routes: Vec<&[u8]> = request.values(HeaderName::Route).collect();
        let (last, before) = routes.split_last().expect("there is a top Route");
        let last = NameAddr::parse(last).map_err(|_| "Malformed Route")?;
        edits.set_request_uri(last.uri());
        edits.remove_all(HeaderName::Route);
        if !before.is_empty() {
            edits.push_front(HeaderName::Route, &before.join(&b", "[..]));
        }
    } else if is_own(top.uri()) {
        edits.remove_first_value(HeaderName::Route);
    } else {
        return Ok(None);
    }
    let mut bytes = BytesMut::with_capacity(request.buffer().len());
    edits.render(request, &mut bytes);
    Message::parse(bytes.freeze()).map(Some).map_err(|_| "Malformed Route")
}

/// The user part of the entry of a container that a request's route begins with.
pub(crate) fn own_entry(request: &Message) -> Option<&[u8]> {
    let uri = request.request_uri().filter(|uri| is_own_route(uri));
    let on_top = || {
        let top = NameAddr::parse(request.values(HeaderName::Route).next()?).ok()?;
        Some(top.uri()).filter(|uri| is_own(uri))
    };
    match Uri::parse(uri.or_else(on_top)?) {
        Ok(Uri::Sip(uri)) => uri.user,
        Ok(Uri::Tel(_) | Uri::Other { .. }) | Err(_) => None,
    }
}

/// Whether the Request-URI is what a container put into Record-Route, and not the Contact of a session.
fn is_own_route(uri: &[u8]) -> bool {
    is_own(uri) && matches!(Uri::parse(uri), Ok(Uri::Sip(uri)) if uri.lr())
}

fn is_own(uri: &[u8]) -> bool {
    match Uri::parse(uri) {
        Ok(Uri::Sip(SipUri { host: Host::Name(name), .. })) => is_container(name),
        Ok(Uri::Sip(_) | Uri::Tel(_) | Uri::Other { .. }) | Err(_) => false,
    }
}

/// Whether `name` is one that containers give themselves: `CONTAINER.NODE.outlast.invalid`.
fn is_container(name: &[u8]) -> bool {
    const END: &[u8] = b".outlast.invalid";
    name.len() > END.len() && name[name.len() - END.len()..].eq_ignore_ascii_case(END)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Request-URI and Route values before, and after.
    fn check(before: (&str, &[&str]), after: Result<(&str, &[&str]), &str>) {
        let routes: String = before.1.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let text = format!("BYE {} SIP/2.0\r\n{routes}Content-Length: 0\r\n\r\n", before.0);
        let request = Message::parse(text.into_bytes().into()).unwrap();
        let found = without_own_route(&request).map(|rewritten| {
            let request = rewritten.unwrap_or(request);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let routes: Vec<String> = request.values(HeaderName::Route).map(text).collect();
            (text(request.request_uri().unwrap()), routes)
        });
        let expected = after.map(|(uri, routes)| {
            (uri.to_owned(), routes.iter().map(|route| (*route).to_owned()).collect())
        });
        assert_eq!(found, expected, "{before:?}");
    }

    #[test]
    fn own_route_is_taken_out_both_ways() {
        const MINE: &str = "<sip:tok@C1.n1.outlast.invalid;lr>";
        const EDGE: &str = "<sip:tok@192.0.2.1;lr>";
        check(("sip:b@x", &[]), Ok(("sip:b@x", &[])));
        check(("sip:b@x", &[EDGE]), Ok(("sip:b@x", &[EDGE])));
        check(("sip:b@x", &[MINE, EDGE]), Ok(("sip:b@x", &[EDGE])));
        // RFC 3261 §16.4: a strict router before us.
        let mine = "sip:tok@c1.n1.outlast.invalid;lr";
        check((mine, &[EDGE, "<sip:b@x>"]), Ok(("sip:b@x", &[EDGE])));
        check((mine, &["<sip:b@x>"]), Ok(("sip:b@x", &[])));
        // The Contact of a session.
        let contact = "sip:tok@c1.n1.outlast.invalid";
        check((contact, &["<sip:b@x;lr>"]), Ok((contact, &["<sip:b@x;lr>"])));
        check(("sip:b@x", &["<sip:b@x"]), Err("Malformed Route"));
    }

    #[test]
    fn own_entry_is_found_both_ways() {
        let entry = |uri: &str, routes: &str| {
            let text = format!("BYE {uri} SIP/2.0\r\n{routes}Content-Length: 0\r\n\r\n");
            let request = Message::parse(text.into_bytes().into()).unwrap();
            own_entry(&request).map(|user| String::from_utf8(user.to_vec()).unwrap())
        };
        let mine = Some("tok".to_owned());
        assert_eq!(
            entry("sip:b@x", "Route: <sip:tok@c1.n1.outlast.invalid;lr>, <sip:e;lr>\r\n"),
            mine
        );
        assert_eq!(entry("sip:tok@c1.n1.outlast.invalid;lr", "Route: <sip:b@x>\r\n"), mine);
        // The Contact of a session is no entry of a route.
        assert_eq!(entry("sip:tok@c1.n1.outlast.invalid", "Route: <sip:e;lr>\r\n"), None);
        assert_eq!(entry("sip:b@x", ""), None);
    }
}
