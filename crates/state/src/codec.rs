//! The compact form of records: a format level, then numbers and octet strings.
//!
//! For whoever keeps records in a [`Store`](crate::Store). Numbers are LEB128, octet strings carry their length before
//! them. Reading slices the record's own buffer and copies nothing. What the fields mean stands in the module of each
//! record.

use bytes::Bytes;

/// A record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another release wrote it.
    #[error(
        "record has format level {0}, which this release does not read; run the release that wrote it"
    )]
    FormatLevel(u8),
    /// It ends early, holds more than it should, or a value is out of its range.
    #[error(
        "record is malformed; delete it (a phone registers again, a call is set up anew) or restore the last snapshot"
    )]
    Malformed,
}

/// Builds a record.
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins a record of that level, with room for so many octets.
    pub fn new(format_level: u8, capacity: usize) -> Writer {
        let mut out = Vec::with_capacity(capacity);
        out.push(format_level);
        Writer(out)
    }

    /// A number, small ones in few octets.
    pub fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// Octets behind their length.
    pub fn octets(&mut self, octets: &[u8]) {
        self.number(octets.len() as u64);
        self.0.extend_from_slice(octets);
    }

    /// Octets whose length the reader knows.
    pub fn fixed(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    /// The record.
    pub fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Takes a record apart, in the order in which it was built.
pub struct Reader(Bytes);

impl Reader {
    /// Begins to read a record.
    ///
    /// # Errors
    /// [`RecordError::FormatLevel`] when the level is not `format_level`.
    pub fn new(record: &Bytes, format_level: u8) -> Result<Reader, RecordError> {
        match record.first() {
            Some(&level) if level == format_level => Ok(Reader(record.slice(1..))),
            Some(&level) => Err(RecordError::FormatLevel(level)),
            None => Err(RecordError::Malformed),
        }
    }

    /// What [`Writer::number`] wrote.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when the record ends early, or the number has more than 64 bits.
    pub fn number(&mut self) -> Result<u64, RecordError> {
        let mut number = 0_u64;
        for (index, &octet) in self.0.iter().enumerate() {
            let bits = u64::from(octet & 0x7f);
            let shift = 7 * index as u32;
            if shift >= u64::BITS || (bits << shift) >> shift != bits {
                return Err(RecordError::Malformed);
            }
            number |= bits << shift;
            if octet & 0x80 == 0 {
                self.0 = self.0.slice(index + 1..);
                return Ok(number);
            }
        }
        Err(RecordError::Malformed)
    }

    /// A number that must fit a smaller type.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when it does not, or the record ends early.
    pub fn small<T: TryFrom<u64>>(&mut self) -> Result<T, RecordError> {
        T::try_from(self.number()?).map_err(|_| RecordError::Malformed)
    }

    /// What [`Writer::octets`] wrote.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when the record ends early.
    pub fn octets(&mut self) -> Result<Bytes, RecordError> {
        let length = self.small()?;
        self.take(length)
    }

    /// Octets that are UTF-8.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when they are not, or the record ends early.
    pub fn text(&mut self) -> Result<String, RecordError> {
        String::from_utf8(self.octets()?.into()).map_err(|_| RecordError::Malformed)
    }

    /// What [`Writer::fixed`] wrote.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when the record ends early.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let octets = self.take(N)?;
        Ok(<[u8; N]>::try_from(octets.as_ref()).expect("take gives as many as asked for"))
    }

    /// So many octets.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when the record ends early.
    pub fn take(&mut self, length: usize) -> Result<Bytes, RecordError> {
        if length > self.0.len() {
            return Err(RecordError::Malformed);
        }
        Ok(self.0.split_to(length))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when there is something left.
    pub fn finish(self) -> Result<(), RecordError> {
        if self.0.is_empty() { Ok(()) } else { Err(RecordError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_octets_come_back(numbers: Vec<u64>, octets: Vec<u8>) {
            let mut writer = Writer::new(7, 0);
            for &number in &numbers {
                writer.number(number);
            }
            writer.octets(&octets);
            let mut reader = Reader::new(&writer.finish(), 7).unwrap();
            for &number in &numbers {
                prop_assert_eq!(reader.number(), Ok(number));
            }
            prop_assert_eq!(reader.octets().unwrap(), octets);
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn arbitrary_records_never_panic(record: Vec<u8>) {
            if let Ok(mut reader) = Reader::new(&record.into(), 1) {
                let _ = reader.number();
                let _ = reader.octets();
                let _ = reader.fixed::<8>();
            }
        }
    }

    #[test]
    fn other_levels_and_numbers_over_64_bits_are_refused() {
        assert_eq!(
            Reader::new(&Bytes::from_static(&[2]), 1).err(),
            Some(RecordError::FormatLevel(2))
        );
        assert_eq!(Reader::new(&Bytes::new(), 1).err(), Some(RecordError::Malformed));
        let long =
            Bytes::from_static(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(Reader::new(&long, 1).unwrap().number(), Err(RecordError::Malformed));
    }
}
