//! Each scenario against the server that it is for.

use serde_json::Value;
use testbed::node::{Node, NodeOptions};

use crate::outlast_load::{DOMAIN, EchoServer, PASSWORD, run};
use crate::responder::Responder;

/// A node that lets everybody register, or asks for passwords.
fn node(authenticate: &str) -> Node {
    let config = format!(
        "[registrar]\nauthenticate = {authenticate}\ndomains = [\"{DOMAIN}\"]\n\n\
         [[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.1:0\"]\n"
    );
    Node::start(&NodeOptions { config: Some(config), arguments: Vec::new() })
}

fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"))
}

/// Every operation ended well, and there were some.
fn assert_good((code, report): &(i32, Value)) {
    assert_eq!((*code, &report["lost"]), (0, &Value::from(0)), "{report}");
    assert!(number(report, "ok") > 0.0 && report["ok"] == report["operations"], "{report}");
    assert!(number(&report["latency_us"], "p50") > 0.0, "{report}");
}

#[test]
fn datagrams_come_back_from_the_echo_server_and_its_cpu_is_read() {
    let server = EchoServer::start();
    let pid = server.pid().to_string();
    let result = run("echo", server.address, &["--server-pid", &pid]);
    assert_good(&result);
    let report = result.1;
    assert!(number(&report["server"], "cpu_us_per_operation") > 0.1, "{report}");
    assert!(number(&report["server"], "rss_bytes") > 1e5, "{report}");
    // One message out and one in for each operation.
    let messages = number(&report, "messages_per_s") / number(&report, "throughput_per_s");
    assert!((1.9..2.1).contains(&messages), "{report}");
}

#[test]
fn an_open_node_is_registered_at_pinged_and_called() {
    let node = node("false");
    let target = node.sip("udp");
    let directory = node.directory().to_str().unwrap();
    assert_good(&run("options", target, &[]));
    let result = run("register", target, &["--server-node", directory]);
    assert_good(&result);
    // Guardian, manager, edge and two containers.
    assert_eq!(result.1["server"]["pids"].as_array().unwrap().len(), 5, "{}", result.1);
    assert!(number(&result.1["server"], "cpu_us_per_operation") > 1.0, "{}", result.1);
    assert_eq!(node.registrations().len(), 20);

    let result = run("storm", target, &["--contacts-per-user", "2"]);
    assert_good(&result);
    assert_eq!(result.1["operations"], 40);
    // Contacts of the runs before are gone, else calls would ring where nobody is.
    let result = run("call", target, &["--concurrency", "4"]);
    assert_good(&result);
    assert!(number(&result.1["invite_to_180_us"], "p50") > 0.0, "{}", result.1);
    assert_eq!(node.registrations().len(), 20);
}

#[test]
fn an_open_node_serves_dialogs_and_flows() {
    let node = node("false");
    let (udp, tcp) = (node.sip("udp"), node.sip("tcp"));
    assert_good(&run("dialog", udp, &["--dialogs", "5", "--concurrency", "3"]));
    assert_good(&run("dialog", udp, &["--dialogs", "5", "--rate", "40", "--method", "invite"]));
    for scenario in ["register", "call", "dialog"] {
        assert_good(&run(scenario, tcp, &["--transport", "tcp", "--concurrency", "4"]));
    }
    // More connections than a user may have contacts: a new flow takes the place of the old one.
    assert_good(&run("churn", tcp, &["--users", "2", "--concurrency", "2"]));
    let directory = node.directory().to_str().unwrap();
    let (code, report) = run("idle", tcp, &["--users", "30", "--server-node", directory]);
    assert_eq!((code, &report["ok"]), (0, &Value::from(30)), "{report}");
    assert!(report["server"]["anonymous_bytes_per_flow"].is_number(), "{report}");
}

#[test]
fn what_a_server_loses_is_sent_again_and_counted() {
    let responder = Responder::start(200, 3);
    let (code, report) = run("register", responder.address, &["--rate", "100"]);
    assert_good(&(code, report.clone()));
    assert!(number(&report, "retransmissions") > 5.0, "{report}");
    assert!(number(&report["latency_us"], "max") > 400_000.0, "{report}");
}

#[test]
fn wrong_answers_and_silence_end_with_1_and_are_counted() {
    let responder = Responder::start(403, u32::MAX);
    let (code, report) = run("register", responder.address, &["--concurrency", "1"]);
    assert_eq!((code, &report["ok"]), (1, &Value::from(0)), "{report}");
    assert_eq!(report["failed"]["403"], report["operations"], "{report}");
    let silent = Responder::start(200, 1);
    let (code, report) = run("options", silent.address, &["--rate", "50", "--drain", "300ms"]);
    assert_eq!((code, &report["lost"]), (1, &report["operations"]), "{report}");
    assert!(number(&report, "lost") > 0.0, "{report}");
}

#[test]
fn challenges_of_a_node_are_answered() {
    let node = node("true");
    let target = node.sip("udp");
    for user in 5..9 {
        node.add_user(&format!("user{user}@{DOMAIN}"), PASSWORD);
    }
    let login = ["--digest", PASSWORD, "--first-user", "5", "--users", "4", "--concurrency", "2"];
    let (code, report) = run("register", target, &login);
    assert_good(&(code, report.clone()));
    assert!(number(&report, "challenges") < number(&report, "operations"), "{report}");
    let result = run("register", target, &[&login[..], &["--challenge-each"]].concat());
    assert_good(&result);
    assert!(number(&result.1, "challenges") >= number(&result.1, "operations"), "{}", result.1);
    assert_good(&run("call", target, &login));
}
