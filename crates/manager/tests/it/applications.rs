//! Applications come in, are switched and removed; what containers are told of them outlives managers and containers.

use std::fs;
use std::thread;

use manager::{ApplicationsDirectory, applications_directory};
use topology::protocol::{Answer, ApplicationStatus, Request, RolloutPace, RolloutProgress};
use topology::server::admin_request_with_progress;

use crate::node::{Node, config_on_free_ports, until};

/// Puts a version where a command puts it; the word that names it.
fn stage(node: &Node, version: &str, watch: &str) -> String {
    let word = format!("v{}", version.replace('.', "x"));
    let directory = ApplicationsDirectory::of_node(node.directory()).stage(&word).unwrap();
    let manifest = format!(
        "name = \"echo\"\nversion = \"{version}\"\ncomponent = \"echo.wasm\"\n[health]\nwatch = \"{watch}\"\n"
    );
    fs::write(directory.join(config::manifest::FILE_NAME), manifest).unwrap();
    fs::write(directory.join(applications_directory::COMPONENT), "").unwrap();
    word
}

/// What a command is told on its way, and in the end.
fn ask(node: &Node, request: Request) -> (Vec<RolloutProgress>, Answer) {
    let mut steps = Vec::new();
    let answer = admin_request_with_progress(&node.socket(), request, |answer| {
        if let Answer::Rollout(step) = answer {
            steps.push(step);
        }
    });
    (steps, answer.unwrap())
}

fn deploy(node: &Node, version: &str, pace: RolloutPace) -> (Vec<RolloutProgress>, Answer) {
    let staged = stage(node, version, "500ms");
    ask(node, Request::AppDeploy { staged, pace })
}

fn applications(node: &Node) -> Vec<ApplicationStatus> {
    match node.request(Request::Applications) {
        Answer::Applications(all) => all,
        other => panic!("{other:?}"),
    }
}

fn files_of(node: &Node, version: &str) -> std::path::PathBuf {
    ApplicationsDirectory::of_node(node.directory()).version("echo", version)
}

#[test]
fn a_deployed_application_outlives_managers_containers_and_the_node() {
    let node = Node::start(config_on_free_ports());
    let (steps, answer) = deploy(&node, "1.0.0", RolloutPace::AtOnce);
    assert_eq!(answer, Answer::Done);
    assert_eq!(steps, [RolloutProgress::Loaded { containers: 2 }]);
    node.wait_for_note("container2", "applications echo@1.0.0*");
    assert!(files_of(&node, "1.0.0").join(applications_directory::COMPONENT).exists());

    let is_everywhere = |all: &[ApplicationStatus]| {
        all.len() == 1 && all[0].versions[0].loaded_by.len() == 2 && all[0].current.is_some()
    };
    let before = node.kill_manager();
    node.wait_for_manager_after(before);
    until("containers to tell the next manager", || {
        is_everywhere(&applications(&node)).then_some(())
    });
    assert!(is_everywhere(&node.node_status().applications), "status shows the same");

    let told = || {
        let notes = fs::read_to_string(node.directory().join("container1.notes")).unwrap();
        notes.lines().filter(|line| *line == "applications echo@1.0.0*").count()
    };
    let before = told();
    node.kill("container1");
    until("its next life to be told", || (told() > before).then_some(()));
    until("it to be counted again", || is_everywhere(&applications(&node)).then_some(()));
    node.stop();
}

