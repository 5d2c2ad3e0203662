//! Commands without a node behind them.

use crate::command::{done, refused};
use crate::directory;

#[test]
fn a_node_that_is_down_is_said_to_be_down() {
    let down = directory();
    for command in [["status"].as_slice(), &["stop", "edge1"]] {
        let error = refused(down.path(), command, "", 69);
        let next = format!("outlast up --dir {}", down.path().display());
        assert!(error.contains(&next), "{error}");
    }
    let missing = directory().path().join("missing");
    for command in [["user", "list"], ["config", "check"]] {
        let error = refused(&missing, &command, "", 1);
        assert!(error.contains("there is no node at"), "{error}");
        assert!(!missing.exists());
    }
    let error = refused(down.path(), &["config", "check"], "", 1);
    assert!(error.contains("the first `outlast up` writes one"), "{error}");
}

#[test]
fn help_documents_the_exit_codes() {
    let help = done(directory().path(), &["--help"], "");
    assert!(help.contains("64  the configuration is refused"), "{help}");
    assert!(!help.contains("process  "), "hidden commands stay hidden");
}
