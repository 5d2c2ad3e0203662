//! The sample applications of `apps/`, built by `apps/build` and run as a container runs them.
//!
//! `OUTLAST_APPS` is the directory that they were built into. Unset: these tests are skipped and say so; in CI they fail.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use container::application::FieldName;
use container::session::{
    LegDirection, LegName, LegState, LegView, SessionApplication, SessionEffect, SessionEvent,
    SessionView, TimerView,
};
use guest::{Guest, Handlers, HttpAnswer};
use sip::Message;
use state::UnixMillis;

use crate::bench::*;

/// A component of a sample. None, and a word about it: it is not built, and in CI it must be.
fn component(name: &str, file: &str) -> Option<Vec<u8>> {
    let found = std::env::var_os("OUTLAST_APPS")
        .map(|built| PathBuf::from(built).join(name).join(file))
        .filter(|file| file.exists());
    let Some(file) = found else {
        let missing =
            format!("no {file} is in OUTLAST_APPS: run apps/build, then set it to target/apps");
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: {missing}");
        }
        return None;
    };
    Some(std::fs::read(file).unwrap())
}

/// A sample with settings of its own.
fn sample(name: &str, config: &[(&str, &str)]) -> Option<Guest> {
    let wasm = component(name, &format!("{}.wasm", name.replace('-', "_")))?;
    let mut settings = settings();
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    settings.config = config.collect();
    Some(load(&wasm, settings))
}

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// A message with that first line, method and body.
fn message(start: &str, method: &str, more: &str, body: &str) -> Message {
    let text = format!(
        "{start}\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: \"Alice\" <sip:alice@example.com>;tag=a\r\n\
         To: <sip:bob@example.com>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\nContact: <sip:alice@192.0.2.1>\r\n\
         {more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Message::parse(text.into_bytes().into()).unwrap()
}

fn request(method: &str, target: &str, more: &str, body: &str) -> SessionEvent {
    let message = message(&format!("{method} {target} SIP/2.0"), method, more, body);
    SessionEvent::Request { leg: LegName::caller(), request: INVITE, message }
}

fn response(leg: &str, status: u16, more: &str, body: &str) -> SessionEvent {
    let message = message(&format!("SIP/2.0 {status} Said"), "INVITE", more, body);
    SessionEvent::Response { leg: LegName::new(leg), message }
}

const SDP: &str = "Content-Type: application/sdp\r\n";

/// The session behind the effects: what they say about attributes, timers and legs.
fn behind(mut view: SessionView, effects: &[SessionEffect]) -> SessionView {
    for effect in effects {
        match effect {
            SessionEffect::Set { name, value } => {
                view.attributes.insert(name.clone(), value.clone());
            }
            SessionEffect::StartTimer { name, after, every } => view.timers.push(TimerView {
                name: name.clone(),
                due: UnixMillis(view.now.0 + u64::try_from(after.as_millis()).unwrap()),
                every: *every,
            }),
            SessionEffect::Call { leg, .. } => view.legs.push(LegView {
                name: leg.clone(),
                direction: LegDirection::Outgoing,
                state: LegState::Early,
                call_id: "ours".into(),
                unanswered: Vec::new(),
                waiting: vec!["INVITE".into()],
                wants_ack: false,
                linked: None,
                is_proxied: false,
            }),
            SessionEffect::Link { a, b } => {
                for leg in &mut view.legs {
                    if leg.name == *a {
                        leg.linked = Some(b.clone());
                    } else if leg.name == *b {
                        leg.linked = Some(a.clone());
                    }
                }
            }
            _ => {}
        }
    }
    view
}

/// The leg has its 2xx, which wants an ACK.
fn answered(mut view: SessionView, leg: &str) -> SessionView {
    for view in view.legs.iter_mut().filter(|view| view.name.as_str() == leg) {
        view.state = LegState::Confirmed;
        view.waiting.clear();
        view.wants_ack = true;
    }
    view
}

#[track_caller]
fn header<'a>(headers: &'a [container::application::Header], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|header| match &header.name {
        FieldName::Named(named) => named.eq_ignore_ascii_case(name.as_bytes()),
        FieldName::Known(known) => known.as_str().eq_ignore_ascii_case(name),
    });
    found.map(|header| std::str::from_utf8(&header.value).unwrap())
}

#[test]
fn all_samples_are_fit_to_be_deployed_and_offer_what_they_say() {
    let sip = Handlers { sip: true, ..Handlers::default() };
    let keyed = Handlers { session_key: true, ..sip };
    let http = Handlers { http: true, ..Handlers::default() };
    for (name, expected) in [
        ("answer", sip),
        ("b2bua", sip),
        ("busy-hours", sip),
        ("click-to-dial", Handlers { http: true, ..sip }),
        ("conference-key", keyed),
        ("counter", http),
        ("reminder", keyed),
    ] {
        let Some(guest) = sample(name, &[]) else { continue };
        assert_eq!(guest.handlers(), expected, "{name}");
    }
    for (directory, file, expected) in
        [("published-http-proxy", "http_proxy.wasm", http), ("template", "my_app.wasm", sip)]
    {
        let Some(wasm) = component(directory, file) else { continue };
        assert_eq!(prepared(&wasm).handlers, expected, "{file}");
    }
}

