//! What a process is doing at the moment it is killed for its silence. Whoever reads the log learns whether it was stopped,
//! waited for a disk, had no processor, or was busy.

use std::fs;
use std::path::Path;

/// Threads that sleep say nothing, and of the others these are enough.
const THREADS_MAX: usize = 4;

/// Of the first thread, and of those others that do not merely sleep: state, and what they wait for in the kernel, if it tells.
pub(crate) fn last_sight(pid: u32) -> String {
    let of_process = Path::new("/proc").join(pid.to_string());
    let threads = fs::read_dir(of_process.join("task")).into_iter().flatten().flatten();
    let seen = threads.filter_map(|thread| {
        let is_first = thread.file_name().to_str() == Some(pid.to_string().as_str());
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        let wchan = fs::read_to_string(thread.path().join("wchan")).unwrap_or_default();
        let (name, state) = parse(&stat)?;
        (is_first || state != "sleeps").then(|| sentence(name, state, &wchan))
    });
    let seen: Vec<String> = seen.take(THREADS_MAX).collect();
    if seen.is_empty() { "it has gone".to_owned() } else { seen.join(", ") }
}

/// Name and state of a line of `/proc/PID/task/TID/stat`: `PID (NAME) STATE …`. The name may hold anything.
fn parse(stat: &str) -> Option<(&str, &'static str)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let state = match after.split_ascii_whitespace().next()? {
        "R" => "runs or waits for a processor",
        "S" | "I" => "sleeps",
        "D" => "waits for a device",
        "T" | "t" => "is stopped",
        _ => "has ended",
    };
    Some((name, state))
}

fn sentence(name: &str, state: &str, wchan: &str) -> String {
    match wchan.trim() {
        "" | "0" => format!("{name} {state}"),
        place => format!("{name} {state} ({place})"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_told_in_words_whatever_the_name_holds() {
        assert_eq!(parse("17 (a) b (c) D 1 1").unwrap(), ("a) b (c", "waits for a device"));
        assert_eq!(parse("17 (outlast) T 1").unwrap(), ("outlast", "is stopped"));
        assert_eq!(parse("17 outlast"), None);
        assert_eq!(sentence("outlast", "sleeps", "0\n"), "outlast sleeps");
        assert_eq!(sentence("outlast", "sleeps", "ep_poll"), "outlast sleeps (ep_poll)");
    }

    #[test]
    fn this_test_runs_and_who_has_gone_has_gone() {
        assert!(last_sight(std::process::id()).contains(' '));
        assert_eq!(last_sight(u32::MAX), "it has gone");
    }
}
