//! Rooms for messages: one session a room, found by the room's name; one leg a member.

mod room;

use outlast_app::{
    Application, Body, Failed, Header, Incoming, Message, Outcome, Router, headers, log, sdp,
    session, sip,
};

/// A session has 16 legs at most; one stays free for whoever speaks from outside.
const MEMBERS_MAX: usize = 15;

struct ConferenceKey;

impl Application for ConferenceKey {
    fn on_request(request: Incoming) -> Outcome {
        let message = &request.message;
        match (request.initial, &*message.method()) {
            (true, "INVITE") => join(&request),
            // Within a call or from outside of any.
            (_, "MESSAGE") => tell_others(&request),
            (false, "INVITE" | "UPDATE") => match message.body() {
                Some(offer) => request.respond_with(200, &[], Some(&held(&offer))),
                None => request.respond(if message.method() == "UPDATE" { 200 } else { 488 }),
            },
            (false, "BYE") => {
                log::info(&format!("{} left", request.leg));
                Ok(())
            }
            _ => request.respond_with(405, &[Header::new("Allow", room::ALLOW)], None),
        }
    }

    fn on_failed(failed: Failed) -> Outcome {
        // RFC 5057 §5.1: 408 and 481 end the dialog, and so does an ACK that never came.
        if failed.method == "ACK" || matches!(failed.status, 408 | 481) {
            log::info(&format!("{} is gone", failed.leg));
            return sip::send(&failed.leg, "BYE", &[], None);
        }
        Ok(())
    }
}

impl Router for ConferenceKey {
    fn session_key(request: &Message) -> Option<String> {
        let uri = request.request_uri()?;
        room::key(&uri.user, &uri.host)
    }
}

outlast_app::export!(ConferenceKey);
outlast_app::export_router!(ConferenceKey);

/// Another member, if there is a place.
fn join(request: &Incoming) -> Outcome {
    let members = sip::legs().iter().filter(|leg| leg.state == sip::LegState::Confirmed).count();
    if members >= MEMBERS_MAX {
        return request.respond(486);
    }
    // Without an offer we would have to make one, and have no media to offer.
    let Some(offer) = request.message.body().filter(|body| body.content_type == sdp::CONTENT_TYPE)
    else {
        return request.respond(488);
    };
    log::info(&format!("{} joins as member {}", request.leg, members + 1));
    request.respond_with(200, &[Header::new("Allow", room::ALLOW)], Some(&held(&offer)))
}

/// What one says, all others hear.
fn tell_others(request: &Incoming) -> Outcome {
    let message = &request.message;
    let Some(said) = message.body() else { return request.respond(400) };
    let listeners: Vec<_> = sip::legs()
        .into_iter()
        .filter(|leg| leg.state == sip::LegState::Confirmed && leg.name != request.leg)
        .map(|leg| leg.name)
        .collect();
    if listeners.is_empty() {
        // RFC 3428 §7: nobody is here who could hear it.
        return request.respond(480);
    }
    let speaker =
        message.address("From").map(|from| room::shown(&from.display_name, &from.uri.text));
    let mut carried = headers::passed_on(message.all_headers());
    carried.extend(speaker.map(|speaker| Header::new("X-Speaker", speaker)));
    for listener in &listeners {
        sip::send(listener, "MESSAGE", &carried, Some(&said))?;
    }
    request.respond(202)
}

fn held(offer: &Body) -> Body {
    let offer = String::from_utf8_lossy(&offer.content);
    Body::new(sdp::CONTENT_TYPE, sdp::held_answer(&offer, session::now()))
}
