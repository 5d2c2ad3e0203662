//! Keys and values ⇄ what etcd holds.
//!
//! A record lies under `PREFIX r/ SPACE 00 escaped(TAG) 00 01 ID`, where escaping turns `00` into `00 FF`: the order of
//! those is the order of (space, tag, id). Its value is a format level, when its lifetime ends (zero: never; else one more
//! than the milliseconds), and the octets as they were put.

use bytes::Bytes;
use state::codec::{Reader, RecordError, Writer};
use state::{Key, Space, UnixMillis};

const FORMAT_LEVEL: u8 = 1;

const NUL: u8 = 0;
const ESCAPED: u8 = 0xFF;
const END: u8 = 1;

/// Where keys lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    prefix: Bytes,
}

impl Layout {
    pub(crate) fn new(prefix: &str) -> Layout {
        Layout { prefix: Bytes::copy_from_slice(prefix.as_bytes()) }
    }

    /// All that is ours: first key, and the first behind it.
    pub(crate) fn all(&self) -> (Bytes, Bytes) {
        range_of(self.prefix.to_vec())
    }

    /// All records.
    pub(super) fn records(&self) -> (Bytes, Bytes) {
        range_of(self.under(b"r/", &[]))
    }

    /// Where a writer notes its last commit.
    pub(super) fn commit(&self, writer: &str) -> Bytes {
        self.under(b"c/", writer.as_bytes()).into()
    }

    /// Where a writer makes marks.
    pub(super) fn mark(&self, writer: &str) -> Bytes {
        self.under(b"b/", writer.as_bytes()).into()
    }

    /// Where a record lies.
    pub(super) fn record(&self, key: &Key) -> Bytes {
        let mut filed = self.under(b"r/", key.space.as_str().as_bytes());
        filed.push(NUL);
        for &octet in &key.tag {
            filed.push(octet);
            if octet == NUL {
                filed.push(ESCAPED);
            }
        }
        filed.extend_from_slice(&[NUL, END]);
        filed.extend_from_slice(&key.id);
        filed.into()
    }

    /// Which record lies there; `None`: it is none.
    pub(super) fn key_of(&self, filed: &[u8]) -> Option<Key> {
        let filed = filed.strip_prefix(self.prefix.as_ref())?.strip_prefix(b"r/")?;
        let end = memchr::memchr(NUL, filed)?;
        let space = Space::parse(std::str::from_utf8(&filed[..end]).ok()?)?;
        let mut rest = &filed[end + 1..];
        let mut tag = Vec::new();
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
        let key = Key::new(space, tag, Bytes::copy_from_slice(rest));
        key.check().is_ok().then_some(key)
    }

    fn under(&self, kind: &[u8], name: &[u8]) -> Vec<u8> {
        [&self.prefix, kind, name].concat()
    }
}

/// What begins so.
fn range_of(start: Vec<u8>) -> (Bytes, Bytes) {
    let mut end = start.clone();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (start.into(), end.into());
        }
    }
    // An empty prefix: all keys, which etcd writes as zero octets on both sides.
    (Bytes::from_static(&[0]), Bytes::from_static(&[0]))
}

/// A value as etcd holds it.
pub(super) fn encode(value: &[u8], expires_at: Option<UnixMillis>) -> Bytes {
    let mut writer = Writer::new(FORMAT_LEVEL, value.len() + 11);
    writer.number(expires_at.map_or(0, |at| at.0.saturating_add(1)));
    writer.fixed(value);
    writer.finish()
}

/// What [`encode`] wrote.
///
/// # Errors
/// [`RecordError`].
pub(super) fn decode(held: &Bytes) -> Result<(Bytes, Option<UnixMillis>), RecordError> {
    let mut reader = Reader::new(held, FORMAT_LEVEL)?;
    let end = reader.number()?;
    // Level and number take as many octets as they were written with.
    let value = held.slice(1 + octets_of(end)..);
    Ok((value, end.checked_sub(1).map(UnixMillis)))
}

fn octets_of(number: u64) -> usize {
    let bits = (u64::BITS - number.leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const SPACE: Space = Space::named("account");

    fn part() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![Just(0_u8), Just(1), Just(255), any::<u8>()];
        prop::collection::vec(octet, 0..12)
    }

    proptest! {
        #[test]
        fn keys_come_back_and_keep_their_order(a in (part(), part()), b in (part(), part())) {
            let layout = Layout::new("outlast/");
            let (a, b) = (Key::new(SPACE, a.0, a.1), Key::new(SPACE, b.0, b.1));
            let (filed_a, filed_b) = (layout.record(&a), layout.record(&b));
            prop_assert_eq!(filed_a.cmp(&filed_b), a.cmp(&b));
            prop_assert_eq!(layout.key_of(&filed_a), Some(a));
            let (from, to) = layout.records();
            prop_assert!(from <= filed_b && filed_b < to);
        }

        #[test]
        fn values_come_back(value: Vec<u8>, end: Option<u32>, far: bool) {
            let end = end.map(|end| UnixMillis(u64::from(end) << if far { 31 } else { 0 }));
            let (back, back_end) = decode(&encode(&value, end)).unwrap();
            prop_assert_eq!((back.as_ref(), back_end), (value.as_slice(), end));
        }

        #[test]
        fn what_others_left_there_never_panics(octets: Vec<u8>) {
            let _ = Layout::new("").key_of(&octets);
            let _ = decode(&octets.into());
        }
    }

    #[test]
    fn a_range_ends_behind_its_prefix() {
        assert_eq!(range_of(b"a/".to_vec()).1, "a0");
        assert_eq!(range_of(vec![1, 255]).1, &[2][..]);
        assert_eq!(range_of(Vec::new()), (Bytes::from_static(&[0]), Bytes::from_static(&[0])));
    }
}
