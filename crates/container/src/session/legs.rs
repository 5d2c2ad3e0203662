//! The legs of a session: how they begin, and how they are linked.
//!
//! A leg of ours begins with an INVITE, or with a request that belongs to no dialog and ends it with its answer. One of
//! the other side begins with an initial request: the session's first, or a further one of the same key.

use bytes::Bytes;
use sip::dialog::Dialog;
use sip::{HeaderName, Message, Method, RequestBuilder};

use super::apply::completed;
use super::chain::Chain;
use super::identity::{Opening, RequestName};
use super::limits;
use super::receive::NoSession;
use super::rules::{
    BrokenRule, Contact, checked_address, checked_message, checked_name, checked_outside_method,
    checked_target,
};
use super::state::{Action, Bye, Context, Leg, Session, Silence};
use super::{CALLER, LegDirection, LegName, LegState};
use crate::application::{Body, Header, Response};

/// The first CSeq number of a leg of ours.
const CSEQ_FIRST: u32 = 1;

/// What a request of ours begins a leg with.
pub(super) struct Beginning {
    pub(super) leg: LegName,
    pub(super) target: Bytes,
    pub(super) from: Bytes,
    pub(super) to: Bytes,
    pub(super) headers: Vec<Header>,
    pub(super) body: Option<Body>,
}

impl Beginning {
    fn check(&self, session: &Session) -> Result<(), BrokenRule> {
        checked_name(self.leg.as_str())?;
        let is_taken = session.legs.iter().any(|known| known.name == self.leg);
        if is_taken || session.legs.len() >= limits::LEGS_MAX {
            return Err(BrokenRule::NoLeg(self.leg.clone()));
        }
        checked_target(&self.target)?;
        checked_address(&self.from)?;
        checked_address(&self.to)?;
        let addresses = self.target.len() + self.from.len() + self.to.len();
        checked_message(&self.headers, self.body.as_ref(), addresses, Contact::Ours)?;
        Ok(())
    }
}

impl Session {
    /// Begins a leg by an INVITE.
    pub(super) fn call(
        &mut self,
        beginning: Beginning,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        self.begin_leg(Method::Invite, beginning, context, actions)
    }

    /// Sends a request that belongs to no dialog and begins none.
    pub(super) fn send_outside(
        &mut self,
        method: &Bytes,
        beginning: Beginning,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        self.begin_leg(checked_outside_method(method)?, beginning, context, actions)
    }

    /// How far the call has come that goes on to `target`.
    pub(crate) fn chain_to(&self, target: &[u8], context: Context<'_>) -> Chain {
        context.identity.chain_to(self.depth, self.called, target)
    }

    fn begin_leg(
        &mut self,
        method: Method<'_>,
        beginning: Beginning,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        beginning.check(self)?;
        let Beginning { leg, target, from, to, headers, body } = beginning;
        let ordinal = self.take_ordinal();
        let call_id = context.identity.call_id(self.id, ordinal);
        let tag = context.identity.tag(self.id, ordinal);
        let from = [&from[..], b";tag=", tag.as_bytes()].concat();
        let name = RequestName {
            application: &self.application,
            call_id: call_id.as_bytes(),
            remote_tag: b"",
            cseq: CSEQ_FIRST,
            method,
            chain: self.chain_to(&target, context),
            opening: Opening::new(&target, &from),
        };
        let (branch, via) = context.identity.via(self.id, &name);
        let cseq = [CSEQ_FIRST.to_string().as_bytes(), b" ", method.as_bytes()].concat();
        let mut request = RequestBuilder::new(method, &target)
            .header(HeaderName::Via, &via)
            .header(HeaderName::MaxForwards, self.max_forwards.to_string().as_bytes())
            .header(HeaderName::From, &from)
            .header(HeaderName::To, &to)
            .header(HeaderName::CallId, call_id.as_bytes())
            .header(HeaderName::CSeq, &cseq);
        if method == Method::Invite {
            request = request.header(HeaderName::Contact, &context.identity.contact(self.id));
        }
        let request = completed(request, &headers, body);
        self.legs.push(Leg {
            name: leg.clone(),
            direction: LegDirection::Outgoing,
            state: LegState::Early,
            call_id: call_id.into(),
            dialog: None,
            bye: Bye::None,
            put_off: None,
            linked: None,
            proxied: None,
        });
        self.send(Some(leg), (method, branch, request), Silence::Told, context, actions);
        Ok(())
    }

    /// Begins a leg by an initial request of the other side, of which `head` is what answers are made of.
    ///
    /// # Errors
    /// [`NoSession`]: the request makes no dialog although it should, or there are too many legs.
    pub(super) fn add_caller(
        &mut self,
        head: &Message,
        context: Context<'_>,
    ) -> Result<LegName, NoSession> {
        let no_session = |status, reason| NoSession { status, reason };
        if self.legs.len() >= limits::LEGS_MAX {
            return Err(no_session(503, "Too Many Legs"));
        }
        let call_id = head.call_id().map_err(|_| no_session(400, "Malformed Call-ID"))?;
        let mut dialog = None;
        if head.method() == Some(Method::Invite) {
            // As its first response will make it.
            let ringing = context.identity.responder.render(head, &Response::new(180));
            let ringing =
                Message::parse(ringing).map_err(|_| no_session(400, "Malformed INVITE"))?;
            let made = Dialog::at_server(head, &ringing);
            dialog = Some(made.map_err(|_| no_session(400, "Missing or Malformed Contact"))?);
        }
        let name = self.free_caller();
        self.legs.push(Leg {
            name: name.clone(),
            direction: LegDirection::Incoming,
            state: LegState::Early,
            call_id: Bytes::copy_from_slice(call_id),
            dialog,
            bye: Bye::None,
            put_off: None,
            linked: None,
            proxied: None,
        });
        Ok(name)
    }

    /// `caller`, else `caller-2`, `caller-3`, …: the first that no leg has.
    fn free_caller(&self) -> LegName {
        let others = (2..).map(|number| LegName::new(&format!("{CALLER}-{number}")));
        let mut names = std::iter::once(LegName::caller()).chain(others);
        let is_free = |name: &LegName| self.legs.iter().all(|leg| leg.name != *name);
        names.find(is_free).expect("there are fewer legs than numbers")
    }

    pub(super) fn link(&mut self, a: LegName, b: LegName) -> Result<(), BrokenRule> {
        if a == b || self.leg(&a).is_none() {
            return Err(BrokenRule::NoLink(a));
        }
        if self.leg(&b).is_none() {
            return Err(BrokenRule::NoLink(b));
        }
        self.unlink(&a);
        self.unlink(&b);
        for (name, other) in [(&a, &b), (&b, &a)] {
            if let Some(leg) = self.leg(name) {
                leg.linked = Some(other.clone());
            }
        }
        Ok(())
    }

    /// Undoes the link of a leg, whether it is there still or not.
    pub(super) fn unlink(&mut self, name: &LegName) {
        for leg in &mut self.legs {
            if leg.name == *name || leg.linked.as_ref() == Some(name) {
                leg.linked = None;
            }
        }
    }
}
