//! Every frame there and back, and bytes that are none.

use super::encoding::frame_type;
use super::*;
use proptest::prelude::*;

fn every_kind() -> Vec<LinkFrame> {
    let (local, remote) =
        ("192.0.2.1:5060".parse().expect("ip"), "198.51.100.7:1024".parse().expect("ip"));
    let flow = Flow::new(Transport::Udp, local, remote);
    let own = "[2001:db8::1]:5060".parse().expect("ip");
    let addresses = vec![
        EdgeAddress { transport: Transport::Udp, own: local, public: "sip.example.com".to_owned() },
        EdgeAddress { transport: Transport::Tcp, own, public: "[2001:db8::9]:5070".to_owned() },
    ];
    let message = |text: &'static str| Bytes::from_static(text.as_bytes());
    vec![
        LinkFrame::Hello {
            peer_name: "edge1".to_owned(),
            incarnation: u64::MAX,
            worker: 3,
            addresses,
        },
        LinkFrame::HelloAnswer { name: "container1".to_owned(), incarnation: 7 },
        LinkFrame::Incoming(Incoming { sequence: 1, hops: 0, flow, bytes: message("INVITE") }),
        LinkFrame::Incoming(Incoming {
            sequence: 2,
            hops: HOPS_MAX,
            flow: Flow::new(Transport::Tcp, own, own),
            bytes: message(""),
        }),
        LinkFrame::Taken { up_to: 9 },
        LinkFrame::Outgoing {
            id: 1,
            destination: Destination::Via,
            bytes: message("SIP/2.0 200 OK"),
        },
        LinkFrame::Outgoing { id: 2, destination: Destination::Route, bytes: message("BYE") },
        LinkFrame::Outgoing {
            id: 3,
            destination: Destination::Address { transport: Transport::Tcp, address: own },
            bytes: message("BYE"),
        },
        LinkFrame::SendFailed { id: 4, error: SendError::FlowGone },
        LinkFrame::SendFailed { id: 4, error: SendError::Unreachable },
        LinkFrame::SendFailed { id: 4, error: SendError::Full },
        LinkFrame::SendFailed { id: 4, error: SendError::Refused },
        LinkFrame::KeepAlive { flow_token: message("token") },
        LinkFrame::Heartbeat { incarnation: 7, accepting: Accepting::Accepting, load: 0 },
        LinkFrame::Heartbeat { incarnation: 7, accepting: Accepting::Draining, load: u16::MAX },
        LinkFrame::HandOn { to: 8, hops: 0, flow, bytes: message("BYE") },
        LinkFrame::HandOn {
            to: u64::MAX,
            hops: HOPS_MAX,
            flow: Flow::new(Transport::Tcp, own, own),
            bytes: message("SIP/2.0 180 Ringing"),
        },
        LinkFrame::Probe { id: 1 },
        LinkFrame::ProbeAnswer { id: u64::MAX },
    ]
}

fn encoded(frame: &LinkFrame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out).expect("within limits");
    out
}

#[test]
fn every_frame_comes_back_from_its_bytes() {
    let mut stream = BytesMut::new();
    for frame in every_kind() {
        frame.encode(&mut stream).expect("within limits");
    }
    for frame in every_kind() {
        assert_eq!(LinkFrame::decode(&mut stream), Ok(Some(frame)));
    }
    assert_eq!(LinkFrame::decode(&mut stream), Ok(None));
}

#[test]
fn an_incomplete_frame_is_waited_for() {
    for frame in every_kind() {
        let whole = encoded(&frame);
        for length in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..length]);
            assert_eq!(LinkFrame::decode(&mut part), Ok(None), "{length} bytes of {frame:?}");
            assert_eq!(part.len(), length, "an incomplete frame must stay");
        }
    }
}

