//! A guest, loaded, and the events of a session for it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use container::session::{
    CALLER, LegDirection, LegName, LegState, LegView, RequestId, SessionApplication, SessionEffect,
    SessionEvent, SessionId, SessionView,
};
use guest::services::InMemory;
use guest::{Engine, Guest, Limits, Prepared, Settings};
use sip::Message;
use state::UnixMillis;

/// One engine, as a process has one.
pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new().unwrap());

pub(crate) fn prepared(wasm: &[u8]) -> Prepared {
    guest::prepare(&ENGINE, wasm, Limits::default()).unwrap()
}

/// Settings of an application that takes everything, on a machine that may be slow: it is for its processor time only that a
/// guest is late.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings::new("test", "1.0.0");
    settings.accepts = Box::new(|_| true);
    settings.services = Arc::new(InMemory::default());
    settings.limits.wall_time = Duration::from_secs(60);
    settings
}

pub(crate) fn load(wasm: &[u8], settings: Settings) -> Guest {
    let prepared = prepared(wasm);
    let (guest, code) =
        Guest::load(&ENGINE, &prepared.component, Some(&prepared.code), settings).unwrap();
    assert!(code.is_none(), "what was compiled a moment ago is used");
    guest
}

pub(crate) fn guest(wasm: &[u8]) -> Guest {
    load(wasm, settings())
}

pub(crate) const INVITE: RequestId = RequestId(1);

/// A session that an INVITE has begun.
pub(crate) fn session() -> SessionView {
    SessionView {
        is_new: false,
        key: None,
        outgoing: 0,
        unheard_signals: 0,
        record_bytes: 0,
        id: SessionId([0xab; 16]),
        now: UnixMillis(1_000),
        created: UnixMillis(1_000),
        expires: UnixMillis(9_000_000),
        attributes: BTreeMap::from([("known".to_owned(), "before".into())]),
        legs: vec![LegView {
            name: LegName::caller(),
            direction: LegDirection::Incoming,
            state: LegState::Early,
            call_id: "c".into(),
            unanswered: vec![(INVITE, "INVITE".into())],
            waiting: Vec::new(),
            wants_ack: false,
            linked: None,
            is_proxied: false,
        }],
        timers: Vec::new(),
    }
}

pub(crate) fn invite() -> Message {
    let text = "INVITE sip:bob@example.com SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKedge\r\n\
        Via: SIP/2.0/TCP phone.invalid;branch=z9hG4bK1;received=192.0.2.1;rport=4711\r\n\
        From: \"Alice \\\"A\\\"\" <sip:alice@example.com;x=y>;tag=a\r\n\
        To: <sip:bob@example.com>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\
        Contact: <sip:alice@192.0.2.1>\r\ns: lunch\r\nContent-Length: 0\r\n\r\n";
    Message::parse(text.as_bytes().to_vec().into()).unwrap()
}

/// The event by which the session began.
pub(crate) fn begun() -> SessionEvent {
    SessionEvent::Request { leg: LegName::new(CALLER), request: INVITE, message: invite() }
}

pub(crate) async fn handled(guest: &Guest, event: &SessionEvent) -> Vec<SessionEffect> {
    guest.on_event(&session(), event).await
}

/// Status of the only answer among the effects.
pub(crate) fn told(effects: &[SessionEffect]) -> Option<u16> {
    let mut told = effects.iter().filter_map(|effect| match effect {
        SessionEffect::Respond { request, response } => {
            assert_eq!(*request, INVITE);
            Some(response.status)
        }
        _ => None,
    });
    let first = told.next();
    assert_eq!(told.next(), None, "one answer");
    first
}
