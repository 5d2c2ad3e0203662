//! Percentiles below saturation.

use std::fmt::Write as _;

use super::number;
use crate::latency::{LatencyFigures, Operation, SHARES, Timed, Who};
use crate::statistics::Summary;

pub(super) fn section(figures: &LatencyFigures) -> String {
    let mut text = String::from(
        "\n## Latency\n\nTimes in µs from the moment an operation was meant to begin, in an open loop; medians of the \
         rounds. Capacity is what the server reached in a closed loop in the same round; load and server share the \
         machine's cores, so at 80 % the two wait for each other.\n",
    );
    if !figures.equal.is_empty() {
        text += "\n### At one rate for all\n\nHalf of what the slowest of them can do.\n\n";
        text +=
            "| operation | server | rate | of its own capacity | p50 | p99 | p99.9 | failed |\n";
        text += "|---|---|---|---|---|---|---|---|\n";
        for operation in Operation::ALL {
            for who in Who::ALL {
                let runs = figures.at_equal_rate(who, operation);
                let share = median(&runs, |run| run.share * 100.0).map_or("–".to_owned(), percent);
                text += &row(operation, who, &runs, &share);
            }
        }
    }
    text += "\n### At shares of each server's own capacity\n\n\
             ![Latency at shares of capacity](plots/latency.svg)\n\nWho can do more is sent more.\n\n";
    text += "| operation | server | rate | of its own capacity | p50 | p99 | p99.9 | failed |\n";
    text += "|---|---|---|---|---|---|---|---|\n";
    for operation in Operation::ALL {
        for share in SHARES {
            for who in Who::AT_SHARES {
                let runs = figures.at_share(who, operation, share);
                text += &row(operation, who, &runs, &percent(share * 100.0));
            }
        }
    }
    text
}

fn row(operation: Operation, who: Who, runs: &[&Timed], share: &str) -> String {
    let of = |figure: fn(&Timed) -> f64| median(runs, figure).map_or("–".to_owned(), number);
    let failures: u64 = runs.iter().map(|run| run.failures).sum();
    let operations: u64 = runs.iter().map(|run| run.operations).sum();
    let failed = if failures == 0 { "0".to_owned() } else { format!("{failures} of {operations}") };
    let mut row = String::new();
    writeln!(
        row,
        "| {} | {} | {}/s | {share} | {} | {} | {} | {failed} |",
        operation.title(),
        who.name(),
        of(|run| run.capacity_per_s * run.share),
        of(|run| run.latency_us.p50),
        of(|run| run.latency_us.p99),
        of(|run| run.latency_us.p999),
    )
    .expect("a text takes all");
    row
}

fn median(runs: &[&Timed], figure: impl Fn(&Timed) -> f64) -> Option<f64> {
    Summary::of(runs.iter().map(|run| figure(run))).map(|summary| summary.median)
}

fn percent(figure: f64) -> String {
    format!("{figure:.0} %")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Latency;

    #[test]
    fn equal_rates_stand_beside_the_share_that_they_are_of_each() {
        let run = |who, capacity_per_s, p50| Timed {
            who,
            operation: Operation::Register,
            capacity_per_s,
            share: 20_000.0 / capacity_per_s,
            latency_us: Latency { p50, ..Latency::default() },
            failures: 1,
            operations: 10,
        };
        let figures = LatencyFigures {
            runs: Vec::new(),
            equal: vec![
                run(Who::Outlast, 50_000.0, 300.0),
                run(Who::Outlast, 50_000.0, 500.0),
                run(Who::KamailioPackaged, 40_000.0, 90.0),
            ],
        };
        let text = section(&figures);
        for row in [
            "| REGISTER → 200 | Outlast | 20,000/s | 40 % | 400 | 0.00 | 0.00 | 2 of 20 |",
            "| REGISTER → 200 | Kamailio, as packaged | 20,000/s | 50 % | 90.0 | 0.00 | 0.00 | 1 of 10 |",
            "| REGISTER → 200 | Kamailio, fastest allocator | –/s | – | – | – | – | 0 |",
        ] {
            assert!(text.contains(row), "{text}");
        }
    }
}
