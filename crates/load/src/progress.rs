//! What is shown while a run goes on: on a terminal one line that is written over each second, elsewhere a line every
//! few seconds.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::generator::{Generator, Phase};
use crate::statistics::Interval;

/// How often a terminal is written to.
const TERMINAL_INTERVAL: Duration = Duration::from_secs(1);

/// How often a file or a pipe is.
const FILE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how a run goes.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
    interval: Duration,
    last: Instant,
    is_line_open: bool,
}

impl Progress {
    pub(crate) fn new(now: Instant) -> Progress {
        let is_terminal = io::stderr().is_terminal();
        let interval = if is_terminal { TERMINAL_INTERVAL } else { FILE_INTERVAL };
        Progress { is_terminal, interval, last: now, is_line_open: false }
    }

    /// When the next line is due.
    pub(crate) fn next_due(&self) -> Instant {
        self.last + self.interval
    }

    /// Shows a line if one is due.
    pub(crate) fn show(&mut self, generator: &mut Generator, now: Instant) {
        if now < self.next_due() {
            return;
        }
        let elapsed = now.duration_since(self.last);
        self.last = now;
        let phase = generator.phase();
        let in_flight = generator.context.in_flight;
        let statistics = &mut generator.context.statistics;
        let interval = statistics.take_interval();
        let line = line(phase, &interval, elapsed, in_flight, statistics.lag());
        // Who closed stderr wants to see nothing.
        let mut stderr = io::stderr().lock();
        let _ = if self.is_terminal {
            self.is_line_open = true;
            write!(stderr, "\r{line}\x1b[K").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{line}")
        };
    }

    /// Ends the line that was written over, so that what follows begins on one of its own.
    pub(crate) fn finish(&mut self) {
        if std::mem::take(&mut self.is_line_open) {
            let _ = writeln!(io::stderr().lock());
        }
    }
}

/// One line: how many a second, how fast, how many not at all.
fn line(
    phase: Phase,
    interval: &Interval,
    elapsed: Duration,
    in_flight: usize,
    lag: Duration,
) -> String {
    let phase = match phase {
        Phase::Preparing => "preparing",
        Phase::WarmingUp => "warming up",
        Phase::Measuring => "measuring",
        Phase::Draining => "draining",
        Phase::Leaving | Phase::Over => "leaving",
    };
    let rate = interval.done as f64 / elapsed.as_secs_f64().max(0.001);
    let micros = |quantile| interval.latency.value_at_quantile(quantile) / 1_000;
    let mut line = format!(
        "{phase}: {rate:.0}/s, p50 {} µs, p99 {} µs, {} lost, {} failed, {in_flight} in flight",
        micros(0.5),
        micros(0.99),
        interval.lost,
        interval.failed,
    );
    if lag >= LAG_SHOWN {
        let _ = write!(line, ", {:.1} s behind", lag.as_secs_f64());
    }
    line
}

/// A lag that is worth a word.
const LAG_SHOWN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{Failure, Outcome, Statistics};

    #[test]
    fn a_line_tells_rate_latencies_losses_and_lag() {
        let start = Instant::now();
        let mut statistics = Statistics::new(start, None);
        for outcome in [
            Outcome::Done,
            Outcome::Done,
            Outcome::Lost,
            Outcome::Failed(Failure::Status(500)),
            Outcome::Failed(Failure::Status(500)),
        ] {
            let begun = statistics.begin(start, start + Duration::from_millis(1_500));
            statistics.end(begun, outcome, start + Duration::from_millis(2));
        }
        let second = Duration::from_secs(1);
        let shown =
            line(Phase::Measuring, &statistics.take_interval(), second, 7, statistics.lag());
        let expected =
            "measuring: 2/s, p50 2000 µs, p99 2000 µs, 1 lost, 2 failed, 7 in flight, 1.5 s behind";
        assert_eq!(shown, expected);
        let nothing = line(Phase::Draining, &statistics.take_interval(), second, 0, Duration::ZERO);
        assert_eq!(nothing, "draining: 0/s, p50 0 µs, p99 0 µs, 0 lost, 0 failed, 0 in flight");
    }
}