#[tokio::test]
async fn reminder_reminds_by_message_and_stops_by_itself() {
    let Some(guest) = sample("reminder", &[("times", "1")]) else { return };
    let wish =
        request("MESSAGE", "sip:reminder@example.com", "Content-Type: text/plain\r\n", "60 cake");
    let SessionEvent::Request { message, .. } = &wish else { unreachable!() };
    let key = guest.sip_session_key(message).await.unwrap();
    assert_eq!(key.as_deref(), Some("alice@example.com"));

    let effects = guest.on_event(&session(), &wish).await;
    assert_eq!(told(&effects), Some(202));
    let minute = Duration::from_secs(60);
    let timer = |effect: &SessionEffect| matches!(effect, SessionEffect::StartTimer { after, every, .. } if *after == minute && *every == Some(minute));
    assert!(effects.iter().any(timer), "{effects:?}");

    let view = behind(session(), &effects);
    let effects = guest.on_event(&view, &SessionEvent::Timer { name: "tick".to_owned() }).await;
    let sent = effects.iter().find_map(|effect| match effect {
        SessionEffect::SendOutside { target, body, .. } => Some((target, body.as_ref())),
        _ => None,
    });
    let (target, body) = sent.unwrap_or_else(|| panic!("no message: {effects:?}"));
    assert_eq!(target, "sip:alice@example.com");
    assert_eq!(body.unwrap().content, "cake");
    assert!(effects.contains(&SessionEffect::StopTimer { name: "tick".to_owned() }), "{effects:?}");
}

#[tokio::test]
async fn b2bua_calls_for_the_caller_and_agrees_on_a_session_timer() {
    let Some(guest) = sample("b2bua", &[("session_seconds", "1200")]) else { return };
    let more = format!("Supported: timer\r\nSubject: lunch\r\n{SDP}");
    let invite = request("INVITE", "sip:bob@example.com", &more, OFFER);
    let effects = guest.on_event(&session(), &invite).await;
    let call = effects.iter().find_map(|effect| match effect {
        SessionEffect::Call { target, from, headers, body, .. } => {
            Some((target, from, headers, body))
        }
        _ => None,
    });
    let (target, from, headers, body) = call.unwrap_or_else(|| panic!("no call: {effects:?}"));
    assert_eq!(
        (&target[..], &from[..]),
        (&b"sip:bob@example.com"[..], &b"\"Alice\" <sip:alice@example.com>"[..])
    );
    assert_eq!(header(headers, "Session-Expires"), Some("1200"));
    assert_eq!(header(headers, "Subject"), Some("lunch"));
    assert_eq!(body.as_ref().unwrap().content, OFFER);

    let view = answered(behind(session(), &effects), "callee");
    let effects = guest.on_event(&view, &response("callee", 200, SDP, OFFER)).await;
    let answer = effects.iter().find_map(|effect| match effect {
        SessionEffect::Respond { response, .. } => Some(response),
        _ => None,
    });
    let answer = answer.unwrap_or_else(|| panic!("no answer: {effects:?}"));
    assert_eq!(answer.status, 200);
    assert_eq!(header(&answer.headers, "Session-Expires"), Some("1200;refresher=uac"));
    assert_eq!(answer.body.as_ref().unwrap().content, OFFER);
    let watches = |effect: &SessionEffect| matches!(effect, SessionEffect::StartTimer { after, every: None, .. } if *after == Duration::from_secs(1200));
    assert!(effects.iter().any(watches), "{effects:?}");
}

