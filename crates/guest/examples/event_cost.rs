//! What an event costs a container that a guest handles: `cargo run --release -p guest --example event_cost`.
//!
//! Processor time of this thread, in batches; the median batch counts. The guest looks at a header, reads an attribute of
//! 500 octets, writes one, and answers: four host calls, as a small application makes them.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../tests/it/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "../tests/it/module.rs"]
#[allow(dead_code)]
mod module;

use std::time::Duration;

use container::session::SessionApplication;
use guest::Instances;
use rustix::time::{ClockId, clock_gettime};

use crate::bench::{begun, load, session, settings, told};
use crate::module::{Module, REQUEST, RESULT, respond};

const BATCHES: usize = 50;
const EVENTS: u32 = 400;

fn guest() -> Vec<u8> {
    let mut module = Module::new();
    let subject = module.text("Subject");
    let (read, written) = (module.text("known"), module.text("new"));
    let value = module.text(&"x".repeat(500));
    module
        .handler(&format!(
            "(if (i32.eq (local.get $event) (i32.const {REQUEST})) (then
               (call $header (local.get $message) {subject} {RESULT})
               (call $get {read} {RESULT})
               (call $set {written} {value} {RESULT})
               {}
               (call $drop (local.get $message))))",
            respond(200)
        ))
        .build()
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
}

async fn cost(instances: Instances) -> (Duration, Duration, Duration) {
    let mut settings = settings();
    settings.instances = instances;
    let guest = load(&guest(), settings);
    let mut session = session();
    session.attributes.insert("known".to_owned(), vec![b'y'; 500].into());
    let event = begun();
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        let began = thread_time();
        for _ in 0..EVENTS {
            assert_eq!(told(&guest.on_event(&session, &event).await), Some(200));
        }
        batches.push((thread_time() - began) / EVENTS);
    }
    assert_eq!(guest.counts().failed(), 0);
    batches.sort();
    (batches[BATCHES / 10], batches[BATCHES / 2], batches[BATCHES * 9 / 10])
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for (name, instances) in [("fresh", Instances::Fresh), ("reused", Instances::Reused)] {
        let (low, median, high) = cost(instances).await;
        println!("{name:>7}: {median:?} an event (10% to 90%: {low:?} to {high:?})");
    }
}
