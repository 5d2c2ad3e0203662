//! A client transaction: its machine and what it needs to repeat itself.

use std::time::Instant;

use bytes::Bytes;
use sip::transaction::{
    ClientAction, ClientInviteState, ClientInviteTransaction, ClientNonInviteTransaction,
    Reliability, ResponseClass, Timers,
};
use smallvec::SmallVec;

use super::deadlines::Armed;
use super::key::KeyHash;

/// What a machine asks for at one event; never more than three.
pub(super) type ClientActions = SmallVec<[ClientAction; 4]>;

/// One client transaction.
#[derive(Debug)]
pub(super) struct ClientTransaction {
    machine: Machine,
    pub(super) key: KeyHash,
    /// The request as sent; an INVITE's is needed for its ACK and CANCEL.
    pub(super) request: Bytes,
    /// As how many it counts.
    pub(super) weight: usize,
    /// The ACK to a failure, once there was one.
    pub(super) ack: Option<Bytes>,
    /// Whose responses are delivered; a CANCEL's are not.
    pub(super) role: Role,
    pub(super) armed: Armed,
}

/// For whom a client transaction works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The transaction user that started it.
    User,
    /// Nobody: its answer changes nothing (RFC 3261 §9.1).
    Cancel,
}

#[derive(Debug)]
enum Machine {
    Invite(ClientInviteTransaction),
    NonInvite(ClientNonInviteTransaction),
}

impl ClientTransaction {
    pub(super) fn start(
        is_invite: bool,
        role: Role,
        key: KeyHash,
        request: Bytes,
        reliability: Reliability,
        timers: Timers,
        now: Instant,
    ) -> (ClientTransaction, ClientActions) {
        let mut actions = ClientActions::new();
        let machine = if is_invite {
            Machine::Invite(ClientInviteTransaction::start(timers, reliability, now, &mut actions))
        } else {
            Machine::NonInvite(ClientNonInviteTransaction::start(
                timers,
                reliability,
                now,
                &mut actions,
            ))
        };
        let transaction = ClientTransaction {
            machine,
            key,
            weight: super::weight(request.len()),
            request,
            ack: None,
            role,
            armed: Armed::default(),
        };
        (transaction, actions)
    }

    /// An INVITE transaction that was begun elsewhere and has come to `state`; its request is not sent again.
    pub(super) fn resume(
        state: ClientInviteState,
        key: KeyHash,
        request: Bytes,
        reliability: Reliability,
        timers: Timers,
        now: Instant,
    ) -> ClientTransaction {
        ClientTransaction {
            machine: Machine::Invite(ClientInviteTransaction::resume(
                state,
                timers,
                reliability,
                now,
            )),
            key,
            weight: super::weight(request.len()),
            request,
            ack: None,
            role: Role::User,
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

    pub(super) fn response(&mut self, class: ResponseClass, now: Instant) -> ClientActions {
        let mut actions = ClientActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.response(class, now, &mut actions),
            Machine::NonInvite(machine) => machine.response(class, now, &mut actions),
        }
        actions
    }

    pub(super) fn transport_failed(&mut self, now: Instant) -> ClientActions {
        let mut actions = ClientActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.transport_failed(now, &mut actions),
            Machine::NonInvite(machine) => machine.transport_failed(now, &mut actions),
        }
        actions
    }

    pub(super) fn timeout(&mut self, now: Instant) -> ClientActions {
        let mut actions = ClientActions::new();
        match &mut self.machine {
            Machine::Invite(machine) => machine.timeout(now, &mut actions),
            Machine::NonInvite(machine) => machine.timeout(now, &mut actions),
        }
        actions
    }
}
