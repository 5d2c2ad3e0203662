//! The trait of an application with sessions, and the values that pass through it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sip::Message;
use state::UnixMillis;

use super::chain::{Directive, Region};
use super::http::{HttpRequest, HttpResponse};
use crate::application::{Body, Header, RecordRoute, Response, Target};

/// The leg by which a session began: the one of the initial request.
pub const CALLER: &str = "caller";

/// An application that holds sessions.
///
/// ```text
/// initial request ─▶ accepts ─▶ on_event(Request) ─▶ effects ─▶ commit ─▶ messages leave
///                                    ▲                                        │
///                                    └── response, request, timer, failure ◀──┘
/// ```
///
/// **Exactly once.** The effects of an event are applied whole or not at all, and once, whoever dies when. The
/// handler itself may run again for an event whose commit did not come about; so it has no side effect but the one
/// it returns. Only an event after which nothing but a provisional response has changed may be given twice, as
/// phones repeat provisional responses anyway.
///
/// **Failure.** A handler that panics, takes longer than [`handler_time_max`](Self::handler_time_max), or returns an effect
/// that breaks a rule of [`SessionEffect`] has changed nothing; a request that it was to answer is answered 500, and
/// it is logged. The session goes on.
///
/// **Dialogs.** The container keeps them: tags, CSeq, route sets, targets, Contact, Via, Max-Forwards, 100, the ACK
/// to a failure, repetition of requests and of 2xx until their ACK, the answer to CANCEL, to requests out of order
/// (500) and to crossing re-INVITEs (491). An application never names such headers.
pub trait SessionApplication: Send + Sync {
    /// `NAME@VERSION`, or `NAME` of one that has no versions: in records and logs; never changes, since the records of
    /// sessions hold it. Versions of one name are one application: see [`name_of`].
    fn name(&self) -> &str;

    /// Whether an initial request (without To tag; never CANCEL, ACK or REGISTER) begins a session here. The first
    /// application in the order of [`Region`], then in the configured one, that says yes has it; when none does, it goes
    /// to the registrar. A request that a session of ours sent is offered to those that [`chain`](super::chain) says.
    ///
    /// A pure function: of the request and of nothing else.
    fn accepts(&self, request: &Message) -> bool;

    /// For whom it serves.
    fn region(&self) -> Region {
        Region::default()
    }

    /// Whom the calls of its sessions, and their other initial requests, are offered to.
    fn directive(&self) -> Directive {
        Directive::default()
    }

    /// Whose initial requests it takes.
    fn callers(&self) -> Callers {
        Callers::default()
    }

    /// Whether some initial requests belong to one session by a key ([`session_key`](Self::session_key)).
    fn is_keyed(&self) -> bool {
        false
    }

    /// The key of the session that an initial request belongs to, which [`accepts`](Self::accepts) said yes to: 1 to
    /// [`KEY_BYTES_MAX`](super::limits::KEY_BYTES_MAX) octets. All requests of one key come to one session, each as a leg of
    /// its own. None: a session of its own. Asked only if [`is_keyed`](Self::is_keyed).
    ///
    /// A function of the request and of nothing else: it is asked again wherever a repetition arrives.
    ///
    /// # Errors
    /// [`NoKey`]: it cannot say, and the request goes to no session.
    fn session_key<'a>(
        &'a self,
        _request: &'a Message,
    ) -> BoxFuture<'a, Result<Option<Bytes>, NoKey>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Whether it is told [`SessionEvent::Ended`].
    fn hears_ended(&self) -> bool {
        false
    }

    /// What its handlers, and its key function, may take each; None: the container's own `handler_time_max`. One that keeps
    /// to limits of its own says more than they come to, so that it is it who says what happened.
    fn handler_time_max(&self) -> Option<Duration> {
        None
    }

    /// Where its sessions are kept, and when their messages leave; never changes.
    fn replication(&self) -> Replication {
        Replication::default()
    }

    /// Decides what follows from an event.
    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>>;
}

/// Whose initial requests an application takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Callers {
    /// Those that the gatekeeper of the container [admits](crate::application::Application::admit), if it has one.
    #[default]
    Admitted,
    /// Everybody's: what From says is not proven.
    Anybody,
}

