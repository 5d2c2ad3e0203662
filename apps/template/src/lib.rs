//! Answers calls to `sip:my-app@…`, holds them, and hangs up after a while.

mod hold;

use outlast_app::{Application, Body, Heard, Incoming, Outcome, config, log, sdp, session, sip};

/// The timer that ends the call.
const HANG_UP: &str = "hang-up";

struct App;

impl Application for App {
    fn on_request(request: Incoming) -> Outcome {
        match (request.initial, &*request.message.method()) {
            (true, "INVITE") => answer(&request),
            // It is answered 200 by itself. Without leg and timer nothing keeps the session, and it ends.
            (_, "BYE") => {
                session::stop_timer(HANG_UP);
                Ok(())
            }
            _ => request.respond(501),
        }
    }

    fn on_acknowledged(call: Heard) -> Outcome {
        let seconds = hold::seconds(config::get("seconds").as_deref());
        log::info(&format!("{} is held for {seconds} s", call.leg));
        session::start_timer(HANG_UP, seconds * 1000, None)
    }

    fn on_timer(_name: String) -> Outcome {
        sip::send("caller", "BYE", &[], None)
    }
}

outlast_app::export!(App);

fn answer(request: &Incoming) -> Outcome {
    let Some(offer) = request.message.body() else { return request.respond(488) };
    let answer = sdp::held_answer(&String::from_utf8_lossy(&offer.content), session::now());
    request.respond_with(200, &[], Some(&Body::new(sdp::CONTENT_TYPE, answer)))
}
