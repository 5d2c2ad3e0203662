//! Live instances: what they keep, and when they go.

use container::session::{SessionEffect, SessionEvent};
use guest::{Guest, Instances};

use crate::bench::*;
use crate::module::{Module, REQUEST, RESULT, respond};

/// Answers 200 + how many events this instance has handled before; a timer traps.
fn counting() -> Vec<u8> {
    let status = "(i32.add (i32.const 200) (global.get $calls))";
    let answer = respond(999).replace("(i32.const 999)", status);
    Module::new()
        .handler(&format!(
            "(if (i32.ne (local.get $event) (i32.const {REQUEST})) (then (unreachable)))
             {answer}
             (call $drop (local.get $message))
             (global.set $calls (i32.add (global.get $calls) (i32.const 1)))"
        ))
        .build()
}

fn with(instances: Instances) -> Guest {
    let mut settings = settings();
    settings.instances = instances;
    load(&counting(), settings)
}

async fn status(guest: &Guest) -> Option<u16> {
    told(&handled(guest, &begun()).await)
}

#[tokio::test]
async fn a_fresh_instance_knows_nothing_of_earlier_events() {
    let guest = with(Instances::Fresh);
    for _ in 0..3 {
        assert_eq!(status(&guest).await, Some(200));
    }
}

#[tokio::test]
async fn a_live_instance_goes_on_until_it_traps() {
    let guest = with(Instances::Reused);
    for before in 0..3 {
        assert_eq!(status(&guest).await, Some(200 + before));
    }
    let timer = SessionEvent::Timer { name: "t".to_owned() };
    assert_eq!(handled(&guest, &timer).await, [], "it traps");
    assert_eq!(guest.counts().failed(), 1);
    assert_eq!(status(&guest).await, Some(200), "another one");
}

#[tokio::test]
async fn what_one_event_wanted_is_nothing_to_the_next() {
    let mut module = Module::new();
    let (name, value) = (module.text("a"), module.text("1"));
    let wasm = module
        .handler(&format!(
            "(if (i32.eq (local.get $event) (i32.const {REQUEST})) (then
                (call $set {name} {value} {RESULT})))"
        ))
        .build();
    let mut settings = settings();
    settings.instances = Instances::Reused;
    let guest = load(&wasm, settings);
    let set = SessionEffect::Set { name: "a".to_owned(), value: "1".into() };
    assert_eq!(handled(&guest, &begun()).await, [set]);
    assert_eq!(handled(&guest, &SessionEvent::Ending).await, []);
}

#[tokio::test]
async fn events_at_the_same_time_have_instances_of_their_own() {
    let guest = with(Instances::Reused);
    let event = begun();
    let all = futures_util::future::join_all((0..20).map(|_| handled(&guest, &event))).await;
    assert!(all.iter().all(|effects| told(effects).is_some_and(|status| status >= 200)));
    assert_eq!(guest.counts().failed(), 0);
}