/// An application could not say which session a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKey {
    /// How the request is answered: 503 where trying again may help.
    pub status: u16,
}

/// Where the sessions of an application are kept, and when the messages of an event leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Replication {
    /// In the store. Messages leave when the event is committed: nothing that anybody heard of is lost.
    #[default]
    BeforeReply,
    /// In the store. Messages leave at once, while the commit is under way. The next event waits for that, and so does what
    /// begins something: a session (of two containers that got one request, the one whose commit stands begins it), a
    /// call, a request outside of dialogs, a signal.
    ///
    /// With the container dies what followed from its last event: its successor knows nothing of it, and gives the event to
    /// the handler again if it comes again, so a request in a dialog may be sent twice, under another number, and a request be
    /// answered twice. A container that was taken for dead and lives may say something beside its successor, until its
    /// next commit is refused.
    AfterReply,
    /// In the memory of the container that began them, and nowhere else. They end with it: then their messages are answered
    /// 481. No other container finds them by their key, nor do signals from there reach them, and two copies of one initial
    /// request that reach two containers begin two.
    Nowhere,
}

/// The name of an application without its version.
pub fn name_of(application: &str) -> &str {
    application.split_once('@').map_or(application, |(name, _)| name)
}

impl fmt::Debug for dyn SessionApplication {
    /// Its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names a session for good, in records, tokens and indexes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    /// In hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names a leg within its session: [`CALLER`], or what [`SessionEffect::Call`] said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegName(Box<str>);

impl LegName {
    /// Takes a name of 1 to [`NAME_BYTES_MAX`](super::limits::NAME_BYTES_MAX) octets; others are refused where they are used.
    pub fn new(name: &str) -> LegName {
        LegName(name.into())
    }

    /// The leg of the initial request.
    pub fn caller() -> LegName {
        LegName::new(CALLER)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LegName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a request from outside that wants an answer, within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A session as a handler sees it: before the effects of the event, with what the event itself changed.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its name.
    pub id: SessionId,
    /// The key that requests are led to it by; None: there is none.
    pub key: Option<Bytes>,
    /// Nothing of it is stored yet: this is its first event, or it has remembered nothing so far.
    pub is_new: bool,
    /// Wall clock at this run of the handler.
    pub now: UnixMillis,
    /// When it began.
    pub created: UnixMillis,
    /// When it ends by itself.
    pub expires: UnixMillis,
    /// What the application remembers.
    pub attributes: BTreeMap<String, Bytes>,
    /// In the order of their beginning; ended ones that wait for nothing more are gone.
    pub legs: Vec<LegView>,
    /// The timers that run.
    pub timers: Vec<TimerView>,
    /// Its requests that count against [`OUTGOING_MAX`](super::limits::OUTGOING_MAX), signals among them.
    pub outgoing: usize,
    /// Its signals that were not heard yet.
    pub unheard_signals: usize,
    /// Octets of its record before this event, of which there may be [`RECORD_BYTES_MAX`](super::limits::RECORD_BYTES_MAX).
    pub record_bytes: usize,
}

impl SessionView {
    /// The leg of that name.
    pub fn leg(&self, name: &str) -> Option<&LegView> {
        self.legs.iter().find(|leg| leg.name.as_str() == name)
    }
}

/// One leg: a dialog, or what may become or was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegView {
    /// Its name.
    pub name: LegName,
    /// Who began it.
    pub direction: LegDirection,
    /// Where it stands.
    pub state: LegState,
    /// Its Call-ID.
    pub call_id: Bytes,
    /// Requests from the other side that have no final answer yet, oldest first, with their methods.
    pub unanswered: Vec<(RequestId, Bytes)>,
    /// The methods of own requests that have no final answer yet, oldest first.
    pub waiting: Vec<Bytes>,
    /// Whether an own INVITE has its 2xx and wants [`SessionEffect::Acknowledge`].
    pub wants_ack: bool,
    /// The leg that it is linked with.
    pub linked: Option<LegName>,
    /// Its first request has gone on ([`SessionEffect::Proxy`]): the dialog is that of others, and nothing of ours can be
    /// sent in it.
    pub is_proxied: bool,
}

/// Who began a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegDirection {
    /// The other side, by a request to us.
    Incoming,
    /// We.
    Outgoing,
}

