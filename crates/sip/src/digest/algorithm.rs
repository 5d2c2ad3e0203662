//! The hash algorithms of Digest and the one secret that is kept of a password, [`Ha1`].
//!
//! Source: RFC 7616 §3.2 (algorithm), §3.4.2 (A1); RFC 8760 §2.1.

use std::fmt;

use md5::Md5;
use sha2::{Sha256, Sha512_256};

/// A hash algorithm that a challenge may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `MD5`: broken as a hash, kept for phones that know nothing else, and offered last.
    Md5,
    /// `SHA-256`.
    Sha256,
    /// `SHA-512-256`: SHA-512 with the initial values of its own for 256 bits, not SHA-512 cut short.
    Sha512_256,
}

impl Algorithm {
    /// Every algorithm, strongest first, which is the order of challenges (RFC 8760 §2.4).
    pub const STRONGEST_FIRST: [Algorithm; 3] =
        [Algorithm::Sha512_256, Algorithm::Sha256, Algorithm::Md5];

    /// The token on the wire.
    pub fn token(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha256 => "SHA-256",
            Algorithm::Sha512_256 => "SHA-512-256",
        }
    }

    /// The algorithm that a token names, in any case of letters; `None` for every other token.
    pub fn parse(token: &[u8]) -> Option<Algorithm> {
        Algorithm::STRONGEST_FIRST
            .into_iter()
            .find(|algorithm| algorithm.token().as_bytes().eq_ignore_ascii_case(token))
    }

    /// Octets in a digest of this algorithm.
    pub fn digest_bytes(self) -> usize {
        match self {
            Algorithm::Md5 => 16,
            Algorithm::Sha256 | Algorithm::Sha512_256 => Digest::BYTES_MAX,
        }
    }

    /// Hashes the parts joined by colons, as every step of Digest does.
    pub fn hash_joined(self, parts: &[&[u8]]) -> Digest {
        match self {
            Algorithm::Md5 => joined::<Md5>(parts),
            Algorithm::Sha256 => joined::<Sha256>(parts),
            Algorithm::Sha512_256 => joined::<Sha512_256>(parts),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

fn joined<H: md5::Digest>(parts: &[&[u8]]) -> Digest {
    let mut hasher = H::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hasher.update(b":");
        }
        hasher.update(part);
    }
    Digest::from_slice(&hasher.finalize()).expect("every algorithm yields 16 or 32 octets")
}

/// The octets of one hash; 16 or 32 of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    octets: [u8; Digest::BYTES_MAX],
    length: u8,
}

impl Digest {
    /// The longest digest of any algorithm here.
    pub const BYTES_MAX: usize = 32;

    /// Takes 16 or 32 octets; `None` for any other length.
    pub fn from_slice(octets: &[u8]) -> Option<Digest> {
        if octets.len() != 16 && octets.len() != Digest::BYTES_MAX {
            return None;
        }
        let mut digest = Digest { octets: [0; Digest::BYTES_MAX], length: octets.len() as u8 };
        digest.octets[..octets.len()].copy_from_slice(octets);
        Some(digest)
    }

    /// The raw octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.octets[..usize::from(self.length)]
    }

    /// Lower-case hexadecimal digits (RFC 7616 §3.1: LHEX), as Digest hashes and sends them.
    pub fn to_hex(self) -> Hex {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 2 * Digest::BYTES_MAX];
        for (index, octet) in self.as_bytes().iter().enumerate() {
            digits[2 * index] = DIGITS[usize::from(octet >> 4)];
            digits[2 * index + 1] = DIGITS[usize::from(octet & 15)];
        }
        Hex { digits, length: self.length * 2 }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A digest may be an HA1, which is as good as the password: never shown.
        write!(f, "Digest({} octets)", self.length)
    }
}

/// A digest as hexadecimal digits, without a heap allocation.
#[derive(Clone, Copy)]
pub struct Hex {
    digits: [u8; 2 * Digest::BYTES_MAX],
    length: u8,
}

impl Hex {
    /// The digits.
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[..usize::from(self.length)]
    }

    /// The digits as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("hexadecimal digits are ASCII")
    }
}

/// `H(username:realm:password)`: what is stored instead of a password.
///
/// Whoever holds it can answer challenges of that realm and algorithm, so it is a secret; `Debug` hides it.
/// Source: RFC 7616 §3.4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ha1 {
    algorithm: Algorithm,
    digest: Digest,
}

impl Ha1 {
    /// Hashes a password for one user name, realm and algorithm.
    pub fn new(algorithm: Algorithm, username: &[u8], realm: &[u8], password: &[u8]) -> Ha1 {
        Ha1 { algorithm, digest: algorithm.hash_joined(&[username, realm, password]) }
    }

    /// Takes back what [`Ha1::as_bytes`] gave; `None` when the length is not that of the algorithm.
    pub fn from_bytes(algorithm: Algorithm, octets: &[u8]) -> Option<Ha1> {
        if octets.len() != algorithm.digest_bytes() {
            return None;
        }
        Digest::from_slice(octets).map(|digest| Ha1 { algorithm, digest })
    }

    /// The algorithm that made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw octets, for the account store only.
    pub fn as_bytes(&self) -> &[u8] {
        self.digest.as_bytes()
    }

    pub(super) fn to_hex(self) -> Hex {
        self.digest.to_hex()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_in_any_case_and_others_are_unknown() {
        assert_eq!(Algorithm::parse(b"md5"), Some(Algorithm::Md5));
        assert_eq!(Algorithm::parse(b"Sha-256"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::parse(b"SHA-512-256"), Some(Algorithm::Sha512_256));
        assert_eq!(Algorithm::parse(b"MD5-sess"), None);
        assert_eq!(Algorithm::parse(b""), None);
    }

    #[test]
    fn sha_512_256_is_not_a_truncated_sha_512() {
        // FIPS 180-4 test vector for "abc".
        assert_eq!(
            Algorithm::Sha512_256.hash_joined(&[b"abc"]).to_hex().as_str(),
            "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"
        );
    }

    #[test]
    fn ha1_round_trips_and_refuses_the_length_of_another_algorithm() {
        let ha1 = Ha1::new(Algorithm::Md5, b"Mufasa", b"example.org", b"Circle of Life");
        assert_eq!(Ha1::from_bytes(Algorithm::Md5, ha1.as_bytes()), Some(ha1));
        assert_eq!(Ha1::from_bytes(Algorithm::Sha256, ha1.as_bytes()), None);
    }

    #[test]
    fn debug_output_holds_no_octet_of_the_secret() {
        let ha1 = Ha1::new(Algorithm::Sha256, b"a", b"b", b"c");
        assert_eq!(format!("{ha1:?}"), "Ha1 { algorithm: Sha256, digest: Digest(32 octets) }");
    }
}
