//! What a session is: everything that its next owner must know, and nothing else.
//!
//! The record of a session is this, encoded ([`super::codec`]); what only the present owner needs (which messages wait,
//! when a 2xx is repeated next) lies in the shard.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sip::Method;
use sip::dialog::Dialog;
use sip::transaction::Timers;
use state::UnixMillis;
use topology::token::OwnerToken;
use transport::Flow;

pub use super::action::Action;
use super::identity::{Identity, USER_BYTES};
use super::proxying::{Forwarding, Proxied};
use super::{
    LegDirection, LegName, LegState, LegView, RequestId, SessionEvent, SessionId, SessionView,
    TimerView, limits,
};

/// An application session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Who holds it.
    pub owner: OwnerToken,
    pub(super) application: Box<str>,
    /// What led to it; None: it was begun by itself.
    pub(super) key: Option<Bytes>,
    pub(super) created: UnixMillis,
    pub(super) expires: UnixMillis,
    pub(super) attributes: BTreeMap<String, Bytes>,
    pub(super) timers: BTreeMap<String, Timer>,
    pub(super) legs: Vec<Leg>,
    /// Requests from outside: unanswered, or answered lately.
    pub(super) incoming: Vec<IncomingRequest>,
    /// Requests of ours: without final response, or INVITEs for which a 2xx may still come. The outbox.
    pub(super) outgoing: Vec<OutgoingRequest>,
    /// Requests that failed before they were sent, and of which the application is still to hear.
    pub(super) failures: Vec<(LegName, Bytes, u16)>,
    /// Signals that were heard lately, the last one last: sender and ordinal.
    pub(super) signals_known: Vec<(SessionId, u64)>,
    /// Counts requests and legs.
    pub(super) last_ordinal: u64,
    /// What a new leg's Max-Forwards is: one less than the initial request's.
    pub(super) max_forwards: u8,
    /// Through how many applications the calls came that are in it.
    pub(super) depth: u8,
    /// Whom the request was for that began it; None: it began by something else.
    pub(super) called: Option<[u8; USER_BYTES]>,
    /// Whether it ends when it has neither leg nor timer.
    pub(super) ends_when_ready: bool,
    /// Told to end: nothing more is told to the application.
    pub(super) is_ending: bool,
}

/// A timer that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    /// When its present period began.
    pub(super) since: UnixMillis,
    pub(super) due: UnixMillis,
    pub(super) every: Option<Duration>,
}

/// One leg.
#[derive(Clone, Debug)]
pub(super) struct Leg {
    pub(super) name: LegName,
    pub(super) direction: LegDirection,
    pub(super) state: LegState,
    pub(super) call_id: Bytes,
    /// None: an outgoing leg without an answer, or one that began with something else than INVITE.
    pub(super) dialog: Option<Dialog>,
    pub(super) bye: Bye,
    /// A BYE that is wanted has been sent, and found no way to the other side. Not in the record: a successor does not wait.
    pub(super) put_off: Option<PutOff>,
    /// The leg that names this one as well.
    pub(super) linked: Option<LegName>,
    /// Its first request has gone on to somebody else, whose dialog it is.
    pub(super) proxied: Option<Proxied>,
}

impl PartialEq for Leg {
    /// By what the record holds.
    fn eq(&self, other: &Self) -> bool {
        let held = |leg: &Self| (leg.direction, leg.state, leg.bye, leg.proxied);
        let names = |leg: &Self| (leg.name.clone(), leg.linked.clone(), leg.call_id.clone());
        held(self) == held(other) && names(self) == names(other) && self.dialog == other.dialog
    }
}

/// Whether a leg is to be ended by a BYE of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bye {
    /// No.
    None,
    /// As soon as it may leave (RFC 3261 §15: not before the ACK to our 2xx).
    Wanted(Silence),
    /// It is in the outbox, or answered, or the other side's came first.
    Done,
}

/// How a BYE waits that found no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PutOff {
    /// When that was first known.
    pub(super) since: UnixMillis,
    /// When it leaves again.
    pub(super) until: UnixMillis,
}

/// Whether the application hears how a request of ours ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// It sent the request.
    Told,
    /// The container sent it of its own.
    Silent,
}