/// Where a leg stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegState {
    /// Its first request has no final answer yet.
    Early,
    /// Its INVITE has a 2xx: the dialog stands, acknowledged or not.
    Confirmed,
    /// Over: failed, cancelled, or a BYE was sent, is about to be sent or came. Nothing can be sent on it.
    Ended,
}

/// A timer that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerView {
    /// Its name.
    pub name: String,
    /// When it fires next.
    pub due: UnixMillis,
    /// Its period, if it has one.
    pub every: Option<Duration>,
}

/// Something that happened to a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A request came: the initial one (then `leg` is [`CALLER`]), or one in a dialog. Wants [`SessionEffect::Respond`],
    /// at once or at a later event.
    ///
    /// A BYE has ended its leg already, and whatever else of it was unanswered is answered 487; a BYE that its handler
    /// leaves unanswered is answered 200. What a session leaves unanswered when it ends gets 500.
    Request {
        /// By which leg.
        leg: LegName,
        /// To be named in the answer.
        request: RequestId,
        /// As it came.
        message: Message,
    },
    /// The other side has cancelled its INVITE; it is answered 487 already, and the leg is over if it was the first. One that
    /// has gone on is cancelled where it went, and its answer follows.
    Cancelled {
        /// Of which leg.
        leg: LegName,
        /// Which INVITE.
        request: RequestId,
    },
    /// The first ACK to a 2xx of ours came; perhaps with the body that the 2xx asked for.
    Acknowledged {
        /// By which leg.
        leg: LegName,
        /// The ACK.
        message: Message,
    },
    /// A response to a request of ours came: provisional (never 100) or final. The first 2xx to an INVITE wants
    /// [`SessionEffect::Acknowledge`]; repeated ones and those of other forks the container deals with.
    ///
    /// A 481 or 408 to a request in a dialog has ended its leg (RFC 3261 §12.2.1.2); the container sends the BYE.
    Response {
        /// By which leg.
        leg: LegName,
        /// The response; CSeq says to which method.
        message: Message,
    },
    /// A request of ours has ended without a final response that counts.
    Failed {
        /// Of which leg.
        leg: LegName,
        /// The method of that request; `ACK` when the other side never acknowledged our 2xx (then we end the leg
        /// with a BYE).
        method: Bytes,
        /// 408 nobody answered in time (in a dialog that has ended the leg, as a 408 that came would), 503 it could not be
        /// sent, 487 it was cancelled by us (whatever the other side said to that) or by the container, because it rang
        /// for too long ([`TIMER_C`](super::limits::TIMER_C)), 491 it crossed with an INVITE of the other side: try again
        /// later (RFC 3261 §14.1). Also 487 of an `INVITE` or `BYE` of the other side, which has given up or hung up, and
        /// was answered, while this version of the application was not there.
        status: u16,
    },
    /// A timer has fired; unless it is periodic it is gone already.
    Timer {
        /// Which.
        name: String,
    },
    /// An HTTP request came for the session; it wants [`SessionEffect::HttpRespond`] at this event.
    Http(HttpRequest),
    /// Another session of the same application, or this one, has sent a signal; told once.
    Signal {
        /// Its name.
        name: String,
        /// What came with it.
        payload: Bytes,
        /// Who sent it.
        sender: SessionId,
    },
    /// The session ends, with the commit that this is told before: what it remembered is seen once more. Effects are void.
    /// Told to whom [`SessionApplication::hears_ended`] says.
    Ended,
    /// The session's time is over. After the effects of this event it ends, unless they contain
    /// [`SessionEffect::ExpireAfter`]; legs that still stand are ended as by [`SessionEffect::End`].
    Ending,
}

