//! What comes out of the framer, however the octets go in.

use super::*;

const OPTIONS: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nl: 4\r\n\r\nbody";

fn frames(framer: &mut StreamFramer, pieces: &[&[u8]]) -> Result<Vec<Frame>, FramingError> {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(frame) = framer.next(&mut buffer)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

#[test]
fn messages_back_to_back_are_cut_at_content_length() {
    let both = [OPTIONS, OPTIONS].concat();
    let expected = vec![Frame::Message(Bytes::from_static(OPTIONS)); 2];
    assert_eq!(frames(&mut StreamFramer::new(1000), &[&both]), Ok(expected.clone()));
    for cut in 0..both.len() {
        let pieces = [&both[..cut], &both[cut..]];
        assert_eq!(
            frames(&mut StreamFramer::new(1000), &pieces),
            Ok(expected.clone()),
            "cut at {cut}"
        );
    }
}

#[test]
fn two_crlf_are_a_ping_and_one_is_a_pong() {
    let next =
        |pieces: &[&[u8]]| frames(&mut StreamFramer::new(1000), pieces).expect("keep-alives");
    assert_eq!(next(&[b"\r\n\r\n"]), [Frame::Ping]);
    assert_eq!(next(&[b"\r\n"]), [Frame::Pong]);
    assert_eq!(next(&[b"\r\n", b"\r\n"]), [Frame::Pong, Frame::Ping]);
    assert_eq!(next(&[b"\r", b"\n\r", b"\n\r\n"]), [Frame::Pong, Frame::Ping, Frame::Pong]);
    let message = Frame::Message(Bytes::from_static(OPTIONS));
    assert_eq!(
        next(&[b"\r\n", OPTIONS, b"\r\n\r\n", OPTIONS]),
        [Frame::Pong, message.clone(), Frame::Ping, message]
    );
}

#[test]
fn a_stream_without_a_usable_length_is_given_up() {
    let error =
        |text: &[u8]| frames(&mut StreamFramer::new(1000), &[text]).expect_err("framing error");
    assert_eq!(error(b"OPTIONS sip:a SIP/2.0\r\nTo: a\r\n\r\n"), FramingError::NoContentLength);
    assert_eq!(error(b"OPTIONS sip:a SIP/2.0\r\nl: -1\r\n\r\n"), FramingError::BadContentLength);
    assert_eq!(
        error(b"OPTIONS sip:a SIP/2.0\r\nl: 1\r\nContent-Length: 1\r\n\r\n"),
        FramingError::BadContentLength
    );
    assert_eq!(error(b"OPTIONS sip:a SIP/2.0\r\nl: 980\r\n\r\n"), FramingError::TooLong(1000));
    assert_eq!(
        error(b"OPTIONS sip:a SIP/2.0\r\nl: 18446744073709551615\r\n\r\n"),
        FramingError::TooLong(1000)
    );
    assert_eq!(error(&[b'x'; 1000]), FramingError::TooLong(1000));
    assert!(matches!(
        error(b"OPTIONS sip:a SIP/2.0\r\nTo: a\nl: 0\r\n\r\n"),
        FramingError::Header(_)
    ));
}

#[test]
fn datagrams_are_told_apart_by_their_first_octets() {
    assert_eq!(datagram(Bytes::from_static(b"\r\n\r\n")), Some(Frame::Ping));
    assert_eq!(datagram(Bytes::from_static(b"\r\n")), Some(Frame::Pong));
    assert_eq!(
        datagram(Bytes::from_static(OPTIONS)),
        Some(Frame::Message(Bytes::from_static(OPTIONS)))
    );
    assert_eq!(
        datagram(Bytes::from_static(b"\r\n!x sip:a SIP/2.0\r\n\r\n")),
        Some(Frame::Message(Bytes::from_static(b"!x sip:a SIP/2.0\r\n\r\n")))
    );
    let request = stun::binding_request([7; 12]);
    assert_eq!(datagram(request.clone()), Some(Frame::Stun(request)));
    for noise in [&b""[..], b"\0", b"\0\0\0\0", b"\r\n\r\n\r\n", b" ", b"\xff\xfe"] {
        assert_eq!(datagram(Bytes::copy_from_slice(noise)), None, "{}", noise.escape_ascii());
    }
}
