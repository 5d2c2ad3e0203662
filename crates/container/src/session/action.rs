//! What a session wants to happen once the commit of its step stands.

use bytes::Bytes;
use sip::Message;

use super::http::HttpResponse;

/// What is done once the commit of an event stands, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Answer on the server transaction of this key; if there is none any more, it is nothing.
    Answer {
        /// Of the request.
        key: Bytes,
        /// 101–699.
        status: u16,
        /// Complete message.
        response: Bytes,
    },
    /// Tell a session that its signal was heard.
    Reply {
        /// Complete message.
        response: Bytes,
    },
    /// Answer the HTTP request of the event, if it has no answer yet.
    HttpRespond(HttpResponse),
    /// Begin a client transaction.
    Start {
        /// Its branch.
        branch: Bytes,
        /// Its method.
        method: Bytes,
        /// Complete message.
        request: Bytes,
    },
    /// Send an ACK to a 2xx, once.
    Acknowledge {
        /// Complete message.
        ack: Bytes,
    },
    /// Cancel the INVITE of this branch, which has a provisional response.
    Cancel {
        /// Its branch.
        branch: Bytes,
    },
    /// Forget the client transaction of this branch.
    Abandon {
        /// Its branch.
        branch: Bytes,
    },
    /// Ask the registrar what it would do with a request that goes on to nobody in particular.
    Route {
        /// Of the request.
        key: Bytes,
    },
    /// Let a request go on: its way is known.
    Forward {
        /// Of the request.
        key: Bytes,
    },
    /// Go on with a request that a former owner let go on.
    Resume {
        /// Of the request.
        key: Bytes,
    },
    /// Cancel an INVITE that goes on, as its caller would.
    CancelForwarded {
        /// Of the request.
        key: Bytes,
    },
    /// Let an ACK to a 2xx go on, once.
    ForwardAck {
        /// As it came, without our entry in its Route.
        ack: Box<Message>,
    },
    /// The client transaction may have this final response: it is committed.
    Accept {
        /// The response.
        response: Box<Message>,
    },
}

impl Action {
    /// Whether it begins something that a successor which knows nothing of it would begin again: a request that belongs to
    /// no dialog.
    pub fn begins(&self) -> bool {
        let request = match self {
            Action::Start { request, .. } => request,
            Action::Route { .. } | Action::Forward { .. } => return true,
            Action::Answer { .. }
            | Action::Reply { .. }
            | Action::HttpRespond(_)
            | Action::Acknowledge { .. }
            | Action::Cancel { .. }
            | Action::Abandon { .. }
            | Action::Resume { .. }
            | Action::CancelForwarded { .. }
            | Action::ForwardAck { .. }
            | Action::Accept { .. } => return false,
        };
        let request = Message::parse(request.clone());
        request.is_ok_and(|request| request.to().is_ok_and(|to| to.tag().is_none()))
    }
}
