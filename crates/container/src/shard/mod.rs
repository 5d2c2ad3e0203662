//! The pure core of a container: link frames and the ends of asynchronous work in, effects out.
//!
//! A request comes in a link frame, begins a server transaction or is absorbed by one, becomes a job (the
//! application's handler runs, its batch is committed), and is answered or proxied; the edge hears that it is
//! *taken* once its effects are committed. Whatever takes time (handlers, commits, name look-ups) is asked of
//! [`crate::server`] as an effect and comes back as an event.
//!
//! ```text
//! frame ─▶ transactions ─▶ job: Handle ─▶ handled ─▶ Commit ─▶ committed ─▶ respond │ proxy ─▶ Send
//!                                 ▲                                │ conflict
//!                                 └────────────────────────────────┘ bounded
//! ```
//!
//! `incoming` holds the left end, `jobs` the middle, `proxying` the right end. An INVITE that is proxied has a record in
//! the store, so that another container can go on with it: `set_ups` commits what happens to it before anything follows from that,
//! `inquiries` reads the record of a message that belongs to no call here and hands the message on or takes the call
//! over (`takeover`), `estates` finds the calls of containers that have died, which `inherited` goes on with; `reach` holds back what needs links that
//! are not there yet; `noting` says where the course of a proxied request is noted, and what waits for that; `responses` sends again what an edge could not send.
//!
//! Deliberately absent: sockets, tasks, clocks.

mod clocks;
mod estates;
mod incoming;
mod inherited;
mod inquiries;
mod interface;
mod jobs;
mod noting;
mod pending;
mod proxying;
mod reach;
mod responses;
mod sending;
mod sessions;
mod set_ups;
mod takeover;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use sip::{NameAddr, Uri};
use state::{Batch, CommitError, Key, Record, StoreError, UnixMillis, Version};
use topology::{OwnerToken, TopologyView};
use transport::link::{Accepting, LinkFrame, SendError};

use crate::application::{Duty, Ownership};
use crate::edges::{Edges, LinkId, RouteOwner};
use crate::ownership::identity::{Identifier, SetUpId};
use crate::ownership::neighbours::{Neighbours, News};
use crate::proxy::BranchDeriver;
use crate::responder::Responder;
use crate::sliced_table::SlicedTable;
use crate::transactions::deadlines::Deadlines;
use crate::transactions::{ClientId, ServerId, TransactionEffect, Transactions};
use clocks::Clocks;
use estates::Estates;
use incoming::taken;
use inherited::Inherited;
use inquiries::{HandedOn, Inquiry};
use jobs::{HeldCancel, Job};
use pending::{CommitUse, Held, InHand, ReadUse};
use proxying::{Context, Lookup, NO_LINK, Sending};
use reach::Reach;
use responses::Responses;
use sessions::{SessionStart, Sessions};
use set_ups::Ledger;

pub use interface::{
    AskId, CommitId, HttpAsk, HttpOutcome, JobId, LinkFault, LookupId, ReadId, ScanId,
    SessionChoice, ShardEffect, ShardSettings,
};
pub use jobs::HandlerEnd;
pub use sessions::{
    EventEnd, KeyEnd, SessionApplications, SessionsError, session, sessions, stored_applications,
};

/// A container that did nothing for so long may have been taken for dead (heartbeats come several times a second).
const STANDSTILL: Duration = Duration::from_secs(1);

/// Room that is kept for what transactions ask for.
const PENDING_KEPT_MAX: usize = 64;