/// A request from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IncomingRequest {
    pub(super) id: RequestId,
    pub(super) leg: LegName,
    pub(super) method: Bytes,
    /// By what its repetitions are known.
    pub(super) key: Bytes,
    /// The flow it came by.
    pub(super) flow: Flow,
    /// What its responses are made of; empty once it is answered.
    pub(super) head: Bytes,
    /// The final answer.
    pub(super) answer: Option<Answer>,
    /// As it came, until its event is over; then empty. Not in the record.
    pub(super) whole: Bytes,
    /// It goes on to somebody else, whose answer it gets.
    pub(super) forwarding: Option<Box<Forwarding>>,
}

/// The final answer to a request, kept for its repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) response: Bytes,
    pub(super) at: UnixMillis,
    /// A 2xx to INVITE that is repeated until its ACK comes.
    pub(super) awaits_ack: bool,
}

/// A request of ours.
#[derive(Clone, Debug)]
pub(super) struct OutgoingRequest {
    /// None: a BYE to a fork that answered too late, or the leg is gone.
    pub(super) leg: Option<LegName>,
    pub(super) method: Bytes,
    /// Names its client transaction.
    pub(super) branch: Bytes,
    /// Complete message.
    pub(super) request: Bytes,
    pub(super) stage: Stage,
    pub(super) silence: Silence,
    /// A provisional response has come. Not in the record: a successor that sends the request again learns it anew.
    pub(super) is_proceeding: bool,
    /// When it was sent here, or the last provisional response but 100 came: since then Timer C runs. Not in the record,
    /// since provisional responses cost no commit.
    pub(super) renewed: UnixMillis,
}

impl PartialEq for OutgoingRequest {
    /// By what the record holds.
    fn eq(&self, other: &Self) -> bool {
        (&self.leg, &self.method, &self.branch, &self.request, &self.stage, self.silence)
            == (
                &other.leg,
                &other.method,
                &other.branch,
                &other.request,
                &other.stage,
                other.silence,
            )
    }
}

/// How far a request of ours has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No final response yet.
    Waiting {
        /// When it was sent first.
        since: UnixMillis,
    },
    /// An INVITE that is cancelled: CANCEL leaves after the first provisional response.
    Cancelled {
        /// When we wanted that.
        at: UnixMillis,
    },
    /// An INVITE that is answered or given up: kept for repetitions of its 2xx, for other forks, and for a callee
    /// that answers although we have given up.
    Over {
        /// Since when.
        at: UnixMillis,
        /// For how long it is kept.
        kept: Duration,
        /// The To tag of its 2xx: that of the call, which may be over when the 2xx comes again. None: it had none.
        tag: Option<Bytes>,
        /// To tag and ACK of each fork.
        acks: Vec<(Bytes, Bytes)>,
    },
}

/// The circumstances of a change.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Wall clock: dates what begins.
    pub now: UnixMillis,
    /// Its guarded reading (`Clock::now` of the crate `state`): ends what has its time.
    pub guarded: UnixMillis,
    /// Names that the container gives.
    pub identity: &'a Identity,
    /// The base timers.
    pub timers: Timers,
}

impl Context<'_> {
    /// 64·T1: how long an answer is kept, a 2xx is repeated, a CANCEL is waited on.
    pub(super) fn kept(&self) -> Duration {
        kept_for(self.timers)
    }
}

/// As many requests as one event can send, and a BYE.
const NUMBERS_SKIPPED: u32 = limits::EFFECTS_MAX as u32 + 1;
/// Two looks at the clock differ by less, if nobody sets it.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

fn is_ahead(at: UnixMillis, now: UnixMillis) -> bool {
    at > now.saturating_add(CLOCK_SLACK)
}

/// 64·T1.
fn kept_for(timers: Timers) -> Duration {
    timers.t1 * 64
}

impl Session {
    /// The session that this key leads to, of its application.
    pub fn keyed(mut self, key: Option<Bytes>) -> Session {
        self.key = key;
        self
    }

    /// Name of the application whose it is.
    pub fn application(&self) -> &str {
        &self.application
    }

    /// What its application remembers under that name.
    pub fn attribute(&self, name: &str) -> Option<&Bytes> {
        self.attributes.get(name)
    }

    /// Whether it has come to its end: nothing is left but answers for repetitions.
    pub fn is_over(&self) -> bool {
        self.is_ending
            && self.legs.is_empty()
            && !self.outgoing.iter().any(OutgoingRequest::is_open)
    }

