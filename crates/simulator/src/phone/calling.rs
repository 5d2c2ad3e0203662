//! The caller's side: INVITE, CANCEL, ACK and BYE (RFC 3261 §9.1, §13.2, §15).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sip::Message;

use super::dialog::{Dialog, to_tag};
use super::requests::Purpose;
use super::{CallName, Observation, Phone};
use crate::schedule::Moment;

/// How a call ended for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, and hung up by either side.
    Talked,
    /// It was refused with this status.
    Refused(u16),
    /// Nobody answered in time.
    TimedOut,
}

/// What the caller is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Gives up after so long, if nobody answered.
    pub cancels_after: Option<Duration>,
    /// Hangs up after so long; None: leaves it to the other side, for a while.
    pub hangs_up_after: Option<Duration>,
}

/// Nobody talks longer, so that every call ends.
const TALK_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum State {
    Inviting,
    Talking { dialog: Dialog, until: Moment },
    HangingUp,
    Over,
}

#[derive(Debug)]
struct Call {
    name: CallName,
    plan: Plan,
    state: State,
    cancels_at: Option<Moment>,
    has_provisional: bool,
    /// The ACKs by the tags that they went to, for repeated 2xx.
    acks: Vec<(String, Bytes, SocketAddr)>,
}

/// The calls that the phone has made.
#[derive(Debug, Default)]
pub(super) struct Calling {
    calls: Vec<Call>,
}

impl Calling {
    pub(super) fn next_wake(&self) -> Option<Moment> {
        self.calls.iter().filter_map(Call::next_wake).min()
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &CallName> {
        let open = self.calls.iter().filter(|call| !matches!(call.state, State::Over));
        open.map(|call| &call.name)
    }

    fn call(&mut self, name: &CallName) -> Option<&mut Call> {
        self.calls.iter_mut().find(|call| call.name == *name)
    }
}

impl Call {
    fn next_wake(&self) -> Option<Moment> {
        match &self.state {
            // RFC 3261 §9.1: a CANCEL waits for a provisional response.
            State::Inviting if self.has_provisional => self.cancels_at,
            State::Talking { until, .. } => Some(*until),
            State::Inviting | State::HangingUp | State::Over => None,
        }
    }
}

impl Phone {
    /// Calls `USER@DOMAIN`. Subject has the name of the call, which an agent in between passes on.
    pub fn call(&mut self, name: CallName, callee: &str, plan: Plan, now: Moment) {
        let branch = self.branch();
        let edge = self.some_edge();
        let (user, address, contact) = (&self.user, self.address, self.contact());
        let request = format!(
            "INVITE sip:{callee} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {address};branch={branch};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{user}@example.com>;tag=c-{name}\r\n\
             To: <sip:{callee}>\r\n\
             Call-ID: {name}\r\n\
             CSeq: 1 INVITE\r\n\
             Contact: <{contact}>\r\n\
             Subject: {name}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        self.calling.calls.push(Call {
            name: name.clone(),
            plan,
            state: State::Inviting,
            cancels_at: plan.cancels_after.map(|after| now + after),
            has_provisional: false,
            acks: Vec::new(),
        });
        let way = (address, edge);
        self.requests.begin(Purpose::Invite(name), request.into(), way, now, &mut self.sent);
    }

    /// A response to an INVITE of ours; a 2xx may come many times, and from several phones.
    pub(super) fn invite_answered(
        &mut self,
        name: &CallName,
        response: &Message,
        status: u16,
        now: Moment,
    ) {
        let Some((invite, _)) = self.requests.invite_of(name) else { return };
        let invite = invite.clone();
        if status < 200
            && let Some(call) = self.calling.call(name)
        {
            let is_first = !std::mem::replace(&mut call.has_provisional, true);
            if is_first {
                let heard = Observation::Heard { call: name.clone(), is_answer: false };
                self.observations.push(heard);
            }
        } else if (200..300).contains(&status) {
            self.answered_by(name, &invite, response, now);
        }
    }

