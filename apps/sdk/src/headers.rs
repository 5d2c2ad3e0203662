//! Headers of a message that goes on from one leg to another.

use crate::Header;

/// They speak of one leg: of its dialog, its credentials, its extensions. The same that `sip.relay` leaves behind.
const NOT_PASSED_ON: &[&str] = &[
    "Via",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Contact",
    "Route",
    "Record-Route",
    "Max-Forwards",
    "Max-Breadth",
    "Path",
    "Service-Route",
    "Content-Length",
    "Content-Type",
    "Require",
    "Proxy-Require",
    "Supported",
    "Unsupported",
    "Authorization",
    "WWW-Authenticate",
    "Proxy-Authorization",
    "Proxy-Authenticate",
    "Authentication-Info",
    "Replaces",
    "Join",
    "RSeq",
    "RAck",
    "Flow-Timer",
    "Session-Expires",
    "Min-SE",
    "Retry-After",
];

/// Their compact forms.
const COMPACT: &[&str] = &["v", "f", "t", "i", "m", "l", "c", "k", "x"];

/// Those headers of one leg's message that another leg's message may carry as well.
pub fn passed_on(headers: Vec<Header>) -> Vec<Header> {
    let stays = |name: &str| {
        NOT_PASSED_ON.iter().chain(COMPACT).any(|known| known.eq_ignore_ascii_case(name))
    };
    headers.into_iter().filter(|header| !stays(&header.name)).collect()
}

/// Whether a list such as that of Supported or Allow, in one field or several, names the token.
pub fn lists(fields: &[String], token: &str) -> bool {
    let mut tokens = fields.iter().flat_map(|field| field.split(','));
    tokens.any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_of_one_leg_stays_there() {
        let names = |headers: Vec<Header>| -> Vec<String> {
            headers.into_iter().map(|header| header.name).collect()
        };
        let headers = ["VIA", "v", "Subject", "s", "Supported", "k", "X-Account", "content-type"];
        let headers = headers.into_iter().map(|name| Header::new(name, "1")).collect();
        assert_eq!(names(passed_on(headers)), ["Subject", "s", "X-Account"]);
    }

    #[test]
    fn a_token_is_found_in_any_field_and_case() {
        let fields = ["100rel, Timer".to_owned(), "replaces".to_owned()];
        assert!(lists(&fields, "timer") && lists(&fields, "replaces"));
        assert!(!lists(&fields, "time") && !lists(&[], "timer"));
    }
}
