//! What the figures were made on and with: without it a figure says nothing.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Where and how a piece was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The command.
    pub command: String,
    /// When, as RFC 3339 has it.
    pub at: String,
    /// The commit, with `+` behind it when the working copy differed from it.
    pub commit: String,
    /// Processor's name, of all cores alike.
    pub processor: String,
    /// Cores.
    pub cores: usize,
    /// Octets of memory.
    pub memory_bytes: u64,
    /// Kernel's name and release.
    pub kernel: String,
    /// `rustc --version`.
    pub rustc: String,
    /// `kamailio -v`, its first line.
    pub kamailio: String,
    /// How this build differs from the release profile; empty when it does not.
    #[serde(default)]
    pub profile: String,
}

/// What cargo was told of the profile by its environment. Bench and servers are built together, so it is theirs too.
const PROFILE: [(&str, Option<&str>); 2] = [
    ("lto", option_env!("CARGO_PROFILE_RELEASE_LTO")),
    ("codegen-units", option_env!("CARGO_PROFILE_RELEASE_CODEGEN_UNITS")),
];

impl Made {
    /// Here and now.
    pub fn here(command: &str, repository: &Path) -> Made {
        let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let git = |arguments: &[&str]| {
            let directory = repository.display().to_string();
            first_line(Command::new("git").args(["-C", &directory]).args(arguments))
        };
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(unknown);
        let version = first_line(Command::new("kamailio").arg("-v")).unwrap_or_else(unknown);
        Made {
            command: command.to_owned(),
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: if changed { commit + "+" } else { commit },
            processor: field(&processors, "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: field(&memory, "MemTotal").map_or(0, |text| kilobytes(&text)),
            kernel: first_line(Command::new("uname").arg("-sr")).unwrap_or_else(unknown),
            rustc: first_line(Command::new("rustc").arg("--version")).unwrap_or_else(unknown),
            kamailio: version.trim_start_matches("version: ").trim().to_owned(),
            profile: differing(PROFILE),
        }
    }
}

fn differing<const N: usize>(settings: [(&str, Option<&str>); N]) -> String {
    let told = settings.iter().filter_map(|(name, value)| Some(format!("{name} = {}", (*value)?)));
    told.collect::<Vec<_>>().join(", ")
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let line = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

/// The value of `name   : value` in a text of such lines.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn kilobytes(text: &str) -> u64 {
    let number = text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_named_where_it_is_not_the_usual_one() {
        assert_eq!(differing([("lto", Some("off")), ("codegen-units", None)]), "lto = off");
        assert_eq!(differing([("lto", None)]), "");
    }

    #[test]
    fn fields_of_proc_are_read_by_their_names() {
        let text = "processor\t: 0\nmodel name\t: A: fast one\nMemTotal:       24000 kB\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A: fast one"));
        assert_eq!(field(text, "MemTotal").map(|text| kilobytes(&text)), Some(24_576_000));
        assert_eq!(field(text, "absent"), None);
    }
}
