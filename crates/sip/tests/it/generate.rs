//! Random messages that are valid, spelled in every way the grammar allows, and random damage to them.

use proptest::collection::vec;
use proptest::prelude::*;

/// One lawful message as octets.
pub(crate) fn message() -> impl Strategy<Value = Vec<u8>> {
    (
        start_line(),
        vec(field(), 0..6),
        vec(via(), 1..4),
        any::<u32>(),
        vec(any::<u8>(), 0..40),
        any::<bool>(),
    )
        .prop_map(|((start, method), extra, vias, number, body, with_length)| {
            let mut text = start;
            for via in vias {
                text += &via;
            }
            text += "From: \"A, \\\"B\" <sip:a@example.com>;tag=a1\r\nt :sip:b@example.com\r\n";
            text += &format!(
                "i: id-{number}@host\r\nCSeq:\r\n {} {method}\r\nMAX-Forwards  : 0070\r\n",
                number >> 1
            );
            for line in extra {
                text += &line;
            }
            if with_length {
                text += &format!("l:{}\r\n", body.len());
            }
            text += "\r\n";
            [text.into_bytes(), body].concat()
        })
}

/// A message with one to four octets changed, removed, doubled or inserted, preferring octets that mean something.
pub(crate) fn damaged_message() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        3 => prop::sample::select(b"\r\n :;,<>\"\\=@/?%\0\t[]*0Vl".to_vec()),
        1 => any::<u8>(),
    ];
    (message(), vec((any::<prop::sample::Index>(), 0_u8..4, octet), 1..5)).prop_map(
        |(mut octets, damages)| {
            for (index, kind, octet) in damages {
                if octets.is_empty() {
                    break;
                }
                let at = index.index(octets.len());
                match kind {
                    0 => octets[at] = octet,
                    1 => drop(octets.remove(at)),
                    2 => octets.insert(at, octets[at]),
                    _ => octets.insert(at, octet),
                }
            }
            octets
        },
    )
}

/// A start line and the method of the transaction.
fn start_line() -> impl Strategy<Value = (String, String)> {
    let method =
        prop_oneof![Just("INVITE".to_owned()), Just("REGISTER".to_owned()), "[A-Z%!~*.-]{1,12}"];
    let uri = prop_oneof![
        "sip:([a-z0-9]|%41){1,3}@[a-z]{1,8}\\.example(;lr|;x=y)?",
        Just("sips:[2001:db8::1]:5061".to_owned()),
        Just("tel:+1-201-555-0123".to_owned()),
        Just("urn:service:sos".to_owned()),
    ];
    (method, uri, 100_u16..700, "[ -~\u{e9}]{0,12}", any::<bool>()).prop_map(
        |(method, uri, status, reason, request)| {
            let line = match request {
                true => format!("{method} {uri} SIP/2.0\r\n"),
                false => format!("SIP/2.0 {status} {reason}\r\n"),
            };
            (line, method)
        },
    )
}

fn via() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["Via: ", "v:", "VIA  :\r\n\t"]);
    let slash = prop::sample::select(vec!["/", " / ", "\r\n /"]);
    let host = prop::sample::select(vec![
        "192.0.2.1",
        "host.example:5070",
        "[2001:db8::2]:5060",
        "h : 99",
    ]);
    (name, slash, host, "[a-z0-9]{1,10}", any::<bool>()).prop_map(
        |(name, slash, host, branch, two)| {
            let value = format!("SIP{slash}2.0{slash}UDP {host} ;branch = z9hG4bK{branch};rport");
            if two {
                format!("{name}{value} ,\r\n  {value}2\r\n")
            } else {
                format!("{name}{value}\r\n")
            }
        },
    )
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        ("X-[A-Za-z%!]{1,10}", "[ -~]{0,30}")
            .prop_map(|(name, value)| format!("{name}: {value}\r\n")),
        "[ -~]{0,20}".prop_map(|value| format!("Subject: {value}\r\n {value}x\r\n")),
        Just("s :\r\n".to_owned()),
        Just(
            "m: <sip:a@b;x=\"y>;expires=10,\"z, \\\"<\" <sip:c@d>;q=0.5\r\n"
                .replace("x=\"y", "x=y")
        ),
        Just("ROUTE:<sip:p1;lr> , <sip:p2;lr>\r\n".to_owned()),
    ]
}
