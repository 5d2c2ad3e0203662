//! Many seeds over a few threads, and what a person is told of one that failed.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::trace::Recording;
use crate::world::{Report, run};

/// Failing seeds that are looked for before giving up: each is run twice, and nobody reads more.
const FAILURES_MAX: usize = 5;
/// How many of its last events a failing seed shows.
const LINES_SHOWN: usize = 120;

/// Lines that are always shown: what frames the story of one call.
const FRAME: [&str; 6] = ["fault:", "manager:", "is dead", "is spawned", "goes on", "VIOLATION"];

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many seeds were run.
    pub seeds: u64,
    /// How many things happened in all of them.
    pub steps: u64,
    /// How many calls were answered in all of them.
    pub talked: usize,
    /// The seeds that failed, lowest first, and what to tell about each.
    pub failures: Vec<(u64, String)>,
}

/// Runs all of these seeds, on so many threads.
pub fn run_all(seeds: Range<u64>, threads: usize) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run(seed, Recording::Hash);
                    let failure = (!report.violations.is_empty()).then(|| failure(seed));
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.seeds += 1;
                    summary.steps += report.steps;
                    summary.talked += report.talked;
                    summary.failures.extend(failure.map(|text| (seed, text)));
                    if summary.failures.len() >= FAILURES_MAX {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failures.sort();
    summary
}

/// Runs a failing seed once more and tells how it came about.
pub fn failure(seed: u64) -> String {
    let report = run(seed, Recording::Lines);
    let mut text = format!("seed {seed} failed\n");
    for violation in &report.violations {
        let _ = writeln!(text, "  {violation}");
    }
    let about = report.violations.iter().flat_map(|violation| &violation.about).next();
    let concerns = |line: &&String| {
        let Some(about) = about else { return true };
        line.contains(about.as_str()) || FRAME.iter().any(|word| line.contains(word))
    };
    let lines: Vec<&String> = report.lines.iter().filter(concerns).collect();
    let from = lines.len().saturating_sub(LINES_SHOWN);
    let _ = writeln!(
        text,
        "the last {} of {} events about {} (of {} in all):",
        lines.len() - from,
        lines.len(),
        about.map_or("everything", String::as_str),
        report.lines.len()
    );
    for line in &lines[from..] {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "run it again: cargo run -p simulator -- --seed {seed}");
    text
}

/// The whole story of a seed.
pub fn story(seed: u64) -> (Report, String) {
    let report = run(seed, Recording::Lines);
    let story = report.lines.join("\n");
    (report, story)
}
