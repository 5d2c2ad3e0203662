//! Times each step of a message's way alone: `cargo bench -p bench`, or `cargo bench -p bench -- parse` for those whose
//! names hold a word. Median of the batches, least and most.

use std::io::Write as _;

use bench::steps::timing::{self, StepTime};

fn main() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_asked_for =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let directory = std::env::temp_dir().join(format!("outlast-bench-{}", std::process::id()));
    timing::run(&directory, is_asked_for, show);
}

fn show(StepTime { name, title, nanoseconds }: &StepTime) {
    let [median, min, max] = [nanoseconds.median, nanoseconds.min, nanoseconds.max];
    // Whoever closed stdout does not want to know.
    let _ = writeln!(std::io::stdout(), "{name:<20} {median:>9.1} ns ({min:.1}–{max:.1})  {title}");
}
