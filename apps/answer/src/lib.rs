//! Answers every call and holds it: as little as an application with calls can be.

use outlast_app::{Application, Body, Incoming, Outcome, sdp, session};

struct Answer;

impl Application for Answer {
    fn on_request(request: Incoming) -> Outcome {
        match &*request.message.method() {
            "INVITE" => answer(&request),
            // It is answered 200 by itself; without a leg the session ends.
            "BYE" => Ok(()),
            _ => request.respond(501),
        }
    }
}

outlast_app::export!(Answer);

fn answer(request: &Incoming) -> Outcome {
    // Without an offer we would have to make one, and have no media to offer.
    let Some(offer) = request.message.body() else { return request.respond(488) };
    let answer = sdp::held_answer(&String::from_utf8_lossy(&offer.content), session::now());
    request.respond_with(200, &[], Some(&Body::new(sdp::CONTENT_TYPE, answer)))
}
