//! Lets requests of sessions go on: asks the registrar where to, runs their proxy contexts, and brings what comes of them
//! back to the session, before it takes effect.
//!
//! What lies behind the application that lets a request go on to nobody in particular is decided in one place,
//! [`Shard::seek_way`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use sip::{HeaderName, Message, NameAddr, Uri};
use tracing::{debug, error};

use super::super::noting::Notes;
use super::super::proxying::{NO_LINK, server_branch};
use super::super::set_ups;
use super::super::ways::is_written_at;
use super::super::{Held, Shard, ShardEffect};
use super::actions::decides;
use super::{Live, Queued, Sessions};
use crate::application::{Caller, ProxyPlan, Response, Target};
use crate::edges::RouteOwner;
use crate::own_route::without_own_route;
use crate::proxy::ProxyContext;
use crate::session::chain::Sender;
use crate::session::proxying::{Reply, Routed};
use crate::session::receive::Input;
use crate::session::{RequestId, Session, SessionApplication, SessionId, chain, name_of};
use crate::setup::{Event, SetUp};
use crate::transactions::key::ServerKey;
use crate::transactions::{Origin, Resumed, ServerId};

/// What has happened to a request that goes on, and takes effect behind the commit of its session.
pub(super) struct Note {
    /// The transaction of the request.
    pub(super) server: ServerId,
    pub(super) step: set_ups::Step,
}

impl Live {
    /// The session as it is by what has happened: a step that has is on its way to the store only.
    fn present(&self) -> &Session {
        let happened = self.step.as_ref().filter(|step| step.has_happened);
        happened.map_or(&self.session, |step| &step.draft)
    }
}

/// More provisional responses to one request do not wait: the newest one takes the place of the one before.
const PROVISIONAL_WAITING_MAX: usize = 8;

impl Queued {
    /// Whether there are only so many of its kind, and none comes again.
    pub(super) fn is_of_its_own(&self, waiting: &VecDeque<Queued>) -> bool {
        let is_end = matches!(self.input, Input::Routed { .. } | Input::Finished { .. });
        let is_noted = matches!(self.input, Input::Noted { event: Some(_), .. });
        // The callee repeats its 2xx as often as it likes.
        let is_first_final = self.relays().is_some_and(|(request, is_final)| {
            let is_same = |queued: &Queued| queued.relays() == Some((request, true));
            is_final && !waiting.iter().any(is_same)
        });
        is_end || is_noted || is_first_final
    }

    /// To which request it brings a response, and whether that is a final one.
    fn relays(&self) -> Option<(RequestId, bool)> {
        let Input::Relay { request, reply } = &self.input else { return None };
        Some((*request, reply.status() >= 200))
    }

    /// Takes the place of one that waits, if enough provisional responses to the same request do; else it is handed back.
    pub(super) fn supersedes(self, waiting: &mut VecDeque<Queued>) -> Option<Queued> {
        let relays = self.relays().filter(|(_, is_final)| !is_final);
        let is_same = |queued: &&mut Queued| relays.is_some() && queued.relays() == relays;
        match waiting.iter_mut().filter(is_same).nth(PROVISIONAL_WAITING_MAX - 1) {
            Some(last) => {
                last.input = self.input;
                None
            }
            None => Some(self),
        }
    }
}

impl Sessions {
    /// Whether a request is of a dialog of this session, or one that it has had.
    pub(super) fn is_concerned(&mut self, id: SessionId, request: &Message) -> bool {
        let key = ServerKey::of(request);
        let Some(live) = self.wake(id) else { return false };
        let mut known = live.present().request_keys();
        let is_known = key.is_some_and(|key| known.any(|known| known[..] == *key.as_bytes()));
        is_known || live.present().has_leg_of(request)
    }

    /// What carries a request that a session has let go on.
    pub(in super::super) fn forwarded(&self, id: SessionId, request: RequestId) -> Option<&SetUp> {
        let live = self.entries.get(&id)?.live.as_deref()?;
        live.present().set_up_of(request)
    }

    /// Whether a session hears of the provisional responses to such a request, too.
    pub(in super::super) fn supervises(&self, id: SessionId, request: RequestId) -> bool {
        let live = self.entries.get(&id).and_then(|entry| entry.live.as_deref());
        live.is_some_and(|live| live.present().is_supervised(request))
    }

    /// Whether something that has happened to such a request is to be noted already.
    pub(in super::super) fn awaits_note(
        &self,
        id: SessionId,
        request: RequestId,
        is_meant: impl Fn(&Event) -> bool,
    ) -> bool {
        let Some(live) = self.entries.get(&id).and_then(|entry| entry.live.as_deref()) else {
            return false;
        };
        let waiting = live.waiting.iter().filter(
            |queued| matches!(&queued.input, Input::Noted { request: of, .. } if *of == request),
        );
        let notes = waiting.filter_map(|queued| queued.note.as_deref());
        let under_way = live.step.as_ref().and_then(|step| step.note.as_deref());
        notes.chain(under_way).filter_map(|note| note.step.event.as_ref()).any(is_meant)
    }
}