#[test]
fn a_frame_cut_short_by_its_own_length_is_an_error() {
    for frame in every_kind() {
        let whole = encoded(&frame);
        for length in 2..whole.len() - LENGTH_BYTES {
            let mut short = BytesMut::from(&whole[..LENGTH_BYTES + length]);
            short[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
            match LinkFrame::decode(&mut short) {
                Err(FrameError::Truncated { .. } | FrameError::Flow(_)) => {}
                // A message takes the rest of the frame, however long.
                Ok(Some(
                    LinkFrame::Incoming(_)
                    | LinkFrame::Outgoing { .. }
                    | LinkFrame::KeepAlive { .. }
                    | LinkFrame::HandOn { .. },
                )) => {}
                other => panic!("{length} bytes of {frame:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn bytes_after_the_fields_are_an_error() {
    let mut taken = encoded(&LinkFrame::Taken { up_to: 1 });
    taken.put_u8(0);
    taken[3] += 1;
    let refused = LinkFrame::decode(&mut taken);
    assert_eq!(refused, Err(FrameError::TrailingBytes { frame_type: frame_type::TAKEN, count: 1 }));
}

#[test]
fn unknown_types_and_levels_are_errors() {
    let frame = |bytes: &[u8]| LinkFrame::decode(&mut BytesMut::from(bytes));
    assert_eq!(frame(&[0, 0, 0, 2, 99, 2]), Err(FrameError::UnknownType { frame_type: 99 }));
    assert_eq!(frame(&[0, 0, 0, 2, 0, 2]), Err(FrameError::UnknownType { frame_type: 0 }));
    assert_eq!(frame(&[0, 0, 0, 2, 4, 3]), Err(FrameError::UnknownLevel { level: 3 }));
    assert_eq!(frame(&[0, 0, 0, 2, 4, 1]), Err(FrameError::UnknownLevel { level: 1 }));
    assert_eq!(frame(&[0, 0, 0, 2, 4, 0]), Err(FrameError::UnknownLevel { level: 0 }));
}

#[test]
fn impossible_lengths_are_refused_before_any_byte_is_waited_for() {
    for length in [0_u32, 1, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let mut bytes = BytesMut::from(&length.to_be_bytes()[..]);
        assert_eq!(
            LinkFrame::decode(&mut bytes),
            Err(FrameError::Length { length: length as usize })
        );
    }
}

#[test]
fn impossible_values_are_refused() {
    let mut heartbeat =
        encoded(&LinkFrame::Heartbeat { incarnation: 1, accepting: Accepting::Accepting, load: 0 });
    heartbeat[LENGTH_BYTES + 2 + 8] = 9;
    assert_eq!(LinkFrame::decode(&mut heartbeat), Err(FrameError::Value { field: "accepting" }));
    let mut failed = encoded(&LinkFrame::SendFailed { id: 1, error: SendError::Full });
    failed[LENGTH_BYTES + 2 + 8] = 0;
    assert_eq!(LinkFrame::decode(&mut failed), Err(FrameError::Value { field: "send error" }));
    let flow = Flow::new(
        Transport::Udp,
        "192.0.2.1:5060".parse().expect("ip"),
        "192.0.2.2:5060".parse().expect("ip"),
    );
    let mut handed_on = encoded(&LinkFrame::HandOn { to: 1, hops: 2, flow, bytes: Bytes::new() });
    handed_on[LENGTH_BYTES + 2 + 8] = HOPS_MAX + 1;
    assert_eq!(LinkFrame::decode(&mut handed_on), Err(FrameError::Value { field: "hops" }));
    let too_often = LinkFrame::HandOn { to: 1, hops: HOPS_MAX + 1, flow, bytes: Bytes::new() };
    let refused = too_often.encode(&mut BytesMut::new());
    assert_eq!(refused, Err(FrameError::TooLong { field: "hops", length: 3 }));
}

#[test]
fn the_longest_message_fits_and_a_longer_one_leaves_the_buffer_as_it_was() {
    let outgoing = |length| LinkFrame::Outgoing {
        id: 1,
        destination: Destination::Via,
        bytes: vec![7; length].into(),
    };
    let mut out = encoded(&outgoing(65_535));
    assert_eq!(LinkFrame::decode(&mut out), Ok(Some(outgoing(65_535))));

    let mut out = BytesMut::from(&b"before"[..]);
    let refused = outgoing(65_536).encode(&mut out);
    assert_eq!(refused, Err(FrameError::TooLong { field: "message", length: 65_536 }));
    assert_eq!(out, b"before"[..]);
}

#[test]
fn the_largest_hello_fits_a_frame_or_is_refused() {
    let address = EdgeAddress {
        transport: Transport::Udp,
        own: "[2001:db8::1]:5060".parse().expect("ip"),
        public: "x".repeat(200),
    };
    let hello = |count| LinkFrame::Hello {
        peer_name: "e".repeat(255),
        incarnation: 1,
        worker: 1,
        addresses: vec![address.clone(); count],
    };
    let mut out = encoded(&hello(ADDRESSES_MAX));
    assert_eq!(LinkFrame::decode(&mut out), Ok(Some(hello(ADDRESSES_MAX))));
    assert!(matches!(hello(ADDRESSES_MAX + 1).encode(&mut out), Err(FrameError::TooLong { .. })));
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = LinkFrame::decode(&mut buffer) {}
    }

    #[test]
    fn arbitrary_payloads_of_known_types_never_panic(
        frame_type in 0_u8..13,
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut buffer = BytesMut::new();
        buffer.put_u32(payload.len() as u32 + 2);
        buffer.put_u8(frame_type);
        buffer.put_u8(FORMAT_LEVEL);
        buffer.put_slice(&payload);
        if let Ok(Some(frame)) = LinkFrame::decode(&mut buffer) {
            // What can be read can be written, and means the same.
            prop_assert_eq!(LinkFrame::decode(&mut encoded(&frame)), Ok(Some(frame)));
        }
    }
}
