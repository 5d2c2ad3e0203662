//! What must hold for any octets whatever. One place, used by the property tests, the replayed corpora and `fuzz/`.

use bytes::{Bytes, BytesMut};
use sip::{
    AddressOfRecord, CSeq, Contact, Edits, Frame, Framing, HeaderName, Message, Method, NameAddr,
    ParseError, ResponseBuilder, StreamFramer, Uri, Via, ack, framer, stun, unescape, unquote,
};
use sipx_sip::parser::{Limits, parse_datagram};

const MY_VIA: &[u8] = b"SIP/2.0/UDP 192.0.2.99:5060;branch=z9hG4bKmine";

/// Parser, typed parsers and edits: no panic, and what is rendered reads back as what was read.
pub(crate) fn parse(octets: &[u8]) {
    read_everything_as_a_value(octets);
    let Ok(message) = Message::parse(Bytes::copy_from_slice(octets)) else { return };
    for (_, _, value) in message.all_fields() {
        read_everything_as_a_value(value);
    }
    let _ = (message.contacts(), message.expires(), message.max_forwards(), message.top_via());
    rendering_reads_back(&message);
    editing_changes_what_it_says(&message);
    if message.is_request() {
        answering_reads_back(&message);
    } else {
        let _ = message.check_response();
    }
}

fn read_everything_as_a_value(value: &[u8]) {
    let _ = (
        Via::parse(value),
        CSeq::parse(value),
        Method::parse(value),
        unescape(value),
        unquote(value),
    );
    for part in sip::Values::new(value) {
        if let Ok(address) = NameAddr::parse(part) {
            let _ = (address.tag(), address.params().iter().count());
            let _ = Uri::parse(address.uri());
        }
        if let Ok(contact) = Contact::parse(part) {
            let _ = (contact.q(), contact.expires(), contact.instance(), contact.reg_id());
        }
    }
    if let Ok(uri) = Uri::parse(value) {
        if let Uri::Sip(sip) = uri {
            let _ = (sip.lr(), sip.transport(), sip.maddr(), sip.headers().count());
        }
        assert!(uri.equivalent(&uri), "a URI equals itself: {}", value.escape_ascii());
    }
    if let Ok(aor) = AddressOfRecord::parse(value) {
        assert_eq!(
            AddressOfRecord::parse(aor.as_str().as_bytes()),
            Ok(aor),
            "canonical form is canonical"
        );
    }
}

fn render(message: &Message, edit: impl FnOnce(&mut Edits)) -> Bytes {
    let mut edits = Edits::new();
    edit(&mut edits);
    let mut out = BytesMut::new();
    edits.render(message, &mut out);
    out.freeze()
}

fn reparse(octets: &Bytes) -> Message {
    Message::parse(octets.clone()).unwrap_or_else(|e| panic!("{e}: {}", octets.escape_ascii()))
}

/// Every field but those of `except`, as on the wire, with the body.
fn fields_but(message: &Message, except: HeaderName) -> Vec<(Bytes, Bytes)> {
    let own = Bytes::copy_from_slice;
    message
        .all_fields()
        .filter(|(name, ..)| *name != except)
        .map(|(_, name, value)| (own(name), own(value)))
        .collect()
}

fn rendering_reads_back(message: &Message) {
    let out = render(message, |_| {});
    let again = reparse(&out);
    assert_eq!(
        fields_but(&again, HeaderName::Other).len(),
        fields_but(message, HeaderName::Other).len()
    );
    assert!(message.all_fields().eq(again.all_fields()), "fields are untouched");
    assert_eq!((message.method(), message.request_uri()), (again.method(), again.request_uri()));
    assert_eq!((message.status(), message.reason()), (again.status(), again.reason()));
    assert_eq!(message.body(), again.body());
    assert_eq!(render(&again, |_| {}), out, "rendering is done after one pass");
}

