//! An HTTP request makes two calls and joins them: third-party call control (RFC 3725 §4.1, flow I).
//!
//! `dial` decides what is to be done; here it is done.

mod dial;

use dial::{Dial, Happened, Leg, State, Step};
use outlast_app::http::{HttpApplication, Request, Response};
use outlast_app::{
    Application, Body, Cancelled, Failed, Heard, Incoming, Outcome, config, relay, sdp, session,
    sip,
};

/// The attribute with what is known of the two calls.
const DIAL: &str = "dial";
/// Fires when a phone has not answered in time.
const RINGING: &str = "ringing";
/// How long two may talk, in milliseconds.
const CALL_MAX: u64 = 12 * 3_600_000;
/// How long it can be asked afterwards what became of it.
const SHOWN: u64 = 600_000;

struct ClickToDial;

impl HttpApplication for ClickToDial {
    fn on_http(request: Request) -> Response {
        match (&*request.method, dial()) {
            ("POST", Some(dial)) if !dial.is_over() => Response::text(409, &dial.shown()),
            ("POST", before) => begin(&request, before),
            ("GET", Some(dial)) => Response::text(200, &dial.shown()),
            ("DELETE", Some(dial)) => match carry_out(dial, Happened::HungUp) {
                Ok(dial) => Response::text(200, &dial.shown()),
                Err(error) => Response::text(500, &error.to_string()),
            },
            ("GET" | "DELETE", None) => Response::text(404, "no call"),
            _ => Response {
                headers: vec![("allow".to_owned(), "GET, POST, DELETE".to_owned())],
                ..Response::text(405, "GET, POST or DELETE")
            },
        }
    }
}

impl Application for ClickToDial {
    fn on_request(request: Incoming) -> Outcome {
        let Some(dial) = dial() else { return request.respond(481) };
        match &*request.message.method() {
            "BYE" => heard(dial, &request.leg, Happened::Left),
            _ if dial.state == State::Talking => relay::request(&request),
            _ => request.respond(491),
        }
    }

    fn on_provisional(response: Heard) -> Outcome {
        match dial() {
            Some(dial) if dial.state == State::Talking => relay::response(&response),
            _ => Ok(()),
        }
    }

    fn on_success(response: Heard) -> Outcome {
        let Some(dial) = dial() else { return Ok(()) };
        if dial.state == State::Talking {
            return relay::response(&response);
        }
        if response.message.method() != "INVITE" {
            return Ok(()); // to a BYE of ours
        }
        let body = response.message.body().map(|body| body.content).unwrap_or_default();
        heard(dial, &response.leg, |leg| Happened::Answered(leg, body))
    }

    fn on_acknowledged(_request: Heard) -> Outcome {
        sip::relay() // of a re-INVITE that was passed on
    }

    fn on_cancelled(_cancelled: Cancelled) -> Outcome {
        sip::relay() // likewise
    }

    fn on_failure(response: Heard) -> Outcome {
        let Some(dial) = dial() else { return Ok(()) };
        if dial.state == State::Talking {
            return relay::response(&response);
        }
        let status = response.message.status().unwrap_or_default();
        heard(dial, &response.leg, |leg| Happened::Refused(leg, status))
    }

    fn on_failed(failed: Failed) -> Outcome {
        let Some(dial) = dial() else { return Ok(()) };
        // RFC 5057 §5.1: 408 and 481 end the dialog, and so does an ACK that never came.
        let is_gone = failed.method == "ACK" || matches!(failed.status, 408 | 481);
        match (&dial.state, is_gone) {
            (State::Talking, true) => heard(dial, &failed.leg, Happened::Left),
            (State::Talking, false) => sip::relay(),
            _ => heard(dial, &failed.leg, |leg| Happened::Refused(leg, failed.status)),
        }
    }

    fn on_timer(_name: String) -> Outcome {
        match dial() {
            Some(dial) => carry_out(dial, Happened::RangTooLong).map(drop),
            None => Ok(()),
        }
    }
}

outlast_app::export!(ClickToDial);
outlast_app::export_http!(ClickToDial);

/// A new attempt; legs of an earlier one of the same browser keep their names, so the new ones have others.
fn begin(request: &Request, before: Option<Dial>) -> Response {
    let parameter = |name| request.parameter(name).filter(|uri| dial::is_target(uri));
    let (Some(from), Some(to)) = (parameter("from"), parameter("to")) else {
        return Response::text(400, "needs from and to, each a sip: address");
    };
    let attempt = before.map_or(1, |before| before.attempt + 1);
    match carry_out(Dial::new(attempt, from, to), Happened::Asked) {
        Ok(dial) => Response::text(202, &dial.shown()),
        Err(error) => Response::text(400, &error.to_string()),
    }
}

/// Something happened on a leg; one of an attempt that is over is left alone.
fn heard(dial: Dial, leg: &str, happened: impl FnOnce(Leg) -> Happened) -> Outcome {
    match dial.leg(leg) {
        Some(leg) => carry_out(dial, happened(leg)).map(drop),
        None => Ok(()),
    }
}

fn carry_out(dial: Dial, happened: Happened) -> Result<Dial, outlast_app::Error> {
    let (dial, steps) = dial.after(happened);
    for step in steps {
        carry_out_step(&dial, step)?;
    }
    session::set(DIAL, &dial.written())?;
    // What became of it can be asked for a while.
    session::expire_after(if dial.is_over() { SHOWN } else { CALL_MAX })?;
    Ok(dial)
}

fn carry_out_step(dial: &Dial, step: Step) -> Outcome {
    let described = |content: Vec<u8>| Body::new(sdp::CONTENT_TYPE, content);
    match step {
        Step::Call(leg, offer) => {
            let (us, target) = (setting("caller", "sip:click-to-dial@localhost"), dial.target(leg));
            sip::invite(&sip::Call {
                leg: dial.leg_name(leg),
                target: target.to_owned(),
                from: format!("<{us}>"),
                to: format!("<{target}>"),
                headers: Vec::new(),
                body: offer.map(described),
            })?;
            let seconds: u64 = setting("ring_seconds", "25").parse().unwrap_or(25);
            session::start_timer(RINGING, seconds * 1000, None)
        }
        Step::Acknowledge(leg, answer) => {
            sip::acknowledge(&dial.leg_name(leg), &[], answer.map(described).as_ref())
        }
        Step::AcknowledgeHeld(leg, offer) => {
            let answer = sdp::held_answer(&String::from_utf8_lossy(&offer), session::now());
            sip::acknowledge(&dial.leg_name(leg), &[], Some(&described(answer.into_bytes())))
        }
        Step::Link => sip::link(&dial.leg_name(Leg::First), &dial.leg_name(Leg::Second)),
        Step::Cancel(leg) => sip::cancel(&dial.leg_name(leg)),
        Step::Bye(leg) => sip::send(&dial.leg_name(leg), "BYE", &[], None),
        Step::StopRinging => {
            session::stop_timer(RINGING);
            Ok(())
        }
    }
}

fn dial() -> Option<Dial> {
    session::get(DIAL).and_then(|written| Dial::read(&written))
}

fn setting(name: &str, default: &str) -> String {
    config::get(name).unwrap_or_else(|| default.to_owned())
}