/// One shard: all transactions, contexts and jobs of a container.
pub struct Shard {
    settings: ShardSettings,
    own_name: Bytes,
    edges: Edges,
    transactions: Transactions,
    responder: Responder,
    deriver: BranchDeriver,
    accepting: Accepting,
    jobs: AHashMap<JobId, Job>,
    /// The jobs of server transactions, for their CANCEL.
    jobs_by_server: AHashMap<ServerId, JobId>,
    /// Boxed, like the records: a table that grows moves its entries.
    contexts: SlicedTable<ServerId, Box<Context>>,
    context_deadlines: Deadlines<ServerId>,
    clients: SlicedTable<ClientId, Box<Sending>>,
    lookups: AHashMap<LookupId, Lookup>,
    neighbours: Neighbours,
    identifier: Identifier,
    started_at: Instant,
    clocks: Clocks,
    commits: AHashMap<CommitId, CommitUse>,
    reads: AHashMap<ReadId, ReadUse>,
    /// The records that we own.
    set_ups: SlicedTable<SetUpId, Box<Ledger>>,
    set_ups_by_server: SlicedTable<ServerId, SetUpId>,
    removals: Deadlines<SetUpId>,
    /// What could not be stored of them.
    tries: Deadlines<SetUpId>,
    /// How many records are being removed.
    removing: usize,
    /// Calls that may have been taken over without our knowing; until that is known nothing is repeated.
    doubtful: AHashSet<SetUpId>,
    /// Those of them that were not asked for yet.
    unverified: Vec<SetUpId>,
    /// How many are being looked up.
    verifying: usize,
    /// We may have been taken for dead: all calls are to be looked up.
    is_doubtful: bool,
    inquiries: AHashMap<SetUpId, Inquiry>,
    handed_on: VecDeque<HandedOn>,
    estates: Estates,
    inherited: Inherited,
    sessions: Sessions,
    reach: Reach,
    responses: Responses,
    /// What the transactions have asked for and was not carried out yet.
    pending: Vec<TransactionEffect>,
    /// Room for what they ask for while that is carried out.
    spare_pending: Vec<TransactionEffect>,
    in_hand: InHand,
    next_id: u64,
}

impl Shard {
    /// A shard without links; `now` and `wall` are one instant.
    pub fn new(settings: ShardSettings, now: Instant, wall: UnixMillis) -> Shard {
        let own_name = Bytes::from(format!("{}.{}.outlast.invalid", settings.name, settings.node));
        let responder = Responder::new(&settings.keys);
        Shard {
            deriver: deriver(&settings, own_name.clone()),
            sessions: Sessions::new(&settings, &own_name),
            own_name,
            edges: Edges::default(),
            transactions: Transactions::new(settings.transactions, responder.clone()),
            responder,
            accepting: Accepting::Accepting,
            jobs: AHashMap::new(),
            jobs_by_server: AHashMap::new(),
            contexts: SlicedTable::new(),
            context_deadlines: Deadlines::new(),
            clients: SlicedTable::new(),
            lookups: AHashMap::new(),
            neighbours: Neighbours::new(settings.name.clone(), settings.incarnation),
            identifier: Identifier::new(&settings.keys),
            started_at: now,
            clocks: Clocks { now, wall, guarded: wall },
            commits: AHashMap::new(),
            reads: AHashMap::new(),
            set_ups: SlicedTable::new(),
            set_ups_by_server: SlicedTable::new(),
            removals: Deadlines::new(),
            tries: Deadlines::new(),
            removing: 0,
            doubtful: AHashSet::new(),
            unverified: Vec::new(),
            verifying: 0,
            is_doubtful: false,
            inquiries: AHashMap::new(),
            handed_on: VecDeque::new(),
            estates: Estates::default(),
            inherited: Inherited::default(),
            reach: Reach::default(),
            responses: Responses::default(),
            pending: Vec::new(),
            spare_pending: Vec::new(),
            in_hand: InHand::default(),
            next_id: 0,
            settings,
        }
    }

