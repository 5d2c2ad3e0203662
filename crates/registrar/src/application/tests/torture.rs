//! The messages of RFC 4475 and what a registrar makes of them, from the test data outside the repository.

use std::path::PathBuf;

use bytes::Bytes;
use sip::Framing;

use super::*;

/// The directory of the messages; `None` when the variable is unset, which is said.
fn directory() -> Option<PathBuf> {
    let Some(testdata) = std::env::var_os("OUTLAST_TESTDATA") else {
        eprintln!("skipped: OUTLAST_TESTDATA is not set, so there are no RFC 4475 messages");
        return None;
    };
    Some(PathBuf::from(testdata).join("rfc4475"))
}

/// What becomes of a message: the status of the answer, or 0 when it is proxied.
fn outcome(node: &Node, octets: Bytes) -> u16 {
    let Ok(message) = Message::parse(octets) else {
        return 400;
    };
    if let Err(rejection) = message.check_request(Framing::Datagram) {
        return rejection.status;
    }
    match node.run(&node.container(), &message) {
        Action::Respond(response) => response.status,
        Action::Proxy(_) => 0,
        Action::Drop => panic!("dropped"),
    }
}

/// The status codes that an expectation names; those of plain words for the rest.
fn allowed(kind: &str, expectation: &str) -> Vec<u16> {
    let mut codes: Vec<u16> = expectation
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| digits.len() == 3)
        .filter_map(|digits| digits.parse().ok())
        .collect();
    match kind {
        // A REGISTER is ours to process; without credentials that is a 200.
        "req REGISTER" if codes.is_empty() => codes.push(200),
        "req REGISTER" => {}
        // Everything else is for a user whom this registrar does not know: 404, where a user agent would do more.
        _ if !codes.contains(&400) || codes.contains(&501) => codes.push(404),
        _ => {}
    }
    codes
}

#[test]
fn each_message_of_rfc_4475_gets_the_answer_it_should() {
    let Some(directory) = directory() else { return };
    let table =
        std::fs::read_to_string(directory.join("EXPECTED.tsv")).expect("the table of expectations");
    let mut seen = 0;
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let [_, name, _, kind, class, proxy, expectation] = columns[..] else { panic!("{row}") };
        if !kind.starts_with("req") {
            continue;
        }
        seen += 1;
        let octets = std::fs::read(directory.join(format!("{name}.dat"))).expect(name);
        let node = Node::new(false);
        let found = outcome(&node, octets.into());
        // What a proxy may let pass goes on to another domain (403 when the caller is of
        // another one too) or ends here with nobody there.
        let passes = class != "invalid" || proxy.contains("forward") || proxy.contains("accept");
        let expected = allowed(kind, expectation);
        let passed = passes && matches!(found, 0 | 403 | 404) && kind != "req REGISTER";
        assert!(
            expected.contains(&found) || passed,
            "{name}: {found}, expected {expected:?} ({expectation})"
        );
        let contacts: &[&str] = match name {
            "escnull" => &["sip:%00@host5.example.com", "sip:%00%00@host5.example.com"],
            "cparam01" => &["sip:+19725552222@gw1.example.net"],
            "cparam02" => &["sip:+19725552222@gw1.example.net;unknownparam"],
            "regescrt" => &["sip:user@example.com?Route=%3Csip:sip.example.com%3E"],
            "dblreq" => &["sip:j.user@host.example.com"],
            _ => &[],
        };
        assert_eq!(node.contacts(), contacts, "{name}");
    }
    assert!(seen > 40, "only {seen} requests in the table");
}
