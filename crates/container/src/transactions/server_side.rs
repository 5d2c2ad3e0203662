//! A server transaction: its machine and what it needs to repeat itself.

use std::time::Instant;

use bytes::Bytes;
use sip::Message;
use sip::transaction::{
    Reliability, ResponseClass, ServerAction, ServerInviteState, ServerInviteTransaction,
    ServerNonInviteState, ServerNonInviteTransaction, Timers,
};
use smallvec::SmallVec;

use super::Origin;
use super::deadlines::Armed;
use super::key::KeyHash;

/// What a machine asks for at one event; never more than two.
pub(super) type ServerActions = SmallVec<[ServerAction; 4]>;

/// One server transaction.
#[derive(Debug)]
pub(super) struct ServerTransaction {
    machine: Machine,
    pub(super) key: KeyHash,
    /// Set once the container has answered as the request's user agent.
    pub(super) merge_key: Option<KeyHash>,
    /// Where the latest copy of the request came from: responses go back there.
    pub(super) origin: Origin,
    /// Kept until the final response, for responses of our own; boxed, as the transaction outlives it by far.
    pub(super) request: Option<Box<Message>>,
    /// As how many it counts.
    pub(super) weight: usize,
    /// The latest response, for repetition.
    pub(super) response: Option<Bytes>,
    trying: Trying,
    pub(super) armed: Armed,
}

/// Whether the machine's 100 may leave. It says that we have the request, so that nobody repeats it: which is true
/// of an INVITE only when its record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trying {
    /// Not before the transaction user says so.
    Withheld,
    /// The same, and the machine has asked for it.
    Owed,
    /// Whenever the machine asks for it.
    Free,
}

#[derive(Debug)]
enum Machine {
    Invite(ServerInviteTransaction),
    NonInvite(ServerNonInviteTransaction),
}

/// Which machine a transaction has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Invite,
    NonInvite,
}

impl ServerTransaction {
    /// Without a request nothing can be answered but by complete responses.
    pub(super) fn start(
        kind: Kind,
        key: KeyHash,
        request: Option<Message>,
        origin: Origin,
        timers: Timers,
        now: Instant,
    ) -> ServerTransaction {
        let reliability = reliability(&origin);
        let machine = match kind {
            Kind::Invite => {
                Machine::Invite(ServerInviteTransaction::start(timers, reliability, now))
            }
            Kind::NonInvite => {
                Machine::NonInvite(ServerNonInviteTransaction::start(timers, reliability, now))
            }
        };
        ServerTransaction {
            machine,
            key,
            merge_key: None,
            origin,
            weight: super::weight(request.as_ref().map_or(0, |request| request.buffer().len())),
            request: request.map(Box::new),
            response: None,
            trying: match kind {
                Kind::Invite => Trying::Withheld,
                Kind::NonInvite => Trying::Free,
            },
            armed: Armed::default(),
        }
    }

    /// An INVITE transaction that was answered 2xx elsewhere.
    pub(super) fn resume_accepted(
        key: KeyHash,
        origin: Origin,
        timers: Timers,
        now: Instant,
    ) -> ServerTransaction {
        let reliability = reliability(&origin);
        ServerTransaction {
            machine: Machine::Invite(ServerInviteTransaction::resume_accepted(
                timers,
                reliability,
                now,
            )),
            key,
            merge_key: None,
            origin,
            weight: super::weight(0),
            request: None,
            response: None,
            trying: Trying::Free,
            armed: Armed::default(),
        }
    }

    pub(super) fn is_invite(&self) -> bool {
        matches!(self.machine, Machine::Invite(_))
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match &self.machine {
            Machine::Invite(machine) => machine.next_timeout(),
            Machine::NonInvite(machine) => machine.next_timeout(),
        }
    }

    /// Whether a failure was sent, so that the machine lets no 2xx through any more.
    pub(super) fn is_past_failure(&self) -> bool {
        match &self.machine {
            Machine::Invite(machine) => matches!(
                machine.state(),
                ServerInviteState::Completed | ServerInviteState::Confirmed
            ),
            Machine::NonInvite(_) => false,
        }
    }

    /// The final response, as long as the client may not have it.
    pub(super) fn final_response(&self) -> Option<&Bytes> {
        let is_final = match &self.machine {
            Machine::Invite(machine) => matches!(
                machine.state(),
                ServerInviteState::Completed | ServerInviteState::Accepted
            ),
            Machine::NonInvite(_) => false, // then it is one of `answered`
        };
        self.response.as_ref().filter(|_| is_final)
    }

    /// Whether nothing is left to do but to repeat the final response.
    pub(super) fn only_repeats(&self) -> bool {
        match &self.machine {
            Machine::Invite(_) => false,
            Machine::NonInvite(machine) => machine.state() == ServerNonInviteState::Completed,
        }
    }

    pub(super) fn repeated(&mut self, now: Instant) -> ServerActions {
        let mut actions = ServerActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.request(now, &mut actions),
            Machine::NonInvite(machine) => machine.request(now, &mut actions),
        }
        self.without_withheld(actions)
    }

    pub(super) fn ack(&mut self, now: Instant) -> ServerActions {
        let mut actions = ServerActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.ack(now, &mut actions),
            // An ACK is matched as an INVITE, so it never comes here.
            Machine::NonInvite(_) => {}
        }
        actions
    }

    pub(super) fn respond(&mut self, class: ResponseClass, now: Instant) -> ServerActions {
        let mut actions = ServerActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.respond(class, now, &mut actions),
            Machine::NonInvite(machine) => machine.respond(class, now, &mut actions),
        }
        actions
    }

    pub(super) fn trying(&mut self, now: Instant) -> ServerActions {
        let mut actions = ServerActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.trying(now, &mut actions),
            // RFC 4320 §4.1: not before Timer E has grown, which the machine watches.
            Machine::NonInvite(_) => {}
        }
        if self.trying == Trying::Owed && self.response.is_none() {
            actions.push(ServerAction::SendTrying);
        }
        self.trying = Trying::Free;
        actions
    }

    pub(super) fn transport_failed(&mut self, now: Instant) -> ServerActions {
        let mut actions = ServerActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.transport_failed(now, &mut actions),
            Machine::NonInvite(machine) => machine.transport_failed(now, &mut actions),
        }
        actions
    }

    pub(super) fn timeout(&mut self, now: Instant) -> ServerActions {
        let mut actions = ServerActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.timeout(now, &mut actions),
            Machine::NonInvite(machine) => machine.timeout(now, &mut actions),
        }
        self.without_withheld(actions)
    }

    fn without_withheld(&mut self, mut actions: ServerActions) -> ServerActions {
        if self.trying != Trying::Free && actions.contains(&ServerAction::SendTrying) {
            actions.retain(|action| *action != ServerAction::SendTrying);
            self.trying = Trying::Owed;
        }
        actions
    }
}

/// The phone's transport decides who repeats: the edge keeps no state, so we do it through it.
fn reliability(origin: &Origin) -> Reliability {
    match origin.flow.transport.is_stream() {
        true => Reliability::Reliable,
        false => Reliability::Unreliable,
    }
}