    /// Whether something of it may have to go on when its owner dies: its record is to be found by its owner's name.
    ///
    /// An answer counts for 64·T1: nobody knows whether it left before its sender died, and over a stream the phone
    /// does not ask again.
    pub fn is_open(&self) -> bool {
        !self.incoming.is_empty()
            || !self.outgoing.is_empty()
            || !self.failures.is_empty()
            || self.legs.iter().any(|leg| matches!(leg.bye, Bye::Wanted(_)))
    }

    /// Whether an event is of a request that begins a leg which the session, as it was before, did not have.
    pub fn is_joined_by(&self, event: Option<&SessionEvent>) -> bool {
        match event {
            Some(SessionEvent::Request { leg, .. }) => {
                self.legs.iter().all(|known| known.name != *leg)
            }
            Some(_) | None => false,
        }
    }

    /// Whether it was told to end, or has ended by itself.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether it remembers and waits for nothing: if it was never stored, it need not be.
    pub fn is_blank(&self) -> bool {
        self.attributes.is_empty()
            && self.timers.is_empty()
            && self.legs.is_empty()
            && !self.is_open()
    }

    /// Whether the application has not heard yet of requests that could not be sent ([`super::receive::Input::Failure`]).
    pub fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// When it ends by itself.
    pub fn expires(&self) -> UnixMillis {
        self.expires
    }

