//! How far a part is: runs done of runs in all, the time it took, and about how long it will take.

use std::time::{Duration, Instant};

/// Says a line for each run of a part.
pub struct Progress<'s> {
    say: &'s mut dyn FnMut(&str),
    runs: usize,
    done: usize,
    started: Instant,
}

impl<'s> Progress<'s> {
    /// Of a part that begins now and has so many runs.
    pub fn of(runs: usize, say: &'s mut dyn FnMut(&str)) -> Progress<'s> {
        Progress { say, runs, done: 0, started: Instant::now() }
    }

    /// One more run is done.
    pub fn done(&mut self, what: &str) {
        self.done += 1;
        let taken = self.started.elapsed();
        let whole = taken.mul_f64(self.runs.max(self.done) as f64 / self.done as f64);
        let (taken, whole) = (clock(taken), clock(whole));
        (self.say)(&format!(
            "[{:>3} of {}, {taken} of about {whole}]  {what}",
            self.done, self.runs
        ));
    }
}

/// `4:05`
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_says_how_far_it_is() {
        let mut said = Vec::new();
        let mut say = |line: &str| said.push(line.to_owned());
        let mut progress = Progress::of(12, &mut say);
        progress.done("first");
        progress.done("second");
        assert_eq!(
            said,
            ["[  1 of 12, 0:00 of about 0:00]  first", "[  2 of 12, 0:00 of about 0:00]  second"]
        );
        assert_eq!(
            [59, 60, 605].map(|seconds| clock(Duration::from_secs(seconds))),
            ["0:59", "1:00", "10:05"]
        );
    }
}