fn editing_changes_what_it_says(message: &Message) {
    let vias: Vec<_> = message.values(HeaderName::Via).collect();

    let pushed = reparse(&render(message, |e| e.push_front(HeaderName::Via, MY_VIA)));
    assert_eq!(pushed.values(HeaderName::Via).next(), Some(MY_VIA));
    assert!(pushed.values(HeaderName::Via).skip(1).eq(vias.iter().copied()));
    assert_eq!(fields_but(&pushed, HeaderName::Via), fields_but(message, HeaderName::Via));

    let popped = reparse(&render(&pushed, |e| e.remove_first_value(HeaderName::Via)));
    assert!(popped.all_fields().eq(message.all_fields()), "pop undoes push");

    let removed = reparse(&render(message, |e| e.remove_first_value(HeaderName::Via)));
    // An empty value that is left alone in its field is no value any more; check refuses such messages.
    let filled = |value: &&[u8]| !value.is_empty();
    assert!(
        removed.values(HeaderName::Via).filter(filled).eq(vias
            .iter()
            .skip(1)
            .copied()
            .filter(filled))
    );
    assert_eq!(fields_but(&removed, HeaderName::Via), fields_but(message, HeaderName::Via));

    if !vias.is_empty() {
        let replaced =
            reparse(&render(message, |e| e.replace_first_value(HeaderName::Via, MY_VIA)));
        assert_eq!(replaced.values(HeaderName::Via).next(), Some(MY_VIA));
        assert!(replaced.values(HeaderName::Via).skip(1).eq(vias.iter().skip(1).copied()));
        assert_eq!(fields_but(&replaced, HeaderName::Via), fields_but(message, HeaderName::Via));
    }

    let set = reparse(&render(message, |e| e.set(HeaderName::MaxForwards, b"12")));
    assert_eq!(set.fields(HeaderName::MaxForwards).collect::<Vec<_>>(), [b"12"]);
    assert_eq!(
        fields_but(&set, HeaderName::MaxForwards),
        fields_but(message, HeaderName::MaxForwards)
    );
    assert_eq!(set.body(), message.body());
}

/// A response can be built to anything; to a good request it is a good response.
fn answering_reads_back(request: &Message) {
    let accepted = request.check_request(Framing::Datagram).is_ok();
    let _ = request.check_request(Framing::Stream);
    let response =
        reparse(&ResponseBuilder::new(request, 486).to_tag(b"mine").record_route().build());
    assert_eq!(response.status(), Some(486));
    assert!(response.fields(HeaderName::Via).eq(request.fields(HeaderName::Via)));
    if !accepted {
        return;
    }
    assert_eq!(response.call_id(), request.call_id());
    assert_eq!(response.cseq(), request.cseq());
    let tag = request.to().expect("checked").tag().unwrap_or(b"mine");
    assert_eq!(response.to().expect("answerable").tag(), Some(tag));
    if request.values(HeaderName::Via).count() == 1 {
        assert_eq!(response.check_response(), Ok(()));
    }
    for derived in [ack::ack(request, &response), ack::cancel(request)] {
        let derived = reparse(&derived);
        assert_eq!(derived.check_request(Framing::Stream), Ok(()));
        assert_eq!(derived.request_uri(), request.request_uri());
        assert_eq!(derived.values(HeaderName::Via).count(), 1);
    }
}

/// What a framer made of a stream, pongs left out: a lone CRLF may be half a ping that was cut in two.
#[derive(Debug, Default, PartialEq)]
struct Framed {
    messages: Vec<Bytes>,
    pings: usize,
    failed: bool,
}

/// Framer: no panic, and the same messages however the octets are cut. The first octet says how they are cut.
pub(crate) fn frame(octets: &[u8]) {
    let Some((&seed, octets)) = octets.split_first() else { return };
    let limit = if seed & 1 == 0 { 65_535 } else { 300 };
    let whole = frame_in_pieces(octets, limit, usize::MAX);
    assert_eq!(frame_in_pieces(octets, limit, 1), whole, "octet by octet");
    assert_eq!(
        frame_in_pieces(octets, limit, usize::from(seed) + 2),
        whole,
        "in pieces of {}",
        usize::from(seed) + 2
    );
    for message in whole.messages {
        assert!(message.len() <= limit);
        if let Ok(message) = Message::parse(message) {
            assert_eq!(
                message.content_length(),
                Ok(Some(message.body().len())),
                "framed at Content-Length"
            );
        }
    }
    let datagram = Bytes::copy_from_slice(octets);
    let remote = "192.0.2.1:5060".parse().expect("address");
    match framer::datagram(datagram) {
        Some(Frame::Stun(request)) => {
            drop((stun::answer(&request, remote), stun::mapped_address(&request)))
        }
        Some(Frame::Message(message)) => assert!(octets.ends_with(&message)),
        Some(Frame::Ping | Frame::Pong) | None => {}
    }
}

fn frame_in_pieces(octets: &[u8], limit: usize, piece: usize) -> Framed {
    let mut framer = StreamFramer::new(limit);
    let mut buffer = BytesMut::new();
    let mut framed = Framed::default();
    for piece in octets.chunks(piece.min(octets.len()).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match framer.next(&mut buffer) {
                Ok(None) => break,
                Ok(Some(Frame::Message(message))) => framed.messages.push(message),
                Ok(Some(Frame::Ping)) => framed.pings += 1,
                Ok(Some(Frame::Pong)) => {}
                Ok(Some(Frame::Stun(_))) => panic!("a stream carries no STUN"),
                Err(_) => {
                    framed.failed = true;
                    return framed;
                }
            }
        }
    }
    framed
}