    /// A frame has come by a link.
    ///
    /// # Errors
    /// [`LinkFault`]: close the link, then call [`link_down`](Self::link_down).
    pub fn frame(
        &mut self,
        link: LinkId,
        frame: LinkFrame,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Result<(), LinkFault> {
        match frame {
            LinkFrame::Hello { addresses, .. } => {
                if self.edges.is_up(link) {
                    return Err(LinkFault::Hello);
                }
                self.edges.up(link, addresses);
                let answer = LinkFrame::HelloAnswer {
                    name: self.settings.name.as_str().to_owned(),
                    incarnation: self.settings.incarnation.0,
                };
                effects.push(ShardEffect::Send { link, frame: answer });
                // The edge need not wait for the next interval to know that we serve.
                effects.push(ShardEffect::Send { link, frame: self.heartbeat() });
                self.reach_changed(now, effects);
                self.settle(now, effects);
            }
            _ if !self.edges.is_up(link) => return Err(LinkFault::Hello),
            LinkFrame::Incoming(incoming) => self.incoming(link, incoming, now, effects),
            LinkFrame::SendFailed { id, error } => self.send_failed(id, error, now, effects),
            // Here and not where the link is read: the answer says that this shard works off what comes.
            LinkFrame::Probe { id } => {
                effects.push(ShardEffect::Send { link, frame: LinkFrame::ProbeAnswer { id } });
            }
            LinkFrame::HelloAnswer { .. }
            | LinkFrame::Taken { .. }
            | LinkFrame::Outgoing { .. }
            | LinkFrame::KeepAlive { .. }
            | LinkFrame::Heartbeat { .. }
            | LinkFrame::HandOn { .. }
            | LinkFrame::ProbeAnswer { .. } => return Err(LinkFault::Direction),
        }
        Ok(())
    }

    /// A link is gone; what waits on it goes by another edge or has failed.
    pub fn link_down(&mut self, link: LinkId, now: Instant, effects: &mut Vec<ShardEffect>) {
        if !self.edges.is_up(link) {
            return;
        }
        let sibling = self.edges.sibling(link);
        self.edges.down(link);
        self.offers_withdrawn(link);
        // Perhaps the edge is dead, perhaps it takes us for dead.
        self.is_doubtful = true;
        // A datagram is repeated by its transaction, by another edge; a stream dies with its edge. While that has
        // another link, its streams live.
        let mut lost: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, sending)| sending.dies_with(link))
            .map(|(client, _)| *client)
            .collect();
        // In the order of their beginning, not of the table: what a shard does depends on its events alone.
        lost.sort_unstable();
        for client in lost {
            if let (Some(sibling), Some(sending)) = (sibling, self.clients.get_mut(&client)) {
                sending.way.link = sibling;
                self.transactions.repeat_request(client, &mut self.pending);
            } else if !self.goes_by_another_door(client, effects) {
                let gone = SendError::FlowGone;
                self.transactions.request_failed(client, gone, now, &mut self.pending);
            }
        }
        self.reach_changed(now, effects);
        self.settle(now, effects);
    }

    /// Time has passed; does nothing before [`next_timeout`](Self::next_timeout).
    pub fn timeout(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        if std::mem::take(&mut self.is_doubtful) {
            self.doubt_everything(effects);
            self.doubt_inherited(effects);
        }
        if !self.doubtful.is_empty() {
            return;
        }
        self.removals_due(now, effects);
        self.tries_due(now, effects);
        self.go_on(now, effects);
        self.transactions.timeout(now, &mut self.pending);
        self.contexts_timeout(now, effects);
        self.sessions_timeout(now, effects);
        self.reach_timeout(now, effects);
        self.responses_timeout(now, effects);
        self.settle(now, effects);
    }

    /// When [`timeout`](Self::timeout) wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        if !self.doubtful.is_empty() {
            return None; // not before the reads have ended
        }
        let deadlines = [
            self.transactions.next_timeout(),
            self.context_deadlines.next(),
            self.next_removal(),
            self.tries.next(),
            self.next_to_go_on(),
            self.sessions.next_timeout(),
            self.reach.next_timeout(),
            self.responses.next_timeout(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// What the clocks show at one instant: the wall clock, which may have been set, and its guarded reading. To be called at every turn, and at every heartbeat
    /// interval at the least: a gap says that we stood still.
    pub fn tell_time(&mut self, now: Instant, wall: UnixMillis, guarded: UnixMillis) {
        self.is_doubtful |= now.saturating_duration_since(self.clocks.now) > STANDSTILL;
        self.clocks = Clocks { now, wall, guarded };
    }

    /// Learns which addresses belong to edges, alive or not, and which of them are expected back; which containers
    /// live, and so whose calls are to be taken over.
    pub fn topology(&mut self, view: &TopologyView, now: Instant, effects: &mut Vec<ShardEffect>) {
        self.edges.learn(view);
        let news = self.neighbours.learn(view);
        self.reach_changed(now, effects);
        match news {
            News::Estates => self.look_for_estates(now, effects),
            News::Silence => self.watch_due(effects),
            News::Nothing => {}
        }
        self.look_again_at_handed_on(now, effects);
        self.settle(now, effects);
    }

    /// Which keys are this container's to look after.
    pub fn share(&self) -> &Ownership {
        self.neighbours.share()
    }

    /// A commit has ended. One of which nothing is known after its longest time counts as
    /// [`CommitError::Unknown`].
    pub fn committed(
        &mut self,
        commit: CommitId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match self.commits.remove(&commit) {
            Some(CommitUse::Job(job)) => self.job_committed(job, result, now, effects),
            Some(CommitUse::Begin(job)) => self.begun(job, result, now, effects),
            Some(CommitUse::Note(id)) => self.noted(id, result, now, effects),
            Some(CommitUse::Remove(id)) => self.removed(id, result, now, effects),
            Some(CommitUse::Claim(id)) => self.claimed(id, result, now, effects),
            Some(CommitUse::Session(id)) => self.session_committed(id, result, now, effects),
            Some(CommitUse::SessionClaim(id)) => self.session_claimed(id, result, now, effects),
            Some(CommitUse::Alias(server)) => self.alias_written(server, result, now, effects),
            Some(CommitUse::Tidy) | None => {}
        }
    }

    /// A read has ended.
    pub fn read(
        &mut self,
        read: ReadId,
        result: Result<Option<Record>, StoreError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match self.reads.remove(&read) {
            Some(ReadUse::Inquiry(id)) => self.inquired(id, result, now, effects),
            Some(ReadUse::Doubt(id)) => self.settled(id, result, now, effects),
            Some(ReadUse::Session(id)) => self.session_inquired(id, result, now, effects),
            Some(ReadUse::SessionDoubt(id)) => self.session_settled(id, result, now, effects),
            Some(ReadUse::Verify(id)) => self.verified(id, result, now, effects),
            None => {}
        }
    }

    /// What every link gets at every interval.
    pub fn heartbeat(&self) -> LinkFrame {
        LinkFrame::Heartbeat {
            incarnation: self.settings.incarnation.0,
            accepting: self.accepting,
            load: self.transactions.load(),
        }
    }

    /// The links that have said Hello.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.edges.links()
    }

    /// Wants no new sessions from now on; requests that come all the same are served.
    pub fn drain(&mut self) {
        self.accepting = Accepting::Draining;
        self.neighbours.drain();
    }

    /// Whether nobody needs this shard: no handler runs, every server transaction has its final response, no session
    /// has a call.
    pub fn is_quiet(&self) -> bool {
        self.jobs.is_empty()
            && self.inherited.len() == 0
            && !self.contexts.keys().any(|server| self.is_open(*server))
            && !self.sessions.have_calls()
    }

    /// What a drain waits for: handlers that run, proxied requests without a final response, sessions with a call.
    pub fn left(&self) -> u64 {
        let open = self.transactions.unanswered().saturating_sub(self.jobs_by_server.len());
        // Sessions have requests without an answer, too.
        let open = open.min(self.contexts.len());
        let waiting = self.jobs.len() + self.inherited.len();
        u64::try_from(waiting + open + self.sessions.calls()).unwrap_or(u64::MAX)
    }

    fn is_open(&self, server: ServerId) -> bool {
        self.transactions.pending_request(server).is_some()
    }

    /// Carries out a duty; one whose edge has no link is left for the next round.
    pub fn duty(&mut self, duty: &Duty, effects: &mut Vec<ShardEffect>) {
        let Duty::KeepAlive { path } = duty;
        let Ok(path) = NameAddr::parse(path) else { return };
        let Ok(Uri::Sip(uri)) = Uri::parse(path.uri()) else { return };
        let Some(token) = uri.user else { return };
        match self.edges.route_owner(&uri.host, uri.port, NO_LINK) {
            RouteOwner::Edge(link) => effects.push(ShardEffect::Send {
                link,
                frame: LinkFrame::KeepAlive { flow_token: Bytes::copy_from_slice(token) },
            }),
            RouteOwner::Unlinked
            | RouteOwner::Awaited
            | RouteOwner::Departed
            | RouteOwner::Foreign => {}
        }
    }

    /// Carries out what the transactions ask for, until they ask for nothing more.
    fn settle(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        while !self.pending.is_empty() {
            let spare = std::mem::take(&mut self.spare_pending);
            let mut pending = std::mem::replace(&mut self.pending, spare);
            for effect in pending.drain(..) {
                self.carry_out(effect, now, effects);
            }
            pending.shrink_to(PENDING_KEPT_MAX);
            self.spare_pending = pending;
        }
    }

    fn carry_out(
        &mut self,
        effect: TransactionEffect,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match effect {
            TransactionEffect::Begun { server, request, origin } => {
                if !self.session_request(server, &request, origin, now, effects) {
                    self.begin_job(Some(server), request, origin, now, effects);
                }
            }
            TransactionEffect::Acknowledged { request, origin } => {
                if !self.session_ack(&request, origin, now, effects) {
                    self.begin_job(None, request, origin, now, effects);
                }
            }
            TransactionEffect::Cancelled { server, cancel, request, origin } => {
                let held = self.hold(request, origin);
                let cancel = HeldCancel { cancel, held };
                if let Some(cancel) = self.session_cancel(server, cancel, now, effects) {
                    self.cancelled(server, cancel, now, effects);
                }
            }
            TransactionEffect::CancelAnswered { client, status } => {
                self.cancel_answered(client, status, now, effects);
            }
            TransactionEffect::ServerEnded { server } => {
                if let Some(id) = self.set_ups_by_server.get(&server).copied() {
                    self.end_if_over(id, now, effects);
                }
            }
            // It comes to the session by itself.
            TransactionEffect::Delivered { client, .. } if self.sessions.sent(client) => {}
            TransactionEffect::Failed { client, failure } if self.sessions.sent(client) => {
                self.session_failed(client, failure, now, effects);
            }
            TransactionEffect::Delivered { client, response } => {
                self.delivered(client, response, now, effects);
            }
            TransactionEffect::Failed { client, failure } => {
                self.client_failed(client, failure, now, effects);
            }
            TransactionEffect::ClientEnded { client } => {
                self.clients.remove(&client);
                self.sessions.ended(client);
            }
            TransactionEffect::SendRequest { client, bytes } => {
                self.send_request(client, bytes, now, effects);
            }
            TransactionEffect::SendResponse { server, origin, bytes } => {
                self.send_response_of(server, origin, bytes, now, effects);
            }
        }
    }

    /// Asks for a commit.
    fn commit(&mut self, of: CommitUse, batch: Batch, effects: &mut Vec<ShardEffect>) {
        let commit = CommitId(self.take_id());
        self.commits.insert(commit, of);
        effects.push(ShardEffect::Commit { commit, batch });
    }

    /// Asks for a record.
    fn ask(&mut self, of: ReadUse, key: Key, effects: &mut Vec<ShardEffect>) {
        let read = ReadId(self.take_id());
        self.reads.insert(read, of);
        effects.push(ShardEffect::Read { read, key });
    }

    /// The wall clock at `now`.
    fn wall(&self, now: Instant) -> UnixMillis {
        self.clocks.wall(now)
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn deriver(settings: &ShardSettings, own_name: Bytes) -> BranchDeriver {
    let owner = OwnerToken { incarnation: settings.incarnation, shard: 0 };
    let owner_token = owner.encode(&settings.keys.derive("owner"));
    BranchDeriver::new(&settings.keys.derive("branch"), owner_token, own_name)
}