    /// The keys of the requests from outside that it knows.
    pub fn request_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.incoming.iter().map(|request| &request.key)
    }

    /// Whether an INVITE has no final answer that it sent, or lets go on: whoever owns the session has its branches.
    pub fn has_an_open_invite(&self) -> bool {
        let is_sent = |request: &OutgoingRequest| request.method == "INVITE" && request.is_open();
        let goes_on = |request: &IncomingRequest| {
            let is_open = request.forwarding.is_some() && request.answer.is_none();
            request.method == "INVITE" && is_open
        };
        self.outgoing.iter().any(is_sent) || self.incoming.iter().any(goes_on)
    }

    /// The requests that it has sent and still knows: branch and method of each.
    pub fn sent(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.outgoing.iter().map(|request| (&request.branch, &request.method))
    }

    /// Whether a call stands: a draining container waits for its end.
    pub fn has_calls(&self) -> bool {
        self.legs.iter().any(|leg| leg.state != LegState::Ended)
    }

    /// When it wants to be looked at although no message comes and whoever owns it: its next timer, or its end.
    pub fn due(&self) -> UnixMillis {
        let timers = self.timers.values().map(|timer| timer.due);
        timers.fold(self.expires, UnixMillis::min)
    }

    /// When its owner has to look at it next: [`due`](Self::due), an ACK or an answer to CANCEL that does not come, a BYE that
    /// leaves again, or something that need not be kept any longer.
    pub fn next_deadline(&self, timers: Timers) -> UnixMillis {
        let answers = self.incoming.iter().filter_map(|request| request.answer.as_ref());
        let answers = answers.map(|answer| answer.at.saturating_add(kept_for(timers)));
        let outgoing = self.outgoing.iter().filter_map(|request| request.deadline(self, timers));
        let byes = self.legs.iter().filter_map(|leg| self.hangs_up_at(leg));
        let due = if self.is_ending { UnixMillis(u64::MAX) } else { self.due() };
        answers.chain(outgoing).chain(byes).fold(due, UnixMillis::min)
    }

    /// Whether something of it is dated ahead of the wall clock, which was set back then.
    pub fn is_dated_ahead(&self, now: UnixMillis) -> bool {
        let timers = self.timers.values().map(|timer| timer.since);
        self.answer_dates().chain(timers).any(|at| is_ahead(at, now))
    }

    /// Takes back what is dated ahead of the wall clock: it counts as begun now, so that an answer is not kept, and no
    /// timer waits, for longer than its whole time. What began before the time that the clock was set to is late by the step, as
    /// all lifetimes are.
    pub(super) fn take_dates_back(&mut self, now: UnixMillis) {
        for timer in self.timers.values_mut().filter(|timer| is_ahead(timer.since, now)) {
            timer.due = now.saturating_add(timer.due.saturating_since(timer.since));
            timer.since = now;
        }
        let answers = self.incoming.iter_mut().filter_map(|request| request.answer.as_mut());
        let outgoing = self.outgoing.iter_mut().flat_map(|request| {
            let (Stage::Waiting { since: at } | Stage::Cancelled { at } | Stage::Over { at, .. }) =
                &mut request.stage;
            [at, &mut request.renewed]
        });
        let dates = answers.map(|answer| &mut answer.at).chain(outgoing);
        for at in dates.filter(|at| is_ahead(**at, now)) {
            *at = now;
        }
        for leg in &mut self.legs {
            leg.put_off.take_if(|put_off| is_ahead(put_off.since, now));
        }
    }

    fn answer_dates(&self) -> impl Iterator<Item = UnixMillis> {
        let answers = self.incoming.iter().filter_map(|request| request.answer.as_ref());
        let outgoing = self.outgoing.iter().map(|request| match request.stage {
            Stage::Waiting { since: at } | Stage::Cancelled { at } | Stage::Over { at, .. } => at,
        });
        answers.map(|answer| answer.at).chain(outgoing)
    }

    /// The session as its application sees it.
    pub fn view(&self, now: UnixMillis) -> SessionView {
        let timer = |(name, timer): (&String, &Timer)| TimerView {
            name: name.clone(),
            due: timer.due,
            every: timer.every,
        };
        SessionView {
            id: self.id,
            key: self.key.clone(),
            is_new: false,
            now,
            created: self.created,
            expires: self.expires,
            attributes: self.attributes.clone(),
            legs: self.legs.iter().map(|leg| self.leg_view(leg)).collect(),
            timers: self.timers.iter().map(timer).collect(),
            outgoing: self.outgoing.len(),
            unheard_signals: self.unheard_signals(),
            record_bytes: 0,
        }
    }

    pub(super) fn unheard_signals(&self) -> usize {
        self.outgoing.iter().filter(|request| request.is_signal()).count()
    }

    fn leg_view(&self, leg: &Leg) -> LegView {
        let outgoing = || self.outgoing.iter().filter(|request| request.is_of(&leg.name));
        LegView {
            name: leg.name.clone(),
            direction: leg.direction,
            state: leg.state,
            call_id: leg.call_id.clone(),
            unanswered: self
                .unanswered(&leg.name)
                .map(|request| (request.id, request.method.clone()))
                .collect(),
            waiting: outgoing()
                .filter(|request| request.is_open() && request.silence == Silence::Told)
                .map(|request| request.method.clone())
                .collect(),
            wants_ack: outgoing().any(|request| request.wants_ack(leg)),
            linked: leg.linked.clone(),
            is_proxied: leg.proxied.is_some(),
        }
    }

    /// The requests on a leg that wait for an answer of ours.
    pub(super) fn unanswered(&self, leg: &LegName) -> impl Iterator<Item = &IncomingRequest> {
        let is_open =
            |request: &&IncomingRequest| request.answer.is_none() && request.forwarding.is_none();
        self.incoming.iter().filter(is_open).filter(move |request| request.leg == *leg)
    }

    pub(super) fn leg(&mut self, name: &LegName) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.name == *name)
    }

    pub(super) fn take_ordinal(&mut self) -> u64 {
        self.last_ordinal += 1;
        self.last_ordinal
    }

    /// What a new owner has to do before anything else: everything that is open is sent again, under the same names.
    pub fn resume(&mut self, now: UnixMillis) -> Vec<Action> {
        for request in &mut self.outgoing {
            request.renewed = now;
        }
        let start = |request: &OutgoingRequest| Action::Start {
            branch: request.branch.clone(),
            method: request.method.clone(),
            request: request.request.clone(),
        };
        let started = self.outgoing.iter().filter(|request| request.is_open()).map(start);
        started.chain(self.forwarded_again()).collect()
    }

    /// The former owner may have sent requests in dialogs that are not in the record ([`Replication::AfterReply`](super::Replication)):
    /// their numbers are not given again.
    pub fn skip_numbers(&mut self) {
        for dialog in self.legs.iter_mut().filter_map(|leg| leg.dialog.as_mut()) {
            dialog.local_cseq = dialog.local_cseq.saturating_add(NUMBERS_SKIPPED);
        }
    }

    /// The server transactions that a new owner has to know: those without answer, and those whose answer may not have
    /// left before the former owner died.
    pub fn server_transactions(&self) -> impl Iterator<Item = ServerTransactionView<'_>> {
        self.incoming.iter().filter_map(|request| {
            let answer = request.answer.as_ref();
            let is_invite = Method::parse(&request.method) == Some(Method::Invite);
            // Repeated apart from its transaction until its ACK, which says that it arrived.
            if is_invite && answer.is_some_and(|answer| answer.status < 300) {
                return None;
            }
            Some(ServerTransactionView {
                key: &request.key,
                is_invite,
                flow: request.flow,
                head: &request.head,
                answer: answer.map(|answer| (answer.status, &answer.response)),
            })
        })
    }

    /// The 2xx responses that are repeated until their ACK comes, with the keys of their requests and since when.
    pub fn unacknowledged(&self) -> impl Iterator<Item = Unacknowledged<'_>> {
        self.incoming.iter().filter_map(|request| {
            let answer = request.answer.as_ref().filter(|answer| answer.awaits_ack)?;
            Some(Unacknowledged {
                request: request.id,
                key: &request.key,
                flow: request.flow,
                response: &answer.response,
            })
        })
    }

    /// The answer that a request got, if it is a repetition of one.
    pub fn answer_to(&self, key: &[u8]) -> Option<(u16, &Bytes)> {
        let request = self.incoming.iter().find(|request| request.key == key)?;
        request.answer.as_ref().map(|answer| (answer.status, &answer.response))
    }
}

