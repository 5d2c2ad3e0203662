//! Times each step of a message's way alone: `cargo bench -p bench`, or `cargo bench -p bench -- parse` for those whose
//! names hold a word. Median of the batches, least and most; a look at where time goes, no comparison with anybody.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bench::statistics::Summary;
use bench::steps::{STEPS, Work, commit};

/// How long a batch takes.
const BATCH: Duration = Duration::from_millis(40);
const BATCHES: usize = 15;
/// Commits that one doing of that step makes.
const COMMITS_TOGETHER: f64 = 64.0;

fn main() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_asked_for =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    for step in STEPS.iter().filter(|step| is_asked_for(step.name)) {
        show(step.name, step.title, timed((step.prepare)()), 1.0);
    }
    if is_asked_for("commit") {
        let directory =
            std::env::temp_dir().join(format!("outlast-bench-commit-{}", std::process::id()));
        let summary = timed(commit(&directory));
        show("commit", "commit of a binding, 64 at one time", summary, COMMITS_TOGETHER);
        // It holds a store that nobody needs.
        let _ = std::fs::remove_dir_all(&directory);
    }
}

/// Nanoseconds of one doing.
fn timed(mut work: Work) -> Summary {
    let mut times = 1_u32;
    loop {
        let took = time(&mut work, times);
        if took >= BATCH / 4 {
            let batch = f64::from(times) * BATCH.as_secs_f64() / took.as_secs_f64();
            times = (batch as u32).max(1);
            break;
        }
        times *= 2;
    }
    let batches =
        (0..BATCHES).map(|_| time(&mut work, times).as_secs_f64() * 1e9 / f64::from(times));
    Summary::of(batches).expect("there are batches")
}

fn time(work: &mut Work, times: u32) -> Duration {
    let started = Instant::now();
    for _ in 0..times {
        work();
    }
    started.elapsed()
}

fn show(name: &str, title: &str, summary: Summary, parts: f64) {
    let [median, min, max] = [summary.median, summary.min, summary.max].map(|nanos| nanos / parts);
    // Whoever closed stdout does not want to know.
    let _ = writeln!(std::io::stdout(), "{name:<20} {median:>9.1} ns ({min:.1}–{max:.1})  {title}");
}
