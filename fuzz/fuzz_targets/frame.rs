//! Framer: the same messages however a stream is cut.

#![no_main]

#[path = "../../crates/sip/tests/it/properties.rs"]
#[allow(dead_code, reason = "each target uses one of the properties")]
mod properties;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| properties::frame(octets));
