//! The server transactions that only wait for repetitions: what they keep, how many they are, which to forget first.
//!
//! An answered REGISTER keeps its response for 64·T1 (Timer J, RFC 3261 §17.2.2) and does nothing else. At ten
//! thousand a second that is most of all transactions, so they leave their machine and become small: what a repetition
//! needs, and an end that comes in the order of the answers. They are counted apart: they keep out no new work, and
//! have a bound of their own, at which the oldest are forgotten before their time. INVITE transactions are never
//! among them: a failure waits for its ACK, and a forgotten 2xx would let a repeated INVITE ring again.

use std::time::Instant;

use bytes::Bytes;

use super::key::KeyHash;
use super::{Origin, ServerId, TransactionEffect, Transactions, weight};
use crate::long_queue::LongQueue;
use crate::sliced_table::SlicedTable;

/// A non-INVITE server transaction in Completed.
#[derive(Debug)]
pub(super) struct AnsweredTransaction {
    pub(super) key: KeyHash,
    pub(super) merge_key: Option<KeyHash>,
    /// Where the latest copy of the request came from.
    pub(super) origin: Origin,
    pub(super) response: Bytes,
}

impl AnsweredTransaction {
    /// The request has come again.
    pub(super) fn repeated(&mut self, server: ServerId, origin: Origin) -> TransactionEffect {
        self.origin = origin;
        let (server, bytes) = (Some(server), self.response.clone());
        TransactionEffect::SendResponse { server, origin, bytes }
    }

    fn weight(&self) -> usize {
        weight(self.response.len())
    }
}

/// The non-INVITE server transactions that have had their final response.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Boxed: a table that grows moves its entries.
    transactions: SlicedTable<ServerId, Box<AnsweredTransaction>>,
    /// Weight of them all.
    pub(super) weight: usize,
    /// When Timer J fires for each, in this order, since all wait equally long. Those that ended early are dropped
    /// when they are the oldest.
    pub(super) ends: LongQueue<(Instant, ServerId)>,
}

impl Answered {
    pub(super) fn len(&self) -> usize {
        self.transactions.len()
    }

    pub(super) fn get(&self, server: ServerId) -> Option<&AnsweredTransaction> {
        self.transactions.get(&server).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, server: ServerId) -> Option<&mut AnsweredTransaction> {
        self.transactions.get_mut(&server).map(Box::as_mut)
    }

    pub(super) fn remove(&mut self, server: ServerId) -> Option<Box<AnsweredTransaction>> {
        let transaction = self.transactions.remove(&server)?;
        self.weight -= transaction.weight();
        Some(transaction)
    }

    /// When the next may end.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(at, _)| *at)
    }
}

impl Transactions {
    /// A non-INVITE transaction has its final response; past the bound the oldest such is forgotten, and its
    /// repetition, should there be one after all, would be handled anew.
    pub(super) fn remember_answered(&mut self, server: ServerId) {
        let transaction = self.servers.remove(&server).expect("the caller holds a living id");
        self.open_servers -= transaction.weight;
        self.unanswered -= usize::from(transaction.request.is_some());
        let ends_at = transaction.next_timeout().expect("Completed waits for Timer J");
        let answered = AnsweredTransaction {
            key: transaction.key,
            merge_key: transaction.merge_key,
            origin: transaction.origin,
            response: transaction.response.unwrap_or_default(),
        };
        self.answered.weight += answered.weight();
        self.answered.ends.push_back((ends_at, server));
        self.answered.transactions.insert(server, Box::new(answered));
        while let Some(&(_, oldest)) = self.answered.ends.front() {
            let is_alive = self.answered.get(oldest).is_some();
            if is_alive && self.answered.weight <= 2 * self.settings.transactions_max {
                break;
            }
            self.answered.ends.pop_front();
            self.end_server(oldest);
        }
    }

    /// Ends those whose Timer J has fired, at most `count`.
    pub(super) fn end_answered(&mut self, now: Instant, count: usize) {
        for _ in 0..count {
            let Some(&(_, server)) = self.answered.ends.front().filter(|(at, _)| *at <= now) else {
                return;
            };
            self.answered.ends.pop_front();
            self.end_server(server);
        }
    }
}
