//! Percentiles below saturation.

use std::fmt::Write as _;

use super::number;
use crate::latency::{LatencyFigures, Operation, SHARES, Timed, Who};

pub(super) fn section(figures: &LatencyFigures) -> String {
    let mut text = String::from(
        "\n## Latency\n\n![Latency at shares of capacity](plots/latency.svg)\n\n\
         An open loop at a share of what *each* server reached in a closed loop in the same round, so the one that can do \
         more is sent more. Times in µs from the moment an operation was meant to begin, medians of the rounds. Load and \
         server share the machine's cores: at 80 % the two wait for each other.\n\n\
         | operation | server | load | rate | p50 | p99 | p99.9 | failed |\n|---|---|---|---|---|---|---|---|\n",
    );
    for operation in Operation::ALL {
        for share in SHARES {
            for who in Who::ALL {
                let of = |figure: fn(&Timed) -> f64| {
                    let summary = figures.summary(who, operation, share, figure);
                    summary.map_or("–".to_owned(), |summary| number(summary.median))
                };
                let runs = figures.runs.iter().filter(|run| {
                    run.who == who && run.operation == operation && (run.share - share).abs() < 1e-9
                });
                writeln!(
                    text,
                    "| {} | {} | {:.0} % | {}/s | {} | {} | {} | {} |",
                    operation.title(),
                    who.name(),
                    share * 100.0,
                    of(|run| run.capacity_per_s * run.share),
                    of(|run| run.latency_us.p50),
                    of(|run| run.latency_us.p99),
                    of(|run| run.latency_us.p999),
                    runs.map(|run| run.failures).sum::<u64>(),
                )
                .expect("a text takes all");
            }
        }
    }
    text
}
