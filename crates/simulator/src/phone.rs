//! A phone: registers and keeps registered, calls, rings, answers, rejects, cancels, hangs up; over UDP only.
//!
//! A small user agent of its own (RFC 3261 §8, §10, §13, §15, §17), pure: datagrams and time in, datagrams and
//! [`Observation`]s out. It shares no decision with the production code but the parser, so that a mistake of that
//! code is not made twice.
//!
//! `registration` and `calling` hold the transactions that it begins, `called` those that others do.

mod called;
mod calling;
mod dialog;
mod registration;
mod requests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sip::{Frame, HeaderName, Message, Method, ResponseBuilder};

use crate::network::Datagram;
use crate::random::Random;
use crate::schedule::Moment;
use called::Called;
use calling::Calling;
use registration::Registration;
use requests::{Ended, Purpose, Requests};

pub use calling::{Outcome, Plan};

/// RFC 3261 §17.1.1.1.
pub const T1: Duration = Duration::from_millis(500);
/// RFC 3261 §17.1.2.2.
pub const T2: Duration = Duration::from_secs(4);
/// 64·T1: Timers B, F, H, and how long repetitions may come.
pub const PATIENCE: Duration = Duration::from_secs(32);

/// Names a call: the user part of its Call-ID.
pub type CallName = String;

/// Something that those who watch the world want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// A 200 to REGISTER came that promises the own binding until then.
    Registered {
        /// By the phone's clock.
        until: Moment,
    },
    /// A 200 to REGISTER does not list the own binding.
    BindingMissing,
    /// A request of the phone has ended.
    RequestEnded {
        /// Its method.
        method: &'static str,
        /// When it was sent first.
        began: Moment,
        /// None: nobody answered in time.
        status: Option<u16>,
    },
    /// The caller has the first provisional response, or the first 2xx of a phone.
    Heard {
        /// Of which call.
        call: CallName,
        /// Whether it is a 2xx.
        is_answer: bool,
    },
    /// The phone rings for a call, for the first time.
    Rang {
        /// For which.
        call: CallName,
    },
    /// An INVITE of a call that has rung here came under another branch: a second call for the user.
    RangAgain {
        /// Of which call.
        call: CallName,
        /// The branch that it rang for.
        branch: String,
        /// The branch that came.
        second: String,
    },
    /// The user picked up: 200 was sent.
    PickedUp {
        /// Which call.
        call: CallName,
    },
    /// The ACK to that 200 came.
    Acknowledged {
        /// Of which call.
        call: CallName,
    },
    /// The call is over at the callee.
    CalledOver {
        /// Which.
        call: CallName,
        /// Whether it picked up and never got the ACK.
        is_unacknowledged: bool,
    },
    /// The call is over at the caller.
    CallingOver {
        /// Which.
        call: CallName,
        /// How.
        outcome: Outcome,
    },
}

/// How the user behaves when called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers, rejects, or lets it ring, after a while, as it comes.
    Fickle,
    /// Answers soon.
    Eager,
}

/// One phone.
#[derive(Debug)]
pub struct Phone {
    /// The user part of its contact.
    pub name: String,
    /// The user part of its address-of-record; two phones may share it.
    pub user: String,
    /// Where it is.
    pub address: SocketAddr,
    /// How its user behaves.
    pub mood: Mood,
    edges: Vec<SocketAddr>,
    random: Random,
    registration: Registration,
    requests: Requests,
    calling: Calling,
    called: Called,
    /// Responses to requests other than INVITE, for their repetitions.
    answered: VecDeque<(Moment, Vec<u8>, Bytes)>,
    sent: Vec<Datagram>,
    observations: Vec<Observation>,
}

impl Phone {
    /// A phone that knows these edges and will register at that moment.
    pub fn new(
        (name, user): (String, String),
        address: SocketAddr,
        edges: Vec<SocketAddr>,
        mut random: Random,
        registers_at: Moment,
    ) -> Phone {
        Phone {
            registration: Registration::new(&name, registers_at, &mut random, edges.len()),
            name,
            user,
            address,
            mood: Mood::Fickle,
            edges,
            random,
            requests: Requests::default(),
            calling: Calling::default(),
            called: Called::default(),
            answered: VecDeque::new(),
            sent: Vec::new(),
            observations: Vec::new(),
        }
    }