/// Against `sipx-sip`: the same octets are accepted and refused, and read alike, but for the differences named here.
pub(crate) fn differential(octets: &[u8]) {
    let ours = Message::parse(Bytes::copy_from_slice(octets));
    // Our bounds instead of theirs, so that a difference is one of judgement.
    let limits = Limits {
        max_header_bytes: usize::MAX,
        max_folding_lines: usize::MAX,
        ..Limits::datagram()
    };
    let theirs = parse_datagram(Bytes::copy_from_slice(octets), &limits);
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => read_alike(ours, theirs),
        (Err(_), Err(_)) => {}
        (Err(error), Ok(_)) => {
            assert!(
                we_are_stricter(error, octets),
                "only we refuse ({error}): {}",
                octets.escape_ascii()
            )
        }
        (Ok(ours), Err(error)) => {
            assert!(
                we_judge_later(ours, octets),
                "only sipx refuses ({error:?}): {}",
                octets.escape_ascii()
            );
        }
    }
}

/// Known differences, we refuse: NUL outside a quoted pair; status codes they take up to 999; 65,536 octets; a last word
/// of the request line that is no SIP version at all (theirs would answer 505 to HTTP); a folded start line.
fn we_are_stricter(error: &ParseError, octets: &[u8]) -> bool {
    let start_line = octets.split(|&b| b == b'\r').next().unwrap_or_default();
    let last_word = start_line.rsplit(|&b| b == b' ').next().unwrap_or_default();
    match error {
        ParseError::Nul(_) | ParseError::StatusCode | ParseError::TooLong => true,
        ParseError::StartLine => {
            !last_word.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"SIP/"))
        }
        ParseError::Field(at) => {
            *at == start_line.len() + 2 && matches!(octets.get(*at), Some(b' ' | b'\t'))
        }
        _ => false,
    }
}

/// Known differences, they refuse while parsing: what we take structurally and refuse in `check_request` (URI, length,
/// missing empty line) or repair when forwarding (spaces in the start line).
fn we_judge_later(ours: &Message, octets: &[u8]) -> bool {
    let unterminated = !octets.windows(4).any(|window| window == b"\r\n\r\n");
    let length_is_wrong =
        ours.content_length().map_or(true, |length| length.is_some_and(|n| n > ours.body().len()));
    let start_line_is_odd = ours.method().zip(ours.request_uri()).is_some_and(|(method, uri)| {
        let exact = [method.as_bytes(), b" ", uri, b" ", ours.version(), b"\r\n"].concat();
        !octets.starts_with(&exact) || !is_plain_uri(uri)
    });
    unterminated || length_is_wrong || start_line_is_odd
}

/// A URI whose every byte both grammars surely allow: sipx reads the user part more strictly than phones write it.
fn is_plain_uri(uri: &[u8]) -> bool {
    matches!(Uri::parse(uri), Ok(Uri::Sip(uri)) if !uri.has_headers())
        && uri.iter().all(|&b| b.is_ascii_alphanumeric() || b":@.-;=".contains(&b))
}

fn read_alike(ours: &Message, theirs: &sipx_sip::Message) {
    let headers = theirs.headers();
    assert_eq!(ours.all_fields().count(), headers.len());
    for ((_, _, value), header) in ours.all_fields().zip(headers.iter()) {
        assert_eq!(value, trim(header.raw_value()));
    }
    match theirs {
        sipx_sip::Message::Request(theirs) => {
            assert_eq!(ours.method().expect("request").as_bytes(), theirs.method.as_bytes());
        }
        sipx_sip::Message::Response(theirs) => {
            assert_eq!(ours.status(), Some(theirs.status.code()))
        }
    }
    assert_eq!(ours.body(), &theirs.body()[..]);

    let vias = headers.iter().filter(|header| *header.name() == sipx_sip::HeaderName::Via).count();
    assert_eq!(ours.fields(HeaderName::Via).count(), vias);
    let call_id = headers.get(&sipx_sip::HeaderName::CallId).map(|header| trim(header.raw_value()));
    assert_eq!(ours.field(HeaderName::CallId), call_id);

    // They keep CSeq below 2^31 and do not tell a fold from an end; where both read it, they agree.
    if let (Some(Ok(theirs)), Ok(ours)) = (headers.typed::<sipx_sip::CSeq>(), ours.cseq()) {
        assert_eq!(
            (ours.number, ours.method.as_bytes()),
            (theirs.sequence, theirs.method.as_bytes())
        );
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = value {
        value = rest;
    }
    value
}
