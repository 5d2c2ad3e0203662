//! The rules of the house, over the workspace's metadata and its sources.
//!
//! | rule | why |
//! |---|---|
//! | who may depend on whom | a message walks through the crates without turning back |
//! | an engine is named in one crate | an engine can be exchanged |
//! | no default feature has faults in it | a release does not misbehave when asked to |
//! | decision files name no socket, runtime or clock | they run in virtual time, and in a simulator |
//! | no lock stands on an edge's way | a worker waits for nobody; cores do not slow each other down |
//! | every file says at its head what it is | a stranger finds the room |
//! | the conformance list names tests that exist | a renamed test does not leave a promise without proof |
//! | no grab-bags, no overlong files | a file holds one idea |

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file that is longer holds two ideas.
const FILE_LINES_MAX: usize = 700;

/// What a crate may use of ours; a crate that is not here is new and needs its line.
const ALLOWED: &[(&str, &[&str])] = &[
    ("sip", &[]),
    ("transport", &["sip"]),
    ("topology", &[]),
    ("state", &[]),
    ("config", &[]),
    ("repository", &["state"]),
    ("edge", &["sip", "transport", "topology"]),
    ("container", &["sip", "transport", "topology", "state"]),
    ("registrar", &["sip", "container", "state", "topology", "transport"]),
    ("guest", &["sip", "container", "state", "config"]),
    ("manager", &["config", "topology", "transport", "state", "repository"]),
    ("phone", &["sip"]),
    ("demo", &["sip", "container", "phone", "topology"]),
    (
        "simulator",
        &[
            "sip",
            "transport",
            "topology",
            "state",
            "edge",
            "container",
            "registrar",
            "manager",
            "demo",
        ],
    ),
    ("load", &["sip", "transport"]),
    ("testbed", &["sip"]),
    ("bench", &["sip", "transport", "topology", "state", "edge", "container", "registrar"]),
    (
        "outlast",
        &[
            "sip",
            "transport",
            "topology",
            "state",
            "config",
            "edge",
            "container",
            "guest",
            "registrar",
            "manager",
            "repository",
            "demo",
        ],
    ),
];

/// Engine crates and who may name each: one crate; of HTTP the one that serves it and the one that asks etcd by it.
const ENGINES: &[(&str, &[&str])] = &[
    ("heed", &["state"]),
    ("wasmtime", &["guest"]),
    ("wasmtime-wasi", &["guest"]),
    ("wasmtime-wasi-http", &["guest"]),
    ("hyper-util", &["container", "repository"]),
    ("chitchat", &["topology"]),
    ("rcgen", &["topology"]),
];

/// Files whose decisions must be pure; a directory stands for all its files.
const DECISIONS: &[&str] = &[
    "sip/src",
    "edge/src/forward.rs",
    "edge/src/forward",
    "edge/src/route.rs",
    "edge/src/branch.rs",
    "container/src/http_port/cookie.rs",
    "container/src/http_port/hops.rs",
    "container/src/http_port/routing.rs",
    "container/src/proxy",
    "container/src/session",
    "container/src/transactions",
    "demo/src/back_to_back.rs",
    "demo/src/back_to_back",
    "demo/src/report.rs",
    "guest/src/budget.rs",
    "guest/src/overlay",
    "guest/src/services/stored/usage.rs",
    "registrar/src/bindings.rs",
    "registrar/src/bindings",
    "registrar/src/authentication.rs",
    "topology/src/choice.rs",
    "topology/src/cluster_view.rs",
    "topology/src/gossip/clock_offset.rs",
    "topology/src/gossip/hearing.rs",
    "topology/src/gossip/published.rs",
    "topology/src/gossip/replays.rs",
    "topology/src/gossip/sealing.rs",
    "topology/src/gossip/word.rs",
    "topology/src/node.rs",
    "topology/src/routing_table.rs",
    "topology/src/routing_table",
    "topology/src/token.rs",
    "load/src/scenario.rs",
    "load/src/scenario",
    "load/src/generator.rs",
    "load/src/transactions.rs",
    "load/src/pace.rs",
    "load/src/statistics.rs",
    "load/src/dialog.rs",
    "load/src/phones.rs",
    "manager/src/cluster.rs",
    "manager/src/cluster",
    "manager/src/deployment",
    "manager/src/guardian.rs",
    "manager/src/guardian",
    "manager/src/restart.rs",
    "repository/src/seats.rs",
    "repository/src/store/layout.rs",
    "repository/src/store/plan.rs",
    "repository/src/store/position.rs",
    "manager/src/process_table.rs",
    "manager/src/process_table",
    "manager/src/repository.rs",
    "manager/src/repository",
    "manager/src/stores.rs",
    "manager/src/stores",
];

