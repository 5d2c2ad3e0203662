//! What the containers of a node share for guests: names, cached values, sessions by keys, signals.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use phone::{Call, LineTransport, Phone};
use rustix::process::Signal;
use serde_json::Value;
use sip::Method;
use testbed::node::Node;
use testbed::wait;

use crate::applications::guests::embedded;
use crate::matrix::owner::Owner;
use crate::world::{self, DOMAIN};

/// By when a change of the cache is seen everywhere.
const CACHE_LAG_MAX: Duration = Duration::from_millis(100);

/// An application that does what the header `X-Do` of a request says, with the digit of `X-Value`, and answers 200, 200
/// and a digit, or 480 and the kind of an error. Calls are answered 200; those to one URI are one session, which remembers
/// the digit 7 and hangs its first caller up when a signal comes.
const ROOM: &str = r#"(module
  (import "outlast:app/message@0.1.0" "[method]message.header" (func $header (param i32 i32 i32 i32)))
  (import "outlast:app/message@0.1.0" "[resource-drop]message" (func $drop (param i32)))
  (import "outlast:app/session@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
  (import "outlast:app/session@0.1.0" "key" (func $key (param i32)))
  (import "outlast:app/sip@0.1.0" "respond"
    (func $respond (param i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "outlast:app/sip@0.1.0" "send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "outlast:app/naming@0.1.0" "bind" (func $bind (param i32 i32 i32 i32 i32)))
  (import "outlast:app/naming@0.1.0" "rebind" (func $rebind (param i32 i32 i32 i32 i32)))
  (import "outlast:app/naming@0.1.0" "unbind" (func $unbind (param i32 i32 i32)))
  (import "outlast:app/naming@0.1.0" "lookup" (func $lookup (param i32 i32 i32)))
  (import "outlast:app/cache@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "outlast:app/cache@0.1.0" "put" (func $put (param i32 i32 i32 i32 i64 i32)))
  (import "outlast:app/cache@0.1.0" "invalidate" (func $invalidate (param i32 i32 i32)))
  (import "outlast:app/sessions@0.1.0" "find" (func $find (param i32 i32 i32)))
  (import "outlast:app/sessions@0.1.0" "exists" (func $exists (param i32 i32 i32)))
  (import "outlast:app/sessions@0.1.0" "attribute" (func $attribute (param i32 i32 i32 i32 i32)))
  (import "outlast:app/sessions@0.1.0" "signal" (func $signal (param i32 i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 2)
  (data (i32.const 256) "X-DoX-ValueTocallerBYEmark7desk")
  (global $top (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  ;; 16: outcomes. 48: the session found. 80: X-Do. 96: X-Value.
  (func $outcome (result i32)
    (if (i32.load8_u (i32.const 16))
      (then (return (i32.add (i32.const 480) (i32.load8_u (i32.const 20))))))
    (i32.const 200))
  ;; Of an option of octets: their first, which is a digit.
  (func $digit (result i32)
    (if (i32.load8_u (i32.const 16)) (then (return (call $outcome))))
    (if (i32.eqz (i32.load8_u (i32.const 20))) (then (return (i32.const 200))))
    (i32.add (i32.const 152) (i32.load8_u (i32.load (i32.const 24)))))
  (func $does (param $what i32) (param $at i32) (param $length i32) (result i32)
    (local $name i32)
    (local.set $name (i32.const 283))
    (if (i32.eq (local.get $what) (i32.const 98)) (then ;; b
      (call $bind (local.get $name) (i32.const 4) (local.get $at) (local.get $length) (i32.const 16))
      (return (call $outcome))))
    (if (i32.eq (local.get $what) (i32.const 114)) (then ;; r
      (call $rebind (local.get $name) (i32.const 4) (local.get $at) (local.get $length) (i32.const 16))
      (return (call $outcome))))
    (if (i32.eq (local.get $what) (i32.const 117)) (then ;; u
      (call $unbind (local.get $name) (i32.const 4) (i32.const 16))
      (return (call $outcome))))
    (if (i32.eq (local.get $what) (i32.const 108)) (then ;; l
      (call $lookup (local.get $name) (i32.const 4) (i32.const 16))
      (return (call $digit))))
    (if (i32.eq (local.get $what) (i32.const 112)) (then ;; p
      (call $put (local.get $name) (i32.const 4) (local.get $at) (local.get $length) (i64.const 60000) (i32.const 16))
      (return (call $outcome))))
    (if (i32.eq (local.get $what) (i32.const 103)) (then ;; g
      (call $get (local.get $name) (i32.const 4) (i32.const 16))
      (return (call $digit))))
    (if (i32.eq (local.get $what) (i32.const 105)) (then ;; i
      (call $invalidate (local.get $name) (i32.const 4) (i32.const 16))
      (return (call $outcome))))
    ;; What follows is of the session that the value is the key of.
    (call $find (local.get $at) (local.get $length) (i32.const 48))
    (if (i32.eqz (i32.load8_u (i32.const 52))) (then (return (i32.const 404))))
    (if (i32.eq (local.get $what) (i32.const 101)) (then ;; e
      (call $exists (i32.load (i32.const 56)) (i32.load (i32.const 60)) (i32.const 16))
      (return (i32.add (i32.const 200) (i32.load8_u (i32.const 20))))))
    (if (i32.eq (local.get $what) (i32.const 97)) (then ;; a
      (call $attribute (i32.load (i32.const 56)) (i32.load (i32.const 60)) (i32.const 278) (i32.const 4) (i32.const 16))
      (return (call $digit))))
    (call $signal (i32.load (i32.const 56)) (i32.load (i32.const 60))
      (i32.const 278) (i32.const 4) (i32.const 278) (i32.const 4) (i32.const 16))
    (call $outcome))
  (func (export "outlast:app/router@0.1.0#session-key") (param $message i32) (result i32)
    (call $header (local.get $message) (i32.const 256) (i32.const 4) (i32.const 16))
    (if (i32.load8_u (i32.const 16))
      (then (i32.store8 (i32.const 16) (i32.const 0)))
      (else (call $header (local.get $message) (i32.const 267) (i32.const 2) (i32.const 16))))
    (call $drop (local.get $message))
    (i32.const 16))
  (func (export "outlast:app/handler@0.1.0#handle")
    (param $event i32) (param $a i32) (param $b i32) (param $request i64)
    (param $initial i32) (param $message i32) (param $f i32)
    (local $status i32)
    (if (i32.eq (local.get $event) (i32.const 9)) (then
      (call $send (i32.const 269) (i32.const 6) (i32.const 275) (i32.const 3) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))))
    (if (i32.eq (local.get $event) (i32.const 1)) (then
      (local.set $status (i32.const 200))
      (call $header (local.get $message) (i32.const 256) (i32.const 4) (i32.const 80))
      (call $header (local.get $message) (i32.const 260) (i32.const 7) (i32.const 96))
      (call $drop (local.get $message))
      (if (i32.load8_u (i32.const 80))
        (then (local.set $status (call $does
          (i32.load8_u (i32.load (i32.const 84))) (i32.load (i32.const 100)) (i32.load (i32.const 104)))))
        (else
          (call $key (i32.const 16))
          (if (i32.load8_u (i32.const 16))
            (then (call $set (i32.const 278) (i32.const 4) (i32.const 282) (i32.const 1) (i32.const 16))))))
      (call $respond (local.get $request) (local.get $status) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))))
    (global.set $top (i32.const 1024))))"#;

const CONTAINERS: [&str; 2] = ["container1", "container2"];

/// A node on which the application is deployed, and a phone.
struct Setting {
    node: Node,
    phone: Phone,
    owners: [Owner; 2],
    asked: u32,
    _sources: tempfile::TempDir,
}

impl Setting {
    async fn new() -> Setting {
        let sources = tempfile::tempdir().unwrap();
        let manifest = "name = \"room\"\nversion = \"1.0.0\"\ncomponent = \"room.wasm\"\n\
            [sip]\nmatch = { contains = [\"request.uri.user\", \"room\"] }\n";
        let files: [(PathBuf, Vec<u8>); 2] = [
            (sources.path().join("outlast-app.toml"), manifest.into()),
            (sources.path().join("room.wasm"), embedded(ROOM, "keyed-sip-application")),
        ];
        for (path, content) in files {
            fs::write(path, content).unwrap();
        }
        let node = world::node_of(&world::open_config(1, ""));
        let deployed = node.outlast(&["app", "deploy", sources.path().to_str().unwrap()]);
        assert!(deployed.status.success(), "{deployed:?}");
        let phone = world::registered_openly(&node, "caller", LineTransport::Udp).await;
        let owners = CONTAINERS.map(|container| Owner::of(&node, container));
        Setting { node, phone, owners, asked: 0, _sources: sources }
    }

    /// What one of the containers answers, asked to do `what` with that value.
    async fn does(&mut self, container: usize, what: &str, value: &str) -> u16 {
        self.asked += 1;
        let call_id = self.owners[container].call_id(&format!("ask-{}", self.asked));
        let request = self.phone.request(0, Method::Message, &format!("sip:room@{DOMAIN}"));
        let request = request.call_id(&call_id).header("X-Do", what).header("X-Value", value);
        let answer = request.send().await.unwrap().final_response().await.unwrap();
        answer.status().unwrap()
    }

    /// A call to a room by way of a container.
    async fn calls(&mut self, container: usize, room: &str) -> Call {
        self.asked += 1;
        let call_id = self.owners[container].call_id(&format!("call-{}", self.asked));
        let uri = format!("sip:{room}@{DOMAIN}");
        let invitation = self.phone.call_as(0, &uri, &call_id).await.unwrap();
        invitation.answered().await.unwrap()
    }

    fn sessions(&self) -> Vec<Value> {
        let output = self.node.outlast(&["sessions", "--json", "--application", "room"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// The key of a room: what To says of its first request.
fn key(room: &str) -> String {
    format!("<sip:{room}@{DOMAIN}>")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_bound_in_one_container_is_known_in_the_other_and_outlives_both() {
    let mut setting = Setting::new().await;
    assert_eq!(setting.does(0, "l", "").await, 200, "it is free");
    assert_eq!(setting.does(0, "b", "3").await, 200);
    assert_eq!(setting.does(1, "l", "").await, 203);
    assert_eq!(setting.does(1, "b", "3").await, 200, "bound to the same already");
    let wrong_state = 481;
    assert_eq!(setting.does(1, "b", "4").await, wrong_state);
    assert_eq!(setting.does(1, "r", "5").await, 200);
    for container in CONTAINERS {
        setting.node.signal(container, Signal::KILL);
    }
    for container in CONTAINERS {
        wait::until("the containers to be back", world::LIMIT, || {
            let process = setting.node.process(container);
            if process.state == "ready" { Ok(()) } else { Err(process) }
        });
    }
    assert_eq!([setting.does(0, "l", "").await, setting.does(1, "l", "").await], [205, 205]);
    assert_eq!(setting.does(0, "u", "").await, 200);
    assert_eq!(setting.does(1, "l", "").await, 200, "free again");
    setting.node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_container_caches_or_invalidates_the_other_sees_within_a_tenth_of_a_second() {
    let mut setting = Setting::new().await;
    let mut late = Duration::ZERO;
    for round in 0..20 {
        let (from, to) = (round % 2, 1 - round % 2);
        let digit = round % 9 + 1;
        assert_eq!(setting.does(from, "p", &digit.to_string()).await, 200);
        late = late.max(seen_after(&mut setting, to, 200 + digit as u16).await);
        assert_eq!(setting.does(from, "i", "").await, 200);
        late = late.max(seen_after(&mut setting, to, 200).await);
    }
    println!("seen after {late:?} at the latest");
    setting.node.stop();
}

/// How long after the change that was just acknowledged a container answers so.
async fn seen_after(setting: &mut Setting, container: usize, status: u16) -> Duration {
    let changed = Instant::now();
    loop {
        let asked = changed.elapsed();
        let answer = setting.does(container, "g", "").await;
        if answer == status {
            return asked;
        }
        assert!(
            asked < CACHE_LAG_MAX,
            "{answer} and not {status}, asked {asked:?} after the change"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_one_key_meet_in_one_session_wherever_they_arrive() {
    let mut setting = Setting::new().await;
    let first = setting.calls(0, "room1").await;
    let second = setting.calls(1, "room1").await;
    let other = setting.calls(1, "room2").await;
    let mut legs: Vec<usize> = setting
        .sessions()
        .iter()
        .map(|session| session["legs"].as_array().map_or(0, Vec::len))
        .collect();
    legs.sort_unstable();
    assert_eq!(legs, [1, 2], "{:?}", setting.sessions());
    for container in [0, 1] {
        assert_eq!(setting.does(container, "a", &key("room1")).await, 207, "what it remembers");
        assert_eq!(setting.does(container, "e", &key("room1")).await, 201);
        assert_eq!(setting.does(container, "e", &key("room3")).await, 404);
    }
    for call in [first, second, other] {
        call.hang_up().await.unwrap();
    }
    wait::until("the sessions to be over", world::LIMIT, || match setting.sessions() {
        sessions if sessions.is_empty() => Ok(()),
        sessions => Err(sessions),
    });
    assert_eq!(setting.does(0, "e", &key("room1")).await, 404);
    setting.node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_session_of_another_container_also_when_that_dies() {
    let mut setting = Setting::new().await;
    let call = setting.calls(0, "room1").await;
    assert_eq!(setting.does(1, "s", &key("room1")).await, 200);
    call.hung_up().await.unwrap();

    let call = setting.calls(0, "room2").await;
    wait::until("the first call's session to be over", world::LIMIT, || {
        let sessions = setting.sessions();
        let is_left = sessions.len() == 1 && sessions[0]["container"] == CONTAINERS[0];
        if is_left { Ok(()) } else { Err(sessions) }
    });
    // Stopped, it takes the signal and does nothing with it; then it dies.
    setting.node.signal(CONTAINERS[0], Signal::STOP);
    assert_eq!(setting.does(1, "s", &key("room2")).await, 200);
    setting.node.signal(CONTAINERS[0], Signal::KILL);
    call.hung_up().await.unwrap();
    assert_eq!(setting.phone.violations(), [""; 0]);
    setting.node.stop();
}
