//! What waits for something: messages, and what commits and reads are for.

use sip::Message;

use super::JobId;
use crate::edges::LinkId;
use crate::ownership::identity::SetUpId;
use crate::session::SessionId;
use crate::transactions::{Origin, ServerId};

/// What is known of the message in hand beside the message.
#[derive(Debug, Default)]
pub(super) struct InHand {
    /// The link and sequence to acknowledge, until somebody takes the message over.
    pub(super) offered: Option<(LinkId, u64)>,
    pub(super) hops: u8,
    pub(super) rounds: u8,
}

/// A message that waits for something, and how it came.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) message: Message,
    pub(super) origin: Origin,
    /// How often it was handed on already.
    pub(super) hops: u8,
    /// The link and sequence to acknowledge when it is ours, or somebody else's.
    pub(super) offered: Option<(LinkId, u64)>,
    /// How often it was looked at again.
    pub(super) rounds: u8,
}

/// What a commit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitUse {
    /// What an application wants to be stored.
    Job(JobId),
    /// The record of a call that a job is about to set up.
    Begin(JobId),
    /// What has happened to a call.
    Note(SetUpId),
    /// A call is over.
    Remove(SetUpId),
    /// A call of a dead container becomes ours.
    Claim(SetUpId),
    /// A step of a session.
    Session(SessionId),
    /// A session of a dead container becomes ours.
    SessionClaim(SessionId),
    /// Where the session of an INVITE with a key is.
    Alias(ServerId),
    /// Nobody waits for it.
    Tidy,
}

/// What a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadUse {
    /// Whose call is this?
    Inquiry(SetUpId),
    /// Has our commit come about?
    Doubt(SetUpId),
    /// Whose session is this?
    Session(SessionId),
    /// Has our commit of a session come about?
    SessionDoubt(SessionId),
    /// Is this call still ours?
    Verify(SetUpId),
}
