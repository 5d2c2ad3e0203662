//! Outlast beside Kamailio and the echo.

use std::fmt::Write as _;

use super::{ratio, spread};
use crate::compare::{self, Comparison, Extent, ROWS, Row, Sample};
use crate::statistics::Summary;

/// CPU beside Kamailio's, as a table.
pub fn headline(figures: &Comparison) -> String {
    let mut text = String::from(
        "| operation | Outlast, durable | Kamailio, in memory, fastest allocator | ratio | as packaged | ratio |\n\
         |---|---|---|---|---|---|\n",
    );
    for Row { title, remark, group, ours, fastest, packaged } in ROWS {
        let cell = |contender| {
            let cpu = figures.cpu_us(group, contender);
            cpu.map_or("–".to_owned(), |cpu| format!("{:.1} µs", cpu.median))
        };
        let beside = |theirs| figures.cpu_ratio(group, ours, theirs).map_or("–".to_owned(), ratio);
        writeln!(
            text,
            "| {title}, {remark} | {} | {} | {} | {} | {} |",
            cell(ours),
            cell(fastest),
            beside(fastest),
            cell(packaged),
            beside(packaged)
        )
        .expect("a text takes all");
    }
    text
}

fn contender_name(id: &str) -> &str {
    match id {
        "outlast" => "Outlast",
        "outlast-digest" => "Outlast, digest",
        "kamailio-fast" => "Kamailio, fastest allocator",
        "kamailio" => "Kamailio, as packaged",
        "kamailio-digest-fast" => "Kamailio, digest, fastest allocator",
        "kamailio-digest" => "Kamailio, digest, as packaged",
        "echo" => "bare echo",
        other => other,
    }
}

/// Every group with all its figures.
pub(super) fn section(figures: &Comparison) -> String {
    let mut text = String::from(
        "\n## Beside Kamailio\n\n![CPU for an operation beside Kamailio's](plots/cpu.svg)\n\n\
         CPU is user and system time of all processes of the server for one operation, in µs, at saturation: median of \
         the rounds (least–most). Operations a second are what the machine did with load and server on the same cores.\n",
    );
    for group in compare::groups(Extent::FULL) {
        if !figures.groups.contains_key(group.id) {
            continue;
        }
        write!(
            text,
            "\n### {}\n\n| server | CPU, µs | × Outlast's | operations a second | median time, µs | failed | sent again |\n\
             |---|---|---|---|---|---|---|\n",
            group.title
        )
        .expect("a text takes all");
        for contender in &group.contenders {
            let name = contender_name(contender.id);
            text += &row(figures, group.id, (name, contender.id), &["outlast"]);
        }
    }
    if !figures.missing.is_empty() {
        text += "\nNot measured:\n\n";
        for missing in &figures.missing {
            writeln!(text, "- {missing}").expect("a text takes all");
        }
    }
    text
}

/// The figures of a contender under that name, and its CPU as a multiple of that of each of others.
pub(super) fn row(
    figures: &Comparison,
    group: &str,
    (name, contender): (&str, &str),
    others: &[&str],
) -> String {
    let samples = figures.samples(group, contender);
    let of = |figure: fn(&Sample) -> f64| {
        Summary::of(samples.iter().map(figure)).map_or("–".to_owned(), spread)
    };
    let operations: u64 = samples.iter().map(|sample| sample.operations).sum();
    let total = |figure: fn(&Sample) -> u64| -> String {
        match samples.iter().map(figure).sum::<u64>() {
            0 => "0".to_owned(),
            count => format!("{count} of {operations}"),
        }
    };
    let ratios = others
        .iter()
        .map(|other| figures.cpu_ratio(group, contender, other).map_or("–".to_owned(), ratio));
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} |\n",
        of(|sample| sample.cpu_us),
        ratios.collect::<Vec<_>>().join(" | "),
        of(|sample| sample.throughput_per_s),
        of(|sample| sample.p50_us),
        total(|sample| sample.failures),
        total(|sample| sample.retransmissions),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headline_has_both_sides_and_their_ratio() {
        let sample = |round, cpu_us| Sample {
            round,
            cpu_us,
            throughput_per_s: 40_000.0,
            p50_us: 900.0,
            failures: 1,
            operations: 100,
            retransmissions: 0,
            load_cpu_us: 4.0,
        };
        let mut figures = Comparison::default();
        let group = figures.groups.entry("register-udp".to_owned()).or_default();
        group.insert("outlast".to_owned(), vec![sample(0, 20.0), sample(1, 22.0)]);
        group.insert("kamailio".to_owned(), vec![sample(0, 50.0), sample(1, 44.0)]);
        let text = headline(&figures);
        let row = "| REGISTER, UDP | 21.0 µs | – | – | 47.0 µs | 0.45 × (0.40–0.50) |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| OPTIONS keep-alive, UDP | – | – | – | – | – |"), "{text}");
        assert!(section(&figures).contains("2 of 200"), "{}", section(&figures));
    }
}
