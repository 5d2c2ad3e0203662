//! Client transactions: requests that wait for their final response, repeated as RFC 3261 §17.1 says.
//!
//! The branch of a request holds the key of its transaction, so a response finds it without a search. Timers are a
//! chain of few different delays (see [`Delays`]): 0.5, 1, 2, 4 … s between repetitions, and 64·T1 = 32 s after the
//! request was first sent it is given up. Over TCP the chain runs all the same and repeats nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::{BRANCH_COOKIE, Message, Method};

use crate::delays::Delays;
use crate::outbox::{FlowIndex, Outbox, Output};
use crate::run_id::RunId;
use crate::table::{Key, Table};

/// Milliseconds between the repetitions of an INVITE (Timer A), and from the last one to Timer B.
const INVITE_MS: &[u64] = &[500, 1_000, 2_000, 4_000, 8_000, 16_000, 500];
/// The same for other requests (Timers E and F, T2 = 4 s).
const OTHER_MS: &[u64] = &[500, 1_000, 2_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 500];

/// Whether the transport loses messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reliability {
    /// UDP: requests are repeated.
    Unreliable,
    /// TCP.
    Reliable,
}

/// A request that waits for its final response.
#[derive(Clone, Debug)]
pub(crate) struct ClientTransaction {
    /// Whose it is.
    pub(crate) owner: Key,
    /// Its method.
    pub(crate) method: Method<'static>,
    /// By which flow it was sent.
    pub(crate) flow: FlowIndex,
    /// Where to.
    pub(crate) to: SocketAddr,
    /// The request as it was sent.
    pub(crate) request: Bytes,
    is_proceeding: bool,
    repetitions: usize,
}

impl ClientTransaction {
    fn delays(&self) -> &'static [u64] {
        match self.method {
            Method::Invite => INVITE_MS,
            _ => OTHER_MS,
        }
    }
}

/// What a response means for its transaction.
#[derive(Debug)]
pub(crate) enum Answered {
    /// A provisional response: this request goes on waiting.
    Provisional(ClientTransaction),
    /// The final one: the transaction is over.
    Final(ClientTransaction),
}

/// What time means for a transaction.
#[derive(Debug)]
pub(crate) enum Overdue {
    /// It was sent again.
    Repeated,
    /// It was given up.
    GivenUp(ClientTransaction),
}

/// All client transactions.
#[derive(Debug)]
pub(crate) struct Transactions {
    run: RunId,
    reliability: Reliability,
    table: Table<ClientTransaction>,
    timers: Delays<Key>,
}

impl Transactions {
    pub(crate) fn new(run: RunId, reliability: Reliability) -> Transactions {
        Transactions { run, reliability, table: Table::default(), timers: Delays::default() }
    }

    /// Sends a request, which `render` makes with the key for its branch.
    pub(crate) fn send(
        &mut self,
        owner: Key,
        method: Method<'static>,
        (flow, to): (FlowIndex, SocketAddr),
        now: Instant,
        outbox: &mut Outbox,
        render: impl FnOnce(Key) -> Bytes,
    ) -> Key {
        let key = self.table.insert(ClientTransaction {
            owner,
            method,
            flow,
            to,
            request: Bytes::new(),
            is_proceeding: false,
            repetitions: 0,
        });
        let transaction = self.table.get_mut(key).expect("it was inserted just now");
        transaction.request = render(key);
        outbox.push(Output::Send { flow, to, message: transaction.request.clone() });
        let delay = Duration::from_millis(transaction.delays()[0]);
        self.timers.add(delay, now, key);
        key
    }

    /// What a response is an answer to; `None` if to nothing that waits.
    pub(crate) fn receive(&mut self, response: &Message) -> Option<Answered> {
        let key = self.key_of(response)?;
        let transaction = self.table.get_mut(key)?;
        // RFC 3261 §17.1.3: the method as well, since an ACK or CANCEL has its INVITE's branch.
        if response.cseq().ok()?.method != transaction.method {
            return None;
        }
        if response.status()? < 200 {
            transaction.is_proceeding = true;
            return Some(Answered::Provisional(transaction.clone()));
        }
        self.table.remove(key).map(Answered::Final)
    }

    fn key_of(&self, response: &Message) -> Option<Key> {
        let branch = response.top_via().ok()?.branch()?;
        let digits = branch.strip_prefix(BRANCH_COOKIE)?.strip_prefix(self.run.as_bytes())?;
        Key::parse(digits)
    }

    /// Takes out the requests that wait on a flow that is gone.
    pub(crate) fn take_of_flow(&mut self, flow: FlowIndex) -> Vec<ClientTransaction> {
        let keys = self.table.find_all(|transaction| transaction.flow == flow);
        keys.into_iter().filter_map(|key| self.table.remove(key)).collect()
    }

    /// Does what is due at `now`, one transaction at a time; `None` when nothing more is.
    pub(crate) fn take_due(&mut self, now: Instant, outbox: &mut Outbox) -> Option<Overdue> {
        loop {
            let key = self.timers.take_due(now)?;
            let Some(transaction) = self.table.get_mut(key) else {
                continue;
            };
            transaction.repetitions += 1;
            let Some(delay) = transaction.delays().get(transaction.repetitions) else {
                return self.table.remove(key).map(Overdue::GivenUp);
            };
            self.timers.add(Duration::from_millis(*delay), now, key);
            // RFC 3261 §17.1.1.2: a provisional response ends the repetitions of an INVITE only.
            let is_heard = transaction.is_proceeding && transaction.method == Method::Invite;
            if self.reliability == Reliability::Unreliable && !is_heard {
                outbox.push(Output::Send {
                    flow: transaction.flow,
                    to: transaction.to,
                    message: transaction.request.clone(),
                });
                return Some(Overdue::Repeated);
            }
        }
    }

    /// When [`take_due`](Self::take_due) has something to do.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.next_due()
    }
}

#[cfg(test)]
mod tests;
