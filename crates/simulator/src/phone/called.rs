//! The callee's side: rings, answers, rejects, is cancelled, hangs up (RFC 3261 §9.2, §13.3, §15, §17.2.1).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sip::{HeaderName, Message, ResponseBuilder};

use super::dialog::Dialog;
use super::requests::{Purpose, value};
use super::{CallName, Mood, Observation, PATIENCE, Phone, T1, T2, branch_of, call_of};
use crate::random::Random;
use crate::schedule::Moment;

/// What the user will do about a ringing phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    PickUp,
    Reject(u16),
    LetItRing,
}

/// A final response that is sent again until its ACK comes.
#[derive(Debug)]
struct Final {
    bytes: Bytes,
    repeats_at: Moment,
    interval: Duration,
    until: Moment,
}

#[derive(Debug)]
enum State {
    Ringing {
        decides_at: Moment,
        decision: Decision,
    },
    /// 2xx sent, not acknowledged yet.
    PickedUp(Final),
    /// Failure sent, not acknowledged yet.
    Refused(Final),
    Talking {
        until: Moment,
    },
    HangingUp,
    Over,
}

#[derive(Debug)]
struct Call {
    /// The Call-ID, which an agent in between has changed.
    name: CallName,
    /// The call as its caller names it.
    subject: CallName,
    branch: String,
    invite: Message,
    from: SocketAddr,
    tag: String,
    state: State,
    /// Our last response, for repeated INVITEs.
    response: Bytes,
    dialog: Dialog,
    talks: Duration,
}

/// The calls that have come.
#[derive(Debug, Default)]
pub(super) struct Called {
    calls: Vec<Call>,
}

impl Called {
    pub(super) fn next_wake(&self) -> Option<Moment> {
        self.calls.iter().filter_map(Call::next_wake).min()
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &CallName> {
        let open = self.calls.iter().filter(|call| !matches!(call.state, State::Over));
        open.map(|call| &call.subject)
    }

    fn call(&mut self, name: &CallName) -> Option<&mut Call> {
        self.calls.iter_mut().find(|call| call.name == *name)
    }
}

impl Call {
    fn next_wake(&self) -> Option<Moment> {
        match &self.state {
            State::Ringing { decision: Decision::LetItRing, .. } => None,
            State::Ringing { decides_at, .. } => Some(*decides_at),
            State::PickedUp(response) | State::Refused(response) => {
                Some(response.repeats_at.min(response.until))
            }
            State::Talking { until } => Some(*until),
            State::HangingUp | State::Over => None,
        }
    }

    fn response(&self, status: u16, contact: &str) -> Bytes {
        ResponseBuilder::new(&self.invite, status)
            .to_tag(self.tag.as_bytes())
            .record_route()
            .header(HeaderName::Contact, format!("<{contact}>").as_bytes())
            .build()
    }
}

fn decide(mood: Mood, random: &mut Random) -> (Duration, Decision) {
    let seconds = |least, most| (Duration::from_secs(least), Duration::from_secs(most));
    let (least, most) = match mood {
        Mood::Eager => (Duration::from_millis(100), Duration::from_millis(600)),
        Mood::Fickle => seconds(0, 8),
    };
    let after = random.between(least, most);
    let decision = match (mood, random.below(10)) {
        (Mood::Eager, _) | (Mood::Fickle, 0..=6) => Decision::PickUp,
        (Mood::Fickle, 7) => Decision::Reject(486),
        (Mood::Fickle, 8) => Decision::Reject(603),
        (Mood::Fickle, _) => Decision::LetItRing,
    };
    (after, decision)
}

impl Phone {
    pub(super) fn invited(&mut self, invite: &Message, from: SocketAddr, now: Moment) {
        let (name, branch) = (call_of(invite), branch_of(invite));
        let subject = value(invite, HeaderName::Subject);
        if let Some(call) = self.called.call(&name) {
            call.from = from;
            let (known, response) = (call.branch.clone(), call.response.clone());
            if known == branch {
                return self.send(from, response);
            }
            // RFC 3261 §8.2.2.2
            self.observations.push(Observation::RangAgain {
                call: subject,
                branch: known,
                second: branch,
            });
            return self.answer(invite, from, 482, now);
        }
        if let Some(known) = self.called.calls.iter().find(|call| call.subject == subject) {
            let branch_known = format!("{} {}", known.name, known.branch);
            self.observations.push(Observation::RangAgain {
                call: subject,
                branch: branch_known,
                second: format!("{name} {branch}"),
            });
            return self.answer(invite, from, 482, now);
        }
        let tag = format!("{}-{:08x}", self.name, self.random.number() as u32);
        let (after, decision) = decide(self.mood, &mut self.random);
        let mut call = Call {
            dialog: Dialog::of_callee(invite, &tag),
            name,
            subject: subject.clone(),
            branch,
            invite: invite.clone(),
            from,
            tag,
            state: State::Ringing { decides_at: now + after, decision },
            response: Bytes::new(),
            talks: self.random.between(Duration::from_secs(1), Duration::from_secs(20)),
        };
        call.response = call.response(180, &self.contact());
        self.send(from, call.response.clone());
        self.called.calls.push(call);
        self.observations.push(Observation::Rang { call: subject });
    }

