//! Sizes as a person writes them: `64MiB`.

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A whole number of one of the units, in octets.
pub(super) fn parse(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

/// In the largest unit that it is a whole number of.
pub(super) fn shown(octets: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| octets >= *factor && octets.is_multiple_of(*factor);
    let (name, factor) = UNITS.iter().find(fits).unwrap_or(&UNITS[3]);
    format!("{}{name}", octets / factor)
}
