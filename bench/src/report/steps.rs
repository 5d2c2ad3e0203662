//! The steps of a message's way, each alone.

use std::fmt::Write as _;

use super::number;
use crate::steps::timing::StepTime;

pub(super) fn section(times: &[StepTime]) -> String {
    let mut text = String::from(
        "\n## Steps alone\n\nTime of one doing on one core, nothing else done: median of 15 batches (least–most). \
         `cargo bench -p bench` shows the same, `cargo bench -p bench -- parse` a part of it.\n\n\
         | step | ns | what it does |\n|---|---|---|\n",
    );
    for StepTime { name, title, nanoseconds } in times {
        let [median, min, max] = [nanoseconds.median, nanoseconds.min, nanoseconds.max].map(number);
        writeln!(text, "| `{name}` | {median} ({min}–{max}) | {title} |")
            .expect("a text takes all");
    }
    text
}