    /// RFC 3261 §13.2.2.4: every 2xx is acknowledged; a second callee's call is ended at once.
    fn answered_by(&mut self, name: &CallName, invite: &Message, response: &Message, now: Moment) {
        let tag = to_tag(response);
        let known = self.calling.call(name).and_then(|call| {
            call.acks
                .iter()
                .find(|(known, ..)| *known == tag)
                .map(|(_, ack, to)| (ack.clone(), *to))
        });
        if let Some((ack, to)) = known {
            return self.send(to, ack);
        }
        self.observations.push(Observation::Heard { call: name.clone(), is_answer: true });
        let mut dialog = Dialog::of_caller(invite, response);
        let (ack_branch, bye_branch) = (self.branch(), self.branch());
        let (address, to) = (self.address, dialog.next_hop());
        let ack = dialog.ack((address, &ack_branch));
        self.send(to, ack.clone());
        let Some(call) = self.calling.call(name) else { return };
        call.acks.push((tag, ack, to));
        if matches!(call.state, State::Inviting) {
            let until = now + call.plan.hangs_up_after.unwrap_or(TALK_MAX);
            call.state = State::Talking { dialog, until };
        } else {
            let bye = dialog.bye((address, &bye_branch));
            let purpose = Purpose::Bye(format!("{name} (second answer)"));
            self.requests.begin(purpose, bye, (address, to), now, &mut self.sent);
        }
    }

    /// The INVITE has its final response, or none in time.
    pub(super) fn invite_ended(&mut self, name: &CallName, status: Option<u16>) {
        let outcome = match status {
            Some(200..300) => return,
            Some(status) => Outcome::Refused(status),
            None => Outcome::TimedOut,
        };
        self.calling_over(name, outcome);
    }

    pub(super) fn wake_calling(&mut self, now: Moment) {
        let due =
            self.calling.calls.iter().filter(|call| call.next_wake().is_some_and(|at| at <= now));
        let due: Vec<CallName> = due.map(|call| call.name.clone()).collect();
        for name in due {
            let branch = self.branch();
            let Some(call) = self.calling.call(&name) else { continue };
            match std::mem::replace(&mut call.state, State::HangingUp) {
                State::Talking { mut dialog, .. } => {
                    let bye = dialog.bye((self.address, &branch));
                    let way = (self.address, dialog.next_hop());
                    self.requests.begin(Purpose::Bye(name), bye, way, now, &mut self.sent);
                }
                state => {
                    call.state = state;
                    call.cancels_at = None;
                    self.cancel(&name, now);
                }
            }
        }
    }

    fn cancel(&mut self, name: &CallName, now: Moment) {
        let Some((invite, to)) = self.requests.invite_of(name) else { return };
        let cancel = sip::ack::cancel(invite);
        self.requests.begin(Purpose::Cancel, cancel, (self.address, to), now, &mut self.sent);
    }

    /// The other side hangs up a call of ours; whether there is one.
    pub(super) fn caller_hung_up_on(&mut self, name: &CallName) -> bool {
        match self.calling.call(name).map(|call| &call.state) {
            Some(State::Talking { .. } | State::HangingUp) => {
                self.calling_over(name, Outcome::Talked);
                true
            }
            Some(State::Over) => true,
            Some(State::Inviting) | None => false,
        }
    }

    /// Our BYE is answered, or given up.
    pub(super) fn caller_has_hung_up(&mut self, name: &CallName) {
        self.calling_over(name, Outcome::Talked);
    }

    fn calling_over(&mut self, name: &CallName, outcome: Outcome) {
        let Some(call) = self.calling.call(name) else { return };
        if !matches!(std::mem::replace(&mut call.state, State::Over), State::Over) {
            let call = name.clone();
            self.observations.push(Observation::CallingOver { call, outcome });
        }
    }
}
