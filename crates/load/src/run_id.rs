//! What tells this run's messages from those of earlier ones that the server may still repeat.

/// Octets of a run's id on the wire.
const RUN_ID_BYTES: usize = 8;

/// Eight hexadecimal digits, part of every Call-ID, tag and branch of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId([u8; RUN_ID_BYTES]);

impl RunId {
    /// The id of a run, from a random number.
    pub(crate) fn new(random: u32) -> RunId {
        let digits = format!("{random:08x}");
        RunId(digits.as_bytes().try_into().expect("a u32 has eight hexadecimal digits"))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits are ASCII")
    }
}
