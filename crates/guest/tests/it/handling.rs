//! Guests that mean well.

use std::time::{Duration, Instant};

use container::application::{QValue, RecordRoute, Response, Target};
use container::session::{
    LegName, LegState, NoKey, ProxyOptions, SessionApplication, SessionEffect, SessionEvent,
    SessionId, SessionView, Supervised,
};
use guest::{FailureKind, Services, Settings};

use crate::bench::*;
use crate::module::{Module, REQUEST, RESULT, respond};

/// Answers each request, remembers what it is told to, and does nothing else.
fn answering() -> Vec<u8> {
    let mut module = Module::new();
    let (name, value) = (module.text("greeting"), module.text("hello"));
    module
        .handler(&format!(
            "(if (i32.eq (local.get $event) (i32.const {REQUEST})) (then
               (call $set {name} {value} {RESULT})
               (call $drop (local.get $message))
               {}))",
            respond(200)
        ))
        .build()
}

#[tokio::test]
async fn a_request_is_answered_and_a_value_remembered() {
    let guest = guest(&answering());
    assert_eq!(guest.name(), "test@1.0.0");
    assert!(guest.accepts(&invite()));
    let effects = handled(&guest, &begun()).await;
    assert_eq!(
        effects,
        [
            SessionEffect::Set { name: "greeting".to_owned(), value: "hello".into() },
            SessionEffect::Respond { request: INVITE, response: Response::new(200) },
        ]
    );
    assert_eq!(handled(&guest, &SessionEvent::Timer { name: "t".to_owned() }).await, []);
    let counts = guest.counts();
    assert_eq!((counts.events, counts.failed()), (2, 0));
}

/// Answers with a status that says what came of a call: 200 + the first word of its result.
fn telling(code: impl FnOnce(&mut Module) -> String) -> Vec<u8> {
    let mut module = Module::new();
    let code = code(&mut module);
    let status = format!("(i32.add (i32.const 200) (i32.load8_u {RESULT}))");
    let answer = respond(999).replace("(i32.const 999)", &status);
    module
        .handler(&format!(
            "(if (i32.eq (local.get $event) (i32.const {REQUEST})) (then {code} {answer}))"
        ))
        .build()
}

/// Lets its request go on to a target, by way of the session; `q` of it in thousandths.
fn proxying(q: u16) -> Vec<u8> {
    telling(|module| {
        let uri = module.text("sip:bob@203.0.113.9");
        let [at, length] = uri.split(") (").collect::<Vec<_>>()[..] else { panic!("{uri}") };
        let (at, length) = (format!("{at})"), format!("({length}"));
        // Fields of the one target: URI, no routes, q.
        format!(
            "(i32.store (i32.const 64) {at}) (i32.store (i32.const 68) {length})
             (i32.store16 (i32.const 80) (i32.const {q}))
             (call $proxy (local.get $request) (i32.const 64) (i32.const 1) (i32.const 1)
               (i32.const 1) (i32.const 1) (i64.const 200000) (i32.const 0) (i32.const 0) {RESULT})"
        )
    })
}

#[tokio::test]
async fn a_request_is_let_go_on_and_not_answered_then() {
    let effects = handled(&guest(&proxying(700)), &begun()).await;
    let target = Target { q: QValue::from_thousandths(700), ..Target::new("sip:bob@203.0.113.9") };
    let options = ProxyOptions {
        record_route: RecordRoute::Yes,
        supervised: Supervised::Yes,
        timer_c: Some(Duration::from_secs(200)),
        headers: Vec::new(),
    };
    // Its answer of 200 is refused: there is no request that waits for one.
    assert_eq!(effects, [SessionEffect::Proxy { request: INVITE, targets: vec![target], options }]);
    let effects = handled(&guest(&proxying(1_001)), &begun()).await;
    assert_eq!(told(&effects), Some(201), "no q");
}

#[tokio::test]
async fn own_writes_are_read_back_within_the_event() {
    let read = |name: &'static str| {
        telling(move |module| {
            let (written, value) = (module.text("new"), module.text("1"));
            let read = module.text(name);
            format!("(call $set {written} {value} {RESULT}) (call $get {read} {RESULT})")
        })
    };
    for (name, status) in [("new", 201), ("known", 201), ("other", 200)] {
        let effects = handled(&guest(&read(name)), &begun()).await;
        assert_eq!(told(&effects), Some(status), "{name}");
    }
}

