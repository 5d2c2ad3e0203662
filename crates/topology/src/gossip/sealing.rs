//! Datagrams that only members can make, read, or pass off as new: ChaCha20-Poly1305 under the cluster's secret.
//!
//! ```text
//! level (1) │ sender (8, of one life of a node, random) │ sent at (8) │ nonce (12, random) │ sealed │ tag (16)
//! ```
//!
//! Each life of a sender has a key of its own, so that random nonces do not run into each other. Along with what is sealed
//! goes, unsealed, whose cluster it is of and to which address it was sent: a datagram that was caught and is sent to
//! another member, or from another address, is worth nothing. One that comes twice is known by its sender's time
//! ([`super::replays`]).

use std::net::SocketAddr;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::replays::{Replays, Stale};
use crate::keys::Key;

/// The level that is written and read.
const FORMAT_LEVEL: u8 = 1;
const SENDER_BYTES: usize = 8;
const HEAD_BYTES: usize = 1 + SENDER_BYTES + 8;
const TAG_BYTES: usize = 16;

/// What sealing adds.
pub(super) const SEAL_BYTES: usize = HEAD_BYTES + NONCE_LEN + TAG_BYTES;

/// Octets of a nonce, which the caller draws.
pub(super) const NONCE_BYTES: usize = NONCE_LEN;

/// One life of a node, drawn by chance when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SenderId(pub(super) [u8; SENDER_BYTES]);

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not ours, not for us, or changed on its way.
    Stranger,
    /// A member's, but not new.
    Stale(Stale),
}

/// Seals and opens for one life of a node.
pub(super) struct Sealer {
    root: Key,
    cluster: String,
    sender: SenderId,
    key: LessSafeKey,
    last_sent_at: u64,
}

impl Sealer {
    /// `root` is the cluster's key for gossip, `sender` drawn by chance.
    pub(super) fn new(root: Key, cluster: &str, sender: SenderId) -> Sealer {
        let key = key_of(&root, sender);
        Sealer { root, cluster: cluster.to_owned(), sender, key, last_sent_at: 0 }
    }

    /// A datagram to `to`; `now` in Unix microseconds.
    pub(super) fn seal(
        &mut self,
        text: &[u8],
        to: SocketAddr,
        now: u64,
        nonce: [u8; NONCE_BYTES],
    ) -> Vec<u8> {
        // Every datagram has a time of its own, by which it is known again.
        self.last_sent_at = now.max(self.last_sent_at + 1);
        let mut datagram = Vec::with_capacity(SEAL_BYTES + text.len());
        datagram.push(FORMAT_LEVEL);
        datagram.extend_from_slice(&self.sender.0);
        datagram.extend_from_slice(&self.last_sent_at.to_be_bytes());
        let circumstances = self.circumstances(&datagram, to);
        datagram.extend_from_slice(&nonce);
        datagram.extend_from_slice(text);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = &mut datagram[HEAD_BYTES + NONCE_BYTES..];
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(circumstances), sealed)
            .expect("a datagram is far from the cipher's bound");
        datagram.extend_from_slice(tag.as_ref());
        datagram
    }

    /// What a datagram that came for `to` says; `now` in Unix microseconds.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn open(
        &self,
        datagram: &[u8],
        to: SocketAddr,
        now: u64,
        replays: &mut Replays,
    ) -> Result<Vec<u8>, Refusal> {
        if datagram.len() < SEAL_BYTES || datagram[0] != FORMAT_LEVEL {
            return Err(Refusal::Stranger);
        }
        let (head, rest) = datagram.split_at(HEAD_BYTES);
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Refusal::Stranger)?;
        let (sender, sent_at) = head[1..].split_at(SENDER_BYTES);
        let sender = SenderId(sender.try_into().map_err(|_| Refusal::Stranger)?);
        let sent_at = sent_at.try_into().map(u64::from_be_bytes).map_err(|_| Refusal::Stranger)?;
        if sender == self.sender {
            return Err(Refusal::Stale(Stale::Own));
        }
        let circumstances = self.circumstances(head, to);
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key_of(&self.root, sender)
            .open_in_place(nonce, Aad::from(circumstances), &mut text)
            .map_err(|_| Refusal::Stranger)?
            .len();
        text.truncate(length);
        replays.accept(sender, sent_at, now).map_err(Refusal::Stale)?;
        Ok(text)
    }

    /// What has to be the same where it is opened.
    fn circumstances(&self, head: &[u8], to: SocketAddr) -> Vec<u8> {
        let mut circumstances = head.to_vec();
        circumstances.extend_from_slice(to.to_string().as_bytes());
        circumstances.push(0);
        circumstances.extend_from_slice(self.cluster.as_bytes());
        circumstances
    }
}

