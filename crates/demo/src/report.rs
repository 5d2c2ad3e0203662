//! What survived: counted, as rows of a table for people and as JSON for programs. Pure.

use std::time::Duration;

use serde::Serialize;

/// Losses that are told one by one; the counts are complete all the same.
const TOLD_MAX: usize = 10;

/// The whole story in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Faults in the order in which they were made.
    pub faults: Vec<Fault>,
    /// Versions of the WebAssembly agent in the order in which they came.
    pub upgrades: Vec<Upgrade>,
    /// What was done when all of that was over.
    pub afterwards: Vec<Count>,
    /// What was lost, and what came that should not have: at most the first ten.
    pub losses: Vec<String>,
    /// Whether nothing was lost. New calls that a version refused before it was taken back are its price, and no loss.
    pub survived: bool,
    /// How long the story took, in milliseconds.
    pub took_ms: u64,
}

/// One fault and what became of what was going on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What was done, for example `kill -9`.
    pub fault: String,
    /// To which process.
    pub process: String,
    /// From the fault until the manager no longer counted on the process, in milliseconds; None: never seen.
    pub noticed_after_ms: Option<u64>,
    /// From the fault until another life of it served, in milliseconds; None: never seen.
    pub back_after_ms: Option<u64>,
    /// What was going on.
    pub counts: Vec<Count>,
}

/// One version of an application that was brought in while calls were up, and what became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upgrade {
    /// Its number.
    pub version: String,
    /// Whether it was found ill, and new calls begin with the one before.
    pub taken_back: bool,
    /// Until it was in or taken back, in milliseconds.
    pub took_ms: u64,
    /// New calls that it answered 500, because it fell over.
    pub refused: usize,
    /// What was going on.
    pub counts: Vec<Count>,
}

/// Things of one kind, and how many of them went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// What they are, for example `calls up`.
    pub what: String,
    /// How many went on.
    pub survived: usize,
    /// Of how many.
    pub of: usize,
    /// How long the slowest one took for what it was asked, in milliseconds.
    pub slowest_ms: u64,
}

/// What became of one thing: how long it took, or why it is lost.
pub type Outcome = Result<Duration, String>;

impl Count {
    /// Counts outcomes; the losses go to `losses`.
    pub fn of(what: &str, outcomes: Vec<Outcome>, losses: &mut Vec<String>) -> Count {
        let mut count =
            Count { what: what.to_owned(), survived: 0, of: outcomes.len(), slowest_ms: 0 };
        for outcome in outcomes {
            match outcome {
                Ok(took) => {
                    count.survived += 1;
                    count.slowest_ms = count.slowest_ms.max(millis(took));
                }
                Err(why) => losses.push(why),
            }
        }
        count
    }