/// How a request goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyOptions {
    /// Whether later requests of the dialog come through the session as well, of an INVITE. Each is a
    /// [`SessionEvent::Request`], and goes on when its handler leaves it alone; ACKs go on unheard. A BYE ends the leg.
    pub record_route: RecordRoute,
    /// Whether the session hears of responses.
    pub supervised: Supervised,
    /// Timer C, over three minutes and at most [`INVITE_TIME_MAX`](super::limits::INVITE_TIME_MAX); None: that of the container.
    pub timer_c: Option<Duration>,
    /// Further headers of what goes on; none that belongs to the container.
    pub headers: Vec<Header>,
}

/// Whether a session hears what becomes of a request that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervised {
    /// No.
    No,
    /// [`SessionEvent::Response`] of each response before it is passed back, and [`SessionEvent::Cancelled`].
    /// [`SessionEvent::Failed`] with 408 when there is none (RFC 4320).
    Yes,
}

/// Something that a handler wants to happen.
///
/// One effect that breaks a rule named here makes all effects of the event void (see [`SessionApplication`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEffect {
    /// Remembers a value; replaces an older one. All of them share [`ATTRIBUTE_BYTES_MAX`](super::limits::ATTRIBUTE_BYTES_MAX).
    Set {
        /// 1 to [`NAME_BYTES_MAX`](super::limits::NAME_BYTES_MAX) octets.
        name: String,
        /// The value.
        value: Bytes,
    },
    /// Forgets a value; nothing if there is none.
    Remove {
        /// Its name.
        name: String,
    },
    /// Starts a timer, or starts it anew. It fires once, or once in each period: after a stop of the whole system
    /// only once for all periods that were missed. At most [`TIMERS_MAX`](super::limits::TIMERS_MAX).
    StartTimer {
        /// 1 to [`NAME_BYTES_MAX`](super::limits::NAME_BYTES_MAX) octets.
        name: String,
        /// Until it fires first, at least [`TIMER_MIN`](super::limits::TIMER_MIN); milliseconds count.
        after: Duration,
        /// Its period, at least [`TIMER_MIN`](super::limits::TIMER_MIN); None: it fires once.
        every: Option<Duration>,
    },
    /// Stops a timer; nothing if there is none.
    StopTimer {
        /// Its name.
        name: String,
    },
    /// Answers a request. Status 101–199 to an INVITE only, any final status to every request; a 2xx to the initial
    /// INVITE makes the dialog, any other final answer to it ends the leg. The container adds Contact, To tag and
    /// Record-Route. Nothing if the request has had its final answer.
    Respond {
        /// Which request; one that never was breaks the rule.
        request: RequestId,
        /// What it says; no header that belongs to the container.
        response: Response,
    },
    /// Answers the HTTP request of this event, behind its commit. Nothing if it has an answer, or at another event; a
    /// request that is left without is answered 500.
    HttpRespond(HttpResponse),
    /// Begins a leg by an INVITE; its answers come as [`SessionEvent::Response`] or [`SessionEvent::Failed`]. At most
    /// [`LEGS_MAX`](super::limits::LEGS_MAX) at a time.
    Call {
        /// A name that no leg of the session has, ended ones included.
        leg: LegName,
        /// The Request-URI, a `sip:` URI without headers. One of a domain of this node goes through its own front
        /// door like any phone's request, so that the registrar finds the callee.
        target: Bytes,
        /// Value of From, without tag.
        from: Bytes,
        /// Value of To, without tag.
        to: Bytes,
        /// Further headers; none that belongs to the container.
        headers: Vec<Header>,
        /// For example the offer.
        body: Option<Body>,
    },
    /// Sends a request that belongs to no dialog and begins none, such as MESSAGE. Its answer comes as
    /// [`SessionEvent::Response`] or [`SessionEvent::Failed`], and ends its leg.
    SendOutside {
        /// Names it, as in [`SessionEffect::Call`].
        leg: LegName,
        /// Any method but those that begin a dialog or belong into one: INVITE, SUBSCRIBE, REFER, BYE, ACK, CANCEL, PRACK,
        /// UPDATE, INFO; nor SIGNAL, which is the container's.
        method: Bytes,
        /// As in [`SessionEffect::Call`].
        target: Bytes,
        /// Value of From, without tag.
        from: Bytes,
        /// Value of To, without tag.
        to: Bytes,
        /// Further headers; none that belongs to the container.
        headers: Vec<Header>,
        /// Its body.
        body: Option<Body>,
    },
    /// Links two legs, so that whoever looks at one finds the other; undoes the links that they had.
    Link {
        /// One of them.
        a: LegName,
        /// The other one; not the same.
        b: LegName,
    },
    /// Undoes the link of a leg; nothing if it has none.
    Unlink {
        /// Of either side.
        leg: LegName,
    },
    /// Sends a request in a dialog that is [`LegState::Confirmed`]; never ACK or CANCEL. A re-INVITE that crosses
    /// another INVITE of the leg fails with 491; a 2xx that was not acknowledged yet is, before it, unless the ACK has to
    /// hold an answer (RFC 5407 §3.1.4, §3.1.5): it fails with 491 then. BYE ends the leg, and leaves when an open 2xx is acknowledged
    /// (RFC 3261 §15); on a leg that has ended already it is nothing. One that found no way to the other side (430, 480, 500, 502,
    /// 503, 504) leaves again for 64·T1, and only its last answer is told; none is when the other side's own BYE came meanwhile.
    Send {
        /// On which leg.
        leg: LegName,
        /// The method, such as `BYE`.
        method: Bytes,
        /// Further headers; none that belongs to the container.
        headers: Vec<Header>,
        /// Its body.
        body: Option<Body>,
    },
    /// Acknowledges the 2xx to an INVITE of ours. A leg that ends before is acknowledged by the container. Nothing if
    /// no 2xx waits for it.
    Acknowledge {
        /// On which leg.
        leg: LegName,
        /// Further headers; none that belongs to the container.
        headers: Vec<Header>,
        /// For example the answer to an offer in the 2xx.
        body: Option<Body>,
    },
    /// Cancels the INVITE of ours that has no final answer: [`SessionEvent::Failed`] with 487 follows. A callee that
    /// answers all the same gets ACK and BYE, minutes later still. Nothing if there is no such INVITE.
    Cancel {
        /// On which leg.
        leg: LegName,
    },
    /// Lets the initial request of a leg go on, at the event that brings it and before it has a final answer. It gets the best
    /// answer of those that it goes to (RFC 3261 §16), or none; it cannot be answered by [`SessionEffect::Respond`] any
    /// more.
    Proxy {
        /// Which.
        request: RequestId,
        /// Where to: those of equal q at the same time, others by falling q; at most
        /// [`TARGETS_MAX`](crate::application::TARGETS_MAX). Each is a `sip:` URI without headers; one of a domain of this node goes
        /// through its own front door. None: to where the registrar finds its Request-URI.
        targets: Vec<Target>,
        /// How.
        options: ProxyOptions,
    },
    /// Sends a signal to a session of the same application, or to this one: [`SessionEvent::Signal`], once. It is kept, and
    /// sent again, until it was heard; a session that is over hears nothing. At most
    /// [`SIGNALS_MAX`](super::limits::SIGNALS_MAX) that are not heard yet.
    Signal {
        /// Whom.
        session: SessionId,
        /// 1 to [`NAME_BYTES_MAX`](super::limits::NAME_BYTES_MAX) octets.
        name: String,
        /// At most [`SIGNAL_BYTES_MAX`](super::limits::SIGNAL_BYTES_MAX) octets.
        payload: Bytes,
    },
    /// The session ends by itself after so long, counted from now; at first that is
    /// [`SESSION_TIME_MAX`](super::limits::SESSION_TIME_MAX), which is also the most.
    ExpireAfter {
        /// At least [`TIMER_MIN`](super::limits::TIMER_MIN).
        after: Duration,
    },
    /// Whether the session ends by itself once it has neither leg nor timer. One that a SIP request began does, unless it
    /// is told otherwise; one that began by something else lives until it expires.
    EndWhenReady {
        /// Whether it does from now on.
        wanted: bool,
    },
    /// Ends the session: legs that stand get BYE, calling ones CANCEL, unanswered requests 500; effects behind it
    /// are nothing, nothing more is told to the application, and the record goes when all of that is answered. A session without a leg or a timer ends
    /// like this by itself ([`SessionEffect::EndWhenReady`]).
    End,
}