fn key_of(root: &Key, sender: SenderId) -> LessSafeKey {
    let key = root.tag::<32>(&sender.0);
    LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, &key).expect("a key of this cipher is 32 octets"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::replays::WINDOW;
    use super::*;
    use crate::credentials::ClusterSecret;

    const NOW: u64 = 1_795_000_000_000_000;

    fn sealer(secret: &str, cluster: &str, sender: u8) -> Sealer {
        let secret = ClusterSecret::from_hex(&secret.repeat(32)).unwrap();
        Sealer::new(secret.derive("gossip"), cluster, SenderId([sender; SENDER_BYTES]))
    }

    fn to() -> SocketAddr {
        "192.0.2.2:6200".parse().unwrap()
    }

    fn open(sealer: &Sealer, datagram: &[u8]) -> Result<Vec<u8>, Refusal> {
        sealer.open(datagram, to(), NOW, &mut Replays::new(NOW - 1))
    }

    #[test]
    fn a_member_reads_what_another_one_sealed_and_nobody_else_does() {
        let datagram = sealer("aa", "c1", 1).seal(b"node1 is up", to(), NOW, [7; NONCE_BYTES]);
        assert_eq!(open(&sealer("aa", "c1", 2), &datagram).unwrap(), b"node1 is up");
        for (stranger, why) in
            [(sealer("ab", "c1", 2), "another secret"), (sealer("aa", "c2", 2), "another cluster")]
        {
            assert_eq!(open(&stranger, &datagram), Err(Refusal::Stranger), "{why}");
        }
        let elsewhere = "192.0.2.3:6200".parse().unwrap();
        let opened = sealer("aa", "c1", 2).open(&datagram, elsewhere, NOW, &mut Replays::new(0));
        assert_eq!(opened, Err(Refusal::Stranger), "sent to somebody else");
        assert!(!datagram.windows(5).any(|octets| octets == b"node1"));
    }

    #[test]
    fn the_same_words_look_different_each_time() {
        let mut one = sealer("aa", "c1", 1);
        let sealed = |sealer: &mut Sealer, nonce| {
            sealer.seal(b"words", to(), NOW, [nonce; NONCE_BYTES])[HEAD_BYTES..].to_vec()
        };
        assert_ne!(sealed(&mut one, 1), sealed(&mut one, 2));
        assert_ne!(sealed(&mut one, 1), sealed(&mut sealer("aa", "c1", 3), 1));
    }

    #[test]
    fn a_datagram_is_taken_once_and_not_after_its_time() {
        let (mut one, two) = (sealer("aa", "c1", 1), sealer("aa", "c1", 2));
        let mut replays = Replays::new(NOW - 1);
        let first = one.seal(b"first", to(), NOW, [1; NONCE_BYTES]);
        let second = one.seal(b"second", to(), NOW, [2; NONCE_BYTES]);
        assert!(two.open(&second, to(), NOW, &mut replays).is_ok(), "order does not matter");
        assert!(two.open(&first, to(), NOW, &mut replays).is_ok());
        for datagram in [&first, &second] {
            let again = two.open(datagram, to(), NOW, &mut replays);
            assert_eq!(again, Err(Refusal::Stale(Stale::Repeated)));
        }
        let late = NOW + WINDOW.as_micros() as u64 + 10;
        let third = one.seal(b"third", to(), NOW, [3; NONCE_BYTES]);
        let refusal = two.open(&third, to(), late, &mut replays).unwrap_err();
        assert!(matches!(refusal, Refusal::Stale(Stale::OutOfTime { .. })), "{refusal:?}");
        assert_eq!(
            one.open(&first, to(), NOW, &mut replays),
            Err(Refusal::Stale(Stale::Own)),
            "an echo"
        );
    }

    proptest! {
        #[test]
        fn a_changed_datagram_is_a_strangers(
            text: Vec<u8>, at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut datagram = sealer("aa", "c1", 1).seal(&text, to(), NOW, [7; NONCE_BYTES]);
            let at = at.index(datagram.len());
            datagram[at] ^= 1 << bit;
            let opened = open(&sealer("aa", "c1", 2), &datagram);
            prop_assert_eq!(opened, Err(Refusal::Stranger));
        }

        #[test]
        fn any_octets_are_refused_without_panic(datagram: Vec<u8>) {
            prop_assert!(open(&sealer("aa", "c1", 2), &datagram).is_err());
        }
    }
}
