//! The 49 torture messages of RFC 4475 against their table of expectations.
//!
//! Messages and table are read from the directory that `OUTLAST_TESTDATA` names; they are not in the repository.
//! What a whole proxy or registrar must answer (416, 420, 483, 501, ...) is tested where those are; here it counts
//! that such a message passes parser and check, and that no message gets a verdict its row does not allow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use sip::{
    AddressOfRecord, Contacts, Edits, Frame, Framing, FramingError, HeaderName, Message, Method,
    StreamFramer, Uri, framer,
};

/// What parser and check say to a message on a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// A request answered with this status.
    Refuse(u16),
    /// A response that is dropped.
    Drop,
}

/// What becomes of the same octets on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnStream {
    /// So many messages.
    Messages(usize),
    /// The framer waits for more; the connection's time-out ends it.
    Waits,
    /// So many messages, then the connection is closed.
    Closes(usize, FramingError),
}

struct Row {
    name: String,
    kind: String,
    class: String,
    proxy: String,
}

fn testdata() -> Option<PathBuf> {
    let Some(root) = std::env::var_os("OUTLAST_TESTDATA") else {
        eprintln!("SKIPPED: OUTLAST_TESTDATA is not set, so the RFC 4475 messages are not checked");
        return None;
    };
    Some(Path::new(&root).join("rfc4475"))
}

fn rows(directory: &Path) -> Vec<Row> {
    let path = directory.join("EXPECTED.tsv");
    let table =
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = table.lines();
    assert_eq!(
        lines.next().map(|header| header.split('\t').count()),
        Some(7),
        "columns of {}",
        path.display()
    );
    let rows: Vec<Row> = lines
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let [_, name, _, kind, class, proxy, _] = columns[..] else {
                panic!("row without 7 columns: {line}")
            };
            Row { name: name.into(), kind: kind.into(), class: class.into(), proxy: proxy.into() }
        })
        .collect();
    assert_eq!(rows.len(), 49, "rows of {}", path.display());
    rows
}