/// What a decision may not name.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "tokio::",
    "mio::",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "getrandom",
    "std::fs::",
];

/// What a message passes between the sockets of an edge and its links; a directory stands for all its files.
const EDGES_WAY: &[&str] = &[
    "sip/src",
    "transport/src",
    "edge/src",
    "topology/src/choice.rs",
    "topology/src/keys.rs",
    "topology/src/routing_table.rs",
    "topology/src/routing_table",
    "topology/src/token.rs",
    "topology/src/view.rs",
];

/// Beside that way: what is told once, at the start, and what is found out about containers.
const BESIDE_EDGES_WAY: &[&str] = &["edge/src/server/findings.rs", "edge/src/server/opening.rs"];

/// What may make a thread wait for another one.
const LOCKS: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "Barrier",
    "OnceLock",
    "LazyLock",
    "OnceCell",
    "parking_lot",
    "tokio::sync",
    ".lock(",
];

/// Names that say nothing about what is inside.
const GRAB_BAGS: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "types", "misc", "shared"];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust source of the crates' `src` directories.
fn sources() -> Vec<PathBuf> {
    rust_files("src")
}

/// Every Rust file below one folder of each crate; "" is the whole crate.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(crates()).unwrap().flatten() {
        walk(&entry.path().join(folder), &mut found);
    }
    assert!(found.len() > 50, "the sources are where this test looks for them");
    found
}

/// A test module, whose head is the file that it tests.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
}

fn named(path: &Path) -> String {
    path.strip_prefix(crates()).unwrap().display().to_string()
}

/// The members of the workspace as cargo describes them.
fn packages() -> Vec<serde_json::Value> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(crates())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Normal (not dev, not build) dependencies of each member of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    packages()
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().unwrap().iter();
            let normal = normal.filter(|dependency| dependency["kind"].is_null());
            let names = normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn crates_depend_only_in_the_direction_a_call_walks() {
    let ours: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    for (package, uses) in dependencies() {
        let allowed = ours
            .get(package.as_str())
            .unwrap_or_else(|| panic!("{package} is new: write into this test what it may use"));
        for used in uses.iter().filter(|used| ours.contains_key(used.as_str())) {
            assert!(allowed.contains(&used.as_str()), "{package} may not use {used}");
        }
    }
}

#[test]
fn faults_are_built_in_for_tests_only() {
    const FAULTS: &str = "faults";
    let mut declared = 0;
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        for (feature, enables) in package["features"].as_object().unwrap() {
            declared += usize::from(feature == FAULTS);
            let enables_faults = enables
                .as_array()
                .unwrap()
                .iter()
                .any(|enabled| enabled.as_str().unwrap().rsplit('/').next() == Some(FAULTS));
            assert!(!enables_faults || feature == FAULTS, "{name}: {feature} has faults in it");
        }
        for dependency in package["dependencies"].as_array().unwrap() {
            let features = dependency["features"].as_array().unwrap();
            assert!(
                features.iter().all(|feature| feature != FAULTS),
                "{name} builds {} with faults",
                dependency["name"]
            );
        }
    }
    assert!(declared > 0, "the feature is called {FAULTS}");
}

#[test]
fn each_engine_is_named_in_one_crate() {
    for (package, uses) in dependencies() {
        for (engine, owners) in ENGINES {
            assert!(
                !uses.contains(*engine) || owners.contains(&package.as_str()),
                "{package} names {engine}: only {owners:?} may"
            );
        }
    }
}

