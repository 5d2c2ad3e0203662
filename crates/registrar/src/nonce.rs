//! Nonces that every container of the node can verify, and the mark that keeps each use of one unique.
//!
//! A nonce is `base64url(level, time, random, MAC)`. The MAC covers the address-of-record it was issued for, by a
//! key that all containers derive from the node's key ring; so nothing is stored until credentials prove right.
//! Binding it to one address-of-record puts its mark under the same hash tag as the bindings, and so into the same
//! commit; a client that uses the nonce for another address is told `stale` and tries again by itself.
//!
//! A [`NonceMark`] is stored per nonce: the highest nonce count, which of the 64 below it were seen (requests of
//! one client may overtake one another), and the latest request, whose retry within 64·T1 is let through.
//!
//! Source: RFC 7616 §3.3 (nonce), §3.4 (nc), §5.5 (replay). Pure: time and random octets are arguments.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use state::UnixMillis;

use state::codec::{Reader, RecordError, Writer};

/// Random octets in a nonce.
pub const RANDOM_BYTES: usize = 8;

/// Of nonces. One of level 1 was marked elsewhere in the store, so it counts as stale.
const NONCE_LEVEL: u8 = 2;
/// Of marks.
const FORMAT_LEVEL: u8 = 1;
const MAC_BYTES: usize = 16;
/// What names a nonce: its time and its random octets.
const ID_BYTES: usize = 8 + RANDOM_BYTES;
const NONCE_BYTES: usize = 1 + ID_BYTES + MAC_BYTES;

/// A nonce from a clock this far ahead is still taken; nodes further off are not ready (DESIGN §4).
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(2);

/// How long after it was first taken the same request may come again: 64·T1, when its client gives up.
const RETRY_WINDOW: Duration = Duration::from_secs(32);

/// What a nonce says after its MAC was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceVerdict {
    /// Ours, for this address-of-record, and young enough.
    Fresh(NonceId),
    /// Not ours, for another address, or too old. With right credentials the client is told `stale=true`.
    Stale,
}

/// Names a nonce in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonceId([u8; ID_BYTES]);

impl NonceId {
    /// The octets that are its key.
    pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    fn issued_at(&self) -> UnixMillis {
        let time = self.0[..8].try_into().expect("an id begins with eight octets of time");
        UnixMillis(u64::from_be_bytes(time))
    }
}

/// Issues and judges nonces.
#[derive(Debug)]
pub struct Nonces {
    /// Read for every request, written at a rotation: nobody waits.
    key: RwLock<topology::Key>,
    age_max: Duration,
}

impl Nonces {
    /// With the key for "nonce" of the node's key ring; a nonce is taken for `age_max` after its issue.
    pub fn new(key: topology::Key, age_max: Duration) -> Nonces {
        Nonces { key: RwLock::new(key), age_max }
    }

    /// The keys were rotated: nonces are issued with `key`, and taken if made with it or with the one before.
    pub fn use_key(&self, key: topology::Key) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    fn key(&self) -> RwLockReadGuard<'_, topology::Key> {
        // A key is a plain value: a panic elsewhere cannot leave it half-written.
        self.key.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new nonce for requests of one address-of-record.
    pub fn issue(&self, aor: &[u8], now: UnixMillis, random: [u8; RANDOM_BYTES]) -> String {
        let mut octets = [0; NONCE_BYTES];
        octets[0] = NONCE_LEVEL;
        octets[1..9].copy_from_slice(&now.0.to_be_bytes());
        octets[9..1 + ID_BYTES].copy_from_slice(&random);
        let mac = self.key().tag::<MAC_BYTES>(&mac_input(&octets[..1 + ID_BYTES], aor));
        octets[1 + ID_BYTES..].copy_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(octets)
    }

    /// Judges a nonce that came back in a request of `aor`.
    pub fn verify(&self, nonce: &[u8], aor: &[u8], now: UnixMillis) -> NonceVerdict {
        let mut octets = [0; NONCE_BYTES + 2];
        let length = URL_SAFE_NO_PAD.decode_slice(nonce, &mut octets);
        if length != Ok(NONCE_BYTES) || octets[0] != NONCE_LEVEL {
            return NonceVerdict::Stale;
        }
        let (said, mac) = octets[..NONCE_BYTES].split_at(1 + ID_BYTES);
        if !self.key().verify(&mac_input(said, aor), mac) {
            return NonceVerdict::Stale;
        }
        let id = NonceId(said[1..].try_into().expect("split after level and id"));
        let from_the_future = id.issued_at().saturating_since(now) > CLOCK_SKEW_MAX;
        let too_old = now.saturating_since(id.issued_at()) > self.age_max;
        if from_the_future || too_old { NonceVerdict::Stale } else { NonceVerdict::Fresh(id) }
    }

