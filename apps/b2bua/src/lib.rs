//! A back-to-back agent with a call log and a session timer.
//!
//! The caller's INVITE becomes an INVITE of ours to the same target; from then on what one side asks is asked of the
//! other. The two legs are linked, so most messages are passed on by `relay`. The first INVITE, refreshes and their answers
//! are not: a relay leaves the session timer to each leg, and here it goes from one end to the other.

mod call;
mod session_timer;

use call::Call;
use outlast_app::{
    Application, Cancelled, Failed, Header, Heard, Incoming, Message, Outcome, config, headers,
    log, relay, remembered_text, session, sip,
};
use session_timer::Watch;

const CALLER: &str = "caller";
const CALLEE: &str = "callee";
/// The attribute with what is known of the call.
const CALL: &str = "call";
/// Fires when the callee has not answered in time.
const RINGING: &str = "ringing";
/// Fires when nobody refreshed the session in time.
const UNREFRESHED: &str = "unrefreshed";

struct BackToBack;

impl Application for BackToBack {
    fn on_request(request: Incoming) -> Outcome {
        match (request.initial, &*request.message.method()) {
            (true, _) => begin(&request),
            (false, "BYE") => {
                end_log(&format!("{} hung up", request.leg));
                sip::relay()
            }
            (false, "INVITE" | "UPDATE") => pass_refresh(&request),
            (false, _) => relay::request(&request),
        }
    }

    fn on_provisional(response: Heard) -> Outcome {
        match unanswered_call(&response) {
            Some(call) => respond(call.request, &response.message, Vec::new()),
            None => relay::response(&response),
        }
    }

    fn on_success(response: Heard) -> Outcome {
        let message = &response.message;
        let agreed = message.header("Session-Expires");
        let Some(mut call) = unanswered_call(&response) else {
            let Some(request) = waits(other(&response.leg), &message.method()) else {
                return relay::response(&response);
            };
            let refreshed = session_timer::refreshed(agreed.as_deref());
            respond(request, message, refreshed.headers)?;
            return watch(refreshed.watch);
        };
        let answer = session_timer::for_answer(agreed.as_deref(), call.asked);
        respond(call.request, message, answer.headers)?;
        call.answered = Some(session::now());
        remember(&call)?;
        session::stop_timer(RINGING);
        watch(answer.watch)
    }

    fn on_failure(response: Heard) -> Outcome {
        let Some(call) = unanswered_call(&response) else { return relay::response(&response) };
        let status = response.message.status().unwrap_or_default();
        let least = response.message.header("Min-SE").filter(|_| status == 422);
        let least = least.map(|least| Header::new("Min-SE", least));
        session::stop_timer(RINGING);
        end_log(&format!("answered {status}"));
        respond(call.request, &response.message, least.into_iter().collect())
    }

    fn on_acknowledged(request: Heard) -> Outcome {
        // Only now: the ACK may hold the answer to an offer in the 2xx.
        sip::acknowledge(other(&request.leg), &[], request.message.body().as_ref())
    }

    fn on_cancelled(cancelled: Cancelled) -> Outcome {
        if call().is_some_and(|call| call.answered.is_some()) {
            return sip::cancel(other(&cancelled.leg)); // of a re-INVITE: the call itself goes on
        }
        end_log("given up by the caller");
        session::invalidate(); // the callee has a CANCEL, or a BYE if it has just answered
        Ok(())
    }

    fn on_failed(failed: Failed) -> Outcome {
        let Some(call) = call() else { return Ok(()) };
        if call.answered.is_none() {
            session::stop_timer(RINGING);
            end_log(&format!("not reached: {}", failed.status));
            return sip::respond(call.request, call::told(failed.status), "", &[], None);
        }
        // RFC 5057 §5.1: 408 and 481 end the dialog, and so does an ACK that never came.
        if failed.method == "ACK" || matches!(failed.status, 408 | 481) {
            end_log(&format!("{} is gone", failed.leg));
            session::invalidate();
            return Ok(());
        }
        match waits(other(&failed.leg), &failed.method) {
            Some(request) => sip::respond(request, call::told(failed.status), "", &[], None),
            None => Ok(()),
        }
    }

    fn on_timer(name: String) -> Outcome {
        match &*name {
            RINGING => {
                end_log("no answer");
                if let Some(call) = call() {
                    sip::respond(call.request, 480, "No Answer", &[], None)?;
                }
            }
            _ => end_log("nobody refreshed the session"),
        }
        session::invalidate();
        Ok(())
    }

