//! Reminds the sender of a MESSAGE by messages of its own, at equal intervals.
//!
//! One session a user, found by the address in From. What is to be said and how often stands in its attributes; the
//! repeating timer is what keeps it alive.

mod wish;

use outlast_app::{
    Application, Body, Failed, Header, Heard, Incoming, Message, Outcome, Router, config, log,
    remembered_text, session, sip,
};
use wish::{Round, Wish};

/// The attribute with what is left to do.
const ROUND: &str = "round";
/// The timer.
const TICK: &str = "tick";

struct Reminder;

impl Application for Reminder {
    fn on_request(request: Incoming) -> Outcome {
        let said = request.message.body().map(|body| body.content).unwrap_or_default();
        match wish::parse(&String::from_utf8_lossy(&said), setting("seconds_min", 1)) {
            Some(Wish::Remind { seconds, text }) => {
                let addressee =
                    |name| request.message.address(name).map(|address| address.uri.text);
                let (Some(user), Some(us)) = (addressee("From"), addressee("To")) else {
                    return request.respond(400);
                };
                // Legs of one session have names that none had before, so the count goes on.
                let sent = round().map_or(0, |before| before.sent);
                let left = setting("times", 3);
                let begun = Round { user, us, text, sent, left };
                session::set(ROUND, begun.written().as_bytes())?;
                session::start_timer(TICK, seconds * 1000, Some(seconds * 1000))?;
                request.respond(202)
            }
            Some(Wish::Stop) => {
                session::stop_timer(TICK);
                request.respond(200)
            }
            None => {
                let warning = "399 reminder \"say: 60 take the cake out, or: stop\"";
                request.respond_with(400, &[Header::new("Warning", warning)], None)
            }
        }
    }

    fn on_timer(_name: String) -> Outcome {
        let Some(mut round) = round() else {
            session::stop_timer(TICK);
            return Ok(());
        };
        let number = round.next();
        sip::send_outside(&sip::OutsideRequest {
            leg: format!("reminder-{number}"),
            method: "MESSAGE".to_owned(),
            target: round.user.clone(),
            from: format!("<{}>", round.us),
            to: format!("<{}>", round.user),
            headers: Vec::new(),
            body: Some(Body::new("text/plain", round.text.as_bytes())),
        })?;
        if round.left == 0 {
            session::stop_timer(TICK); // nothing keeps the session any more, so it ends
        }
        session::set(ROUND, round.written().as_bytes())
    }

    fn on_failure(response: Heard) -> Outcome {
        give_up(&format!("answered {}", response.message.status().unwrap_or_default()));
        Ok(())
    }

    fn on_failed(failed: Failed) -> Outcome {
        give_up(&format!("not delivered: {}", failed.status));
        Ok(())
    }
}

impl Router for Reminder {
    fn session_key(request: &Message) -> Option<String> {
        let user = request.address("From")?.uri;
        Some(format!("{}@{}", user.user, user.host))
    }
}

outlast_app::export!(Reminder);
outlast_app::export_router!(Reminder);

/// Who cannot be reached is not bothered further.
fn give_up(why: &str) {
    log::info(&format!("reminder {why}; no more of them"));
    session::stop_timer(TICK);
}

fn round() -> Option<Round> {
    remembered_text(ROUND).and_then(|text| Round::read(&text))
}

fn setting(name: &str, default: u64) -> u64 {
    config::get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}
