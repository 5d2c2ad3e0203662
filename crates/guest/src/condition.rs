//! Whether a request fulfils the condition by which an application chooses its requests (JSR 289 §16).
//!
//! Pure. What a request has not, or has in a form that cannot be read, fulfils nothing. Schemes, hosts and names of
//! parameters know no case; everything else does unless the condition says otherwise (RFC 3261 §19.1.4).

use std::borrow::Cow;

use config::manifest::Condition;
use config::manifest::condition::{AddressHeader, AddressPart, Comparison, UriPart, Variable};
use sip::{HeaderName, Message, NameAddr, Uri, unescape, unquote};

/// Whether `request` fulfils `condition`.
pub fn is_fulfilled(condition: &Condition, request: &Message) -> bool {
    match condition {
        Condition::All(conditions) => conditions.iter().all(|inner| is_fulfilled(inner, request)),
        Condition::Any(conditions) => conditions.iter().any(|inner| is_fulfilled(inner, request)),
        Condition::Not(inner) => !is_fulfilled(inner, request),
        Condition::Exists(variable) => value(variable, request).is_some(),
        Condition::Equal(comparison) => compare(comparison, request, |value, text| value == text),
        Condition::Contains(comparison) => compare(comparison, request, |value, text| {
            text.is_empty() || value.windows(text.len()).any(|window| window == text)
        }),
        Condition::SubdomainOf(comparison) => {
            // A telephone number is written from the whole to the part, a domain the other way round.
            let is_number = matches!(
                comparison.variable,
                Variable::RequestUri(UriPart::Tel)
                    | Variable::Address(_, AddressPart::Uri(UriPart::Tel))
            );
            compare(comparison, request, |value, text| {
                if is_number { value.starts_with(text) } else { is_subdomain(value, text) }
            })
        }
    }
}

fn is_subdomain(host: &[u8], domain: &[u8]) -> bool {
    match host.strip_suffix(domain) {
        Some(b"") => true,
        Some(rest) => rest.ends_with(b"."),
        None => false,
    }
}

fn compare(
    comparison: &Comparison,
    request: &Message,
    matches: impl FnOnce(&[u8], &[u8]) -> bool,
) -> bool {
    let Some(value) = value(&comparison.variable, request) else { return false };
    let text = comparison.text.as_bytes();
    if comparison.ignore_case || is_caseless(&comparison.variable) {
        matches(&value.to_ascii_lowercase(), &text.to_ascii_lowercase())
    } else {
        matches(&value, text)
    }
}

fn is_caseless(variable: &Variable) -> bool {
    let (Variable::RequestUri(part) | Variable::Address(_, AddressPart::Uri(part))) = variable
    else {
        return false;
    };
    matches!(part, UriPart::Scheme | UriPart::Host)
}

/// What the request has under that name.
fn value<'a>(variable: &Variable, request: &'a Message) -> Option<Cow<'a, [u8]>> {
    match variable {
        Variable::Method => Some(Cow::Owned(request.method()?.as_bytes().to_vec())),
        Variable::RequestUri(part) => uri_part(part, request.request_uri()?),
        Variable::Header(name) => request.field_named(name.as_bytes()).map(Cow::Borrowed),
        Variable::Address(header, part) => {
            let field = match header {
                AddressHeader::From => request.field(HeaderName::From)?,
                AddressHeader::To => request.field(HeaderName::To)?,
                AddressHeader::Route => request.values(HeaderName::Route).next()?,
            };
            let address = NameAddr::parse(field).ok()?;
            match part {
                AddressPart::Whole => Some(Cow::Borrowed(field)),
                AddressPart::DisplayName => {
                    Some(unquote(address.display())).filter(|name| !name.is_empty())
                }
                AddressPart::Uri(part) => uri_part(part, address.uri()),
            }
        }
    }
}

fn uri_part<'a>(part: &UriPart, text: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let uri = Uri::parse(text).ok()?;
    let sip = || uri.as_sip().copied();
    match part {
        UriPart::Whole => Some(Cow::Borrowed(text)),
        UriPart::Scheme => text.split(|byte| *byte == b':').next().map(Cow::Borrowed),
        UriPart::User => sip()?.user.map(unescape),
        UriPart::Host => Some(Cow::Owned(sip()?.host.to_string().into_bytes())),
        UriPart::Port => {
            let uri = sip()?;
            let port = uri.port.unwrap_or(if uri.secure { 5061 } else { 5060 });
            Some(Cow::Owned(port.to_string().into_bytes()))
        }
        UriPart::Tel => number(&uri).map(Cow::Owned),
        UriPart::Parameter(name) => match uri {
            Uri::Sip(uri) => uri.param(name.as_bytes()).map(|value| value.unwrap_or_default()),
            Uri::Tel(rest) | Uri::Other { rest, .. } => parameter(rest, name.as_bytes()),
        }
        .map(unescape),
    }
}

/// The telephone number of a `tel` URI, or of a `sip` URI that says that its user is one (RFC 3261 §19.1.1), without
/// visual separators (RFC 3966 §3).
fn number(uri: &Uri<'_>) -> Option<Vec<u8>> {
    let written = match uri {
        Uri::Tel(rest) => rest,
        Uri::Sip(uri) => {
            let is_phone = uri
                .param(b"user")
                .flatten()
                .is_some_and(|user| user.eq_ignore_ascii_case(b"phone"));
            uri.user.filter(|_| is_phone)?
        }
        Uri::Other { .. } => return None,
    };
    let digits = written.split(|byte| *byte == b';').next().unwrap_or_default();
    Some(digits.iter().copied().filter(|digit| !b"-.()".contains(digit)).collect())
}

