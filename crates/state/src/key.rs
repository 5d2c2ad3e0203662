//! Names of records: space, hash tag, id; and the prefixes by which they are listed.
//!
//! The hash tag is the unit of atomicity: what must change together shares a tag, because a cluster engine
//! keeps all records of a tag on one shard. The order of keys is the order of (space, tag, id) as bytes; an
//! engine may order keys longer than [`KEY_ORDERED_BYTES`] differently among themselves.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::error::StoreError;

/// The longest space name, in bytes.
pub const SPACE_BYTES_MAX: usize = 32;
/// The longest hash tag, in bytes. Longer ones are refused with [`StoreError::KeyTooLong`].
pub const TAG_BYTES_MAX: usize = 2_048;
/// The longest id, in bytes. Longer ones are refused with [`StoreError::KeyTooLong`].
pub const ID_BYTES_MAX: usize = 2_048;
/// Keys whose space, tag and id together are at most this long are listed in byte order by every engine.
pub const KEY_ORDERED_BYTES: usize = 400;

/// A named collection of records, for example `bindings`.
///
/// Names are ASCII letters, digits, `-`, `_` and `.`, 1 to [`SPACE_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(Cow<'static, str>);

impl Space {
    /// A space whose name is written in the source, usable in a `const` or `static`.
    ///
    /// # Panics
    /// When the name breaks the rules above (in a `const`: the build fails).
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        assert!(is_space_name(name.as_bytes()), "a space name is 1 to 32 of [A-Za-z0-9._-]");
        Self(Cow::Borrowed(name))
    }

    /// A space whose name comes from outside; `None` when it breaks the rules above.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        is_space_name(name.as_bytes()).then(|| Self(Cow::Owned(name.to_owned())))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const fn is_space_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > SPACE_BYTES_MAX {
        return false;
    }
    let mut i = 0;
    while i < name.len() {
        if !(name[i].is_ascii_alphanumeric() || matches!(name[i], b'-' | b'_' | b'.')) {
            return false;
        }
        i += 1;
    }
    true
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The collection it lies in.
    pub space: Space,
    /// The hash tag: records that change together have the same one. Any bytes, the empty ones included.
    pub tag: Bytes,
    /// Which record within the tag. Any bytes, the empty ones included.
    pub id: Bytes,
}

impl Key {
    /// A key of its parts.
    pub fn new(space: Space, tag: impl Into<Bytes>, id: impl Into<Bytes>) -> Self {
        Self { space, tag: tag.into(), id: id.into() }
    }

    /// # Errors
    /// [`StoreError::KeyTooLong`] when a part is over its limit.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.tag.len() > TAG_BYTES_MAX || self.id.len() > ID_BYTES_MAX {
            return Err(StoreError::KeyTooLong { key: Box::new(self.clone()) });
        }
        Ok(())
    }
}

/// `bindings/sip:alice@example.org/3f2a`, bytes that do not print escaped, long parts cut.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.space, Shown(&self.tag), Shown(&self.id))
    }
}

struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES_MAX: usize = 80;
        let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
        write!(f, "{}", shown.escape_ascii())?;
        if shown.len() < self.0.len() { f.write_str("…") } else { Ok(()) }
    }
}

/// Which records of a space a scan or a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// All records of the space.
    All,
    /// The records whose tag starts with these bytes.
    TagStart(Bytes),
    /// The records of exactly one tag whose id starts with `id_start` (empty: all of the tag). The cheap one
    /// on a cluster: a single shard is asked.
    Tag {
        /// The whole tag.
        tag: Bytes,
        /// How the id starts.
        id_start: Bytes,
    },
}

impl Prefix {
    /// All records of exactly one tag.
    pub fn tag(tag: impl Into<Bytes>) -> Self {
        Self::Tag { tag: tag.into(), id_start: Bytes::new() }
    }

    /// Whether a key of the same space belongs to it.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::TagStart(start) => key.tag.starts_with(start),
            Self::Tag { tag, id_start } => key.tag == *tag && key.id.starts_with(id_start),
        }
    }
}
