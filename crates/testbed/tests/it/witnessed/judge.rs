//! What a phone says of what the witness told it. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

/// A firing that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Firing {
    name: String,
    /// In milliseconds since 1970.
    due: u64,
    now: u64,
}

impl Firing {
    /// Of `NAME due=MS now=MS`.
    fn read(line: &str) -> Option<Firing> {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        let due = words.next()?.strip_prefix("due=")?.parse().ok()?;
        let now = words.next()?.strip_prefix("now=")?.parse().ok()?;
        Some(Firing { name, due, now })
    }
}

/// How many firings of the timer that repeats were heard.
pub(super) fn beats(heard: &[String]) -> usize {
    heard.iter().filter(|line| line.starts_with("fired beat ")).count()
}

/// Whether all of so many notes were told, and their timers have fired.
pub(super) fn is_all_told(heard: &[String], notes: usize) -> bool {
    let told = heard.iter().filter(|line| line.starts_with("told ")).count();
    let fired = heard.iter().filter(|line| line.starts_with("fired once-")).count();
    told >= notes && fired >= notes
}

/// What the witness remembers must be what it answered, told and did. `notes` are those that were answered, in order; the
/// report came when all of them were [told](is_all_told). Gives the longest that a timer was late.
pub(super) fn judge(
    notes: &[&str],
    heard: &[String],
    report: &str,
    period: Duration,
) -> Result<Duration, String> {
    let remembered = |name: &str| -> Vec<&str> {
        report.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
    };
    expect("count", &remembered("count"), &[&*notes.len().to_string()])?;
    expect("last", &remembered("last"), &notes[notes.len().saturating_sub(1)..])?;
    expect("what failed", &remembered("failed"), &[])?;
    let mut told: Vec<&str> = heard.iter().filter_map(|line| line.strip_prefix("told ")).collect();
    told.sort_unstable();
    let numbered = notes.iter().enumerate().map(|(at, note)| format!("{} {note}", at + 1));
    let numbered: Vec<String> = numbered.collect();
    expect("what was told", &told, &numbered.iter().map(String::as_str).collect::<Vec<_>>())?;

    let told: Vec<&str> = heard.iter().filter_map(|line| line.strip_prefix("fired ")).collect();
    let distinct: BTreeSet<&str> = told.iter().copied().collect();
    if distinct.len() != told.len() {
        return Err(format!("a firing was told twice: {told:?}"));
    }
    let forgotten = |lines: &[&str], by: &[&str]| -> Vec<String> {
        lines.iter().filter(|line| !by.contains(line)).map(|line| (*line).to_owned()).collect()
    };
    let noted = remembered("fired");
    let untold = forgotten(&noted, &told);
    if !untold.is_empty() {
        return Err(format!("firings were noted and not told: {untold:?} beside {told:?}"));
    }
    // What was told later was not there yet.
    let unnoted = forgotten(&told[..noted.len().min(told.len())], &noted);
    if !unnoted.is_empty() {
        return Err(format!("firings were told and not noted: {unnoted:?} beside {noted:?}"));
    }
    firings(&told, notes.len(), period)
}

/// Each timer of a note fired once, the other one once in a period at the most.
fn firings(told: &[&str], notes: usize, period: Duration) -> Result<Duration, String> {
    let firings: Option<Vec<Firing>> = told.iter().map(|line| Firing::read(line)).collect();
    let firings = firings.ok_or_else(|| format!("no firings: {told:?}"))?;
    let mut once: Vec<&str> = firings
        .iter()
        .map(|firing| &*firing.name)
        .filter(|name| name.starts_with("once-"))
        .collect();
    once.sort_unstable();
    let wanted: Vec<String> = (1..=notes).map(|note| format!("once-{note}")).collect();
    expect("timers of notes", &once, &wanted.iter().map(String::as_str).collect::<Vec<_>>())?;

    let beats: Vec<&Firing> = firings.iter().filter(|firing| firing.name == "beat").collect();
    let period = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
    for pair in beats.windows(2) {
        let (one, next) = (pair[0], pair[1]);
        if next.due <= one.now || !(next.due - one.due).is_multiple_of(period) {
            return Err(format!("fired twice in a period, or out of it: {one:?}, {next:?}"));
        }
    }
    if let Some(early) = firings.iter().find(|firing| firing.now < firing.due) {
        return Err(format!("fired early: {early:?}"));
    }
    let late = firings.iter().map(|firing| firing.now - firing.due).max();
    Ok(Duration::from_millis(late.unwrap_or(0)))
}

fn expect(what: &str, seen: &[&str], wanted: &[&str]) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{what}: {seen:?} in place of {wanted:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(500);

    const HEARD: [&str; 5] = [
        "told 1 a",
        "fired once-1 due=400 now=410",
        "fired beat due=500 now=1200",
        "fired beat due=1500 now=1501",
        "fired beat due=2000 now=2000",
    ];
    const REPORT: &str = "count: 1\nfired: once-1 due=400 now=410\nfired: beat due=500 now=1200\n\
                          fired: beat due=1500 now=1501\nlast: a\n";

    fn judged(heard: &[&str], report: &str) -> Result<Duration, String> {
        let heard: Vec<String> = heard.iter().map(|line| (*line).to_owned()).collect();
        judge(&["a"], &heard, report, PERIOD)
    }

    #[test]
    fn what_is_in_order_tells_how_late_the_latest_was() {
        assert_eq!(judged(&HEARD, REPORT), Ok(Duration::from_millis(700)));
    }

    #[test]
    fn what_is_done_twice_or_forgotten_is_told() {
        let check = |heard: &[&str], report: &str, why: &str| {
            let judged = judged(heard, report);
            assert!(judged.as_ref().is_err_and(|told| told.contains(why)), "{judged:?}");
        };
        check(&HEARD, &REPORT.replace("count: 1", "count: 2"), "count");
        check(&HEARD, &REPORT.replace("last: a", "last: b"), "last");
        check(&HEARD, &format!("{REPORT}failed: INFO 408\n"), "what failed");
        check(&HEARD[1..], REPORT, "what was told");
        check(&[&HEARD[..], &HEARD[..1]].concat(), REPORT, "what was told");
        check(&[&HEARD[..], &HEARD[1..2]].concat(), REPORT, "told twice");
        check(&[&HEARD[..1], &HEARD[2..]].concat(), REPORT, "not told");
        check(&HEARD, &REPORT.replace("fired: beat due=500 now=1200\n", ""), "not noted");
        let again = HEARD[3].replace("now=1501", "now=1502");
        check(&[&HEARD[..], &[&again]].concat(), REPORT, "twice in a period");
        let early = HEARD.map(|line| line.replace("now=1501", "now=1499"));
        let report = REPORT.replace("now=1501", "now=1499");
        check(&early.each_ref().map(String::as_str), &report, "early");
    }
}
