//! The server transactions that only wait for repetitions: how many they are, and which to forget first.
//!
//! An answered REGISTER keeps its response for 64·T1 (Timer J, RFC 3261 §17.2.2) and does nothing else. At ten
//! thousand a second that is most of all transactions, so they are counted apart: they keep out no new work, and
//! have a bound of their own, at which the oldest are forgotten before their time. INVITE transactions are never
//! among them: a failure waits for its ACK, and a forgotten 2xx would let a repeated INVITE ring again.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{ServerId, Transactions, weight};

/// The non-INVITE server transactions that have had their final response.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Weight of those that live.
    pub(super) weight: usize,
    /// In the order of their answers, which is that of their ends but for a few that end early; those ended are
    /// dropped when they are the oldest.
    pub(super) order: VecDeque<ServerId>,
}

impl Transactions {
    /// A non-INVITE transaction has its final response; past the bound the oldest such is forgotten, and its
    /// repetition, should there be one after all, would be handled anew.
    pub(super) fn remember_answered(&mut self, server: ServerId) {
        let transaction = self.server_mut(server);
        if transaction.is_answered {
            return;
        }
        let open_weight = transaction.weight;
        transaction.is_answered = true;
        transaction.weight = weight(transaction.response.as_ref().map_or(0, Bytes::len));
        self.answered.weight += transaction.weight;
        self.open_servers -= open_weight;
        self.answered.order.push_back(server);
        while let Some(&oldest) = self.answered.order.front() {
            let is_alive = self.servers.contains_key(&oldest);
            if is_alive && self.answered.weight <= 2 * self.settings.transactions_max {
                break;
            }
            self.answered.order.pop_front();
            self.end_server(oldest);
        }
    }
}