    /// When the mark of a nonce may go: the nonce itself is refused from then on.
    pub fn mark_expires_at(&self, id: NonceId) -> UnixMillis {
        id.issued_at().saturating_add(self.age_max).saturating_add(CLOCK_SKEW_MAX)
    }
}

fn mac_input(said: &[u8], aor: &[u8]) -> Vec<u8> {
    // `said` has a fixed length, so the two cannot be confused.
    [said, aor].concat()
}

/// Which uses of a nonce were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonceMark {
    highest_count: u32,
    /// Bit n: the count `highest_count - n` was seen.
    seen: u64,
    latest_request: u64,
    latest_at: UnixMillis,
    /// The latest request was done, not refused.
    latest_done: bool,
}

/// What to do with a use of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing was done yet by this use: go on, and store this mark in the same commit.
    First(NonceMark),
    /// The latest request once more (its answer was lost, or its container died), and it was done: answer, change
    /// nothing. One that was refused is [`Use::First`] again: it may go better this time.
    Retry,
    /// The count was used before, by another request or too long ago: refuse.
    Replay,
}

impl NonceMark {
    /// Judges the use of a nonce by the mark of the uses before, if there were any.
    ///
    /// `request` is a fingerprint of everything that makes the request what it is, its branch included.
    pub fn judge(before: Option<NonceMark>, count: u32, request: u64, now: UnixMillis) -> Use {
        let Some(mark) = before else {
            return Use::First(NonceMark {
                highest_count: count,
                seen: 1,
                latest_request: request,
                latest_at: now,
                latest_done: false,
            });
        };
        let seen = if count > mark.highest_count {
            let ahead = count - mark.highest_count;
            mark.seen.checked_shl(ahead).unwrap_or(0) | 1
        } else {
            let behind = mark.highest_count - count;
            // Counts that fell out of the window cannot be told from used ones.
            let bit = 1_u64.checked_shl(behind).unwrap_or(0);
            if bit == 0 || mark.seen & bit != 0 {
                let retried = request == mark.latest_request
                    && now.saturating_since(mark.latest_at) <= RETRY_WINDOW;
                return match (retried, mark.latest_done) {
                    (false, _) => Use::Replay,
                    (true, true) => Use::Retry,
                    (true, false) => Use::First(mark),
                };
            }
            mark.seen | bit
        };
        Use::First(NonceMark {
            highest_count: count.max(mark.highest_count),
            seen,
            latest_request: request,
            latest_at: now,
            latest_done: false,
        })
    }

    /// The mark of a request that is done with the commit that stores it.
    pub fn done(self) -> NonceMark {
        NonceMark { latest_done: true, ..self }
    }