/// A parameter behind the first `;`: its value, empty if it has none.
fn parameter<'a>(rest: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    rest.split(|byte| *byte == b';').skip(1).find_map(|parameter| {
        let (found, value) = match parameter.iter().position(|byte| *byte == b'=') {
            Some(at) => (&parameter[..at], &parameter[at + 1..]),
            None => (parameter, &[][..]),
        };
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;

    fn request(uri: &str, headers: &str) -> Message {
        let text = format!(
            "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n\
             From: \"A. \\\"B\\\" C\" <sip:alice@example.com>;tag=1\r\nTo: <tel:+49-30-12;phone-context=x>\r\n\
             Call-ID: 1\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n{headers}Content-Length: 0\r\n\r\n"
        );
        Message::parse(Bytes::from(text)).unwrap()
    }

    /// Whether the condition, as TOML, is fulfilled.
    #[track_caller]
    fn check(condition: &str, request: &Message, expected: bool) {
        let text = format!(
            "name = \"a\"\nversion = \"1.0.0\"\ncomponent = \"a.wasm\"\n[sip]\nmatch = {condition}\n"
        );
        let manifest = config::manifest::parse(&text).unwrap();
        let found = is_fulfilled(&manifest.sip.condition.unwrap(), request);
        assert_eq!(found, expected, "{condition}");
    }

    #[test]
    fn variables_are_what_the_request_has() {
        let invite = request(
            "sip:+49.30-1%32@Example.COM;user=phone;lr",
            "X-Account: blue\r\nRoute: <sip:p1.example.net;lr>\r\n",
        );
        for (variable, text) in [
            ("request.method", "INVITE"),
            ("request.uri", "sip:+49.30-1%32@Example.COM;user=phone;lr"),
            ("request.uri.scheme", "sip"),
            ("request.uri.user", "+49.30-12"),
            ("request.uri.host", "example.com"),
            ("request.uri.port", "5060"),
            ("request.uri.param.user", "phone"),
            ("request.uri.param.LR", ""),
            ("request.from.display-name", "A. \"B\" C"),
            ("request.from.uri.user", "alice"),
            ("request.to.uri.scheme", "tel"),
            ("request.to.uri.tel", "+493012"),
            ("request.to.uri.param.phone-context", "x"),
            ("request.route.uri.host", "p1.example.net"),
            ("request.header.x-account", "blue"),
        ] {
            check(&format!("{{ equal = [{variable:?}, {text:?}] }}"), &invite, true);
            check(&format!("{{ equal = [{variable:?}, \"other\"] }}"), &invite, false);
        }
    }

    #[test]
    fn what_is_missing_fulfils_nothing() {
        let invite = request("tel:+4930", "");
        for variable in [
            "request.uri.user",
            "request.uri.host",
            "request.uri.port",
            "request.uri.param.x",
            "request.route",
            "request.header.Subject",
            "request.to.display-name",
        ] {
            check(&format!("{{ exists = {variable:?} }}"), &invite, false);
            check(&format!("{{ contains = [{variable:?}, \"\"] }}"), &invite, false);
            check(&format!("{{ not = {{ exists = {variable:?} }} }}"), &invite, true);
        }
    }

    #[test]
    fn domains_and_numbers_have_parts() {
        let invite = request("sip:+49301@a.Pbx.example.com;user=phone", "");
        for (domain, expected) in [
            ("pbx.example.com", true),
            ("a.pbx.example.com", true),
            ("bx.example.com", false),
            ("b.pbx.example.com", false),
        ] {
            check(
                &format!("{{ subdomain_of = [\"request.uri.host\", {domain:?}] }}"),
                &invite,
                expected,
            );
        }
        check("{ subdomain_of = [\"request.uri.tel\", \"+4930\"] }", &invite, true);
        check("{ subdomain_of = [\"request.uri.tel\", \"301\"] }", &invite, false);
    }

    #[test]
    fn case_counts_unless_it_is_said_not_to() {
        let invite = request("sip:Dial@example.com", "");
        check("{ equal = [\"request.uri.user\", \"dial\"] }", &invite, false);
        check("{ equal = [\"request.uri.user\", \"dial\"], ignore_case = true }", &invite, true);
        check("{ contains = [\"request.uri.user\", \"IA\"], ignore_case = true }", &invite, true);
        check("{ contains = [\"request.uri.user\", \"IA\"] }", &invite, false);
    }

    #[test]
    fn conditions_combine() {
        let invite = request("sip:dial@example.com", "");
        let (yes, no) = ("{ exists = \"request.uri\" }", "{ exists = \"request.route\" }");
        check(&format!("{{ all = [{yes}, {yes}] }}"), &invite, true);
        check(&format!("{{ all = [{yes}, {no}] }}"), &invite, false);
        check(&format!("{{ any = [{no}, {yes}] }}"), &invite, true);
        check(&format!("{{ any = [{no}, {no}] }}"), &invite, false);
        check("{ all = [] }", &invite, true);
        check("{ any = [] }", &invite, false);
    }
}
