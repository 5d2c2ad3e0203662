//! A lab ends with its test, however that ends, and takes all processes with it that were started in there.

use std::panic::catch_unwind;
use std::process::{Command, Stdio};
use std::time::Duration;

use testbed::lab::{self, Lab};
use testbed::wait;

const LIMIT: Duration = Duration::from_secs(60);
/// Set for the test that is killed.
const KILLED: &str = "OUTLAST_LAB_KILLED";

/// Command lines of all that runs in the lab of this test, which test process `outer` began.
fn left_of(test: &str, outer: u32) -> Vec<String> {
    let marked = format!("OUTLAST_LAB=lab::life::{test} {outer}");
    let processes = std::fs::read_dir("/proc").expect("a Linux system").flatten();
    let of_lab = processes.filter(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        environment.split(|octet| *octet == 0).any(|variable| variable == marked.as_bytes())
    });
    let lines = of_lab.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

fn nothing_is_left_of(test: &str, outer: u32) {
    wait::until("the end of all that the lab started", LIMIT, || {
        let left = left_of(test, outer);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Starts two processes on a host, one of them nobody's child, that end by themselves when it is too late.
fn start_sleepers(lab: &Lab) {
    let host = lab.host("a");
    let mut shell = Command::new("sh");
    shell.args(["-c", "sleep 1000 & (sleep 1000 &)"]);
    assert!(host.enter(|| shell.status()).expect("a shell").success());
    wait::until("two processes on the host", LIMIT, || match host.pids() {
        pids if pids.len() == 2 => Ok(()),
        pids => Err(pids),
    });
}

fn stand_still() -> ! {
    loop {
        std::thread::park();
    }
}

#[test]
fn a_test_that_passes_leaves_nothing() {
    lab::run(&["a"], |lab| {
        start_sleepers(lab);
        assert!(lab.host("a").enter(|| lab.host("a").pids()).len() == 2, "the test is not one");
    });
    nothing_is_left_of("a_test_that_passes_leaves_nothing", std::process::id());
}

#[test]
fn a_test_that_panics_fails_with_what_it_said_and_leaves_nothing() {
    let failed = catch_unwind(|| {
        lab::run(&["a"], |lab| {
            start_sleepers(lab);
            panic!("on purpose");
        });
    });
    let Err(told) = failed else { return lab_was_skipped() };
    let told = told.downcast::<String>().expect("a text");
    assert!(told.contains("on purpose"), "{told}");
    let test = "a_test_that_panics_fails_with_what_it_said_and_leaves_nothing";
    nothing_is_left_of(test, std::process::id());
}

#[test]
fn a_test_that_takes_too_long_is_ended_and_leaves_nothing() {
    let failed = catch_unwind(|| {
        lab::run_within(Duration::from_secs(3), &["a"], |lab| {
            start_sleepers(lab);
            stand_still();
        });
    });
    let Err(told) = failed else { return lab_was_skipped() };
    let told = told.downcast::<String>().expect("a text");
    assert!(told.contains("still running after 3s"), "{told}");
    let test = "a_test_that_takes_too_long_is_ended_and_leaves_nothing";
    nothing_is_left_of(test, std::process::id());
}

#[test]
fn a_test_that_is_killed_leaves_nothing() {
    let test = "a_test_that_is_killed_leaves_nothing";
    if std::env::var_os(KILLED).is_some() {
        return lab::run(&["a"], |lab| {
            start_sleepers(lab);
            stand_still();
        });
    }
    let this_test = std::env::current_exe().expect("a running test has a path");
    let mut killed = Command::new(this_test)
        .args([&format!("lab::life::{test}"), "--exact", "--nocapture"])
        .env(KILLED, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test starts again");
    let began = wait::at_most(LIMIT, || {
        let running = left_of(test, killed.id());
        let sleepers = running.iter().filter(|line| line.starts_with("sleep ")).count();
        // Ended by itself: no lab can be made here.
        let has_ended = killed.try_wait().expect("our child").is_some();
        if sleepers == 2 || has_ended { Ok(sleepers) } else { Err(running) }
    });
    killed.kill().expect("our child");
    killed.wait().expect("our child");
    match began {
        Ok(0) => lab_was_skipped(),
        Ok(_) => nothing_is_left_of(test, killed.id()),
        Err(running) => panic!("never began to wait: {running:?}"),
    }
}

/// Nothing fails in a lab that was not made.
fn lab_was_skipped() {
    assert!(!lab::is_possible(), "nothing failed in the lab");
}
