//! Parsing allocates nothing: counted, not believed.

#![allow(unsafe_code, reason = "a counting GlobalAlloc can only be written with unsafe functions")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use sip::{Edits, Framing, HeaderName, Message, StreamFramer};

thread_local! {
    /// Allocations of this thread; other tests run beside this one.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator; counting touches no heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

const INVITE: &[u8] = b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n\
Via: SIP/2.0/UDP edge.example.com;branch=z9hG4bK4b43c2ff8.1;rport=5062;received=192.0.2.3\r\n\
Via: SIP/2.0/UDP pc33.atlanta.example.com;branch=z9hG4bK776asdhds\r\n\
Max-Forwards: 69\r\nRoute: <sip:a.example.com;lr>, <sip:b.example.com;lr>\r\n\
To: Bob <sip:bob@biloxi.example.com>\r\nFrom: Alice <sip:alice@atlanta.example.com>;tag=1928301774\r\n\
Call-ID: a84b4c76e66710@pc33.atlanta.example.com\r\nCSeq: 314159 INVITE\r\n\
Contact: <sip:alice@pc33.atlanta.example.com>\r\nContent-Type: application/sdp\r\nContent-Length: 4\r\n\r\nv=0\n";

#[test]
fn parsing_checking_and_reading_allocate_nothing() {
    let buffer = Bytes::copy_from_slice(INVITE);
    let allocations = allocations_of(|| {
        let message = Message::parse(buffer).expect("INVITE");
        assert_eq!(message.check_request(Framing::Datagram), Ok(()));
        assert_eq!(message.top_via().expect("Via").rport(), Some(Some(5062)));
        assert_eq!(message.values(HeaderName::Route).count(), 2);
        assert_eq!(message.field_named(b"subject"), None);
        assert!(message.from().expect("From").tag().is_some());
    });
    assert_eq!(allocations, 0);
}

#[test]
fn forwarding_into_a_prepared_buffer_allocates_nothing() {
    let message = Message::parse(Bytes::copy_from_slice(INVITE)).expect("INVITE");
    let mut out = BytesMut::with_capacity(4096);
    let allocations = allocations_of(|| {
        let mut edits = Edits::new();
        edits.push_front(HeaderName::Via, b"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKabc");
        edits.push_front(HeaderName::RecordRoute, b"<sip:192.0.2.1;lr>");
        edits.remove_first_value(HeaderName::Route);
        edits.set(HeaderName::MaxForwards, b"68");
        edits.ensure_content_length();
        edits.render(&message, &mut out);
    });
    assert_eq!(allocations, 0);
    assert!(out.len() > INVITE.len());
}

#[test]
fn framing_a_stream_copies_no_octets() {
    let mut buffer = BytesMut::from(INVITE);
    buffer.extend_from_slice(INVITE);
    let mut framer = StreamFramer::new(65_535);
    // The first split turns the buffer into a shared one, which takes one small allocation; later ones take none.
    framer.next(&mut buffer).expect("framed").expect("first");
    let allocations = allocations_of(|| {
        framer.next(&mut buffer).expect("framed").expect("second");
    });
    assert_eq!(allocations, 0);
}