    /// The record.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, 40);
        writer.number(u64::from(self.highest_count));
        writer.fixed(&self.seen.to_be_bytes());
        writer.fixed(&self.latest_request.to_be_bytes());
        writer.number(self.latest_at.0);
        writer.number(u64::from(self.latest_done));
        writer.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`RecordError`] when it is of another release or damaged.
    pub fn decode(record: &Bytes) -> Result<NonceMark, RecordError> {
        let mut reader = Reader::new(record, FORMAT_LEVEL)?;
        let mark = NonceMark {
            highest_count: reader.small()?,
            seen: u64::from_be_bytes(reader.fixed()?),
            latest_request: u64::from_be_bytes(reader.fixed()?),
            latest_at: UnixMillis(reader.number()?),
            latest_done: reader.number()? == 1,
        };
        reader.finish()?;
        Ok(mark)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use topology::KeyRing;

    const AGE: Duration = Duration::from_secs(300);
    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const AOR: &[u8] = b"sip:bob@example.com";

    fn nonces(ring: &KeyRing) -> Nonces {
        Nonces::new(ring.derive("nonce"), AGE)
    }

    fn is_fresh(nonces: &Nonces, nonce: &str, aor: &[u8], now: UnixMillis) -> bool {
        matches!(nonces.verify(nonce.as_bytes(), aor, now), NonceVerdict::Fresh(_))
    }

    #[test]
    fn a_nonce_of_one_container_is_fresh_for_another_with_the_same_ring() {
        let ring = KeyRing::new([7; 32]);
        let nonce = nonces(&ring).issue(AOR, NOW, [1; 8]);
        assert!(is_fresh(&nonces(&ring), &nonce, AOR, NOW));
        assert!(is_fresh(&nonces(&ring.rotated([8; 32], 0)), &nonce, AOR, NOW));
        assert!(!is_fresh(&nonces(&KeyRing::new([8; 32])), &nonce, AOR, NOW));
    }

    #[test]
    fn a_nonce_outlives_one_rotation_of_a_running_registrar_and_not_two() {
        let first = KeyRing::new([7; 32]);
        let (second, third) =
            (first.rotated([8; 32], 0), first.rotated([8; 32], 0).rotated([9; 32], 0));
        let nonces = nonces(&first);
        let nonce = nonces.issue(AOR, NOW, [1; 8]);
        nonces.use_key(second.derive("nonce"));
        assert!(is_fresh(&nonces, &nonce, AOR, NOW));
        let newer = nonces.issue(AOR, NOW, [2; 8]);
        nonces.use_key(third.derive("nonce"));
        assert!(!is_fresh(&nonces, &nonce, AOR, NOW));
        assert!(is_fresh(&nonces, &newer, AOR, NOW));
    }

    #[test]
    fn a_nonce_is_good_for_its_address_its_age_and_no_other() {
        let nonces = nonces(&KeyRing::new([7; 32]));
        let nonce = nonces.issue(AOR, NOW, [1; 8]);
        let at = |offset: i64| UnixMillis(NOW.0.checked_add_signed(offset).unwrap());
        for (aor, now, fresh) in [
            (AOR, at(0), true),
            (AOR, at(300_000), true),
            (AOR, at(300_001), false),
            (AOR, at(-2_000), true),
            (AOR, at(-2_001), false),
            (&b"sip:alice@example.com"[..], at(0), false),
        ] {
            assert_eq!(is_fresh(&nonces, &nonce, aor, now), fresh, "{} {now}", aor.escape_ascii());
        }
    }

    #[test]
    fn a_changed_or_foreign_nonce_is_stale() {
        let nonces = nonces(&KeyRing::new([7; 32]));
        let nonce = nonces.issue(AOR, NOW, [1; 8]);
        for index in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert_eq!(nonces.verify(&changed, AOR, NOW), NonceVerdict::Stale, "octet {index}");
        }
        for foreign in [&b""[..], b"abc", b"dcd98b7102dd2f0e8b11d0f600bfb0c093", &[b'A'; 400]] {
            assert_eq!(nonces.verify(foreign, AOR, NOW), NonceVerdict::Stale);
        }
    }

    fn first(before: Option<NonceMark>, count: u32, request: u64) -> NonceMark {
        match NonceMark::judge(before, count, request, NOW) {
            Use::First(mark) => mark.done(),
            other => panic!("count {count} gave {other:?}"),
        }
    }

    #[test]
    fn each_count_is_taken_once_in_any_order_within_the_window() {
        let mut mark = None;
        for (request, count) in [1, 3, 2, 70, 7, 71].into_iter().enumerate() {
            mark = Some(first(mark, count, request as u64));
        }
        for count in [1, 2, 3, 7, 70, 71] {
            assert_eq!(NonceMark::judge(mark, count, 99, NOW), Use::Replay, "count {count}");
        }
        assert!(matches!(NonceMark::judge(mark, 8, 99, NOW), Use::First(_)));
        assert!(matches!(NonceMark::judge(mark, u32::MAX, 99, NOW), Use::First(_)));
    }

    #[test]
    fn the_latest_request_may_come_again_for_32_seconds() {
        let mark = Some(first(None, 1, 42));
        let later = |seconds| NOW.saturating_add(Duration::from_secs(seconds));
        assert_eq!(NonceMark::judge(mark, 1, 42, later(32)), Use::Retry);
        assert_eq!(NonceMark::judge(mark, 1, 42, later(33)), Use::Replay);
        assert_eq!(NonceMark::judge(mark, 1, 43, later(1)), Use::Replay);
    }

    #[test]
    fn a_request_that_was_refused_is_decided_anew_and_still_no_other_may_use_its_count() {
        let Use::First(refused) = NonceMark::judge(None, 1, 42, NOW) else { panic!() };
        assert_eq!(NonceMark::judge(Some(refused), 1, 42, NOW), Use::First(refused));
        assert_eq!(NonceMark::judge(Some(refused), 1, 43, NOW), Use::Replay);
    }

    #[test]
    fn marks_come_back_from_their_record() {
        let mark = first(Some(first(None, 5, 1)), 9, u64::MAX);
        assert_eq!(NonceMark::decode(&mark.encode()), Ok(mark));
    }
}
