//! `outlast.toml`: written by the first run, used by the later ones, refused with all its errors.

use testbed::node::{Node, NodeOptions};

use crate::command::{done, refused};
use crate::{directory, node};

#[test]
fn the_first_run_writes_a_configuration_that_passes_its_own_check() {
    let directory = node().stop();
    let written = std::fs::read_to_string(directory.path().join("outlast.toml")).unwrap();
    assert!(written.contains("domains = [\"example.com\"]"), "{written}");
    assert!(written.contains("listen = [\"127.0.0.1:0\"]"), "{written}");
    done(directory.path(), &["config", "check"], "");
}

#[test]
fn a_later_run_uses_the_file_and_flags_override_it_for_that_run_only() {
    let directory = node().stop();
    let file = directory.path().join("outlast.toml");
    let written = std::fs::read_to_string(&file).unwrap();
    let flags = NodeOptions::arguments(&["--sip", "udp:127.0.0.1:0", "--domain", "example.org"]);
    let node = Node::start_in(directory, &flags);
    assert!(!node.ready_line().contains("tcp:"), "{}", node.ready_line());
    let log = node.log();
    assert!(log.contains("--sip overrides") && log.contains("--domain overrides"), "{log}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    node.stop();
}

#[test]
fn a_refused_configuration_is_told_line_by_line() {
    let directory = directory();
    let text = "[registrar]\nauthenticate = 1\n\n[edge]\nnat_travresal = true\n\n\
                [heartbeat]\ninterval = \"soon\"\n";
    std::fs::write(directory.path().join("outlast.toml"), text).unwrap();
    for arguments in [["config", "check"].as_slice(), ["up"].as_slice()] {
        let error = refused(directory.path(), arguments, "", 64);
        for expected in [
            "outlast.toml:2 registrar.authenticate: 1 needs true or false, for example true",
            "outlast.toml:5 edge.nat_travresal: unknown; did you mean nat_traversal?",
            "outlast.toml:8 heartbeat.interval: \"soon\"",
        ] {
            assert!(error.contains(expected), "{expected} is missing in: {error}");
        }
    }
    std::fs::write(directory.path().join("outlast.toml"), "").unwrap();
    assert!(done(directory.path(), &["config", "check"], "").contains("ok"));
}