/// A request from outside, as a successor's transaction layer has to know it.
#[derive(Clone, Copy, Debug)]
pub struct ServerTransactionView<'a> {
    /// By what its repetitions are known.
    pub key: &'a Bytes,
    /// Which kind of transaction it is.
    pub is_invite: bool,
    /// The flow it came by.
    pub flow: Flow,
    /// The request without what is not needed for answers; empty when it is answered.
    pub head: &'a Bytes,
    /// Its final answer: status and complete message.
    pub answer: Option<(u16, &'a Bytes)>,
}

/// A 2xx whose ACK has not come.
#[derive(Clone, Copy, Debug)]
pub struct Unacknowledged<'a> {
    /// The INVITE.
    pub request: RequestId,
    /// Its key.
    pub key: &'a Bytes,
    /// The flow it came by.
    pub flow: Flow,
    /// Complete message.
    pub response: &'a Bytes,
}

impl OutgoingRequest {
    /// Whether its final response has not come.
    pub(super) fn is_open(&self) -> bool {
        match self.stage {
            Stage::Waiting { .. } | Stage::Cancelled { .. } => true,
            Stage::Over { .. } => false,
        }
    }

    /// When something is to be done about it, if nothing comes: it is cancelled, given up, or forgotten.
    fn deadline(&self, session: &Session, timers: Timers) -> Option<UnixMillis> {
        match &self.stage {
            Stage::Waiting { .. } => self.timer_c().or(self.signal_repeated_at()),
            Stage::Cancelled { at } => Some(at.saturating_add(kept_for(timers))),
            Stage::Over { .. } if self.is_wanted_by(&session.legs) => None,
            Stage::Over { at, kept, .. } => Some(at.saturating_add(*kept)),
        }
    }

    /// When an INVITE without a final response has waited for too long.
    pub(super) fn timer_c(&self) -> Option<UnixMillis> {
        let Stage::Waiting { since } = self.stage else { return None };
        let renewable = self.renewed.saturating_add(limits::TIMER_C);
        let in_all = since.saturating_add(limits::INVITE_TIME_MAX);
        self.is_invite().then_some(renewable.min(in_all))
    }

    pub(super) fn is_of(&self, leg: &LegName) -> bool {
        self.leg.as_ref() == Some(leg)
    }

    pub(super) fn is_invite(&self) -> bool {
        Method::parse(&self.method) == Some(Method::Invite)
    }

    /// Whether one of the legs is still to acknowledge it.
    pub(super) fn is_wanted_by(&self, legs: &[Leg]) -> bool {
        legs.iter().any(|leg| self.wants_ack(leg))
    }

    /// Whether the 2xx that `leg` stands on was not acknowledged yet.
    pub(super) fn wants_ack(&self, leg: &Leg) -> bool {
        let tag = leg.dialog.as_ref().map_or(&b""[..], Dialog::remote_tag);
        match &self.stage {
            Stage::Over { acks, tag: Some(_), .. } => {
                self.is_of(&leg.name) && !acks.iter().any(|(acknowledged, _)| acknowledged == tag)
            }
            Stage::Waiting { .. } | Stage::Cancelled { .. } | Stage::Over { tag: None, .. } => {
                false
            }
        }
    }
}