    fn on_ending() -> Outcome {
        end_log("the session's time was over");
        Ok(())
    }
}

outlast_app::export!(BackToBack);

/// The caller's INVITE: the callee is called.
fn begin(request: &Incoming) -> Outcome {
    let message = &request.message;
    let address = |name: &str| message.address(name);
    let (Some(target), Some(from), Some(to)) =
        (message.request_uri(), address("From"), address("To"))
    else {
        return request.respond(400);
    };
    let asked = session_timer::for_invite(
        message.header("Session-Expires").as_deref(),
        message.header("Min-SE").as_deref(),
        headers::lists(&message.headers("Supported"), "timer"),
        setting("session_seconds", 1800),
    );
    let asked = match asked {
        Ok(asked) => asked,
        Err(too_small) => {
            let minimum = Header::new("Min-SE", too_small.minimum.to_string());
            return request.respond_with(422, &[minimum], None);
        }
    };
    let mut carried = headers::passed_on(message.all_headers());
    carried.extend(asked.headers());
    sip::invite(&sip::Call {
        leg: CALLEE.to_owned(),
        target: target.text,
        from: call::written_address(&from.display_name, &from.uri.text),
        to: call::written_address(&to.display_name, &to.uri.text),
        headers: carried,
        body: message.body(),
    })?;
    sip::link(CALLER, CALLEE)?;
    session::start_timer(RINGING, setting("ring_seconds", 180) * 1000, None)?;
    remember(&Call {
        from: from.uri.text,
        to: to.uri.text,
        request: request.request,
        begun: session::now(),
        answered: None,
        asked,
    })
}

/// The call, when this answers the INVITE that it began with.
fn unanswered_call(response: &Heard) -> Option<Call> {
    let is_invite = response.leg == CALLEE && response.message.method() == "INVITE";
    call().filter(|call| is_invite && call.answered.is_none())
}

/// What one leg answered goes to the other, with headers in addition.
fn respond(request: u64, message: &Message, additional: Vec<Header>) -> Outcome {
    let status = message.status().unwrap_or(500);
    let told = call::told(status);
    if told != status {
        return sip::respond(request, told, "", &[], None);
    }
    let mut carried = headers::passed_on(message.all_headers());
    carried.extend(additional);
    sip::respond(request, status, &message.reason(), &carried, message.body().as_ref())
}

/// A re-INVITE or UPDATE is perhaps a refresh: it goes on with its session timer.
fn pass_refresh(request: &Incoming) -> Outcome {
    let message = &request.message;
    let (method, other) = (message.method(), other(&request.leg));
    let is_waiting = sip::find_leg(other).is_none_or(|leg| leg.waiting.contains(&method));
    if is_waiting {
        return request.respond(if method == "INVITE" { 491 } else { 500 });
    }
    let mut carried = headers::passed_on(message.all_headers());
    carried.extend(session_timer::for_refresh(
        message.header("Session-Expires").as_deref(),
        headers::lists(&message.headers("Supported"), "timer"),
    ));
    sip::send(other, &method, &carried, message.body().as_ref())
}

/// The oldest request of that method that a leg waits for the answer to.
fn waits(leg: &str, method: &str) -> Option<u64> {
    let unanswered = sip::find_leg(leg)?.unanswered;
    unanswered.into_iter().find(|(_, waiting)| waiting == method).map(|(request, _)| request)
}

fn other(leg: &str) -> &'static str {
    if leg == CALLER { CALLEE } else { CALLER }
}

fn watch(watch: Option<Watch>) -> Outcome {
    match watch {
        Some(watch) => session::start_timer(UNREFRESHED, watch.seconds * 1000, None),
        None => Ok(()),
    }
}

fn call() -> Option<Call> {
    remembered_text(CALL).and_then(|text| Call::read(&text))
}

fn remember(call: &Call) -> Outcome {
    session::set(CALL, call.written().as_bytes())
}

/// The line of the call log. Nothing that is left keeps the session, so it ends.
fn end_log(how: &str) {
    if let Some(call) = call() {
        log::info(&call.line(session::now(), how));
    }
    session::stop_timer(UNREFRESHED);
}

fn setting(name: &str, default: u64) -> u64 {
    config::get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}