#[tokio::test]
async fn headers_are_found_in_short_and_long_form_and_configuration_by_key() {
    let header = |name: &'static str| {
        telling(move |module| {
            let name = module.text(name);
            format!("(call $header (local.get $message) {name} {RESULT})")
        })
    };
    for (name, status) in [("Subject", 201), ("s", 201), ("SUBJECT", 201), ("Priority", 200)] {
        let effects = handled(&guest(&header(name)), &begun()).await;
        assert_eq!(told(&effects), Some(status), "{name}");
    }
    for (key, status) in [("colour", 201), ("size", 200)] {
        let wasm = telling(|module| {
            let key = module.text(key);
            format!("(call $config {key} {RESULT})")
        });
        let mut settings = settings();
        settings.config.insert("colour".to_owned(), "green".to_owned());
        let effects = handled(&load(&wasm, settings), &begun()).await;
        assert_eq!(told(&effects), Some(status), "{key}");
    }
}

#[tokio::test]
async fn names_are_bound_at_once() {
    let wasm = telling(|module| {
        let (name, value) = (module.text("desk"), module.text("7"));
        format!("(call $bind {name} {value} {RESULT})")
    });
    let services = std::sync::Arc::new(guest::services::InMemory::default());
    let mut settings = settings();
    settings.services = services.clone();
    let effects = handled(&load(&wasm, settings), &begun()).await;
    assert_eq!(told(&effects), Some(200));
    assert_eq!(services.lookup("desk".to_owned()).await.unwrap(), Some("7".into()));
}

#[tokio::test]
async fn a_signal_is_an_effect_like_any_other_and_a_forged_name_is_none() {
    let signalling = |id: &str| {
        let id = id.to_owned();
        telling(move |module| {
            let (id, name) = (module.text(&id), module.text("hello"));
            // The kind of the error stands behind the word that says that it is one.
            format!(
                "(call $signal {id} {name} {name} {RESULT})
                 (if (i32.load8_u {RESULT}) (then
                   (i32.store8 {RESULT} (i32.load8_u offset=4 {RESULT}))))"
            )
        })
    };
    let effects = handled(&guest(&signalling(&"ab".repeat(16))), &begun()).await;
    let signal = SessionEffect::Signal {
        session: SessionId([0xab; 16]),
        name: "hello".to_owned(),
        payload: "hello".into(),
    };
    assert_eq!((&effects[0], told(&effects)), (&signal, Some(200)));
    let effects = handled(&guest(&signalling("everybody")), &begun()).await;
    let invalid = 202;
    assert_eq!((effects.len(), told(&effects)), (1, Some(invalid)));
}

#[tokio::test]
async fn a_message_is_passed_on_to_the_linked_leg() {
    let wasm = Module::new().handler(&format!("(call $relay {RESULT})")).build();
    let guest = guest(&wasm);
    assert_eq!(handled(&guest, &begun()).await, [], "refused: there is no other leg");
    let mut session = session();
    let mut callee = session.legs[0].clone();
    callee.name = LegName::new("callee");
    callee.state = LegState::Confirmed;
    callee.unanswered.clear();
    session.legs[0].state = LegState::Confirmed;
    session.legs[0].linked = Some(callee.name.clone());
    session.legs.push(callee);
    let effects = guest.on_event(&session, &begun()).await;
    assert!(
        matches!(&effects[..], [SessionEffect::Send { leg, method, .. }]
            if leg.as_str() == "callee" && method == "INVITE"),
        "{effects:?}"
    );
}

