//! What a phone answered: each request's last response, for its retransmissions, and the final responses to
//! INVITEs that wait for their ACK (RFC 3261 §17.2.1, §13.3.1.4).

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use sip::Message;
use tokio::task::AbortHandle;

/// Branch and method of a request.
pub(crate) type TransactionKey = (Bytes, Bytes);

/// Transactions that are remembered; past it, the oldest is forgotten.
const REMEMBERED_MAX: usize = 4_096;

/// What a final response to an INVITE waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Awaited {
    /// The ACK to a 300–699, which has the INVITE's branch.
    ByBranch(Bytes),
    /// The ACK to a 2xx, which has a branch of its own.
    ByCall {
        /// Call-ID of the INVITE.
        call_id: Bytes,
        /// CSeq number of the INVITE.
        cseq: u32,
    },
}

impl Awaited {
    /// What the final response of this status to an INVITE waits for.
    pub(crate) fn of(invite: &Message, status: u16) -> Option<Awaited> {
        if status < 300 {
            let call_id = Bytes::copy_from_slice(invite.call_id().ok()?);
            Some(Awaited::ByCall { call_id, cseq: invite.cseq().ok()?.number })
        } else {
            transaction_key(invite).map(|(branch, _)| Awaited::ByBranch(branch))
        }
    }
}

/// Whether a request came before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// For the first time.
    First,
    /// Again; it gets this once more, if it was answered.
    Again(Option<Bytes>),
}

/// The server transactions of a phone.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    order: VecDeque<TransactionKey>,
    last: HashMap<TransactionKey, Option<Bytes>>,
    unacknowledged: HashMap<Awaited, AbortHandle>,
}

impl Answers {
    /// A request other than ACK has come.
    pub(crate) fn came(&mut self, key: TransactionKey) -> Came {
        match self.last.get(&key) {
            Some(answer) => Came::Again(answer.clone()),
            None => {
                self.remember(key, None);
                Came::First
            }
        }
    }

    /// Whether an INVITE of this branch has come: a CANCEL for it is answered 200.
    pub(crate) fn knows_invite(&self, branch: &Bytes) -> bool {
        self.last.contains_key(&(branch.clone(), Bytes::from_static(b"INVITE")))
    }

    /// A request was answered; its next retransmission gets this.
    pub(crate) fn answered(&mut self, key: TransactionKey, response: Bytes) {
        self.remember(key, Some(response));
    }

    fn remember(&mut self, key: TransactionKey, answer: Option<Bytes>) {
        if self.last.insert(key.clone(), answer).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > REMEMBERED_MAX {
            let oldest = self.order.pop_front().expect("longer than its bound");
            self.last.remove(&oldest);
        }
    }

    /// A task sends a final response until its ACK comes.
    pub(crate) fn retransmits(&mut self, awaited: Awaited, task: AbortHandle) {
        self.unacknowledged.retain(|_, task| !task.is_finished());
        if let Some(former) = self.unacknowledged.insert(awaited, task) {
            former.abort();
        }
    }

    /// An ACK has come; says whether it ends here because it is that of a refusal.
    pub(crate) fn acknowledged(&mut self, ack: &Message) -> bool {
        let key = transaction_key(ack);
        let by_branch = key.map(|(branch, _)| branch).filter(|branch| self.knows_invite(branch));
        let call_id = ack.call_id().map(Bytes::copy_from_slice).unwrap_or_default();
        let cseq = ack.cseq().map_or(0, |cseq| cseq.number);
        let ends_here = by_branch.is_some();
        let awaited = by_branch.map_or(Awaited::ByCall { call_id, cseq }, Awaited::ByBranch);
        if let Some(task) = self.unacknowledged.remove(&awaited) {
            task.abort();
        }
        ends_here
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.unacknowledged.values().for_each(AbortHandle::abort);
    }
}

/// Branch and method of a request; `None` when it has no usable Via.
pub(crate) fn transaction_key(request: &Message) -> Option<TransactionKey> {
    let branch = request.top_via().ok()?.branch()?.to_vec();
    let method = request.method()?.as_bytes().to_vec();
    Some((branch.into(), method.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(branch: &'static str) -> TransactionKey {
        (Bytes::from_static(branch.as_bytes()), Bytes::from_static(b"INVITE"))
    }

    #[test]
    fn a_repeated_request_gets_the_last_answer() {
        let mut answers = Answers::default();
        assert_eq!(answers.came(key("a")), Came::First);
        assert_eq!(answers.came(key("a")), Came::Again(None));
        answers.answered(key("a"), Bytes::from_static(b"180"));
        answers.answered(key("a"), Bytes::from_static(b"200"));
        assert_eq!(answers.came(key("a")), Came::Again(Some(Bytes::from_static(b"200"))));
        assert!(answers.knows_invite(&Bytes::from_static(b"a")));
        assert!(!answers.knows_invite(&Bytes::from_static(b"b")));
    }

    #[test]
    fn the_oldest_transactions_are_forgotten() {
        let mut answers = Answers::default();
        for number in 0..=REMEMBERED_MAX {
            answers.came((Bytes::from(number.to_string()), Bytes::from_static(b"INFO")));
        }
        assert_eq!(answers.last.len(), REMEMBERED_MAX);
        let first = (Bytes::from_static(b"0"), Bytes::from_static(b"INFO"));
        assert_eq!(answers.came(first), Came::First);
    }
}