    fn is_whole(&self) -> bool {
        self.survived == self.of
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Report {
    /// Sums up: nothing may be lost, every process must have been missed and come back.
    pub fn new(
        faults: Vec<Fault>,
        upgrades: Vec<Upgrade>,
        afterwards: Vec<Count>,
        mut losses: Vec<String>,
        took: Duration,
    ) -> Report {
        let of_faults = faults.iter().flat_map(|fault| &fault.counts);
        let of_upgrades = upgrades.iter().flat_map(|upgrade| &upgrade.counts);
        let counted = of_faults.chain(of_upgrades).chain(&afterwards).all(Count::is_whole);
        for fault in &faults {
            let Fault { fault: what, process, noticed_after_ms, back_after_ms, .. } = fault;
            if noticed_after_ms.is_none() {
                losses.push(format!("nobody noticed the {what} of {process}"));
            }
            if back_after_ms.is_none() {
                losses.push(format!("{process} did not come back after {what}"));
            }
        }
        let survived = counted && losses.is_empty();
        losses.truncate(TOLD_MAX);
        Report { faults, upgrades, afterwards, losses, survived, took_ms: millis(took) }
    }

    /// The head of the table.
    pub const HEAD: [&'static str; 6] =
        ["EVENT", "WHILE", "SURVIVED", "SLOWEST", "NOTICED", "BACK"];

    /// New calls that were refused by versions that fell over.
    pub fn refused(&self) -> usize {
        self.upgrades.iter().map(|upgrade| upgrade.refused).sum()
    }

    /// The rows of the table: each fault and each version with its counts, then what came after.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for fault in &self.faults {
            let seen = |after: Option<u64>| after.map_or_else(|| "never".to_owned(), time);
            for (number, count) in fault.counts.iter().enumerate() {
                let first = number == 0;
                let name = format!("{} {}", fault.fault, fault.process);
                rows.push(row(
                    if first { name } else { String::new() },
                    count,
                    if first { seen(fault.noticed_after_ms) } else { String::new() },
                    if first { seen(fault.back_after_ms) } else { String::new() },
                ));
            }
        }
        for upgrade in &self.upgrades {
            let name = format!("upgrade to {}", upgrade.version);
            let mut of_it: Vec<Vec<String>> = upgrade
                .counts
                .iter()
                .map(|count| row(String::new(), count, String::new(), String::new()))
                .collect();
            if upgrade.refused > 0 {
                let refused = format!("{} refused", upgrade.refused);
                let cells = ["", "new calls that met it", &refused, "", "", ""];
                of_it.insert(0, cells.map(str::to_owned).to_vec());
            }
            if let Some(first) = of_it.first_mut() {
                first[0] = name;
            }
            rows.extend(of_it);
        }
        for (number, count) in self.afterwards.iter().enumerate() {
            let name = if number == 0 { "afterwards" } else { "" };
            rows.push(row(name.to_owned(), count, String::new(), String::new()));
        }
        rows
    }
}

fn row(fault: String, count: &Count, noticed: String, back: String) -> Vec<String> {
    let survived = format!("{} of {}", count.survived, count.of);
    // Not everything that is counted takes time.
    let slowest = if count.slowest_ms == 0 { String::new() } else { time(count.slowest_ms) };
    vec![fault, count.what.clone(), survived, slowest, noticed, back]
}

/// `17 ms`, `1.52 s`.
fn time(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ => format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(noticed: Option<u64>, back: Option<u64>, outcomes: Vec<Outcome>) -> Report {
        let mut losses = Vec::new();
        let counts = vec![Count::of("calls up", outcomes, &mut losses)];
        let fault = Fault {
            fault: "kill -9".to_owned(),
            process: "container1".to_owned(),
            noticed_after_ms: noticed,
            back_after_ms: back,
            counts,
        };
        Report::new(vec![fault], Vec::new(), Vec::new(), losses, Duration::from_secs(3))
    }

    fn took(ms: u64) -> Outcome {
        Ok(Duration::from_millis(ms))
    }

    #[test]
    fn everything_there_is_a_story_that_ends_well() {
        let report = fault(Some(4), Some(1_526), vec![took(20), took(310)]);
        assert!(report.survived);
        let row = ["kill -9 container1", "calls up", "2 of 2", "310 ms", "4 ms", "1.52 s"];
        assert_eq!(report.rows(), [row.map(str::to_owned).to_vec()]);
    }

    #[test]
    fn one_loss_is_one_too_many_and_is_told() {
        let report = fault(Some(4), Some(20), vec![took(20), Err("call 7 is silent".to_owned())]);
        assert!(!report.survived);
        assert_eq!(report.rows()[0][2], "1 of 2");
        assert_eq!(report.losses, ["call 7 is silent"]);
    }

    #[test]
    fn a_process_that_nobody_misses_or_that_stays_away_is_a_loss() {
        for (noticed, back) in [(None, Some(3)), (Some(3), None)] {
            let report = fault(noticed, back, vec![took(1)]);
            assert!(!report.survived);
            assert_eq!(report.losses.len(), 1);
            assert!(report.rows()[0].contains(&"never".to_owned()));
        }
    }

    #[test]
    fn what_a_version_refused_before_it_was_taken_back_is_told_and_is_no_loss() {
        let upgrade = |outcomes| {
            let mut losses = Vec::new();
            let counts = vec![Count::of("calls up", outcomes, &mut losses)];
            let version = "1.2.0".to_owned();
            let upgrade = Upgrade { version, taken_back: true, took_ms: 520, refused: 7, counts };
            Report::new(Vec::new(), vec![upgrade], Vec::new(), losses, Duration::from_secs(1))
        };
        let report = upgrade(vec![took(20)]);
        assert!(report.survived);
        assert_eq!(report.refused(), 7);
        let rows = [
            ["upgrade to 1.2.0", "new calls that met it", "7 refused", "", "", ""],
            ["", "calls up", "1 of 1", "20 ms", "", ""],
        ];
        assert_eq!(report.rows(), rows.map(|row| row.map(str::to_owned).to_vec()));
        assert!(!upgrade(vec![Err("call 7 is silent".to_owned())]).survived);
    }

    #[test]
    fn many_losses_are_counted_all_and_told_in_part() {
        let outcomes = (0..50).map(|number| Err(format!("call {number}"))).collect();
        let report = fault(Some(1), Some(1), outcomes);
        assert_eq!((report.losses.len(), report.rows()[0][2].as_str()), (TOLD_MAX, "0 of 50"));
    }
}