#[test]
fn an_upgrade_goes_from_container_to_container() {
    let node = Node::start(config_on_free_ports());
    deploy(&node, "1.0.0", RolloutPace::AtOnce);
    let (steps, answer) = deploy(&node, "1.1.0", RolloutPace::OneByOne);
    assert_eq!(answer, Answer::Done);
    let word = |step: &RolloutProgress| match step {
        RolloutProgress::Loaded { containers } => format!("loaded by {containers}"),
        RolloutProgress::Switched { container, number, of, .. } => {
            format!("{container} {number}/{of}")
        }
        RolloutProgress::Healthy { container, .. } => format!("{container} healthy"),
        RolloutProgress::Node { node, .. } | RolloutProgress::NodeAway { node } => node.clone(),
    };
    let expected = [
        "loaded by 2",
        "container1 1/2",
        "container1 healthy",
        "container2 2/2",
        "container2 healthy",
    ];
    assert_eq!(steps.iter().map(word).collect::<Vec<_>>(), expected);
    for note in ["echo@1.0.0* echo@1.1.0", "echo@1.0.0 echo@1.1.0*"] {
        node.wait_for_note("container2", &format!("applications {note}"));
    }
    let remove = |version: Option<&str>| Request::AppRemove {
        name: "echo".to_owned(),
        version: version.map(str::to_owned),
    };
    let (_, answer) = ask(&node, remove(Some("1.1.0")));
    assert!(matches!(&answer, Answer::Refused { reason } if reason.contains("app upgrade")));
    assert_eq!(ask(&node, remove(Some("1.0.0"))).1, Answer::Done);
    assert!(!files_of(&node, "1.0.0").exists());
    assert_eq!(ask(&node, remove(None)).1, Answer::Done);
    assert_eq!(applications(&node), []);
    node.wait_for_note("container1", "applications");
    node.stop();
}

#[test]
fn a_version_that_cannot_be_loaded_or_fails_does_not_come_in() {
    let node = Node::start_with(config_on_free_ports(), &[("container2", "fails")]);
    assert_eq!(deploy(&node, "1.0.0", RolloutPace::AtOnce).1, Answer::Done);
    let (_, answer) = deploy(&node, "6.6.6", RolloutPace::OneByOne);
    assert!(matches!(&answer, Answer::RolledBack { reason } if reason.contains("beast")));
    assert!(!files_of(&node, "6.6.6").exists());
    let (steps, answer) = deploy(&node, "1.1.0", RolloutPace::OneByOne);
    assert!(
        matches!(&answer, Answer::RolledBack { reason } if reason.contains("container2: handlers failed in 50 of 50")),
        "{answer:?} after {steps:?}"
    );
    for container in ["container1", "container2"] {
        node.wait_for_note(container, "applications echo@1.0.0* echo@1.1.0");
    }
    assert_eq!(applications(&node)[0].current.as_deref(), Some("1.0.0"));
    node.stop();
}

#[test]
fn an_upgrade_whose_manager_dies_is_taken_back_by_the_next_one() {
    let node = Node::start(config_on_free_ports());
    deploy(&node, "1.0.0", RolloutPace::AtOnce);
    let staged = stage(&node, "1.1.0", "60s");
    let (socket, pace) = (node.socket(), RolloutPace::OneByOne);
    let asking = thread::spawn(move || {
        admin_request_with_progress(&socket, Request::AppDeploy { staged, pace }, |_| {})
    });
    node.wait_for_note("container1", "applications echo@1.0.0 echo@1.1.0*");
    let busy = node.request(Request::AppRemove { name: "echo".to_owned(), version: None });
    assert!(matches!(&busy, Answer::Refused { reason } if reason.contains("under way")));
    let before = node.kill_manager();
    node.wait_for_manager_after(before);
    asking.join().unwrap().unwrap_err();
    until("the old version to be current in every container", || {
        let notes = fs::read_to_string(node.directory().join("container1.notes")).unwrap();
        let last = notes.lines().rfind(|line| line.starts_with("applications")).map(str::to_owned);
        (last.as_deref() == Some("applications echo@1.0.0* echo@1.1.0")).then_some(())
    });
    let all = applications(&node);
    assert_eq!((all[0].current.as_deref(), &all[0].rolling_to), (Some("1.0.0"), &None));
    node.stop();
}

#[test]
fn what_is_deployed_is_there_when_the_node_comes_up_again() {
    let node = Node::start(config_on_free_ports());
    deploy(&node, "1.0.0", RolloutPace::AtOnce);
    let ended = node.stop();
    let table = fs::read_to_string(ended.path().join("apps").join("deployed.json")).unwrap();
    assert!(table.contains("\"current\": \"1.0.0\""), "{table}");
    let node = Node::start_again(ended, config_on_free_ports());
    until("containers to have it", || {
        let all = applications(&node);
        (all.first()?.versions[0].loaded_by.len() == 2).then_some(())
    });
    node.stop();
}
