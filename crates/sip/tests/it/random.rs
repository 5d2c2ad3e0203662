//! Properties on random octets, on generated messages and on damaged ones.
//!
//! proptest prints the smallest octets that fail; more cases: `PROPTEST_CASES=100000 cargo test -p sip --test it`.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{generate, properties};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_are_read_without_panic(octets in vec(any::<u8>(), 0..600)) {
        properties::parse(&octets);
        properties::frame(&octets);
    }

    #[test]
    fn sip_like_octets_are_read_without_panic(text in "(SIP/2\\.0 200|[A-Z]{1,3} sip:a) ?[ -~]{0,9}\r\n([vftiml]?:[ ;,<>\"\\\\=a-c0-9\r\n/.@:]{0,20}\r\n){0,8}\r\n") {
        properties::parse(text.as_bytes());
        properties::differential(text.as_bytes());
    }

    #[test]
    fn lawful_messages_render_as_they_came(octets in generate::message()) {
        let message = sip::Message::parse(bytes::Bytes::copy_from_slice(&octets)).expect("lawful");
        let verdict = match message.is_request() {
            true => message.check_request(sip::Framing::Datagram),
            false => message.check_response(),
        };
        prop_assert_eq!(verdict, Ok(()));
        let mut out = bytes::BytesMut::new();
        sip::Edits::new().render(&message, &mut out);
        prop_assert_eq!(&out[..], &octets[..]);
        properties::parse(&octets);
    }

    #[test]
    fn damaged_messages_are_read_without_panic(octets in generate::damaged_message()) {
        properties::parse(&octets);
    }

    #[test]
    fn streams_are_framed_alike_however_they_are_cut(seed in any::<u8>(), parts in vec(
        prop_oneof![generate::message(), generate::damaged_message(), Just(b"\r\n".to_vec()), Just(b"\r\n\r\n".to_vec())], 0..5,
    )) {
        properties::frame(&[vec![seed], parts.concat()].concat());
    }
}
