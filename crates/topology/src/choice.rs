//! Which container takes new work: weighted rendezvous hashing, precomputed into buckets.
//!
//! DESIGN, "choosing a container", rule 2. Every edge (and every worker of an edge) must choose
//! alike from the same view, so that the messages of a call meet in one container whichever edge
//! they come through; and a container that comes or goes must move only its own share of the work.
//! Rendezvous hashing gives both: each container draws a number per bucket, the best two win it.
//!
//! Weights: the draw is an exponential variable of rate *weight* (`-ln u / weight`, the least wins),
//! so a container wins buckets in proportion to its weight. The logarithm is computed in integers:
//! the last bit of a floating-point `ln` differs between C libraries, and then edges would differ.
//!
//! The hash is fixed, not keyed: somebody who knows the containers' names can aim Call-IDs at one of
//! them. What bounds that is each container's own overload protection, not this table.

use std::cmp::Ordering;

use crate::view::{Incarnation, ProcessName};

/// Buckets of a table: fine enough that four equal containers get 25 % ± 1.4 % each (one standard
/// deviation), small enough (4 kB) to stay in the first-level cache.
pub const BUCKETS: usize = 1024;

/// Most candidates of one table; the first so many in the order of their names take part.
pub const CANDIDATES_MAX: usize = NOBODY as usize;

const NOBODY: u16 = u16::MAX;

/// What of a message decides where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChoiceKey<'a> {
    /// The session id that a token names.
    Session(&'a [u8]),
    /// The canonical address-of-record of a REGISTER.
    AddressOfRecord(&'a [u8]),
    /// The Call-ID of everything else, compared byte by byte (RFC 3261 §20.8).
    CallId(&'a [u8]),
}

impl ChoiceKey<'_> {
    /// What is kept of the key when the choice has to be made again later.
    pub fn hash(&self) -> ChoiceHash {
        ChoiceHash(match self {
            ChoiceKey::Session(bytes) => hash(1, bytes),
            ChoiceKey::AddressOfRecord(bytes) => hash(2, bytes),
            ChoiceKey::CallId(bytes) => hash(3, bytes),
        })
    }
}

/// The hash of a [`ChoiceKey`]: who takes over from a dead owner chooses by it as the edges do by
/// the messages. Written into records, so it must not change between releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChoiceHash(pub u64);

/// A container that accepts new work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Decides which buckets it wins: a restarted container wins the same ones again. In a cluster the name by which all
    /// nodes know it.
    pub name: ProcessName,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Its share relative to the others; 0 takes nothing.
    pub weight: u16,
}

/// The best two candidates of a bucket, as indices into [`BucketTable::candidates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidates {
    /// Takes the message; `None` when nothing serves.
    pub first: Option<usize>,
    /// Takes it when the first cannot; `None` when there is only one.
    pub second: Option<usize>,
}

/// The precomputed choice over a set of candidates.
#[derive(Debug, Clone)]
pub struct BucketTable {
    candidates: Vec<Candidate>,
    buckets: Box<[[u16; 2]; BUCKETS]>,
}

impl BucketTable {
    /// Computes the table; the order of `candidates` does not matter, those of weight 0 are left out.
    pub fn build(candidates: &[Candidate]) -> BucketTable {
        let mut candidates: Vec<Candidate> =
            candidates.iter().filter(|candidate| candidate.weight > 0).cloned().collect();
        candidates.sort_by(|a, b| a.name.cmp(&b.name));
        candidates.dedup_by(|a, b| a.name == b.name);
        candidates.truncate(CANDIDATES_MAX);
        let names: Vec<u64> = candidates
            .iter()
            .map(|candidate| hash(0, candidate.name.as_str().as_bytes()))
            .collect();
        let mut buckets = Box::new([[NOBODY; 2]; BUCKETS]);
        for (number, bucket) in buckets.iter_mut().enumerate() {
            *bucket = best_two(&candidates, &names, number as u64);
        }
        BucketTable { candidates, buckets }
    }

    /// A table without candidates: every choice is `None`.
    pub fn empty() -> BucketTable {
        BucketTable::build(&[])
    }

    /// The candidates, sorted by name.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Whether nothing serves.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// The two containers that should take what `key` names. No allocation, no lock.
    pub fn choose(&self, key: ChoiceKey<'_>) -> Candidates {
        self.choose_hash(key.hash())
    }

    /// As [`choose`](Self::choose), by a hash that was kept.
    pub fn choose_hash(&self, hash: ChoiceHash) -> Candidates {
        let [first, second] = self.buckets[hash.0 as usize % BUCKETS];
        let index = |candidate| (candidate != NOBODY).then_some(usize::from(candidate));
        Candidates { first: index(first), second: index(second) }
    }
}

fn best_two(candidates: &[Candidate], names: &[u64], bucket: u64) -> [u16; 2] {
    let mut best: [Option<Draw>; 2] = [None, None];
    for (index, (candidate, name)) in candidates.iter().zip(names).enumerate() {
        let draw = Draw {
            index: index as u16,
            exponential: negative_log2(mix(name ^ mix(bucket.wrapping_add(GOLDEN_RATIO)))),
            weight: candidate.weight,
        };
        if best[0].is_none_or(|first| draw.beats(first)) {
            best = [Some(draw), best[0]];
        } else if best[1].is_none_or(|second| draw.beats(second)) {
            best[1] = Some(draw);
        }
    }
    best.map(|draw| draw.map_or(NOBODY, |draw| draw.index))
}

#[derive(Clone, Copy)]
struct Draw {
    index: u16,
    exponential: u64,
    weight: u16,
}

impl Draw {
    fn beats(self, other: Draw) -> bool {
        // a/x < b/y, without dividing: a·y < b·x. Candidates are sorted by name, so the lower index
        // breaks a tie alike everywhere.
        let own = u128::from(self.exponential) * u128::from(other.weight);
        let others = u128::from(other.exponential) * u128::from(self.weight);
        match own.cmp(&others) {
            Ordering::Less => true,
            Ordering::Equal => self.index < other.index,
            Ordering::Greater => false,
        }
    }
}

/// Binary digits after the point of [`negative_log2`].
const FRACTION_BITS: u32 = 32;

/// `-log2(value / 2^64)` with 32 binary digits after the point, in integers.
fn negative_log2(value: u64) -> u64 {
    let value = value | 1; // zero has no logarithm
    let zeros = value.leading_zeros();
    // The mantissa, 1 <= mantissa < 2 with 63 digits after the point; squaring it yields the next
    // binary digit of its logarithm.
    let mut mantissa = value << zeros;
    let mut fraction = 0_u64;
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        fraction <<= 1;
        if square >> 64 != 0 {
            fraction |= 1;
            mantissa = (square >> 1) as u64;
        } else {
            mantissa = square as u64;
        }
    }
    (u64::from(zeros + 1) << FRACTION_BITS) - fraction
}

const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// FNV-1a over the domain and the octets, then mixed: short inputs, one multiplication per octet.
fn hash(domain: u8, bytes: &[u8]) -> u64 {
    let fnv = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let state = fnv(0xcbf2_9ce4_8422_2325, domain);
    mix(bytes.iter().fold(state, |state, byte| fnv(state, *byte)))
}

/// The finaliser of MurmurHash3: every input bit moves every output bit.
fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests;