    /// A datagram has come.
    pub fn datagram(&mut self, datagram: Datagram, now: Moment) {
        let Some(Frame::Message(bytes)) = sip::framer::datagram(datagram.bytes) else { return };
        let message = Message::parse(bytes).expect("an edge sends SIP only");
        if message.is_request() {
            self.request(&message, datagram.from, now);
        } else {
            self.response(&message, now);
        }
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Moment) {
        self.requests.repeat(now, self.address, &mut self.sent);
        for ended in self.requests.give_up(now) {
            self.ended(ended, None, now);
        }
        while self.answered.front().is_some_and(|(until, ..)| *until <= now) {
            self.answered.pop_front();
        }
        self.wake_registration(now);
        self.wake_calling(now);
        self.wake_called(now);
    }

    /// When it wants to be woken.
    pub fn next_wake(&self) -> Option<Moment> {
        let moments = [
            self.requests.next_wake(),
            self.registration.next_wake(),
            self.calling.next_wake(),
            self.called.next_wake(),
        ];
        moments.into_iter().flatten().min()
    }

    /// What it has sent since the last call.
    pub fn take_sent(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.sent)
    }

    /// What it has observed since the last call.
    pub fn take_observations(&mut self) -> Vec<Observation> {
        std::mem::take(&mut self.observations)
    }

    /// The contact that it registers.
    pub fn contact(&self) -> String {
        format!("sip:{}@{}", self.name, self.address)
    }

    /// Calls that are not over, at either end.
    pub fn open_calls(&self) -> Vec<CallName> {
        self.calling.open().chain(self.called.open()).cloned().collect()
    }

    fn response(&mut self, response: &Message, now: Moment) {
        let Some(status) = response.status() else { return };
        let (address, sent) = (self.address, &mut self.sent);
        let purpose = self.requests.response(response, status, now, address, sent);
        if let Some(Purpose::Invite(call)) = purpose {
            self.invite_answered(&call, response, status, now);
        }
        for ended in self.requests.take_answered() {
            self.ended(ended, Some(response), now);
        }
    }

    /// A request of ours has ended: its final response, or none.
    fn ended(&mut self, ended: Ended, response: Option<&Message>, now: Moment) {
        let status = response.and_then(Message::status);
        let (method, began) = (ended.purpose.method(), ended.began);
        self.observations.push(Observation::RequestEnded { method, began, status });
        match ended.purpose {
            Purpose::Register { lifetime } => self.registered(ended.began, lifetime, response, now),
            Purpose::Invite(call) => self.invite_ended(&call, status),
            Purpose::Bye(call) => self.hung_up(&call),
            Purpose::Cancel => {}
        }
    }

    fn request(&mut self, request: &Message, from: SocketAddr, now: Moment) {
        let repetition = requests::key(request);
        let known = self.answered.iter().find(|(_, key, _)| *key == repetition);
        if let Some((_, _, response)) = known {
            let response = response.clone();
            return self.send(from, response);
        }
        match request.method() {
            Some(Method::Invite) => self.invited(request, from, now),
            Some(Method::Ack) => self.acknowledged(request),
            Some(Method::Cancel) => {
                let status = if self.cancelled(request, now) { 200 } else { 481 };
                self.answer(request, from, status, now);
            }
            Some(Method::Bye) => {
                let status = if self.ended_by_other(request) { 200 } else { 481 };
                self.answer(request, from, status, now);
            }
            _ => self.answer(request, from, 200, now),
        }
    }

    fn answer(&mut self, request: &Message, from: SocketAddr, status: u16, now: Moment) {
        let tag = format!("{}-{}", self.name, requests::tag_of(request));
        let response = ResponseBuilder::new(request, status).to_tag(tag.as_bytes()).build();
        self.answered.push_back((now + PATIENCE, requests::key(request), response.clone()));
        self.send(from, response);
    }

    fn send(&mut self, to: SocketAddr, bytes: Bytes) {
        self.sent.push(Datagram { from: self.address, to, bytes });
    }

    fn branch(&mut self) -> String {
        format!("z9hG4bK{:016x}", self.random.number())
    }

    fn some_edge(&mut self) -> SocketAddr {
        let place = self.random.place(self.edges.len());
        self.edges[place]
    }
}

/// The name of the call that a message belongs to.
fn call_of(message: &Message) -> CallName {
    text(message.call_id().unwrap_or_default())
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// The branch of the topmost Via.
fn branch_of(message: &Message) -> String {
    text(message.field(HeaderName::Via).and_then(via_branch).unwrap_or_default())
}

fn via_branch(via: &[u8]) -> Option<&[u8]> {
    sip::Via::parse(via).ok()?.branch()
}