impl Shard {
    /// Something has happened to a request that a session has let go on.
    pub(in super::super) fn note_for_session(
        &mut self,
        id: SessionId,
        request: RequestId,
        server: ServerId,
        step: set_ups::Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let input = Input::Noted { request, event: step.event.clone() };
        let note = Some(Box::new(Note { server, step }));
        self.queue(id, Queued { note, ..Queued::of(input) }, now, effects);
    }

    /// A response for the caller of such a request.
    pub(in super::super) fn reply_for_session(
        &mut self,
        id: SessionId,
        request: RequestId,
        reply: Reply,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.queue(id, Queued::of(Input::Relay { request, reply }), now, effects);
    }

    /// The registrar has said what it would do with such a request.
    pub(in super::super) fn routed_for_session(
        &mut self,
        id: SessionId,
        request: RequestId,
        outcome: Routed,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.queue(id, Queued::of(Input::Routed { request, outcome }), now, effects);
        self.settle(now, effects);
    }

    /// Nothing more will come for such a request.
    pub(in super::super) fn forwarded_is_over(
        &mut self,
        id: SessionId,
        request: RequestId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.queue(id, Queued::of(Input::Finished { request }), now, effects);
    }

    /// Asks where a request goes that an application lets go on to nobody in particular: to the applications behind it, else
    /// to where the registrar finds the callee.
    pub(super) fn seek_way(
        &mut self,
        id: SessionId,
        key: &[u8],
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(live) = self.sessions.wake(id) else { return };
        let Some((request, set_up, _)) = live.present().forwarded(key) else { return };
        let application = live.present().application().to_owned();
        let Ok(message) = Message::parse(set_up.request.clone()) else {
            return self.contradicts_itself(id, request, now, effects);
        };
        let origin = Origin { link: NO_LINK, flow: set_up.flow };
        let is_ours = self.is_by_front_door(message.buffer(), decides(message.buffer()));
        if is_ours && self.goes_to_application_behind(id, &message, now) {
            let outcome = Routed::To(to_where_it_says(&message));
            return self.queue(id, Queued::of(Input::Routed { request, outcome }), now, effects);
        }
        let caller = self.caller_of_forwarded(&application, &message, &origin.flow);
        let held = Held { message, origin, hops: 0, offered: None, rounds: 0 };
        self.ask_where_to((id, request), caller, held, now, effects);
    }

    /// Whether an application behind that of a session wants the request that it lets go on. It comes to that one by the
    /// front door, as does any request of a session for a domain of ours.
    fn goes_to_application_behind(&self, id: SessionId, request: &Message, now: Instant) -> bool {
        let live = self.sessions.entries.get(&id).and_then(|entry| entry.live.as_deref());
        let Some(session) = live.map(Live::present) else { return false };
        let applications = &self.sessions.applications.current;
        let name = name_of(session.application());
        let is_it = |known: &Arc<dyn SessionApplication>| name_of(known.name()) == name;
        let Some(application) = applications.iter().position(is_it) else { return false };
        let context = self.sessions.context(self.clocks, now);
        let chain = session.chain_to(request.request_uri().unwrap_or_default(), context);
        let caller = Caller::Claimed; // whom a request is offered to does not depend on it
        chain::next(applications, Some(Sender { application, chain, caller }), request).is_some()
    }

    /// Begins the context of a request that goes on, or goes on with it.
    pub(super) fn let_go_on(
        &mut self,
        id: SessionId,
        key: &[u8],
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Sessions { entries, identity, .. } = &self.sessions;
        let Some(live) = entries.get(&id).and_then(|entry| entry.live.as_deref()) else { return };
        let session = live.present();
        let application = name_of(session.application()).to_owned();
        let Some((of, set_up, is_answered)) = session.forwarded(key) else { return };
        let set_up = set_up.clone();
        let Ok(request) = Message::parse(set_up.request.clone()) else {
            return self.contradicts_itself(id, of, now, effects);
        };
        let origin = Origin { link: NO_LINK, flow: set_up.flow };
        let caller = self.caller_of_forwarded(session.application(), &request, &origin.flow);
        let via_mark = session.via_mark(identity, &request, caller);
        let server = match self.transactions.server_by_key(key) {
            Some(server) => Some(server),
            // Its 2xx goes to the caller as often as it comes.
            None if is_answered => {
                self.transactions.resume_server(request.clone(), origin, Resumed::Answered, now)
            }
            None => None,
        };
        let Some(server) = server else { return self.forwarded_is_over(id, of, now, effects) };
        if self.contexts.contains_key(&server) {
            return;
        }
        let is_in_dialog = request.to().is_ok_and(|to| to.tag().is_some());
        if is_in_dialog && !is_answered && !self.leads_on(&request) {
            let refused = Reply::Own(Response::new(403));
            return self.reply_for_session(id, of, refused, now, effects);
        }
        // RFC 3261 §12.2: a re-INVITE; the first one has had its 100.
        if is_in_dialog {
            self.transactions.trying(server, now, &mut self.pending);
        }
        let token = self.sessions.identity.token_of(id, &set_up.token);
        let deriver = self.deriver.in_place_of(set_up.token, set_up.sent_by);
        let mut asked = Vec::new();
        let proxy = ProxyContext::resume(
            request.clone(),
            set_up.plan,
            &deriver.for_session(token, &application, via_mark),
            &server_branch(&request),
            &set_up.events,
            now,
            &mut asked,
        );
        let Ok(proxy) = proxy else {
            return self.contradicts_itself(id, of, now, effects);
        };
        self.add_context(server, proxy, &request, NO_LINK, Notes::Session(id, of));
        self.carry_out_proxy(server, asked, now, effects);
    }