#[tokio::test]
async fn the_beginning_is_told_first_where_it_is_asked_for_and_both_are_one_event() {
    let mut module = Module::new();
    let name = module.text("order");
    let first = module.text("created");
    let wasm = module
        .handler(&format!(
            "(if (i32.eqz (local.get $event)) (then (call $set {name} {first} {RESULT})))
             (if (i32.eq (local.get $event) (i32.const {REQUEST})) (then {}))",
            respond(486)
        ))
        .build();
    let mut settings = settings();
    settings.hears_created = true;
    let guest = load(&wasm, settings);
    let set = SessionEffect::Set { name: "order".to_owned(), value: "created".into() };
    let refuse = SessionEffect::Respond { request: INVITE, response: Response::new(486) };
    assert_eq!(handled(&guest, &begun()).await, [set, refuse]);
    let timer = SessionEvent::Timer { name: "t".to_owned() };
    assert_eq!(handled(&guest, &timer).await, [], "not with any other event");
}

#[tokio::test]
async fn a_key_function_names_the_session() {
    let mut module = Module::new();
    let subject = module.text("Subject");
    // The answer is where the host has written the header: an option of a text.
    let key = format!(
        "(call $header (local.get $message) {subject} {RESULT}) (call $drop (local.get $message))
         {RESULT}"
    );
    let wasm = module.session_key(&key).build();
    let guest = guest(&wasm);
    assert!(guest.handlers().session_key);
    assert!(guest.is_keyed());
    assert_eq!(guest.session_key(&invite()).await, Ok(Some("lunch".into())));
    let plain = crate::bench::guest(&answering());
    assert!(!plain.is_keyed());
    assert_eq!(plain.session_key(&invite()).await, Ok(None));
}

#[tokio::test]
async fn a_key_that_is_none_is_a_failure() {
    let mut module = Module::new();
    let long = module.text(&"x".repeat(256));
    let (at, length) = long.split_once(") ").unwrap();
    let key = format!(
        "(call $drop (local.get $message)) (i32.store8 {RESULT} (i32.const 1)) (i32.store offset=4 {RESULT} {at}))
         (i32.store offset=8 {RESULT} {length}) {RESULT}"
    );
    let guest = guest(&module.session_key(&key).build());
    let failure = guest.sip_session_key(&invite()).await.unwrap_err();
    assert!(failure.kind == FailureKind::Trap && failure.detail.contains("256"), "{failure}");
    assert_eq!(guest.counts().failed(), 1);
    assert_eq!(guest.session_key(&invite()).await, Err(NoKey { status: 500 }));
}

/// What a session answers that asks for its key: 200 and the first word of an option.
#[tokio::test]
async fn a_session_knows_the_key_that_led_to_it() {
    let wasm = telling(|_| format!("(call $key {RESULT})"));
    let guest = guest(&wasm);
    assert_eq!(told(&handled(&guest, &begun()).await), Some(200));
    let session = SessionView { key: Some("room".into()), ..session() };
    assert_eq!(told(&guest.on_event(&session, &begun()).await), Some(201));
}

#[tokio::test]
async fn the_end_is_told_where_it_is_asked_for() {
    let wasm = Module::new().handler("").build();
    let told = |hears_ended| load(&wasm, Settings { hears_ended, ..settings() }).hears_ended();
    assert_eq!([told(true), told(false)], [true, false]);
}

#[tokio::test]
async fn a_message_is_gone_with_its_event() {
    // Keeps the message of the first event and reads it at the next one, which has a message of its own.
    let mut module = Module::new();
    let name = module.text("Subject");
    let kept = "(i32.const 128)";
    let wasm = module
        .handler(&format!(
            "(if (i32.load {kept})
               (then (call $header (i32.load {kept}) {name} {RESULT}))
               (else (i32.store {kept} (local.get $message))))"
        ))
        .build();
    let mut settings = settings();
    settings.instances = guest::Instances::Reused;
    let guest = load(&wasm, settings);
    handled(&guest, &begun()).await;
    assert_eq!(guest.counts().failed(), 0);
    handled(&guest, &begun()).await;
    assert_eq!(guest.counts().failures(FailureKind::Trap), 1);
}

#[tokio::test]
async fn events_run_beside_one_another() {
    let guest = guest(&answering());
    let began = Instant::now();
    let event = begun();
    let all = (0..50).map(|_| handled(&guest, &event));
    for effects in futures_util::future::join_all(all).await {
        assert_eq!(told(&effects), Some(200));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}
