//! Runs a test again, alone, inside namespaces of its own, and gives on what it wrote and how it ended.
//!
//! Whoever waits outside is `setpriv` for `unshare`, `unshare` for a shell that is process 1 inside, and that for the
//! test. Each of the first dies with whoever started it, and with process 1 the kernel ends all that is inside:
//! nothing is left behind, however the test ends. The shell, not the test, is process 1, because that one
//! has to wait for every orphan.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{binary, wait};

/// Tells the test inside that it is there: its name, and the process id of the test outside. All processes inside have it,
/// and nobody else.
const INSIDE: &str = "OUTLAST_LAB";
/// What process 1 does: files of the lab end with it, and so do the names of network namespaces.
const FIRST_PROCESS: &str =
    "mount -t tmpfs lab /run && mkdir /run/netns /run/tmp && \"$@\"; exit $?";
/// Where `ip` and `nft` are, which only root has on his path.
const FOR_ROOT: &str = "/usr/sbin:/sbin";
/// Programs, and the Debian packages that they come with.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
];

/// The name by which the test runner knows the test that `B` is the closure of.
pub(super) fn name_of_test<B>() -> String {
    let name = std::any::type_name::<B>();
    // crate::module::test::{{closure}}
    let path = name.split_once("::").map_or(name, |(_, path)| path);
    path.trim_end_matches("::{{closure}}").to_owned()
}

/// Whether this is the process that was started for this test inside of a lab.
pub(super) fn is_inside(test: &str) -> bool {
    std::env::var(INSIDE).is_ok_and(|inside| inside.split(' ').next() == Some(test))
}

/// Does the work that is to be done inside, and ends the process: what the test does behind it is done outside.
pub(super) fn end_with(work: impl FnOnce()) -> ! {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    std::process::exit(if done.is_ok() { 0 } else { 101 });
}

/// The line without which a test has not run at all.
pub(super) fn say_that_it_is_up(test: &str) {
    eprintln!("{}", up(test));
}

fn up(test: &str) -> String {
    format!("the lab of {test} is up")
}

/// Runs this test inside and gives on what becomes of it.
pub(super) fn again_inside(test: &str, limit: Duration) {
    if let Err(missing) = possible() {
        assert!(std::env::var_os("CI").is_none(), "no lab can be made here: {missing}");
        return eprintln!("skipped {test}: no lab can be made here: {missing}");
    }
    let mut written = tempfile::tempfile().expect("a temporary file");
    let mut lab = Inside(start(test, &written));
    let ended = wait::at_most(limit, || match lab.0.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(other),
    });
    let ended = ended.map_err(|_| format!("still running after {limit:?}"));
    drop(lab);
    let output = all_of(&mut written);
    let is_up = output.contains(&up(test));
    match ended {
        Ok(status) if status.success() && is_up => eprintln!("{output}"),
        Ok(status) if status.success() => panic!("{test} did not run in its lab:\n{output}"),
        other => {
            let kept = keep(test, &output);
            panic!("{test} in its lab: {other:?}; all it wrote is in {}\n{output}", kept.display())
        }
    }
}

/// Keeps what a test wrote that failed, beside the builds of this profile: whoever shows how tests ended may show a part of it
/// only.
fn keep(test: &str, output: &str) -> PathBuf {
    let this_test = std::env::current_exe().expect("a running test has a path");
    let directory = this_test.ancestors().nth(2).expect("it is in deps").join("failed-labs");
    let path = directory.join(format!("{}.log", test.replace("::", ".")));
    let written = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, output));
    if let Err(error) = written {
        eprintln!("{}: {error}", path.display());
    }
    path
}

/// The outermost process; everything inside ends with it.
struct Inside(Child);

impl Drop for Inside {
    fn drop(&mut self) {
        // It has ended, or it is too late or the test panicked: all that is inside is to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(test: &str, written: &File) -> Child {
    let this_test = std::env::current_exe().expect("a running test has a path");
    let output = || Stdio::from(written.try_clone().expect("a descriptor is left"));
    Command::new("setpriv")
        // Of this thread: it waits until all is over.
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--mount-proc"])
        .args(["--fork", "--kill-child", "sh", "-c", FIRST_PROCESS, "lab"])
        .arg(this_test)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, format!("{test} {}", std::process::id()))
        .env("PATH", path())
        .env("TMPDIR", "/run/tmp")
        // Nobody builds inside.
        .env("OUTLAST_BINARY", binary::outlast())
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .spawn()
        .expect("setpriv starts")
}

fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:{FOR_ROOT}")
}

fn all_of(written: &mut File) -> String {
    let mut output = Vec::new();
    written.rewind().and_then(|()| written.read_to_end(&mut output)).expect("our own file");
    String::from_utf8_lossy(&output).into_owned()
}

/// Whether this machine lets us; else what is missing.
pub(super) fn possible() -> Result<(), String> {
    let path = path();
    let is_there = |program| path.split(':').any(|bin| Path::new(bin).join(program).exists());
    let missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(program, package)| format!("{program} (Debian package {package})"))
        .collect();
    if !missing.is_empty() {
        return Err(format!("install {}", missing.join(", ")));
    }
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "true"])
        .env("PATH", &path)
        .output()
        .expect("unshare starts");
    if tried.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    Err(format!(
        "user namespaces are closed to us ({}): ask for kernel.unprivileged_userns_clone=1, \
         user.max_user_namespaces above 0, and kernel.apparmor_restrict_unprivileged_userns=0",
        said.trim()
    ))
}
