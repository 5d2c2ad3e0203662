//! Guests that mean harm, or are badly broken: each harms its own event only.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use container::session::{SessionEffect, SessionEvent};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use guest::{FailureKind, Limits};

use crate::bench::*;
use crate::module::{Module, REQUEST, RESULT, respond};

/// A guest that does this when a request comes, and answers other events with nothing.
fn doing(code: &str) -> Vec<u8> {
    let on_request = "(i32.eq (local.get $event)";
    Module::new()
        .handler(&format!("(if {on_request} (i32.const {REQUEST})) (then {code}))"))
        .build()
}

/// Whether the event fails like this, is answered as configured, and the guest serves on.
async fn fails(wasm: &[u8], kind: FailureKind) {
    let mut settings = settings();
    settings.on_failure = 480;
    if kind != FailureKind::Time {
        // However slow the machine is, something else stops it.
        settings.limits.cpu_time = Duration::from_secs(60);
    }
    let guest = load(wasm, settings);
    let effects = handled(&guest, &begun()).await;
    assert_eq!((effects.len(), told(&effects)), (1, Some(480)), "only the refusal");
    let counts = guest.counts();
    assert_eq!((counts.failures(kind), counts.failed()), (1, 1), "{counts:?}");
    let timer = SessionEvent::Timer { name: "t".to_owned() };
    assert_eq!(handled(&guest, &timer).await, []);
    assert_eq!(guest.counts().failed(), 1, "the next event is well");
}

#[tokio::test]
async fn a_trap_changes_nothing() {
    let mut module = Module::new();
    let (name, value) = (module.text("a"), module.text("1"));
    let code = format!("(call $set {name} {value} {RESULT}) {} (unreachable)", respond(200));
    fails(&doing_in(module, &code), FailureKind::Trap).await;
}

fn doing_in(module: Module, code: &str) -> Vec<u8> {
    let on_request = "(i32.eq (local.get $event)";
    module.handler(&format!("(if {on_request} (i32.const {REQUEST})) (then {code}))")).build()
}

#[tokio::test]
async fn recursion_without_end_traps() {
    fails(&doing("(drop (call $recurse (i32.const 0)))"), FailureKind::Trap).await;
}

#[tokio::test]
async fn an_endless_loop_is_stopped_and_gives_way_meanwhile() {
    let guest = guest(&doing("(loop $again (br $again))"));
    let (session, event) = (session(), begun());
    let began = Instant::now();
    let looping = container::session::SessionApplication::on_event(&guest, &session, &event);
    // The container's loop: whatever else it has to do comes about between two turns of the guest.
    let mut turns = Vec::new();
    let others = async {
        loop {
            turns.push(Instant::now());
            tokio::task::yield_now().await;
        }
    };
    let effects = futures_util::future::select(looping, others.boxed_local()).await;
    let effects = effects.factor_first().0;
    let took = began.elapsed();
    assert_eq!(told(&effects), Some(500));
    assert_eq!(guest.counts().failures(FailureKind::Time), 1);
    assert!(took < Duration::from_secs(30), "stopped only after {took:?}");
    let ticks = Limits::default().cpu_time.as_millis() / guest::engine::TICK.as_millis();
    assert!(turns.len() as u128 > ticks / 2, "{} turns in {took:?}", turns.len());
}

#[tokio::test]
async fn a_loop_through_host_calls_is_stopped_as_well() {
    let mut module = Module::new();
    let name = module.text("known");
    let code = format!(
        "(loop $again (call $get {name} {RESULT})
        (global.set $top (i32.const 20000)) (br $again))"
    );
    fails(&doing_in(module, &code), FailureKind::Time).await;
}

#[tokio::test]
async fn a_memory_bomb_gets_no_more_than_its_limit() {
    let code = "(loop $again
        (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
        (br $again))";
    fails(&doing(code), FailureKind::Memory).await;
}

#[tokio::test]
async fn a_guest_that_begins_with_too_much_is_not_deployed() {
    let too_much = Limits::default().memory_bytes / (64 * 1024) + 1;
    let wasm = Module::new().pages(u32::try_from(too_much).unwrap()).build();
    let refused = guest::prepare(&ENGINE, &wasm, Limits::default()).unwrap_err().to_string();
    assert!(refused.contains("memory"), "{refused}");
    let wasm = Module::new().table(1_000_000).build();
    let refused = guest::prepare(&ENGINE, &wasm, Limits::default()).unwrap_err().to_string();
    assert!(refused.contains("table"), "{refused}");
}

#[tokio::test]
async fn an_effect_flood_stops_at_the_limit_and_what_was_within_it_holds() {
    let mut module = Module::new();
    let (name, value) = (module.text("a"), module.text("1"));
    let code = format!(
        "(local.set $f (i32.const 1000))
         (loop $again
           (call $set {name} {value} {RESULT})
           (local.set $f (i32.sub (local.get $f) (i32.const 1)))
           (br_if $again (local.get $f)))"
    );
    let effects = handled(&guest(&doing_in(module, &code)), &begun()).await;
    let max = container::session::limits::EFFECTS_MAX;
    assert_eq!(effects.len(), max - 1);
    assert!(effects.iter().all(|effect| matches!(effect, SessionEffect::Set { .. })));
}