    /// An ACK: to our 2xx, or to our refusal.
    pub(super) fn acknowledged(&mut self, ack: &Message) {
        let name = call_of(ack);
        let Some(call) = self.called.call(&name) else { return };
        match &call.state {
            State::PickedUp(response) => {
                let until = response.until - PATIENCE + call.talks;
                call.state = State::Talking { until };
                let call = call.subject.clone();
                self.observations.push(Observation::Acknowledged { call });
            }
            State::Refused(_) => self.called_over(&name),
            State::Ringing { .. } | State::Talking { .. } | State::HangingUp | State::Over => {}
        }
    }

    /// A CANCEL; whether there is such an INVITE (RFC 3261 §9.2).
    pub(super) fn cancelled(&mut self, cancel: &Message, now: Moment) -> bool {
        let name = call_of(cancel);
        let branch = branch_of(cancel);
        match self.called.call(&name).filter(|call| call.branch == branch).map(|call| &call.state) {
            Some(State::Ringing { .. }) => {
                self.refuse(&name, 487, now);
                true
            }
            Some(_) => true,
            None => false,
        }
    }

    /// A BYE, to a call that we made or that came; whether there is one.
    pub(super) fn ended_by_other(&mut self, bye: &Message) -> bool {
        let name = call_of(bye);
        let is_for_callee = self
            .called
            .call(&name)
            .is_some_and(|call| bye.to().ok().and_then(|to| to.tag()) == Some(call.tag.as_bytes()));
        if is_for_callee {
            self.called_over(&name);
        }
        is_for_callee || self.caller_hung_up_on(&name)
    }

    /// A BYE of ours is answered or given up.
    pub(super) fn hung_up(&mut self, name: &CallName) {
        if self.called.call(name).is_some_and(|call| matches!(call.state, State::HangingUp)) {
            self.called_over(name);
        } else {
            self.caller_has_hung_up(name);
        }
    }

    pub(super) fn wake_called(&mut self, now: Moment) {
        let due =
            self.called.calls.iter().filter(|call| call.next_wake().is_some_and(|at| at <= now));
        let due: Vec<CallName> = due.map(|call| call.name.clone()).collect();
        for name in due {
            self.wake_call(&name, now);
        }
    }

    fn wake_call(&mut self, name: &CallName, now: Moment) {
        let Some(call) = self.called.call(name) else { return };
        let to = call.from;
        match &mut call.state {
            State::Ringing { decision: Decision::PickUp, .. } => self.pick_up(name, now),
            State::Ringing { decision: Decision::Reject(status), .. } => {
                let status = *status;
                self.refuse(name, status, now);
            }
            // RFC 3261 §13.3.1.4: no ACK, so the call is ended; Timer H: nobody will acknowledge any more.
            State::PickedUp(response) if response.until <= now => self.hang_up(name, now),
            State::Refused(response) if response.until <= now => self.called_over(name),
            State::PickedUp(response) | State::Refused(response) => {
                response.interval = (response.interval * 2).min(T2);
                response.repeats_at = now + response.interval;
                let bytes = response.bytes.clone();
                self.send(to, bytes);
            }
            State::Talking { .. } => self.hang_up(name, now),
            State::Ringing { decision: Decision::LetItRing, .. }
            | State::HangingUp
            | State::Over => {}
        }
    }

    fn pick_up(&mut self, name: &CallName, now: Moment) {
        let response = self.final_response(name, 200, now);
        if let (Some(response), Some(call)) = (response, self.called.call(name)) {
            call.state = State::PickedUp(response);
            let call = call.subject.clone();
            self.observations.push(Observation::PickedUp { call });
        }
    }

    fn refuse(&mut self, name: &CallName, status: u16, now: Moment) {
        let response = self.final_response(name, status, now);
        if let (Some(response), Some(call)) = (response, self.called.call(name)) {
            call.state = State::Refused(response);
        }
    }

    fn final_response(&mut self, name: &CallName, status: u16, now: Moment) -> Option<Final> {
        let contact = self.contact();
        let call = self.called.call(name)?;
        let bytes = call.response(status, &contact);
        call.response = bytes.clone();
        let to = call.from;
        self.send(to, bytes.clone());
        Some(Final { bytes, repeats_at: now + T1, interval: T1, until: now + PATIENCE })
    }

    fn hang_up(&mut self, name: &CallName, now: Moment) {
        let branch = self.branch();
        let address = self.address;
        let Some(call) = self.called.call(name) else { return };
        if matches!(call.state, State::PickedUp(_)) {
            let call = call.subject.clone();
            let over = Observation::CalledOver { call, is_unacknowledged: true };
            self.observations.push(over);
        }
        let Some(call) = self.called.call(name) else { return };
        let bye = call.dialog.bye((address, &branch));
        let to = call.dialog.next_hop();
        call.state = State::HangingUp;
        self.requests.begin(Purpose::Bye(name.clone()), bye, (address, to), now, &mut self.sent);
    }

    fn called_over(&mut self, name: &CallName) {
        let Some(call) = self.called.call(name) else { return };
        if !matches!(std::mem::replace(&mut call.state, State::Over), State::Over) {
            let call = call.subject.clone();
            let over = Observation::CalledOver { call, is_unacknowledged: false };
            self.observations.push(over);
        }
    }
}
