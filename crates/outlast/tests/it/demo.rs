//! `outlast demo`, the first thing that anybody runs: nothing is lost, nothing stays behind.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testbed::{binary, wait};

/// What the issue of the demo allows; a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

fn start(temporary: &Path, arguments: &[&str]) -> Child {
    Command::new(binary::outlast())
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Processes whose command line names something in that directory.
fn processes_in(directory: &Path) -> Vec<String> {
    let wanted = directory.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let command_lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    command_lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(wanted))
        .collect()
}

fn assert_nothing_is_left(temporary: &Path, output: &Output) {
    assert_eq!(processes_in(temporary), Vec::<String>::new(), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(temporary).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}: {output:?}");
}

#[test]
fn the_demo_loses_nothing_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let output = start(temporary.path(), &["--json"]).wait_with_output().unwrap();
    let took = began.elapsed();
    assert!(output.status.success(), "{output:?}");
    assert!(took < LIMIT, "{took:?}: {output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    let ways = "calls up: direct, by the native agent, by the WebAssembly agent in turn";
    assert!(told.contains(ways), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["survived"], true);
    assert_eq!(report["losses"], serde_json::json!([]));
    let faults = report["faults"].as_array().unwrap();
    let of =
        |key: &str| faults.iter().map(|fault| fault[key].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("fault"), ["kill -9", "kill -STOP", "kill -9"]);
    let [killed, stopped, edge] = of("process")[..] else { panic!("{report}") };
    assert!(killed.starts_with("container") && stopped.starts_with("container"), "{report}");
    assert!(killed != stopped && edge == "edge1", "{report}");
    let afterwards: Vec<(u64, u64)> = report["afterwards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|count| (count["survived"].as_u64().unwrap(), count["of"].as_u64().unwrap()))
        .collect();
    assert_eq!(afterwards, [(60, 60), (120, 120), (60, 60)]);
    let [upgraded, taken_back] = &report["upgrades"].as_array().unwrap()[..] else {
        panic!("{report}")
    };
    assert_eq!((&upgraded["version"], &upgraded["taken_back"]), (&"1.1.0".into(), &false.into()));
    assert_eq!((&upgraded["refused"], survived(upgraded, "calls up")), (&0.into(), 50));
    assert!(survived(upgraded, "new calls meanwhile") > 0, "{report}");
    let by_webassembly = survived(upgraded, "calls up, still with 1.0.0");
    assert_eq!(by_webassembly, 16, "a third of the calls: {report}");
    assert_eq!(survived(upgraded, "new calls, with 1.1.0"), 5);
    assert_eq!(
        (&taken_back["version"], &taken_back["taken_back"]),
        (&"1.2.0".into(), &true.into())
    );
    assert!(taken_back["refused"].as_u64().unwrap() > 0, "it fell over: {report}");
    assert_eq!(survived(taken_back, "calls up"), 55);
    assert_eq!(survived(taken_back, "calls up, each with its version"), by_webassembly + 5);
    assert_eq!(survived(taken_back, "new calls, with 1.1.0"), 5);
    assert_nothing_is_left(temporary.path(), &output);
}

/// How many of these survived.
fn survived(upgrade: &serde_json::Value, what: &str) -> u64 {
    let counts = upgrade["counts"].as_array().unwrap();
    let count = counts.iter().find(|count| count["what"] == what);
    count.unwrap_or_else(|| panic!("{what}: {upgrade}"))["survived"].as_u64().unwrap()
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    // Ctrl-C, and a terminal that is closed.
    for signal in [Signal::INT, Signal::HUP] {
        let temporary = tempfile::tempdir().unwrap();
        let demo = start(temporary.path(), &[]);
        wait::until("the node of the demo", Duration::from_secs(20), || {
            match processes_in(temporary.path()).len() {
                count if count >= 3 => Ok(()),
                count => Err(count),
            }
        });
        kill_process(Pid::from_child(&demo), signal).unwrap();
        let output = demo.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{signal:?}: {output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("interrupted"), "{signal:?}: {output:?}");
        assert_nothing_is_left(temporary.path(), &output);
    }
}

#[test]
fn the_node_of_a_killed_demo_ends_by_itself() {
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = start(temporary.path(), &[]);
    wait::until("the node of the demo", Duration::from_secs(20), || {
        // Guardian, manager, two containers and an edge.
        match processes_in(temporary.path()).len() {
            count if count >= 5 => Ok(()),
            count => Err(count),
        }
    });
    demo.kill().unwrap();
    demo.wait().unwrap();
    wait::until("the end of its node", LIMIT, || match processes_in(temporary.path()) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn the_demo_takes_no_directory_that_is_in_use() {
    let temporary = tempfile::tempdir().unwrap();
    let used = temporary.path().join("used");
    std::fs::create_dir(&used).unwrap();
    std::fs::write(used.join("outlast.toml"), "").unwrap();
    let arguments = ["--dir", used.to_str().unwrap()];
    let output = start(temporary.path(), &arguments).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("name a new directory with --dir"), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(std::fs::read_dir(&used).unwrap().count(), 1, "left as it was");
}