#[tokio::test]
async fn a_huge_attribute_is_refused_and_one_beyond_all_bounds_traps() {
    let mut module = Module::new().pages(1_000);
    let name = module.text("a");
    let code =
        |octets: u32| format!("(call $set {name} (i32.const 0) (i32.const {octets}) {RESULT})");
    let huge = code(100_000);
    let beyond = code(20_000_000);
    let effects = handled(&guest(&doing_in(module, &huge)), &begun()).await;
    assert_eq!(effects, [], "refused in words, and the handler went on");
    let mut module = Module::new().pages(1_000);
    module.text("a");
    fails(&doing_in(module, &beyond), FailureKind::Trap).await;
}

#[tokio::test]
async fn forged_names_are_refused() {
    // An answer to a request that never was; a message that it was never given.
    let forged = respond(200).replace("(local.get $request)", "(i64.const 7777)");
    assert_eq!(handled(&guest(&doing(&forged)), &begun()).await, []);
    let mut module = Module::new();
    let name = module.text("Subject");
    let code = format!("(call $header (i32.const 4242) {name} {RESULT})");
    fails(&doing_in(module, &code), FailureKind::Trap).await;
}

#[tokio::test]
async fn text_that_is_none_traps() {
    let code = format!(
        "(i32.store8 (i32.const 64) (i32.const 255))
         (call $get (i32.const 64) (i32.const 1) {RESULT})"
    );
    fails(&doing(&code), FailureKind::Trap).await;
}

#[tokio::test]
async fn a_log_flood_is_cut() {
    let mut module = Module::new();
    let line = module.text("noise");
    let code = format!(
        "(local.set $f (i32.const 5000))
         (loop $again
           (call $log (i32.const 1) {line})
           (local.set $f (i32.sub (local.get $f) (i32.const 1)))
           (br_if $again (local.get $f)))
         {}",
        respond(200)
    );
    let guest = guest(&doing_in(module, &code));
    let lines = Arc::new(AtomicUsize::new(0));
    let counts = tracing::subscriber::set_default(Lines(Arc::clone(&lines)));
    assert_eq!(told(&handled(&guest, &begun()).await), Some(200));
    assert_eq!(lines.load(Ordering::Relaxed), guest::limits::LOG_LINES_MAX);
    let began = Instant::now();
    for _ in 1..100 {
        handled(&guest, &begun()).await;
    }
    drop(counts);
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    let max = seconds * guest::limits::LOG_LINES_PER_SECOND_MAX as usize;
    let lines = lines.load(Ordering::Relaxed);
    assert!(lines >= 1_000.min(max) && lines <= max, "{lines} in {seconds} s");
}

/// Counts the lines of guests.
struct Lines(Arc<AtomicUsize>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &tracing::Event<'_>) {
        if event.metadata().target() == "app" {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn an_instance_that_never_begins_is_not_deployed() {
    for (start, why) in [("(unreachable)", "trap"), ("(loop $again (br $again))", "time")] {
        let refused =
            guest::prepare(&ENGINE, &Module::new().start(start).build(), Limits::default())
                .unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_is_a_failure_and_its_own_limits_come_first() {
    let mut settings = settings();
    settings.limits.cpu_time = Duration::from_secs(10);
    let guest = load(&doing("(loop $again (br $again))"), settings);
    let max = container::session::SessionApplication::handler_time_max(&guest).unwrap();
    assert!(max > Duration::from_secs(10) + Duration::from_secs(60), "{max:?}");
    let (session, event) = (session(), begun());
    let looping = container::session::SessionApplication::on_event(&guest, &session, &event);
    tokio::time::timeout(Duration::from_millis(20), looping).await.unwrap_err();
    let counts = guest.counts();
    assert_eq!((counts.events, counts.failures(FailureKind::Time)), (1, 1));
}

#[tokio::test]
async fn one_application_leaves_room_for_others_and_what_nobody_repeats_waits_for_it() {
    let engine = guest::Engine::new().unwrap();
    let load = |wasm: &[u8]| {
        let prepared = prepared(wasm);
        let mut settings = settings();
        settings.limits.cpu_time = Duration::from_secs(60);
        guest::Guest::load(&engine, &prepared.component, None, settings).unwrap().0
    };
    let hog = doing("(loop $again (br $again))");
    let hogs: Vec<_> = (0..4).map(|_| load(&hog)).collect();
    let other = load(&doing(&respond(200)));
    let (event, timer) = (begun(), SessionEvent::Timer { name: "t".to_owned() });
    let first = all_begun(&hogs[0], &event, 600).await;
    assert_eq!(told(&handled(&other, &event).await), Some(200));
    let second = all_begun(&hogs[1], &event, 200).await;
    let third = all_begun(&hogs[2], &event, 200).await;
    let fourth = all_begun(&hogs[3], &event, 200).await;
    assert_eq!(told(&handled(&other, &event).await), Some(503), "all is taken");
    let mut waits = handled(&other, &timer).boxed_local();
    assert_eq!((&mut waits).now_or_never(), None);
    drop((first, second, third, fourth));
    assert_eq!(waits.await, []);
    assert_eq!(other.counts().failures(FailureKind::Busy), 1, "the request's");
}

/// So many events, each of which has begun, or waits for a place.
async fn all_begun<'a>(
    guest: &'a guest::Guest,
    event: &'a SessionEvent,
    count: u64,
) -> LocalBoxFuture<'a, Vec<Vec<SessionEffect>>> {
    let all = (0..count).map(|_| handled(guest, event));
    let mut all = futures_util::future::join_all(all).boxed_local();
    while guest.counts().events < count {
        assert!((&mut all).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    all
}
