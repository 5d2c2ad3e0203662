//! [`Key`] ⇄ bytes that sort as keys do.
//!
//! `space 00 escaped(tag) 00 01 id`, where escaping turns `00` into `00 FF`. So the byte order of encoded keys
//! is the order of (space, tag, id), and every [`Prefix`] is a byte prefix.

use bytes::Bytes;

use crate::key::{Key, Prefix, Space};

const NUL: u8 = 0;
const ESCAPED: u8 = 0xFF;
const END: u8 = 1;

/// The whole key.
pub(super) fn encode(key: &Key) -> Vec<u8> {
    let mut whole = Vec::with_capacity(key.space.as_str().len() + key.tag.len() + key.id.len() + 8);
    encode_into(key, &mut whole);
    whole
}

/// Appends the whole key.
pub(super) fn encode_into(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(key.space.as_str().as_bytes());
    out.push(NUL);
    escape(&key.tag, out);
    out.extend_from_slice(&[NUL, END]);
    out.extend_from_slice(&key.id);
}

/// The key of its encoded form; `None` when the bytes are not one.
pub(super) fn decode(whole: &[u8]) -> Option<Key> {
    let space_end = memchr::memchr(NUL, whole)?;
    let space = Space::parse(std::str::from_utf8(&whole[..space_end]).ok()?)?;
    let mut rest = &whole[space_end + 1..];
    let mut tag = Vec::with_capacity(rest.len());
    loop {
        let nul = memchr::memchr(NUL, rest)?;
        tag.extend_from_slice(&rest[..nul]);
        let mark = *rest.get(nul + 1)?;
        rest = &rest[nul + 2..];
        match mark {
            ESCAPED => tag.push(NUL),
            END => break,
            _ => return None,
        }
    }
    Some(Key { space, tag: Bytes::from(tag), id: Bytes::copy_from_slice(rest) })
}

/// The byte prefix that exactly the keys of a prefix have.
pub(super) fn prefix(space: &Space, prefix: &Prefix) -> Vec<u8> {
    let mut bytes = space.as_str().as_bytes().to_vec();
    bytes.push(NUL);
    match prefix {
        Prefix::All => {}
        Prefix::TagStart(start) => escape(start, &mut bytes),
        Prefix::Tag { tag, id_start } => {
            escape(tag, &mut bytes);
            bytes.extend_from_slice(&[NUL, END]);
            bytes.extend_from_slice(id_start);
        }
    }
    bytes
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        out.push(byte);
        if byte == NUL {
            out.push(ESCAPED);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decoding_random_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }
}
