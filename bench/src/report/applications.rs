//! Calls that an application answers.

use super::comparison::row;
use crate::applications::{ECHO, FRESH, GROUP, RELAYED, REUSED};
use crate::compare::Comparison;

const NAMES: [(&str, &str); 4] = [
    ("answered by a guest, reused instances", REUSED),
    ("answered by a guest, fresh instances", FRESH),
    ("relayed through registrar, no application", RELAYED),
    ("bare echo, a datagram", ECHO),
];

/// All figures of it, as a table.
pub fn table(figures: &Comparison) -> String {
    let mut text = String::from(
        "| call over UDP | CPU, µs | × relayed | × echo | operations a second | median time, µs | failed | sent again |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for contender in NAMES {
        text += &row(figures, GROUP, contender, &[RELAYED, ECHO]);
    }
    text
}

pub(super) fn section(figures: &Comparison) -> String {
    let mut text = format!(
        "\n## Applications\n\nA call that the smallest application in Rust answers with 200 and a held description, until the 200 of \
         its BYE. CPU as above.\n\n{}",
        table(figures)
    );
    if !figures.missing.is_empty() {
        text += &format!("\nNot measured: {}\n", figures.missing.join("; "));
    }
    text
}