fn octets(directory: &Path, name: &str) -> Bytes {
    let path = directory.join(format!("{name}.dat"));
    Bytes::from(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// The verdicts that a row lets this crate give.
fn allowed(row: &Row) -> Vec<Verdict> {
    use Verdict::{Drop, Pass, Refuse};
    let text = row.proxy.to_ascii_lowercase();
    let says = |word: &str| text.contains(word);
    if row.class == "valid" || row.class == "backcompat" {
        vec![Pass]
    } else if says("505") {
        vec![Refuse(505)]
    } else if row.kind.starts_with("resp") {
        assert!(says("drop") || says("discard"), "unknown expectation: {}", row.proxy);
        vec![Drop]
    } else if !says("400") {
        vec![Pass] // forwarded, or refused by a decision that is not syntax: 416, 420, 483
    } else if says("400,")
        || says(" or ")
        || says("reasonable")
        || says("liberal")
        || says("acceptable")
    {
        vec![Refuse(400), Pass]
    } else {
        vec![Refuse(400)]
    }
}

/// What we chose where the table leaves a choice.
const CHOICES: [(&str, Verdict); 9] = [
    ("ltgtruri", Verdict::Refuse(400)),
    ("lwsstart", Verdict::Pass),
    ("trws", Verdict::Pass),
    ("escruri", Verdict::Refuse(400)),
    ("regbadct", Verdict::Refuse(400)),
    ("badaspec", Verdict::Refuse(400)),
    ("baddn", Verdict::Refuse(400)),
    ("mismatch02", Verdict::Refuse(400)),
    ("badbranch", Verdict::Refuse(400)),
];

fn verdict(octets: &Bytes) -> Verdict {
    let Some(Frame::Message(framed)) = framer::datagram(octets.clone()) else {
        panic!("no message in the datagram")
    };
    match Message::parse(framed) {
        // Nothing of the message can be trusted, so nothing is answered.
        Err(_) => Verdict::Drop,
        Ok(message) if message.is_request() => match message.check_request(Framing::Datagram) {
            Ok(()) => Verdict::Pass,
            Err(rejection) => Verdict::Refuse(rejection.status),
        },
        Ok(message) => message.check_response().map_or(Verdict::Drop, |()| Verdict::Pass),
    }
}

#[test]
fn every_message_gets_a_verdict_its_row_allows() {
    let Some(directory) = testdata() else { return };
    let choices = BTreeMap::from(CHOICES);
    let mut wrong = Vec::new();
    for row in rows(&directory) {
        let found = verdict(&octets(&directory, &row.name));
        let allowed = allowed(&row);
        assert_eq!(
            allowed.len() > 1,
            choices.contains_key(row.name.as_str()),
            "{}: {}",
            row.name,
            row.proxy
        );
        let chosen = choices.get(row.name.as_str()).copied().unwrap_or(allowed[0]);
        if !allowed.contains(&found) || found != chosen {
            wrong.push(format!(
                "{}: {found:?}, but {:?} of {allowed:?} ({})",
                row.name, chosen, row.proxy
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// On a stream a message is one message, but for those named here.
fn on_stream(name: &str) -> OnStream {
    match name {
        "clerr" => OnStream::Waits,
        "baddn" => OnStream::Waits, // the archive's copy lacks its last CRLF
        "ncl" | "mcl01" => OnStream::Closes(0, FramingError::BadContentLength),
        "inv2543" => OnStream::Closes(0, FramingError::NoContentLength),
        // Both requests; its second body is longer than its length says, and what is left is no message.
        "dblreq" => OnStream::Closes(2, FramingError::NoContentLength),
        _ => OnStream::Messages(1),
    }
}

#[test]
fn every_message_is_framed_on_a_stream_as_its_length_says() {
    let Some(directory) = testdata() else { return };
    let mut names: Vec<String> = rows(&directory).into_iter().map(|row| row.name).collect();
    names.push("baddn.terminated".into());
    for name in names {
        let octets = octets(&directory, &name);
        for piece in [octets.len(), 1, 7] {
            assert_eq!(frame(&octets, piece), on_stream(&name), "{name} in pieces of {piece}");
        }
    }
}

fn frame(octets: &Bytes, piece: usize) -> OnStream {
    let mut framer = StreamFramer::new(sip::MESSAGE_BYTES_MAX);
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    for piece in octets.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match framer.next(&mut buffer) {
                Ok(Some(Frame::Message(message))) => messages.push(message),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return OnStream::Closes(messages.len(), error),
            }
        }
    }
    for message in &messages {
        assert!(
            octets.windows(message.len()).any(|window| window == message),
            "octets are untouched"
        );
    }
    if messages.is_empty() { OnStream::Waits } else { OnStream::Messages(messages.len()) }
}

/// The terminated copy of `baddn` is refused for its display names, as on a stream they would be.
#[test]
fn baddn_with_its_last_crlf_is_refused_for_its_addresses() {
    let Some(directory) = testdata() else { return };
    let message = Message::parse(octets(&directory, "baddn.terminated")).expect("structure");
    let rejection = message.check_request(Framing::Stream).expect_err("unquoted comma");
    assert_eq!((rejection.status, rejection.reason), (400, "Malformed From"));
}

#[test]
fn messages_that_pass_are_forwarded_byte_by_byte() {
    let Some(directory) = testdata() else { return };
    let mut forwarded = 0;
    for row in rows(&directory) {
        let octets = octets(&directory, &row.name);
        if verdict(&octets) != Verdict::Pass {
            continue;
        }
        forwarded += 1;
        let message = Message::parse(octets.clone()).expect("passed");
        let end = octets.len() - message.buffer().len() + body_end(&message);
        let expected = match row.name.as_str() {
            "lwsstart" => replace(
                &octets,
                b"INVITE  sip:user@example.com  SIP/2.0",
                b"INVITE sip:user@example.com SIP/2.0",
            ),
            "trws" => replace(&octets, b" SIP/2.0  \r\n", b" SIP/2.0\r\n"),
            _ => octets.slice(..end).to_vec(),
        };

        let mut edits = Edits::new();
        edits.push_front(HeaderName::Via, b"SIP/2.0/UDP mine;branch=z9hG4bKmine");
        edits.push_front(HeaderName::RecordRoute, b"<sip:mine;lr>");
        let mut out = BytesMut::new();
        edits.render(&message, &mut out);
        let out = remove(&out, b"Via: SIP/2.0/UDP mine;branch=z9hG4bKmine\r\n");
        let out = remove(&out, b"Record-Route: <sip:mine;lr>\r\n");
        assert_eq!(
            out.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "{}",
            row.name
        );
    }
    assert!(forwarded >= 25, "only {forwarded} messages pass");
}

fn body_end(message: &Message) -> usize {
    let header =
        message.buffer().windows(4).position(|window| window == b"\r\n\r\n").expect("terminated")
            + 4;
    header + message.body().len()
}

fn remove(octets: &[u8], part: &[u8]) -> Vec<u8> {
    replace(octets, part, b"")
}

/// `octets` with `from`, which must be there once, replaced.
fn replace(octets: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let found: Vec<usize> = octets
        .windows(from.len())
        .enumerate()
        .filter(|(_, w)| *w == from)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(found.len(), 1, "{} once", from.escape_ascii());
    [&octets[..found[0]], to, &octets[found[0] + from.len()..]].concat()
}

fn passed(directory: &Path, name: &str) -> Message {
    let octets = octets(directory, name);
    assert_eq!(verdict(&octets), Verdict::Pass, "{name}");
    Message::parse(octets).expect("passed")
}

#[test]
fn white_space_and_folds_hide_nothing() {
    let Some(directory) = testdata() else { return };
    let message = passed(&directory, "wsinv");
    let cseq = message.cseq().expect("CSeq");
    assert_eq!((cseq.number, cseq.method), (9, Method::Invite));
    assert_eq!(message.values(HeaderName::Via).count(), 3);
    assert_eq!(message.max_forwards(), Ok(Some(68)));
    assert_eq!(message.from().expect("From").tag(), Some(&b"98asjd8"[..]));
    assert_eq!(message.to().expect("To").tag(), Some(&b"1918181833n"[..]));
    assert_eq!(message.field_named(b"unknownheaderwithunusualvalue"), Some(&b";;,,;;,;"[..]));
    let Contacts::List(contacts) = message.contacts().expect("Contact") else { panic!("a list") };
    assert_eq!(contacts[0].q().expect("q").map(|q| q.thousandths()), Some(330));
    assert_eq!(message.body().len(), 150);
}

#[test]
fn names_and_methods_are_never_unescaped() {
    let Some(directory) = testdata() else { return };
    let message = passed(&directory, "esc02");
    assert_eq!(message.method(), Some(Method::Extension(b"RE%47IST%45R")));
    assert_eq!(message.fields(HeaderName::Contact).count(), 2);
    assert!(message.field_named(b"C%6Fntact").is_some());
    let message = passed(&directory, "intmeth");
    assert!(matches!(message.method(), Some(Method::Extension(_))));
    assert!(message.from().expect("From").tag().is_some());
}

#[test]
fn users_are_unescaped_once_and_kept_whole() {
    let Some(directory) = testdata() else { return };
    let user = |message: &Message| match Uri::parse(message.request_uri().expect("request")) {
        Ok(Uri::Sip(uri)) => sip::unescape(uri.user.expect("user")).into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(user(&passed(&directory, "semiuri")), b"user;par=u@example.net");
    assert_eq!(user(&passed(&directory, "esc01")), b"sips:user@example.com");
    let message = passed(&directory, "escnull");
    let aor = AddressOfRecord::parse(message.to().expect("To").uri()).expect("AOR");
    assert_eq!(aor.as_str(), "sip:null-%00-null@example.com");
    assert_eq!(message.values(HeaderName::Contact).count(), 2);
}

#[test]
fn octets_behind_a_datagrams_message_are_never_seen() {
    let Some(directory) = testdata() else { return };
    let message = passed(&directory, "dblreq");
    assert_eq!((message.method(), message.body()), (Some(Method::Register), &b""[..]));
    let mut out = BytesMut::new();
    Edits::new().render(&message, &mut out);
    assert!(!out.windows(6).any(|window| window == b"INVITE"));
}

#[test]
fn contact_parameters_stay_on_their_side_of_the_brackets() {
    let Some(directory) = testdata() else { return };
    let uri = |name: &str| {
        let message = passed(&directory, name);
        let Ok(Contacts::List(contacts)) = message.contacts() else { panic!("{name}: a list") };
        String::from_utf8(contacts[0].uri().to_vec()).expect("ASCII")
    };
    assert_eq!(uri("cparam01"), "sip:+19725552222@gw1.example.net");
    assert_eq!(uri("cparam02"), "sip:+19725552222@gw1.example.net;unknownparam");
    assert_eq!(uri("regescrt"), "sip:user@example.com?Route=%3Csip:sip.example.com%3E");
}

#[test]
fn bodies_and_phrases_that_are_no_text_are_kept() {
    let Some(directory) = testdata() else { return };
    assert!(passed(&directory, "mpart01").body().contains(&0));
    assert!(!passed(&directory, "unreason").reason().is_ascii());
    assert_eq!(passed(&directory, "noreason").reason(), b"");
}
