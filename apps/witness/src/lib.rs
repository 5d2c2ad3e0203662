//! Says all that it does: for tests that kill containers and ask phones what they saw. See README.md.

mod record;

use outlast_app::http::{HttpApplication, Request, Response};
use outlast_app::{
    Application, Body, Error, Failed, Header, Heard, HttpRouter, Incoming, Outcome, config,
    remembered_text, sdp, session, sip,
};
use record::Firing;

/// The leg by which it calls a phone itself.
const PHONE: &str = "phone";
/// The timer that repeats.
const BEAT: &str = "beat";

/// How many notes came.
const COUNT: &str = "count";
/// What the last one said.
const LAST: &str = "last";
/// The answer to the last HTTP request that said a number: the number, and what was said.
const ANSWERED: &str = "answered";
/// The leg that hears everything.
const LISTENER: &str = "listener";
/// What timers have done, a line each.
const FIRED: &str = "fired";
/// When a timer is due: followed by its name.
const DUE: &str = "due ";
/// What went wrong with what the phone was told, a line each.
const FAILED: &str = "failed";

struct Witness;

impl Application for Witness {
    fn on_request(request: Incoming) -> Outcome {
        let said = request.message.body().map(|body| body.content).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        match &*request.message.method() {
            "INVITE" if request.initial => {
                remember(LISTENER, &request.leg)?;
                let answer = sdp::held_answer(&said, session::now()).into_bytes();
                let answer = Body::new(sdp::CONTENT_TYPE, answer);
                request.respond_with(200, &[], Some(&answer))
            }
            "MESSAGE" => {
                let answer = if said == "report" { report() } else { note(&said)? };
                request.respond_with(200, &[], Some(&Body::new("text/plain", answer.into_bytes())))
            }
            "BYE" => {
                session::timers().iter().for_each(|timer| session::stop_timer(&timer.name));
                Ok(())
            }
            _ => request.respond(501),
        }
    }

    fn on_acknowledged(_request: Heard) -> Outcome {
        begin_beat()
    }

    fn on_success(response: Heard) -> Outcome {
        if response.message.method() != "INVITE" {
            return Ok(());
        }
        sip::acknowledge(&response.leg, &[], None)?;
        begin_beat()
    }

    fn on_failure(response: Heard) -> Outcome {
        let status = response.message.status().unwrap_or_default();
        add(FAILED, &format!("{} {status}", response.message.method()))
    }

    fn on_failed(failed: Failed) -> Outcome {
        add(FAILED, &format!("{} {}", failed.method, failed.status))
    }

    fn on_timer(name: String) -> Outcome {
        let remembered = number(&format!("{DUE}{name}"));
        let due = match running(&name) {
            Some(timer) => record::due(remembered, timer.due, timer.every.unwrap_or(1)),
            None => remembered,
        };
        let firing = Firing { name: &name, due, now: session::now() }.to_string();
        remember_due(&name)?;
        add(FIRED, &firing)?;
        tell(&format!("fired {firing}"))
    }
}

impl HttpApplication for Witness {
    fn on_http(request: Request) -> Response {
        match answer(&request) {
            Ok(Some(text)) => Response::text(200, &text),
            Ok(None) => Response::text(400, "needs to, or note and number"),
            // Nothing of what it did before may happen either.
            Err(error) => panic!("{error:?}"),
        }
    }
}

impl HttpRouter for Witness {
    /// A client that never had an answer has no cookie, and asks for the same session again all the same.
    fn session_key(_method: &str, path_with_query: &str, _headers: &[Header]) -> Option<String> {
        record::session_of(path_with_query).map(str::to_owned)
    }
}

outlast_app::export!(Witness);
outlast_app::export_http!(Witness);
outlast_app::export_http_router!(Witness);

fn answer(request: &Request) -> Result<Option<String>, Error> {
    if request.method == "GET" {
        return Ok(Some(report()));
    }
    let Some(number) = request.parameter("number") else { return Ok(None) };
    let before = remembered_text(ANSWERED).unwrap_or_default();
    if let Some(said) = record::said_to(&before, &number) {
        return Ok(Some(said.to_owned()));
    }
    let said = match (request.parameter("to"), request.parameter("note")) {
        (Some(phone), _) => call(&phone)?,
        (None, Some(text)) => note(&text)?,
        (None, None) => return Ok(None),
    };
    remember(ANSWERED, &format!("{number} {said}"))?;
    Ok(Some(said))
}

/// Calls the phone that hears everything from now on.
fn call(phone: &str) -> Result<String, Error> {
    remember(LISTENER, PHONE)?;
    sip::invite(&sip::Call {
        leg: PHONE.to_owned(),
        target: phone.to_owned(),
        from: format!("<{}>", config::get("caller").unwrap_or_default()),
        to: format!("<{phone}>"),
        headers: Vec::new(),
        body: None,
    })?;
    Ok("calling".to_owned())
}

/// Counts a note, tells of it and sets its timer; gives the count.
fn note(text: &str) -> Result<String, Error> {
    let count = number(COUNT) + 1;
    remember(COUNT, &count.to_string())?;
    remember(LAST, text)?;
    let name = format!("once-{count}");
    session::start_timer(&name, setting("once_ms"), None)?;
    remember_due(&name)?;
    tell(&format!("told {count} {text}"))?;
    Ok(count.to_string())
}

fn begin_beat() -> Outcome {
    session::start_timer(BEAT, setting("beat_ms"), Some(setting("beat_ms")))?;
    remember_due(BEAT)
}

/// Remembers when a timer fires next, if it does.
fn remember_due(name: &str) -> Outcome {
    match running(name) {
        Some(timer) => remember(&format!("{DUE}{name}"), &timer.due.to_string()),
        None => Ok(()),
    }
}

fn running(name: &str) -> Option<session::Timer> {
    session::timers().into_iter().find(|timer| timer.name == name)
}

/// Says something to the phone.
fn tell(text: &str) -> Outcome {
    let listener = remembered_text(LISTENER).unwrap_or_default();
    let is_there =
        sip::find_leg(&listener).is_some_and(|leg| leg.state == sip::LegState::Confirmed);
    if !is_there {
        return Ok(());
    }
    let body = Body::new("text/plain", text.as_bytes());
    sip::send(&listener, "INFO", &[], Some(&body))
}

/// Everything that is remembered, in the order of its names.
fn report() -> String {
    let names = session::names();
    let lines = names.iter().map(|name| {
        let value = remembered_text(name).unwrap_or_default();
        record::line(name, &value)
    });
    lines.collect()
}

fn remember(name: &str, value: &str) -> Outcome {
    session::set(name, value.as_bytes())
}

fn add(name: &str, line: &str) -> Outcome {
    let lines = remembered_text(name).unwrap_or_default();
    remember(name, &format!("{lines}{line}\n"))
}

fn number(name: &str) -> u64 {
    remembered_text(name).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn setting(name: &str) -> u64 {
    config::get(name).and_then(|text| text.parse().ok()).unwrap_or(1_000)
}
