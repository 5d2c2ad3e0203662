//! What workers and the process around them tell a worker: a bounded channel and a way to wake its
//! poll.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use bytes::Bytes;
use mio::{Poll, Token, Waker};
use topology::TopologyView;
use transport::link::SendError;

use super::outstanding::Ticket;
use super::reaching::LinkCredentials;
use crate::forward::{Hop, Keys};

/// Most messages that wait for one worker. At the bound another worker's message fails as if its
/// flow's queue were full.
const MAILBOX_LENGTH: usize = 4_096;

/// The poll token of the waker.
pub(super) const WAKER: Token = Token(0);

/// One message to a worker.
#[derive(Debug)]
pub(super) enum ToWorker {
    /// The topology changed.
    View(Arc<TopologyView>),
    /// The node's secrets changed.
    Keys(Arc<Keys>),
    /// What is shown and believed on links to other nodes.
    Credentials(LinkCredentials),
    /// A message for a connection that may be this worker's.
    HandOff(Box<HandOff>),
    /// A message that this worker handed off could not be sent.
    Failed(Ticket, SendError),
    /// A peer answered a probe.
    PeerAnswered(usize),
    /// Accept no connections from now on.
    Drain,
    /// End in an orderly way.
    Stop,
}

/// A message looking for the worker that has its connection.
#[derive(Debug)]
pub(super) struct HandOff {
    pub(super) hop: Hop,
    pub(super) bytes: Bytes,
    /// Whom to tell if nobody has it.
    pub(super) ticket: Ticket,
    /// Workers that have not been asked yet.
    pub(super) workers_left: u16,
}

/// The sending end.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    sender: SyncSender<ToWorker>,
    waker: Arc<Waker>,
}

/// What a worker needs to receive.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) poll: Poll,
    pub(super) inbox: Receiver<ToWorker>,
}

/// The worker has ended.
#[derive(Debug)]
pub(super) struct Ended;

/// A mailbox and the poll that it wakes.
pub(super) fn open() -> io::Result<(Mailbox, Start)> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (sender, inbox) = sync_channel(MAILBOX_LENGTH);
    Ok((Mailbox { sender, waker }, Start { poll, inbox }))
}

impl Mailbox {
    /// Delivers what must arrive; waits while the mailbox is full. Not for workers.
    pub(super) fn deliver(&self, message: ToWorker) -> Result<(), Ended> {
        self.sender.send(message).map_err(|_| Ended)?;
        self.wake();
        Ok(())
    }

    /// Hands a message to another worker; gives it back at the bound.
    pub(super) fn try_deliver(&self, message: ToWorker) -> Result<(), ToWorker> {
        self.sender.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        })?;
        self.wake();
        Ok(())
    }

    /// Wakes the worker for what is in its mailbox already.
    pub(super) fn wake_again(&self) -> io::Result<()> {
        self.waker.wake()
    }

    fn wake(&self) {
        if let Err(error) = self.wake_again() {
            tracing::error!(%error, "a worker cannot be woken");
        }
    }
}
