//! The sample applications of `apps/` on a node, each as its README says, and an application from `outlast app new`.
//!
//! `OUTLAST_APPS` is the directory that `apps/build` has built into. Unset: these tests are skipped and say so; in CI they
//! fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use phone::{Call, Direction, LineTransport, Phone};
use serde_json::Value;
use sip::{HeaderName, Message, Method};
use testbed::node::{Node, outlast_in};
use testbed::wait;

use crate::deployable::built;
use crate::world::{self, DOMAIN};

mod web;

/// A node with two containers and a sample deployed on it.
fn node_with(sample: &str, settings: &[&str]) -> Option<Node> {
    node_of_with(&world::open_config(1, ""), sample, settings)
}

/// A node of this configuration with a sample deployed on it.
fn node_of_with(config: &str, sample: &str, settings: &[&str]) -> Option<Node> {
    let sample = built(sample)?;
    let node = world::node_of(config);
    let set = settings.iter().flat_map(|setting| ["--set", *setting]);
    let arguments: Vec<&str> =
        ["app", "deploy", sample.to_str().unwrap()].into_iter().chain(set).collect();
    done(&node, &arguments);
    Some(node)
}

fn done(node: &Node, arguments: &[&str]) -> String {
    let output = node.outlast(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn sessions(node: &Node) -> Vec<Value> {
    serde_json::from_str(&done(node, &["sessions", "--json"])).unwrap()
}

fn wait_until_no_session_is_left(node: &Node) {
    wait::until("all sessions to be over", world::LIMIT, || match sessions(node) {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    });
}

/// The container that holds the only session.
fn owner(node: &Node) -> String {
    let all = sessions(node);
    let [session] = &all[..] else { panic!("one session: {all:?}") };
    session["container"].as_str().unwrap_or_else(|| panic!("{session}")).to_owned()
}

async fn phone(node: &Node, user: &str) -> Phone {
    world::registered_openly(node, user, LineTransport::Udp).await
}

fn sip_uri(user: &str) -> String {
    format!("sip:{user}@{DOMAIN}")
}

fn header(message: &Message, name: &str) -> String {
    let value = message.field(HeaderName::parse(name.as_bytes())).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

/// What others said to a phone by MESSAGE, with the instant at which it came.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(String, Instant)>>>);

impl Heard {
    fn on(phone: &Phone) -> Heard {
        let heard = Heard::default();
        let sink = heard.clone();
        phone.watch(Arc::new(move |passed| {
            let is_said = passed.direction == Direction::Received
                && passed.message.method() == Some(Method::Message);
            if is_said && !passed.repeated {
                let text = String::from_utf8_lossy(passed.message.body()).into_owned();
                sink.0.lock().unwrap().push((text, Instant::now()));
            }
        }));
        heard
    }

    fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(text, _)| text.clone()).collect()
    }

    fn wait_for(&self, count: usize) {
        wait::until("what is said to be heard", world::LIMIT, || match self.texts() {
            texts if texts.len() >= count => Ok(()),
            texts => Err(texts),
        });
    }
}

/// A call with these headers in its INVITE, rung and answered.
async fn established(caller: &Phone, callee: &Phone, headers: &[(&str, &str)]) -> (Call, Call) {
    let calling = async {
        let mut invitation = caller.call_with(0, &callee.uri(), headers).await?;
        invitation.ringing().await?;
        invitation.answered().await
    };
    let answering = async {
        let ringing = callee.incoming().await?;
        ringing.ring().await?;
        ringing.answer().await
    };
    let (calling, answering) = tokio::join!(calling, answering);
    (calling.unwrap(), answering.unwrap())
}

async fn end(ends: Call, notices: Call) {
    let (ended, noticed) = tokio::join!(ends.hang_up(), notices.hung_up());
    ended.unwrap();
    noticed.unwrap();
}

fn assert_in_order(phones: &[&Phone]) {
    for phone in phones {
        assert_eq!(phone.violations(), Vec::<String>::new(), "at {}", phone.user());
        assert_eq!(phone.rang_again(), Vec::<String>::new(), "at {}", phone.user());
    }
}

fn log_of_containers(node: &Node) -> String {
    node.process_log("container1") + &node.process_log("container2")
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_holds_a_call_until_the_caller_hangs_up() {
    let Some(node) = node_with("answer", &[]) else { return };
    let alice = phone(&node, "alice").await;
    let calling = alice.call(0, &sip_uri("answer")).await.unwrap().answered().await.unwrap();
    assert!(String::from_utf8_lossy(calling.remote_description()).contains("a=inactive"));
    node.kill_and_wait_ready(&owner(&node));
    calling.hang_up().await.unwrap();
    wait_until_no_session_is_left(&node);
    assert_in_order(&[&alice]);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn b2bua_stands_in_every_call_keeps_its_timer_and_logs_it() {
    let Some(node) = node_with("b2bua", &["session_seconds=600"]) else { return };
    let (alice, bob) = (phone(&node, "alice").await, phone(&node, "bob").await);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&asked);
    bob.watch(Arc::new(move |passed| {
        if passed.message.method() == Some(Method::Invite) && !passed.repeated {
            sink.lock().unwrap().push(header(passed.message, "Session-Expires"));
        }
    }));
    let timer = [("Supported", "timer"), ("Session-Expires", "3600"), ("Subject", "lunch")];
    let (mut calling, mut answering) = established(&alice, &bob, &timer).await;
    assert_ne!(calling.call_id(), answering.call_id(), "two legs");
    assert_eq!(calling.remote_description(), answering.local_description().as_bytes());
    assert_eq!(*asked.lock().unwrap(), ["600"], "shorter than what was asked for");
    let all = sessions(&node);
    assert_eq!(all[0]["timers"], serde_json::json!(["unrefreshed"]), "{all:?}");

    node.kill_and_wait_ready(&owner(&node));
    let (refreshed, passed_on) = tokio::join!(calling.reinvite(), answering.reinvited());
    refreshed.unwrap();
    passed_on.unwrap();
    assert_eq!(answering.remote_description(), calling.local_description().as_bytes());
    end(answering, calling).await;
    wait_until_no_session_is_left(&node);
    let log = log_of_containers(&node);
    let line = log
        .lines()
        .find(|line| line.contains("call from=sip:alice@"))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("to=sip:bob@") && line.contains("callee hung up"), "{line}");
    assert_in_order(&[&alice, &bob]);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn b2bua_tells_refusals_and_cancels_of_either_side() {
    let Some(node) = node_with("b2bua", &[]) else { return };
    let (alice, bob) = (phone(&node, "alice").await, phone(&node, "bob").await);
    let (answer, rejected) =
        tokio::join!(async { alice.call(0, &bob.uri()).await?.final_response().await }, async {
            bob.incoming().await?.reject(486).await
        });
    rejected.unwrap();
    assert_eq!(answer.unwrap().status(), Some(486));
    let (cancelled, noticed) = tokio::join!(
        async {
            let mut invitation = alice.call(0, &bob.uri()).await?;
            invitation.ringing().await?;
            invitation.cancel().await
        },
        async {
            let ringing = bob.incoming().await?;
            ringing.ring().await?;
            ringing.canceled().await
        }
    );
    noticed.unwrap();
    assert_eq!(cancelled.unwrap().status(), Some(487));
    wait_until_no_session_is_left(&node);
    let log = log_of_containers(&node);
    assert!(log.contains("answered 486") && log.contains("given up by the caller"), "{log}");
    assert_in_order(&[&alice, &bob]);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn reminder_goes_on_when_its_container_dies_and_stops_when_told() {
    let Some(node) = node_with("reminder", &["times=3"]) else { return };
    let alice = phone(&node, "alice").await;
    let heard = Heard::on(&alice);
    let to = sip_uri("reminder");
    let nonsense = alice.say(0, &to, "hello").await.unwrap();
    assert_eq!(nonsense.status(), Some(400));
    assert!(header(&nonsense, "Warning").contains("say: "), "{nonsense:?}");
    wait_until_no_session_is_left(&node);

    let answer = alice.say(0, &to, "2 take the cake out").await.unwrap();
    assert_eq!(answer.status(), Some(202));
    heard.wait_for(1);
    node.kill_and_wait_ready(&owner(&node));
    heard.wait_for(3);
    assert_eq!(heard.texts(), ["take the cake out"; 3], "so often as the setting says");
    wait_until_no_session_is_left(&node);

    let all = heard.0.lock().unwrap().clone();
    assert!(all[1].1 - all[0].1 > Duration::from_secs(1), "at intervals: {all:?}");
    alice.say(0, &to, "1 cake").await.unwrap();
    heard.wait_for(4);
    // Found by its key, wherever it began.
    assert_eq!(alice.say(0, &to, "stop").await.unwrap().status(), Some(200));
    wait_until_no_session_is_left(&node);
    assert_in_order(&[&alice]);
    node.stop();
}

/// Call-IDs of which two lead to each container: shown by calls to an application that gives each call a session.
async fn call_ids_to_both_containers(node: &Node) -> Vec<String> {
    let plain = built("template").unwrap();
    done(node, &["app", "deploy", plain.to_str().unwrap()]);
    let scout = phone(node, "scout").await;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for number in 0..40 {
        let call_id = format!("into-the-room-{number}");
        let invitation = scout.call_as(0, &sip_uri("my-app"), &call_id).await.unwrap();
        let call = invitation.answered().await.unwrap();
        found.entry(owner(node)).or_default().push(call_id);
        call.hang_up().await.unwrap();
        wait_until_no_session_is_left(node);
        if found.len() == 2 && found.values().all(|call_ids| call_ids.len() >= 2) {
            done(node, &["app", "remove", "my-app"]);
            return found.into_values().flat_map(|call_ids| call_ids.into_iter().take(2)).collect();
        }
    }
    panic!("all calls came to the same container: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conference_key_brings_all_members_of_a_room_into_one_session() {
    let Some(node) = node_with("conference-key", &[]) else { return };
    let room = sip_uri("room-blue");
    let call_ids = call_ids_to_both_containers(&node).await;
    let mut members = Vec::new();
    for (number, call_id) in call_ids.iter().enumerate() {
        let member = phone(&node, &format!("member{number}")).await;
        let invitation = member.call_as(0, &room, call_id).await;
        let call = invitation.unwrap().answered().await.unwrap();
        assert!(String::from_utf8_lossy(call.remote_description()).contains("a=inactive"));
        members.push((member, call));
    }
    let guest = phone(&node, "guest").await;
    let other = guest.call(0, &sip_uri("room-red")).await.unwrap().answered().await.unwrap();
    let all = sessions(&node);
    let mut legs: Vec<usize> =
        all.iter().map(|session| session["legs"].as_array().unwrap().len()).collect();
    legs.sort_unstable();
    assert_eq!(legs, [1, members.len()], "a session a room: {all:?}");

    let heard: Vec<Heard> = members.iter().map(|(member, _)| Heard::on(member)).collect();
    let told = async |(_, call): &mut (Phone, Call), text: &str| {
        assert_eq!(call.say(text).await.unwrap().status(), Some(202));
    };
    told(&mut members[0], "hello").await;
    heard[1..].iter().for_each(|heard| heard.wait_for(1));
    // Its owner dies; the others hear the next one all the same, and each of them once.
    for container in ["container1", "container2"] {
        node.kill_and_wait_ready(container);
    }
    told(&mut members[3], "again").await;
    heard[0].wait_for(1);
    heard[1..3].iter().for_each(|heard| heard.wait_for(2));
    assert_eq!(guest.say(0, &room, "from outside").await.unwrap().status(), Some(202));
    heard[0].wait_for(2);
    heard[1..3].iter().for_each(|heard| heard.wait_for(3));
    assert_eq!(heard[1].texts(), ["hello", "again", "from outside"]);
    assert_eq!(heard[0].texts(), ["again", "from outside"]);
    for (member, call) in members {
        call.hang_up().await.unwrap();
        assert_in_order(&[&member]);
    }
    other.hang_up().await.unwrap();
    wait_until_no_session_is_left(&node);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_hours_lets_calls_through_while_it_is_open() {
    let always = ["open=00:00-24:00", "closed_days="];
    let Some(node) = node_with("busy-hours", &always) else { return };
    let (alice, office) = (phone(&node, "alice").await, phone(&node, "office").await);
    let (calling, answering) = established(&alice, &office, &[]).await;
    assert_eq!(calling.call_id(), answering.call_id(), "proxied");
    end(calling, answering).await;
    assert_in_order(&[&alice, &office]);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_hours_sends_calls_elsewhere_or_says_that_it_is_busy() {
    let never = ["open=", "forward_to=sip:night@example.com"];
    let Some(node) = node_with("busy-hours", &never) else { return };
    let alice = phone(&node, "alice").await;
    let answer =
        async || alice.call(0, &sip_uri("office")).await.unwrap().final_response().await.unwrap();
    let moved = answer().await;
    assert_eq!(
        (moved.status(), header(&moved, "Contact")),
        (Some(302), "<sip:night@example.com>".to_owned())
    );
    let directory = built("busy-hours").unwrap();
    done(&node, &["app", "remove", "busy-hours", "--force"]);
    done(&node, &["app", "deploy", directory.to_str().unwrap(), "--set", "open="]);
    assert_eq!(answer().await.status(), Some(486));
    node.stop();
}

/// Runs a script of an application.
fn run(script: &Path) {
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", script.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_application_is_written_built_deployed_called_and_upgraded() {
    if built("template").is_none() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let greeter = home.path().join("greeter");
    let greeter_text = greeter.to_str().unwrap();
    // It needs no node yet.
    let nowhere = home.path().join("no-node");
    let new = ["app", "new", "greeter", greeter_text];
    let output = outlast_in(&nowhere, &new, b"");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("outlast app deploy {greeter_text}")), "{said}");
    assert_eq!(outlast_in(&nowhere, &new, b"").status.code(), Some(1), "it is there already");
    let wrong = outlast_in(&nowhere, &["app", "new", "Greeter"], b"");
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("1 to 32 of a-z"), "{wrong:?}");

    run(&greeter.join("build"));
    let node = world::node_of(&world::open_config(1, ""));
    done(&node, &["app", "deploy", greeter_text, "--set", "seconds=3600"]);
    let alice = phone(&node, "alice").await;
    let call = async || alice.call(0, &sip_uri("greeter")).await.unwrap().answered().await.unwrap();
    let standing = call().await;

    let manifest = greeter.join("outlast-app.toml");
    let text = std::fs::read_to_string(&manifest).unwrap().replace("\"1.0.0\"", "\"1.1.0\"");
    std::fs::write(&manifest, text.replace("[config]", "[health]\nwatch = \"500ms\"\n\n[config]"))
        .unwrap();
    run(&greeter.join("build"));
    done(&node, &["app", "upgrade", greeter_text, "--set", "seconds=1"]);
    call().await.hung_up().await.expect("the new version hangs up after a second");
    wait::until("the old version's call to be left", world::LIMIT, || match &sessions(&node)[..] {
        [only] if only["application"] == "greeter@1.0.0" => Ok(()),
        others => Err(others.to_vec()),
    });
    node.kill_and_wait_ready(&owner(&node));
    standing.hang_up().await.unwrap();
    wait_until_no_session_is_left(&node);
    assert_in_order(&[&alice]);
    node.stop();
}
