//! How far a copy is: the record that changes with every batch that is copied.

use std::collections::BTreeSet;

use bytes::Bytes;
use state::codec::{Reader, RecordError, Writer};
use state::{Key, Space};

const FORMAT_LEVEL: u8 = 1;
const POSITIONS: Space = Space::named("repository-position");

/// The most spaces that a copy has; records of further ones are not copied.
pub(super) const SPACES_MAX: usize = 256;

/// How far a copy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Of which etcd it is a copy.
    pub(super) cluster: u64,
    /// Everything up to here is in it; `None`: it must be read whole.
    pub(super) revision: Option<i64>,
    /// In which spaces it has, or had, records.
    pub(super) spaces: BTreeSet<Space>,
}

/// Where it lies in the copy.
pub(super) fn key() -> Key {
    Key::new(POSITIONS, Bytes::new(), Bytes::new())
}

impl Position {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, 32);
        writer.number(self.cluster);
        writer.number(self.revision.map_or(0, i64::cast_unsigned));
        writer.number(self.spaces.len() as u64);
        for space in &self.spaces {
            writer.octets(space.as_str().as_bytes());
        }
        writer.finish()
    }

    pub(super) fn decode(record: &Bytes) -> Result<Position, RecordError> {
        let mut reader = Reader::new(record, FORMAT_LEVEL)?;
        let cluster = reader.number()?;
        let revision = Some(reader.small()?).filter(|revision| *revision > 0);
        let count: usize = reader.small()?;
        let mut spaces = BTreeSet::new();
        for _ in 0..count {
            spaces.insert(Space::parse(&reader.text()?).ok_or(RecordError::Malformed)?);
        }
        reader.finish()?;
        Ok(Position { cluster, revision, spaces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back() {
        for revision in [None, Some(1), Some(i64::MAX)] {
            let spaces = ["account", "name"].into_iter().filter_map(Space::parse).collect();
            let position = Position { cluster: u64::MAX, revision, spaces };
            assert_eq!(Position::decode(&position.encode()), Ok(position));
        }
    }
}
