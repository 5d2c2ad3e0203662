//! What processes cost: CPU time and memory, as the system accounts for them.
//!
//! CPU is the process's own clock (`clock_getcpuclockid(3)`): user and system time of all its threads, those that
//! ended included, in nanoseconds, where `/proc/PID/stat` has it in hundredths of a second. Memory is
//! `/proc/PID/status` (resident, anonymous) and `smaps_rollup` (where pages that processes share are counted once).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_getres, clock_gettime};
use nix::unistd::Pid;

/// What a set of processes has used, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time since they started.
    pub(crate) cpu: Duration,
    /// Resident memory; pages that several of them share count for each.
    pub(crate) rss_bytes: u64,
    /// Resident memory that is no file's and nobody else's.
    pub(crate) anonymous_bytes: u64,
    /// Resident memory, shared pages shared out; 0 where the system does not tell.
    pub(crate) proportional_bytes: u64,
    /// Processes that are gone: what they used is missing.
    pub(crate) gone: usize,
}

/// CPU time of a process since it started.
pub(crate) fn cpu_time(pid: i32) -> io::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid))?;
    let time = clock_gettime(clock)?;
    Ok(Duration::from(time))
}

/// Whether there is a process of this id. Its clock would not tell: a great id names another process's clock.
pub(crate) fn is_alive(pid: i32) -> bool {
    // A zombie has a clock, but no memory: its end is what is told.
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("VmRSS:"))
}

/// The finest step of a process's clock, in nanoseconds; 0 where the system does not tell.
pub(crate) fn cpu_resolution_ns() -> u64 {
    let step = clock_getcpuclockid(Pid::this()).and_then(clock_getres);
    step.map_or(0, |step| Duration::from(step).as_nanos() as u64)
}

/// The CPU time that these processes have used so far, and nothing else: reading memory holds them up.
pub(crate) fn cpu_usage(pids: &[i32]) -> Usage {
    let times = pids.iter().filter(|pid| is_alive(**pid)).filter_map(|pid| cpu_time(*pid).ok());
    times.fold(Usage { gone: pids.len(), ..Usage::default() }, |usage, cpu| Usage {
        cpu: usage.cpu + cpu,
        gone: usage.gone - 1,
        ..usage
    })
}

/// What these processes have used so far; their CPU time is read before anything else.
pub(crate) fn usage(pids: &[i32]) -> Usage {
    let mut usage = cpu_usage(pids);
    for &pid in pids {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status = read("status");
        usage.rss_bytes += kilobytes(&status, "VmRSS:");
        usage.anonymous_bytes += kilobytes(&status, "RssAnon:");
        usage.proportional_bytes += kilobytes(&read("smaps_rollup"), "Pss:");
    }
    usage
}

/// The value of a line `NAME  123 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// These processes and all that descend from them and live.
pub(crate) fn with_descendants(pids: &[i32]) -> Vec<i32> {
    let parents = parents();
    let mut found: BTreeSet<i32> = pids.iter().copied().collect();
    loop {
        let before = found.len();
        let children = parents.iter().filter(|(_, parent)| found.contains(parent));
        let children: Vec<i32> = children.map(|(child, _)| *child).collect();
        found.extend(children);
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}

/// Every process with its parent.
fn parents() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parent(&stat)?))
    })
    .collect()
}

/// The fourth field of `/proc/PID/stat`. The second, the name, may hold anything: what follows its last bracket is
/// counted.
fn parent(stat: &str) -> Option<i32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn status_lines_are_read() {
        let status = "Name:\tVmRSS: 1 kB\nVmRSS:\t    1234 kB\nRssAnon:\t 12 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), 1234 * 1024);
        assert_eq!((kilobytes(status, "RssAnon:"), kilobytes(status, "Pss:")), (12 * 1024, 0));
    }

    #[test]
    fn a_process_name_may_hold_brackets() {
        assert_eq!(parent("12 (a) b 3) S 7 12 12 0"), Some(7));
        assert_eq!(parent("nonsense"), None);
    }

    #[test]
    fn cpu_time_is_what_was_burnt() {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        // The system ends it after one second of CPU time, however long that takes.
        let script = "ulimit -t 1; while :; do :; done";
        let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // It has ended, and nobody has asked how: its clock is still there.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_raw(pid).unwrap()), options).unwrap();
        let (burnt, is_still_alive) = (cpu_time(pid), is_alive(pid));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        child.wait().unwrap();
        assert!(!is_still_alive, "what has ended is told, and not counted as if it lived");
        let burnt = burnt.unwrap().as_secs_f64();
        // The limit is watched by ticks, which miss a part of what the clock counts.
        assert!((0.7..1.5).contains(&burnt), "{burnt} s");
        // The system's other account of it, in hundredths of a second: user and system time.
        let fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace();
        let ticks: f64 = fields.skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum();
        assert!((ticks / 100.0 - burnt).abs() < 0.03, "{burnt} s, {ticks} ticks");
    }

    #[test]
    fn our_own_usage_is_found_and_a_process_that_is_gone_is_told() {
        let own = i32::try_from(std::process::id()).unwrap();
        let used = usage(&[own]);
        assert!(used.cpu > Duration::ZERO && used.gone == 0, "{used:?}");
        assert!((1..=1_000).contains(&cpu_resolution_ns()), "{} ns", cpu_resolution_ns());
        assert!(used.rss_bytes >= used.anonymous_bytes && used.anonymous_bytes > 0, "{used:?}");
        assert!(used.proportional_bytes > 0, "{used:?}");
        // No process has the greatest id that there may be.
        assert!(is_alive(own) && !is_alive(i32::MAX));
        assert_eq!(usage(&[i32::MAX]), Usage { gone: 1, ..Usage::default() });
    }
}