    /// A request cannot go on by what its session says of it: an error of ours, or of who wrote the record.
    fn contradicts_itself(
        &mut self,
        id: SessionId,
        request: RequestId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        error!(session = %id, "the record of a request that goes on contradicts itself; answered 500");
        self.reply_for_session(id, request, Reply::Own(Response::new(500)), now, effects);
    }

    /// An ACK to a 2xx goes on without a transaction (RFC 3261 §16.11).
    pub(super) fn let_ack_go_on(&mut self, ack: &Message, effects: &mut Vec<ShardEffect>) {
        if !self.leads_on(ack) {
            return debug!("an ACK was dropped: nothing of ours says where it goes");
        }
        self.forward_ack(ack, NO_LINK, &to_where_it_says(ack), effects);
    }

    /// A request of a dialog that has outlived the session in its route: it goes on all the same, so that a BYE arrives,
    /// if it [may](Self::leads_on).
    pub(super) fn outlives_session(
        &mut self,
        server: ServerId,
        request: &Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match self.onwards(request) {
            Some(message) => {
                let plan = to_where_it_says(&message);
                let held = Held { message, ..self.hold(request.clone(), origin) };
                let offered = held.offered;
                self.begin_context(server, held, plan, None, now, effects);
                super::super::taken(offered, effects);
            }
            None => {
                let response = Response::new(481);
                self.transactions.respond_own(server, &response, now, &mut self.pending);
            }
        }
    }

    /// As [`outlives_session`](Self::outlives_session), of an ACK.
    pub(super) fn let_outliving_ack_go_on(
        &mut self,
        ack: &Message,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Some(ack) = self.onwards(ack) {
            self.let_ack_go_on(&ack, effects);
        }
    }

    /// A request without our entry in its route, if it may go where the rest says.
    fn onwards(&self, request: &Message) -> Option<Message> {
        without_own_route(request).ok()?.filter(|request| self.leads_on(request))
    }

    /// Whether a request of a dialog may go where its route says: next in it is an edge of ours, by a token that an edge
    /// wrote into the Record-Route of this dialog. A session's own token proves nothing, for whoever has seen one has it;
    /// without one of an edge's the node would send anything anywhere.
    ///
    /// An edge that has two addresses stands in the route twice, and one of the two has no token.
    fn leads_on(&self, request: &Message) -> bool {
        let (Ok(to), Ok(call_id)) = (request.to(), request.call_id()) else { return false };
        let is_token = |value: &[u8]| {
            let Ok(Uri::Sip(uri)) = Uri::parse(NameAddr::parse(value).ok()?.uri()) else {
                return None;
            };
            let identity = &self.sessions.identity;
            let flow = uri.user.and_then(|user| identity.flow_of_dialog(user, call_id));
            let is_it = flow.is_some();
            match self.edges.route_owner(&uri.host, uri.port, NO_LINK) {
                // A departed edge that nobody remembers may have written it.
                RouteOwner::Foreign => {
                    flow.is_some_and(|flow| is_written_at(&uri, &flow)).then_some(true)
                }
                RouteOwner::Edge(_)
                | RouteOwner::Unlinked
                | RouteOwner::Awaited
                | RouteOwner::Departed => Some(is_it),
            }
        };
        to.tag().is_some()
            && request.values(HeaderName::Route).map_while(is_token).any(|is_it| is_it)
    }
}

/// A request in a dialog goes where its Route and Request-URI say.
fn to_where_it_says(request: &Message) -> ProxyPlan {
    let uri = request.request_uri().unwrap_or_default().to_vec();
    ProxyPlan::to_targets(vec![Target::new(uri)])
}
