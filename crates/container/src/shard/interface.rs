//! What a shard and its server say to each other: settings, what the server has to do, names for what takes time.

use std::sync::Arc;

use bytes::Bytes;
use sip::Message;
use state::{Batch, Key, Prefix, Space};
use topology::{Incarnation, KeyRing, ProcessName};
use transport::Flow;
use transport::link::LinkFrame;

use crate::application::Caller;
use crate::edges::LinkId;
use crate::session::{
    HttpRequest, HttpResponse, SessionApplication, SessionEvent, SessionId, SessionView,
};
use crate::transactions::TransactionSettings;

/// Names one run of a handler and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub(super) u64);

/// Names a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub(super) u64);

/// Names a read of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub(super) u64);

/// Names a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanId(pub(super) u64);

/// Names a look-up of a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub(super) u64);

/// Names an HTTP request for a session; whoever asks never gives one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// Which session an HTTP request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChoice {
    /// One that begins with it. It is stored if it remembers anything.
    New,
    /// The one of that name, if it lives.
    Id(SessionId),
    /// The one that this key of the application leads to, which begins with it if there is none.
    Key(Bytes),
}

/// An HTTP request for a session.
#[derive(Debug, Clone)]
pub struct HttpAsk {
    /// Its name.
    pub id: AskId,
    /// Name of the application, without version.
    pub application: String,
    /// Whom it is for.
    pub session: SessionChoice,
    /// The request.
    pub request: HttpRequest,
}

/// What becomes of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpOutcome {
    /// The session has answered, and what it did is committed.
    Answered {
        /// The session, if there is anything to come back to.
        session: Option<SessionId>,
        /// Its answer.
        response: HttpResponse,
    },
    /// The session is another container's: ask there.
    Elsewhere(Incarnation),
    /// There is no session of that name, or it is another application's.
    NoSession,
    /// Nothing has happened. 413 and 431: the request is too long; 503: try again in a moment. Only 502 does not say so: the
    /// container has ended meanwhile.
    Refused(u16),
}

/// Who a shard is, and its bounds.
#[derive(Debug, Clone)]
pub struct ShardSettings {
    /// Name of the container.
    pub name: ProcessName,
    /// Its present life.
    pub incarnation: Incarnation,
    /// The node it runs on.
    pub node: String,
    /// The cluster's keys.
    pub keys: KeyRing,
    /// Bounds and timers of the transactions.
    pub transactions: TransactionSettings,
    /// How often a handler runs anew when its commit met another one, or its outcome is unknown; then the request is
    /// answered 503.
    pub commit_conflicts_max: u32,
}

/// What the server has to do, in this order.
#[derive(Debug)]
pub enum ShardEffect {
    /// Put this frame on this link. One that does not fit is reported by [`Shard::send_failed`](super::Shard::send_failed).
    Send {
        /// Which link.
        link: LinkId,
        /// Any but `Incoming`.
        frame: LinkFrame,
    },
    /// The message of this sequence is ours.
    Taken {
        /// By which link it came; it may be gone.
        link: LinkId,
        /// The sequence on that link.
        sequence: u64,
    },
    /// Run the application's handler; end with [`Shard::handled`](super::Shard::handled).
    Handle {
        /// The name of the run.
        job: JobId,
        /// The request.
        request: Box<Message>,
        /// The flow it came by.
        flow: Flow,
        /// Whether somebody stands up for what From says.
        caller: Caller,
        /// 0, or how many commits of it met a conflict or ended unknown.
        attempt: u32,
    },
    /// Ask the application whether one with sessions may have a request; end with [`Shard::handled`](super::Shard::handled).
    Admit {
        /// The name of the run.
        job: JobId,
        /// The request.
        request: Box<Message>,
        /// The flow it came by.
        flow: Flow,
        /// As of [`ShardEffect::Handle`].
        attempt: u32,
    },
    /// Run the handler of an application with sessions; end with [`Shard::event_handled`](super::Shard::event_handled).
    HandleEvent {
        /// The name of the run.
        job: JobId,
        /// Whose handler.
        application: Arc<dyn SessionApplication>,
        /// The session as it sees it.
        session: Box<SessionView>,
        /// What has happened.
        event: Box<SessionEvent>,
    },
    /// Ask an application for the key of an initial request; end with [`Shard::key_found`](super::Shard::key_found).
    FindKey {
        /// The name of the run.
        job: JobId,
        /// Which application.
        application: Arc<dyn SessionApplication>,
        /// The request.
        request: Box<Message>,
    },
    /// Tell whoever asked with [`Shard::http`](super::Shard::http).
    HttpAnswered {
        /// What it was named.
        ask: AskId,
        /// What becomes of it.
        outcome: HttpOutcome,
    },
    /// Commit; end with [`Shard::committed`](super::Shard::committed).
    Commit {
        /// The name of the commit.
        commit: CommitId,
        /// Not empty.
        batch: Batch,
    },
    /// Read; end with [`Shard::read`](super::Shard::read).
    Read {
        /// The name of the read.
        read: ReadId,
        /// Which record.
        key: Key,
    },
    /// Scan; end with [`Shard::scanned`](super::Shard::scanned).
    Scan {
        /// The name of the scan.
        scan: ScanId,
        /// Which space.
        space: Space,
        /// Which of its records.
        prefix: Prefix,
        /// Behind which one.
        after: Option<Key>,
        /// At most so many.
        limit: usize,
    },
    /// Look up the addresses of a name; end with [`Shard::resolved`](super::Shard::resolved).
    Resolve {
        /// The name of the look-up.
        lookup: LookupId,
        /// A host name.
        host: String,
        /// The port that the addresses are wanted with.
        port: u16,
    },
}

/// An edge that does not keep to the protocol; its link must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// The first frame must be Hello, and only the first.
    #[error("the edge's Hello came late, twice, or not at all")]
    Hello,
    /// A frame that only containers send.
    #[error("the edge sent a frame that only containers send")]
    Direction,
}
