//! What happened to a session, as the guest is told.

use container::session::{RequestId, SessionEvent};
use sip::Message;

use crate::bindings::exports::outlast::app::handler as wit;
use crate::host::Host;

/// The request by which a session began; the container counts from it.
const FIRST_REQUEST: RequestId = RequestId(1);

/// The event in the guest's words; its message can be read from now on. None: its handler of SIP does not hear of it.
pub(crate) fn event(host: &mut Host, event: &SessionEvent) -> Option<wit::Event> {
    let message = host.happens(event);
    Some(match event {
        SessionEvent::Request { leg, request, message: came } => {
            wit::Event::Request(wit::Incoming {
                leg: leg.to_string(),
                request: request.0,
                initial: is_initial(came),
                message,
            })
        }
        SessionEvent::Cancelled { leg, request } => {
            wit::Event::Cancelled(wit::Cancelled { leg: leg.to_string(), request: request.0 })
        }
        SessionEvent::Acknowledged { leg, .. } => {
            wit::Event::Acknowledged(wit::Heard { leg: leg.to_string(), message })
        }
        SessionEvent::Response { leg, message: came } => {
            let heard = wit::Heard { leg: leg.to_string(), message };
            match came.status() {
                Some(..=199) => wit::Event::Provisional(heard),
                Some(200..=299) => wit::Event::Success(heard),
                Some(300..) | None => wit::Event::Failure(heard),
            }
        }
        SessionEvent::Failed { leg, method, status } => wit::Event::Failed(wit::Failed {
            leg: leg.to_string(),
            method: String::from_utf8_lossy(method).into_owned(),
            status: *status,
        }),
        SessionEvent::Timer { name } => wit::Event::Timer(name.clone()),
        SessionEvent::Signal { name, payload, sender } => wit::Event::Signal(wit::Signal {
            name: name.clone(),
            payload: payload.to_vec(),
            sender: sender.to_string(),
        }),
        SessionEvent::Http(_) => return None,
        SessionEvent::Ending => wit::Event::Ending,
        SessionEvent::Ended => wit::Event::Ended,
    })
}

/// Whether a session begins with this event.
pub(crate) fn begins(event: &SessionEvent) -> bool {
    match event {
        // A further caller is a later request.
        SessionEvent::Request { request, .. } => *request == FIRST_REQUEST,
        SessionEvent::Cancelled { .. }
        | SessionEvent::Acknowledged { .. }
        | SessionEvent::Response { .. }
        | SessionEvent::Failed { .. }
        | SessionEvent::Timer { .. }
        | SessionEvent::Signal { .. }
        | SessionEvent::Http(_)
        | SessionEvent::Ending
        | SessionEvent::Ended => false,
    }
}

/// RFC 3261 §12.2.2: a request in a dialog has a To tag.
fn is_initial(message: &Message) -> bool {
    message.to().is_ok_and(|to| to.tag().is_none())
}