#[tokio::test]
async fn answer_holds_every_call_that_brings_an_offer() {
    let Some(guest) = sample("answer", &[]) else { return };
    let invite = request("INVITE", "sip:answer@example.com", SDP, OFFER);
    let effects = guest.on_event(&session(), &invite).await;
    let [SessionEffect::Respond { response, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(response.status, 200);
    let answer = String::from_utf8_lossy(&response.body.as_ref().unwrap().content);
    assert!(answer.contains("a=inactive"), "{answer}");
    let empty = request("INVITE", "sip:answer@example.com", "", "");
    assert_eq!(told(&guest.on_event(&session(), &empty).await), Some(488));
}

#[tokio::test]
async fn a_small_event_is_handled_in_the_memory_that_an_instance_begins_with() {
    // Stack, data, and what `apps/template/build` asks for as heap. Whatever grows costs the host as much again.
    const BEGINS_WITH: usize = 3 * 64 * 1024;
    let Some(wasm) = component("answer", "answer.wasm") else { return };
    let mut settings = settings();
    settings.limits.memory_bytes = BEGINS_WITH;
    let guest = load(&wasm, settings);
    let invite = request("INVITE", "sip:answer@example.com", SDP, OFFER);
    let effects = guest.on_event(&session(), &invite).await;
    assert_eq!((told(&effects), guest.counts().failed()), (Some(200), 0));
}

#[tokio::test]
async fn conference_key_gathers_a_room_and_holds_its_media() {
    let Some(guest) = sample("conference-key", &[]) else { return };
    let invite = request("INVITE", "sip:Room-Blue@example.com", SDP, OFFER);
    let SessionEvent::Request { message, .. } = &invite else { unreachable!() };
    let key = guest.sip_session_key(message).await.unwrap();
    assert_eq!(key.as_deref(), Some("blue@example.com"));
    let effects = guest.on_event(&session(), &invite).await;
    assert_eq!(told(&effects), Some(200), "{effects:?}");
    let held = |effect: &SessionEffect| matches!(effect, SessionEffect::Respond { response, .. } if response.body.as_ref().is_some_and(|body| body.content.windows(10).any(|part| part == b"a=inactive")));
    assert!(effects.iter().any(held), "{effects:?}");
}

#[tokio::test]
async fn busy_hours_answers_by_the_clock() {
    let config = [("open", "08:00-17:30"), ("closed_days", "sat sun")];
    let Some(guest) = sample("busy-hours", &config) else { return };
    let invite = request("INVITE", "sip:office@example.com", "", "");
    let mut view = session();
    view.now = UnixMillis(1_767_600_000_000); // a Monday, 08:00 UTC
    view.now.0 += 12 * 3_600_000;
    assert_eq!(told(&guest.on_event(&view, &invite).await), Some(486));

    let always = [("open", "00:00-24:00")];
    let Some(guest) = sample("busy-hours", &always) else { return };
    let effects = guest.on_event(&view, &invite).await;
    assert!(matches!(&effects[..], [SessionEffect::Proxy { .. }]), "{effects:?}");

    let elsewhere = [("forward_to", "sip:night@example.com")];
    let Some(guest) = sample("busy-hours", &elsewhere) else { return };
    let effects = guest.on_event(&view, &invite).await;
    let [SessionEffect::Respond { response, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(response.status, 302);
    assert_eq!(header(&response.headers, "Contact"), Some("<sip:night@example.com>"));
}

async fn asked(guest: &Guest, method: &str, target: &str, view: Option<SessionView>) -> HttpAnswer {
    let uri = format!("http://127.0.0.1{target}");
    let request = http::Request::builder().method(method).uri(uri).header("cookie", "visits=41");
    guest.handle_http(request.body(Bytes::new()).unwrap(), view).await.unwrap()
}

#[tokio::test]
async fn components_that_know_nothing_of_outlast_serve_http() {
    let Some(guest) = sample("counter", &[]) else { return };
    let HttpAnswer { response, effects } = asked(&guest, "GET", "/counter", None).await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"visit 42\n"[..]));
    assert_eq!(effects, []);

    let Some(wasm) = component("published-http-proxy", "http_proxy.wasm") else { return };
    let answer = asked(&crate::bench::guest(&wasm), "GET", "/published", None).await;
    assert_eq!(answer.response.status().as_u16(), 200);
}

#[tokio::test]
async fn click_to_dial_makes_two_calls_and_joins_them() {
    let Some(guest) = sample("click-to-dial", &[("caller", "sip:desk@example.com")]) else {
        return;
    };
    let mut view = session();
    view.legs.clear();
    let target = "/click-to-dial?from=sip:alice@example.com&to=sip:bob@example.com";
    let HttpAnswer { response: answer, effects } =
        asked(&guest, "POST", target, Some(view.clone())).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.body()[..]),
        (202, &b"calling sip:alice@example.com\n"[..])
    );
    let view = answered(behind(view, &effects), "first-1");

    let effects = guest.on_event(&view, &response("first-1", 200, SDP, OFFER)).await;
    let offered = |effect: &SessionEffect| matches!(effect, SessionEffect::Call { target, body: Some(body), .. } if target == "sip:bob@example.com" && body.content == OFFER);
    assert!(effects.iter().any(offered), "{effects:?}");
    let view = answered(behind(view, &effects), "second-1");

    let effects = guest.on_event(&view, &response("second-1", 200, SDP, "v=0 answer")).await;
    let acknowledged: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            SessionEffect::Acknowledge { leg, body, .. } => {
                Some((leg.as_str(), body.as_ref().map(|body| &body.content[..])))
            }
            _ => None,
        })
        .collect();
    assert_eq!(acknowledged, [("second-1", None), ("first-1", Some(&b"v=0 answer"[..]))]);
    let view = behind(view, &effects);
    let HttpAnswer { response: answer, .. } =
        asked(&guest, "GET", "/click-to-dial", Some(view)).await;
    assert_eq!(&answer.body()[..], b"sip:alice@example.com and sip:bob@example.com talk\n");
}
