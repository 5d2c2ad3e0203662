//! `bench/RESULTS.md`, its plots and the README's table, from the pieces. A text for readers who will not run anything:
//! each figure with its spread, each budget with how it stands, and how it was all made.

mod applications;
mod comparison;
mod latency;
mod method;
mod pictures;
mod scale;
mod steps;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::budget::{self, Unit};
use crate::pieces::Pieces;
use crate::statistics::Summary;

pub use applications::table as applications_table;
pub use comparison::headline;

/// Where the README's table begins and ends.
const MARKERS: [&str; 2] = ["<!-- bench: begin -->", "<!-- bench: end -->"];

/// The text of `RESULTS.md`.
pub fn results(pieces: &Pieces) -> String {
    let mut text = String::from(
        "# Results\n\nMade by `bench/run`; do not edit. What the figures mean and how they were made stands at the end.\n",
    );
    text += &method::made(pieces);
    if let Some(piece) = &pieces.compare {
        text += "\n## At a glance\n\n";
        text += &headline(&piece.figures);
    }
    text += &budgets(pieces);
    if let Some(piece) = &pieces.compare {
        text += &comparison::section(&piece.figures);
    }
    if let Some(piece) = &pieces.applications {
        text += &applications::section(&piece.figures);
    }
    if let Some(piece) = &pieces.latency {
        text += &latency::section(&piece.figures);
    }
    if let Some(piece) = &pieces.scale {
        text += &scale::section(&piece.figures);
    }
    if let Some(piece) = &pieces.steps {
        text += &steps::section(&piece.figures);
    }
    text += method::HOW;
    text
}

/// Name and text of each plot.
pub fn plots(pieces: &Pieces) -> Vec<(&'static str, String)> {
    pictures::all(pieces)
}

/// The README with the table between its markers.
///
/// # Errors
/// When a marker is missing.
pub fn readme(readme: &str, pieces: &Pieces) -> anyhow::Result<String> {
    let [begin, end] = MARKERS;
    let before = readme.split_once(begin).with_context(|| format!("the README has no {begin}"))?.0;
    let Some((_, after)) = readme.split_once(end) else { bail!("the README has no {end}") };
    let table = pieces.compare.as_ref().map(|piece| headline(&piece.figures)).unwrap_or_default();
    Ok(format!("{before}{begin}\n{table}{end}{after}"))
}

/// Writes everything that is made of the pieces into a repository.
///
/// # Errors
/// The file system's, or a README without markers.
pub fn write(pieces: &Pieces, repository: &Path) -> anyhow::Result<()> {
    let bench = repository.join("bench");
    std::fs::write(bench.join("RESULTS.md"), results(pieces))?;
    std::fs::create_dir_all(bench.join("plots"))?;
    for (name, picture) in plots(pieces) {
        std::fs::write(bench.join("plots").join(name), picture)?;
    }
    let path = repository.join("README.md");
    let text = std::fs::read_to_string(&path)?;
    Ok(std::fs::write(&path, readme(&text, pieces)?)?)
}

fn budgets(pieces: &Pieces) -> String {
    let mut text = String::from(
        "\n## Budgets\n\nWhat the design allows, and what was measured: CPU of all processes, state durable.\n\n\
         The budgets were written beside Kamailio as packaged; how we stand beside it with its fastest allocator stands \
         in the last column.\n\n\
         | what | budget | measured | | beside the fastest |\n|---|---|---|---|---|\n",
    );
    for line in budget::lines(pieces) {
        let limit = match (line.unit, line.against) {
            (Unit::Times, against) => format!("≤ {:.2} × {against}", line.limit),
            (Unit::Bytes, _) => format!("≤ {}", bytes(line.limit)),
            (Unit::Microseconds, _) => format!("≤ {} µs", line.limit),
            (Unit::Milliseconds, _) => format!("≤ {} ms", line.limit),
        };
        let measured = line.measured.map_or("not measured".to_owned(), |summary| match line.unit {
            Unit::Times => ratio(summary),
            Unit::Bytes => bytes(summary.median),
            Unit::Microseconds => format!("{} µs", spread(summary)),
            Unit::Milliseconds => format!("{} ms", number(summary.median)),
        });
        let verdict = match (line.measured, line.missed_by()) {
            (None, _) => String::new(),
            (Some(_), None) => "kept".to_owned(),
            (Some(_), Some(over)) => format!("**missed by {:.0} %**", (over * 100.0).ceil()),
        };
        let fastest = line.beside_fastest.map(ratio).unwrap_or_default();
        writeln!(text, "| {} | {limit} | {measured} | {verdict} | {fastest} |", line.subject)
            .expect("a text takes all");
    }
    text
}

/// Three significant digits, four from 1,000 on.
fn number(figure: f64) -> String {
    let digits = match figure.abs() {
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    grouped(&format!("{figure:.digits$}"))
}

/// Thousands with commas.
fn grouped(text: &str) -> String {
    let (whole, part) =
        text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let mut out = String::new();
    for (place, digit) in whole.chars().enumerate() {
        let left = whole.len() - place;
        if place > 0 && left.is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    part.map_or(out.clone(), |part| format!("{out}.{part}"))
}

/// `12.3 (11.8–13.0)`.
fn spread(summary: Summary) -> String {
    format!("{} ({}–{})", number(summary.median), number(summary.min), number(summary.max))
}

/// `0.43 × (0.41–0.46)`.
fn ratio(summary: Summary) -> String {
    if summary.rounds == 1 {
        return format!("{:.2} ×", summary.median);
    }
    format!("{:.2} × ({:.2}–{:.2})", summary.median, summary.min, summary.max)
}

fn bytes(figure: f64) -> String {
    match figure {
        size if size >= 1e9 => format!("{:.2} GB", size / 1e9),
        size if size >= 1e6 => format!("{:.1} MB", size / 1e6),
        size => format!("{} B", number(size.round())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_commas() {
        assert_eq!(
            [1.234, 12.34, 123.4, 1234.5, 1_234_567.0].map(number),
            ["1.23", "12.3", "123", "1,234", "1,234,567"]
        );
        assert_eq!([412.0, 2_500_000.0, 1.5e9].map(bytes), ["412 B", "2.5 MB", "1.50 GB"]);
    }

    #[test]
    fn readme_keeps_everything_but_what_is_between_the_markers() {
        let [begin, end] = MARKERS;
        let text = format!("before\n{begin}\nold\n{end}\nafter\n");
        let made = readme(&text, &Pieces::default()).expect("it has markers");
        assert_eq!(made, format!("before\n{begin}\n{end}\nafter\n"));
        assert!(readme("no markers", &Pieces::default()).is_err());
    }

    #[test]
    fn a_budget_without_a_figure_is_neither_kept_nor_missed() {
        let text = budgets(&Pieces::default());
        assert!(text.contains("not measured"), "{text}");
        assert!(!text.contains("kept") && !text.contains("missed"), "{text}");
    }
}
