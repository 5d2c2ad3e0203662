//! `outlast user …` and `outlast identity …`.

use testbed::node::outlast_in;

use crate::command::{done, done_json, refused};
use crate::{directory, node};

#[test]
fn accounts_are_kept_with_the_node_up_or_down() {
    let node = node();
    done(node.directory(), &["user", "add", "alice@example.com", "--password-stdin"], "secret\n");
    let directory = node.stop();
    let path = directory.path();
    done(path, &["user", "add", "bob@example.com", "--password-stdin"], "secret\n");
    let error = refused(path, &["user", "add", "bob@example.com", "--password-stdin"], "x\n", 1);
    assert!(error.contains("exists already"), "{error}");
    let list = done_json(path, &["user", "list", "--json"]);
    let names: Vec<_> =
        list.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["alice@example.com", "bob@example.com"]);
    done(path, &["user", "passwd", "bob@example.com", "--password-stdin"], "other\n");
    done(path, &["identity", "add", "bob@example.com", "sales@example.com"], "");
    assert!(done(path, &["user", "show", "bob@example.com"], "").contains("sip:sales@example.com"));
    done(path, &["identity", "remove", "bob@example.com", "sales@example.com"], "");
    assert!(!done(path, &["user", "show", "bob@example.com"], "").contains("sales"));
    done(path, &["user", "remove", "bob@example.com"], "");
    refused(path, &["user", "show", "bob@example.com"], "", 1);
    let foreign =
        outlast_in(path, &["user", "add", "eve@example.org", "--password-stdin"], b"secret\n");
    let remark = String::from_utf8(foreign.stderr).unwrap();
    assert!(foreign.status.success() && remark.contains("registrar.domains"), "{remark}");
    refused(path, &["user", "add", "carol@example.com", "--password-stdin"], "", 1);
    refused(path, &["user", "add", "carol", "--password-stdin"], "secret", 1);
    let role = ["user", "add", "carol@example.com", "--password-stdin", "--role", "two words"];
    assert!(refused(path, &role, "secret", 2).contains("two words"));
}

#[test]
fn accounts_may_come_before_the_first_run_and_show_no_password() {
    let directory = directory();
    let path = directory.path();
    done(path, &["user", "add", "alice@example.com", "--password-stdin"], "correct-horse");
    assert!(done(path, &["user", "list"], "").contains("alice@example.com"));
    done(path, &["identity", "add", "alice@example.com", "sip:sales@example.com"], "");
    let show = done(path, &["user", "show", "alice@example.com"], "");
    assert!(show.contains("sip:sales@example.com") && !show.contains("correct-horse"), "{show}");
    done(path, &["identity", "remove", "alice@example.com", "sip:sales@example.com"], "");
    let show = done(path, &["user", "show", "alice@example.com"], "");
    assert!(!show.contains("sales"), "{show}");
}
