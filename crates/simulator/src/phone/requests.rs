//! The requests that a phone has sent: client transactions over UDP (RFC 3261 §17.1), repeated and given up in time.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sip::{HeaderName, Message};

use super::{CallName, PATIENCE, T1, T2, branch_of, text};
use crate::network::Datagram;
use crate::schedule::Moment;

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    Register { lifetime: Duration },
    Invite(CallName),
    Cancel,
    Bye(CallName),
}

impl Purpose {
    pub(super) fn method(&self) -> &'static str {
        match self {
            Purpose::Register { .. } => "REGISTER",
            Purpose::Invite(_) => "INVITE",
            Purpose::Cancel => "CANCEL",
            Purpose::Bye(_) => "BYE",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody has answered.
    Trying,
    /// A provisional response came.
    Proceeding,
    /// The final response came; its repetitions are absorbed, or acknowledged again, until then.
    Completed { until: Moment },
}

#[derive(Debug)]
struct Request {
    purpose: Purpose,
    key: Vec<u8>,
    message: Message,
    to: SocketAddr,
    state: State,
    began: Moment,
    repeats_at: Moment,
    interval: Duration,
}

/// A request that has had its end.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) purpose: Purpose,
    pub(super) began: Moment,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Requests {
    requests: Vec<Request>,
    /// Those whose final response came since the last look.
    answered: Vec<Ended>,
}

/// What a message and its repetitions have in common.
pub(super) fn key(message: &Message) -> Vec<u8> {
    let method = message.cseq().map(|cseq| cseq.method.as_bytes().to_vec()).unwrap_or_default();
    [branch_of(message).as_bytes(), b" ", &method].concat()
}

/// Something to make a tag of.
pub(super) fn tag_of(message: &Message) -> String {
    text(message.call_id().unwrap_or_default())
}

impl Requests {
    /// Sends a request and keeps it.
    pub(super) fn begin(
        &mut self,
        purpose: Purpose,
        bytes: Bytes,
        (from, to): (SocketAddr, SocketAddr),
        now: Moment,
        sent: &mut Vec<Datagram>,
    ) {
        let message = Message::parse(bytes.clone()).expect("the phone writes SIP");
        let key = key(&message);
        self.requests.push(Request {
            purpose,
            key,
            message,
            to,
            state: State::Trying,
            began: now,
            repeats_at: now + T1,
            interval: T1,
        });
        sent.push(Datagram { from, to, bytes });
    }

    /// A response has come: what for. A failure of an INVITE is acknowledged, each time (§17.1.1.3).
    pub(super) fn response(
        &mut self,
        response: &Message,
        status: u16,
        now: Moment,
        from: SocketAddr,
        sent: &mut Vec<Datagram>,
    ) -> Option<Purpose> {
        let key = key(response);
        let request = self.requests.iter_mut().find(|request| request.key == key)?;
        let is_invite = matches!(request.purpose, Purpose::Invite(_));
        let is_first = !matches!(request.state, State::Completed { .. });
        if status < 200 {
            if is_first {
                request.state = State::Proceeding;
                request.interval = T2;
            }
            return Some(request.purpose.clone());
        }
        if is_invite && status >= 300 {
            let bytes = sip::ack::ack(&request.message, response);
            sent.push(Datagram { from, to: request.to, bytes });
        }
        if is_first {
            request.state = State::Completed { until: now + PATIENCE };
            let ended = Ended { purpose: request.purpose.clone(), began: request.began };
            self.answered.push(ended);
        }
        Some(request.purpose.clone())
    }

    /// Those that have had their final response since the last call.
    pub(super) fn take_answered(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.answered)
    }

    /// Sends again what nobody answered.
    pub(super) fn repeat(&mut self, now: Moment, from: SocketAddr, sent: &mut Vec<Datagram>) {
        for request in &mut self.requests {
            if !request.repeats() || request.repeats_at > now {
                continue;
            }
            request.interval *= 2;
            if !matches!(request.purpose, Purpose::Invite(_)) {
                request.interval = request.interval.min(T2);
            }
            request.repeats_at = now + request.interval;
            let bytes = request.message.buffer().clone();
            sent.push(Datagram { from, to: request.to, bytes });
        }
    }

    /// What was not answered in time; forgets what is over.
    pub(super) fn give_up(&mut self, now: Moment) -> Vec<Ended> {
        let mut given_up = Vec::new();
        self.requests.retain(|request| match request.ends_at() {
            Some(at) if at <= now => {
                if !matches!(request.state, State::Completed { .. }) {
                    let purpose = request.purpose.clone();
                    given_up.push(Ended { purpose, began: request.began });
                }
                false
            }
            Some(_) | None => true,
        });
        given_up
    }

    /// The INVITE of a call, and where it went.
    pub(super) fn invite_of(&self, call: &CallName) -> Option<(&Message, SocketAddr)> {
        let is_it = |request: &&Request| request.purpose == Purpose::Invite(call.clone());
        self.requests.iter().find(is_it).map(|request| (&request.message, request.to))
    }

    pub(super) fn next_wake(&self) -> Option<Moment> {
        let repeats = self.requests.iter().filter(|request| request.repeats());
        let repeats = repeats.map(|request| request.repeats_at);
        repeats.chain(self.requests.iter().filter_map(Request::ends_at)).min()
    }
}

impl Request {
    /// RFC 3261 §17.1: an INVITE is repeated until any response comes, the others until the final one.
    fn repeats(&self) -> bool {
        match self.state {
            State::Trying => true,
            State::Proceeding => !matches!(self.purpose, Purpose::Invite(_)),
            State::Completed { .. } => false,
        }
    }

    /// An INVITE that proceeds has no end of its own: the proxy's Timer C ends it.
    fn ends_at(&self) -> Option<Moment> {
        match (self.state, &self.purpose) {
            (State::Completed { until }, _) => Some(until),
            (State::Proceeding, Purpose::Invite(_)) => None,
            (State::Trying | State::Proceeding, _) => Some(self.began + PATIENCE),
        }
    }
}

/// The value of a header, or nothing.
pub(super) fn value(message: &Message, name: HeaderName) -> String {
    text(message.field(name).unwrap_or_default())
}