#[test]
fn decisions_are_pure() {
    let mut decisions = 0;
    for path in sources() {
        let name = named(&path);
        let is_decision = DECISIONS
            .iter()
            .any(|decision| name == *decision || name.starts_with(&format!("{decision}/")));
        if !is_decision {
            continue;
        }
        decisions += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            // Tests and prose may name a clock; decisions may not.
            if line.trim_start().starts_with("//") {
                continue;
            }
            if line.contains("#[cfg(test)]") {
                break;
            }
            for impure in IMPURE.iter().filter(|impure| line.contains(**impure)) {
                assert!(
                    name.contains("/tests"),
                    "{name}:{}: a decision names {impure}: take it as an argument",
                    number + 1
                );
            }
        }
    }
    assert!(decisions >= DECISIONS.len() / 2, "the decision files are where this test looks");
}

#[test]
fn no_lock_stands_on_an_edges_way() {
    let is_in = |name: &str, places: &[&str]| {
        places.iter().any(|place| name == *place || name.starts_with(&format!("{place}/")))
    };
    let mut files = 0;
    for path in sources().into_iter().filter(|path| !is_test(path)) {
        let name = named(&path);
        if !is_in(&name, EDGES_WAY) || is_in(&name, BESIDE_EDGES_WAY) {
            continue;
        }
        files += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().take_while(|line| !line.contains("#[cfg(test)]")).enumerate();
        for (number, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let lock = LOCKS.iter().find(|lock| line.contains(**lock));
            assert!(
                lock.is_none(),
                "{name}:{}: {lock:?} on the way of messages: one owner per piece of state",
                number + 1
            );
        }
    }
    assert!(files > 2 * EDGES_WAY.len(), "the files are where this test looks");
}

#[test]
fn every_file_says_what_it_is() {
    for path in sources().into_iter().filter(|path| !is_test(path)) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//!"),
            "{}: begin with //! and what it turns into what",
            named(&path)
        );
    }
}

#[test]
fn no_grab_bags_and_no_overlong_files() {
    for path in sources() {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(!GRAB_BAGS.contains(&stem.as_str()), "{}: name what is inside", named(&path));
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines hold more than one idea", named(&path));
    }
}

#[test]
fn only_tests_use_testbed_and_simulator_and_nothing_uses_the_binary() {
    for (package, uses) in dependencies() {
        assert!(!uses.contains("testbed"), "{package} ships the testbed");
        assert!(!uses.contains("simulator"), "{package} ships the simulator");
        assert!(!uses.contains("outlast"), "{package} uses the binary");
    }
}

#[test]
fn unsafe_stands_only_where_architecture_lists_it() {
    let architecture =
        std::fs::read_to_string(crates().parent().unwrap().join("ARCHITECTURE.md")).unwrap();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("allow(unsafe_code)") {
            let name = format!("crates/{}", named(&path));
            assert!(
                architecture.contains(&name),
                "{name} allows unsafe: list it in ARCHITECTURE.md"
            );
        }
    }
}

#[test]
fn the_conformance_list_names_tests_that_exist() {
    let list = crates().parent().unwrap().join("docs/sip-conformance.md");
    let list = std::fs::read_to_string(list).unwrap();
    let mut functions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in rust_files("") {
        let package = named(&path).split('/').next().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let names = text.lines().filter_map(|line| {
            let name = line.trim_start().trim_start_matches("async ").strip_prefix("fn ")?;
            name.split(['(', '<']).next().map(str::to_owned)
        });
        functions.entry(package).or_default().extend(names);
    }
    let named_tests = list.split('`').skip(1).step_by(2).filter(|code| code.contains("::"));
    let mut count = 0;
    for test in named_tests {
        // Addresses and other code have no package of ours in front.
        let mut path = test.split("::");
        let Some(names) = path.next().and_then(|package| functions.get(package)) else { continue };
        let name = path.last().unwrap();
        assert!(names.contains(name), "docs/sip-conformance.md names {test}, which does not exist");
        count += 1;
    }
    assert!(count > 100, "{count} tests named: the list is not read as it is written");
}
