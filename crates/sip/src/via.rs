//! One Via value: which transport, who sent it, and the parameters that bring the response back.
//!
//! RFC 3261 §20.42, RFC 3581 (rport). White space and folds may stand around every separator (RFC 4475 §3.1.1.1).
//! The version is not judged here: a request of another version is refused as such, with 505, and needs its Via
//! read for the answer.

use std::net::IpAddr;

use crate::error::HeaderError;
use crate::grammar::{Cursor, decimal, host_span};
use crate::header_name::HeaderName;
use crate::host::{Host, parse_address};
use crate::params::{First, Params};

/// The parts of one Via value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// Transport as on the wire: `UDP`, `TCP`, ..., or one we do not know. Compared without regard to case.
    pub transport: &'a [u8],
    /// Host of the sent-by.
    pub host: Host<'a>,
    /// Port of the sent-by; `None` means the transport's default.
    pub port: Option<u16>,
    /// All parameters.
    pub params: Params<'a>,
    /// The whole value as on the wire.
    pub value: &'a [u8],
    sent_by: &'a [u8],
    branch: Option<&'a [u8]>,
    received: Option<&'a [u8]>,
    rport: Option<Option<&'a [u8]>>,
}

impl<'a> Via<'a> {
    /// Reads one Via value (a list must be split before, see [`Message::values`](crate::Message::values)).
    ///
    /// # Errors
    /// It does not match the grammar.
    pub fn parse(value: &'a [u8]) -> Result<Via<'a>, HeaderError> {
        Via::read(value).ok_or(HeaderError::new(HeaderName::Via, "Malformed Via"))
    }

    fn read(value: &'a [u8]) -> Option<Via<'a>> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let protocol = cursor.token()?;
        let _version = cursor.eat_separator(b'/').then(|| cursor.token())??;
        let transport = cursor.eat_separator(b'/').then(|| cursor.token())??;
        if !protocol.eq_ignore_ascii_case(b"SIP") {
            return None;
        }
        let rest = cursor.rest();
        cursor.skip_lws();
        if rest.len() == cursor.rest().len() {
            return None; // the host must be set off from the transport
        }
        let from_sent_by = cursor.rest();
        let host = match cursor.peek()? {
            b'[' => cursor.take(memchr::memchr(b']', cursor.rest())? + 1),
            _ => cursor.take(host_span(cursor.rest())),
        };
        let host = Host::parse(host)?;
        let port = match cursor.eat_separator(b':') {
            false => None,
            true => Some(port(cursor.take_while(|b| b.is_ascii_digit()))?),
        };
        let sent_by = &from_sent_by[..from_sent_by.len() - cursor.rest().len()];
        // Asked for of every message, some more than once, so they are noted on the way.
        let (mut branch, mut received, mut rport) =
            (First::of(b"branch"), First::of(b"received"), First::of(b"rport"));
        let params = Params::parse(cursor.rest(), |name, value| {
            branch.see(name, value);
            received.see(name, value);
            rport.see(name, value);
        })?;
        let (branch, received) = (branch.found().flatten(), received.found().flatten());
        let rport = rport.found();
        Some(Via { transport, host, port, params, value, sent_by, branch, received, rport })
    }

    /// The branch parameter; `None` on RFC 2543 requests.
    pub fn branch(&self) -> Option<&'a [u8]> {
        self.branch
    }

    /// The branch, if it begins with the RFC 3261 cookie and has something behind it.
    ///
    /// Source: RFC 3261 §17.2.3; a bare cookie identifies nothing (RFC 4475 §3.2.1).
    pub fn rfc3261_branch(&self) -> Option<&'a [u8]> {
        self.branch().filter(|branch| {
            branch.len() > BRANCH_COOKIE.len() && branch.starts_with(BRANCH_COOKIE)
        })
    }

    /// The address of the received parameter; `None` if absent or no address.
    pub fn received(&self) -> Option<IpAddr> {
        self.received.and_then(parse_address)
    }

    /// The rport parameter: `None` if absent, `Some(None)` if asked for but not filled in. Source: RFC 3581.
    pub fn rport(&self) -> Option<Option<u16>> {
        self.rport.map(|value| value.and_then(port))
    }

    /// The maddr parameter.
    pub fn maddr(&self) -> Option<&'a [u8]> {
        self.params.value(b"maddr")
    }

    /// Any parameter: `None` if absent, `Some(None)` if it has no value.
    pub fn param(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        self.params.get(name)
    }

    /// Host and port as on the wire.
    pub fn sent_by(&self) -> &'a [u8] {
        self.sent_by
    }
}

/// What an RFC 3261 branch begins with. Source: RFC 3261 §8.1.1.7.
pub const BRANCH_COOKIE: &[u8] = b"z9hG4bK";

fn port(digits: &[u8]) -> Option<u16> {
    decimal(digits).and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn white_space_and_folds_are_tolerated_where_the_grammar_has_them() {
        let via = Via::parse(b"SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw")
            .expect("wsinv 1");
        assert_eq!((via.transport, via.port), (&b"UDP"[..], None));
        assert_eq!(via.branch(), Some(&b"390skdjuw"[..]));
        assert_eq!(via.rfc3261_branch(), None);
        let via = Via::parse(
            b"SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8",
        )
        .expect("wsinv 2");
        assert_eq!(via.host, Host::Name(b"spindle.example.com"));
        assert_eq!(via.rfc3261_branch(), Some(&b"z9hG4bK9ikj8"[..]));
        let via = Via::parse(b"SIP/2.0/UDP host : 5070 ;branch=x").expect("spaced port");
        assert_eq!(via.port, Some(5070));
    }

    #[test]
    fn received_and_rport_are_read() {
        let via =
            Via::parse(b"SIP/2.0/UDP [2001:db8::1]:5060;rport;received=2001:db8::2").expect("IPv6");
        assert_eq!(via.host, Host::Ipv6("2001:db8::1".parse::<Ipv6Addr>().expect("address")));
        assert_eq!(via.rport(), Some(None));
        assert_eq!(via.received(), "2001:db8::2".parse().ok());
        assert_eq!(via.sent_by(), b"[2001:db8::1]:5060");
        assert_eq!(Via::parse(b"SIP/2.0/UDP a;rport=99").expect("rport").rport(), Some(Some(99)));
    }

    #[test]
    fn of_a_repeated_parameter_the_first_counts_in_whatever_case() {
        let via = Via::parse(
            b"SIP/2.0/UDP a;RPort;BRANCH=x;Received=192.0.2.1;rport=9;branch=y;received=192.0.2.2",
        )
        .expect("repeated");
        assert_eq!((via.branch(), via.rport()), (Some(&b"x"[..]), Some(None)));
        assert_eq!(via.received(), "192.0.2.1".parse().ok());
        for (name, value) in [(&b"branch"[..], via.branch()), (b"received", Some(b"192.0.2.1"))] {
            assert_eq!(via.param(name), Some(value));
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        for value in [
            &b""[..],
            b"SIP/2.0/UDP",
            b"SIP/2.0/UDP ",
            b"SIP/2.0 host",
            b"HTTP/2.0/UDP host",
            b"SIP/2.0/UDP host:",
            b"SIP/2.0/UDP host:65536",
            b"SIP/2.0/UDP 192.0.2.15;;,;,,",
            b"SIP/2.0/UDP host x",
            b"SIP/2.0/UDP [::1",
            b"SIP/2.0/UDP[::1]",
        ] {
            assert!(Via::parse(value).is_err(), "{}", value.escape_ascii());
        }
    }
}
