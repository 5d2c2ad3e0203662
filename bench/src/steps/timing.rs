//! How long each step takes alone, by the clock: a look at where time goes, beside nobody.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{STEPS, Work, commit};
use crate::statistics::Summary;

/// How long a batch takes.
const BATCH: Duration = Duration::from_millis(40);
const BATCHES: usize = 15;
/// Commits that one doing of that step makes.
const COMMITS_TOGETHER: f64 = 64.0;

/// What one step takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    /// Its name on the command line.
    pub name: String,
    /// What it does.
    pub title: String,
    /// Of one doing, over the batches.
    pub nanoseconds: Summary,
}

/// Times the steps that are asked for, and tells each as soon as it is known. The store of the commits is made in
/// `directory`, which must not be there yet and is removed afterwards.
pub fn run(
    directory: &Path,
    is_asked_for: impl Fn(&str) -> bool,
    mut tell: impl FnMut(&StepTime),
) -> Vec<StepTime> {
    let mut times = Vec::new();
    let mut take = |name: &str, title: &str, nanoseconds| {
        let time = StepTime { name: name.to_owned(), title: title.to_owned(), nanoseconds };
        tell(&time);
        times.push(time);
    };
    for step in STEPS.iter().filter(|step| is_asked_for(step.name)) {
        take(step.name, step.title, timed((step.prepare)()));
    }
    if is_asked_for("commit") {
        let Summary { median, min, max, rounds } = timed(commit(directory));
        let [median, min, max] = [median, min, max].map(|nanos| nanos / COMMITS_TOGETHER);
        let one = Summary { median, min, max, rounds };
        take("commit", "commit of a binding, 64 at one time", one);
        // It holds a store that nobody needs.
        let _ = std::fs::remove_dir_all(directory);
    }
    times
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_timed_and_told_and_nothing_stays() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = directory.path().join("store");
        let mut told = Vec::new();
        let is_asked_for = |name: &str| name == "choice" || name == "commit";
        let times = run(&store, is_asked_for, |time| told.push(time.clone()));
        assert_eq!(
            times.iter().map(|time| time.name.as_str()).collect::<Vec<_>>(),
            ["choice", "commit"]
        );
        assert!(times.iter().all(|time| time.nanoseconds.min > 0.0), "{times:?}");
        assert_eq!(told, times);
        assert!(!store.exists());
    }
}
