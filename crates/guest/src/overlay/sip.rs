//! What a handler does with SIP: checked, shown to its later reads, queued.

use bytes::Bytes;
use container::application::{Body, Header, Response, Target};
use container::session::rules::{
    BrokenRule, Contact, checked_address, checked_message, checked_method, checked_name,
    checked_outside_method, checked_status, checked_target, checked_targets, checked_timer_c,
};
use container::session::{
    LegDirection, LegName, LegState, LegView, ProxyOptions, RequestId, SessionEffect, SessionEvent,
    limits,
};
use sip::Method;

use super::{Overlay, Refusal};

/// What begins a leg of ours, in the container's types.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The new leg.
    pub leg: String,
    /// The Request-URI.
    pub target: Bytes,
    /// Value of From, without tag.
    pub from: Bytes,
    /// Value of To, without tag.
    pub to: Bytes,
    /// Further headers.
    pub headers: Vec<Header>,
    /// For example the offer.
    pub body: Option<Body>,
}

impl Overlay {
    /// Answers a request.
    ///
    /// # Errors
    /// [`Refusal`]: no such request waits, the status or a header is not allowed, over a limit.
    pub fn respond(&mut self, request: RequestId, response: Response) -> Result<(), Refusal> {
        let Some((leg, at)) = self.unanswered(request) else {
            let why = format!("no request {} waits for an answer", request.0);
            return Err(Refusal::Unknown(why));
        };
        let status = response.status;
        let method = self.view.legs[leg].unanswered[at].1.clone();
        checked_status(status, &method)?;
        let (reason, contact) = (response.reason.len(), Contact::of_response(status));
        let octets = checked_message(&response.headers, response.body.as_ref(), reason, contact)?;
        self.queue(SessionEffect::Respond { request, response }, octets)?;
        if status < 200 {
            return Ok(());
        }
        let leg = &mut self.view.legs[leg];
        // What was asked while the INVITE had no answer (a PRACK, an UPDATE) leaves the leg to that.
        let is_beside_its_invite =
            leg.unanswered[..at].iter().any(|(_, method)| &method[..] == b"INVITE");
        leg.unanswered.remove(at);
        let is_early = leg.state == LegState::Early && leg.direction == LegDirection::Incoming;
        if is_early && !is_beside_its_invite {
            let makes_dialog = status < 300 && &method[..] == b"INVITE";
            leg.state = if makes_dialog { LegState::Confirmed } else { LegState::Ended };
        }
        Ok(())
    }

    /// Begins a leg by an INVITE.
    ///
    /// # Errors
    /// [`Refusal`]: the name is taken or none, an address or header is not allowed, over a limit.
    pub fn call(&mut self, beginning: Beginning) -> Result<(), Refusal> {
        let (name, octets) = self.checked_beginning(&beginning)?;
        let Beginning { target, from, to, headers, body, .. } = beginning;
        let effect = SessionEffect::Call { leg: name.clone(), target, from, to, headers, body };
        self.queue(effect, octets)?;
        self.add_leg(name, Bytes::from_static(b"INVITE"));
        Ok(())
    }

    /// Sends a request outside of dialogs, which is a leg until its answer has come.
    ///
    /// # Errors
    /// [`Refusal`]: as of [`call`](Self::call), or the method.
    pub fn send_outside(&mut self, method: Bytes, beginning: Beginning) -> Result<(), Refusal> {
        checked_outside_method(&method)?;
        let (leg, octets) = self.checked_beginning(&beginning)?;
        let Beginning { target, from, to, headers, body, .. } = beginning;
        let (name, sent) = (leg.clone(), method.clone());
        let effect = SessionEffect::SendOutside { leg, method, target, from, to, headers, body };
        self.queue(effect, octets)?;
        self.add_leg(name, sent);
        Ok(())
    }

    /// The name of a leg that may begin so, and the octets of what begins it.
    fn checked_beginning(&self, beginning: &Beginning) -> Result<(LegName, usize), Refusal> {
        let Beginning { leg, target, from, to, headers, body } = beginning;
        self.checked_new_leg(leg)?;
        checked_target(target)?;
        checked_address(from)?;
        checked_address(to)?;
        let addresses = target.len() + from.len() + to.len();
        let octets = checked_message(headers, body.as_ref(), addresses, Contact::Ours)?;
        self.checked_outgoing()?;
        Ok((LegName::new(leg), octets + leg.len()))
    }

    fn add_leg(&mut self, name: LegName, method: Bytes) {
        self.view.outgoing += 1;
        self.view.legs.push(LegView {
            name,
            direction: LegDirection::Outgoing,
            state: LegState::Early,
            // Given when the effects are applied.
            call_id: Bytes::new(),
            unanswered: Vec::new(),
            waiting: vec![method],
            wants_ack: false,
            linked: None,
            is_proxied: false,
        });
    }

    /// Links two legs; undoes the links that they had.
    ///
    /// # Errors
    /// [`Refusal`]: there is no such leg, or both are the same.
    pub fn link(&mut self, a: &str, b: &str) -> Result<(), Refusal> {
        let (at, other) = (self.leg_at(a)?, self.leg_at(b)?);
        if at == other {
            return Err(Refusal::Invalid(format!("leg {a} cannot be linked with itself")));
        }
        let (a, b) = (LegName::new(a), LegName::new(b));
        self.queue(SessionEffect::Link { a: a.clone(), b: b.clone() }, 0)?;
        self.forget_link(&a);
        self.forget_link(&b);
        self.view.legs[at].linked = Some(b);
        self.view.legs[other].linked = Some(a);
        Ok(())
    }

    /// Undoes the link of a leg; nothing if it has none.
    pub fn unlink(&mut self, leg: &str) {
        let is_linked = self.view.leg(leg).is_some_and(|leg| leg.linked.is_some());
        let leg = LegName::new(leg);
        if is_linked && self.queue(SessionEffect::Unlink { leg: leg.clone() }, 0).is_ok() {
            self.forget_link(&leg);
        }
    }

    fn forget_link(&mut self, name: &LegName) {
        for leg in &mut self.view.legs {
            if leg.name == *name || leg.linked.as_ref() == Some(name) {
                leg.linked = None;
            }
        }
    }

    /// Sends a request in a dialog.
    ///
    /// # Errors
    /// [`Refusal`]: no such leg, no dialog on it, the method or a header is not allowed, over a limit.
    pub fn send(
        &mut self,
        leg: &str,
        method: Bytes,
        headers: Vec<Header>,
        body: Option<Body>,
    ) -> Result<(), Refusal> {
        let octets = checked_message(&headers, body.as_ref(), method.len(), Contact::Ours)?;
        let is_bye = checked_method(&method)? == Method::Bye;
        let at = self.leg_at(leg)?;
        match self.view.legs[at].state {
            LegState::Ended if is_bye => return Ok(()),
            LegState::Confirmed if !self.view.legs[at].is_proxied => {}
            LegState::Confirmed | LegState::Early | LegState::Ended => {
                return Err(BrokenRule::NoDialog(LegName::new(leg)).into());
            }
        }
        if !is_bye {
            self.checked_outgoing()?;
        }
        let name = LegName::new(leg);
        self.queue(
            SessionEffect::Send { leg: name, method: method.clone(), headers, body },
            octets,
        )?;
        let leg = &mut self.view.legs[at];
        leg.waiting.push(method);
        if is_bye {
            leg.state = LegState::Ended;
        } else {
            self.view.outgoing += 1;
        }
        Ok(())
    }

    /// Acknowledges the 2xx to an INVITE of ours.
    ///
    /// # Errors
    /// [`Refusal`]: no such leg, nothing to acknowledge, a header is not allowed, over a limit.
    pub fn acknowledge(
        &mut self,
        leg: &str,
        headers: Vec<Header>,
        body: Option<Body>,
    ) -> Result<(), Refusal> {
        let octets = checked_message(&headers, body.as_ref(), 0, Contact::Ours)?;
        let at = self.leg_at(leg)?;
        if !self.view.legs[at].wants_ack {
            return Err(Refusal::WrongState(format!("leg {leg} has no 2xx to acknowledge")));
        }
        self.queue(SessionEffect::Acknowledge { leg: LegName::new(leg), headers, body }, octets)?;
        self.view.legs[at].wants_ack = false;
        Ok(())
    }

    /// Cancels an INVITE of ours.
    ///
    /// # Errors
    /// [`Refusal`]: no such leg, or no INVITE on it that waits for its final response.
    pub fn cancel(&mut self, leg: &str) -> Result<(), Refusal> {
        let at = self.leg_at(leg)?;
        if !self.view.legs[at].waiting.iter().any(|method| &method[..] == b"INVITE") {
            let why = format!("leg {leg} has no INVITE of ours that waits for its answer");
            return Err(Refusal::WrongState(why));
        }
        self.queue(SessionEffect::Cancel { leg: LegName::new(leg) }, 0)
    }

    /// Lets the request of the handler's event, which must be the initial one of its leg, go on.
    ///
    /// # Errors
    /// [`Refusal`]: it is another one or is answered, a target, Timer C or a header is not allowed, over a limit.
    pub fn proxy(
        &mut self,
        event: Option<&SessionEvent>,
        request: RequestId,
        targets: Vec<Target>,
        options: ProxyOptions,
    ) -> Result<(), Refusal> {
        let Some((leg, at)) = self.unanswered(request) else {
            let why = format!("no request {} waits for an answer", request.0);
            return Err(Refusal::Unknown(why));
        };
        let is_present =
            matches!(event, Some(SessionEvent::Request { request: of, .. }) if *of == request);
        let view = &self.view.legs[leg];
        if !is_present || view.state != LegState::Early || view.is_proxied {
            return Err(BrokenRule::NotProxied(request).into());
        }
        checked_targets(&targets)?;
        options.timer_c.map(checked_timer_c).transpose()?;
        let target =
            |target: &Target| target.uri.len() + target.route.iter().map(Bytes::len).sum::<usize>();
        let octets = checked_message(&options.headers, None, 0, Contact::Ours)?
            + targets.iter().map(target).sum::<usize>();
        self.queue(SessionEffect::Proxy { request, targets, options }, octets)?;
        let leg = &mut self.view.legs[leg];
        leg.unanswered.remove(at);
        leg.is_proxied = true;
        Ok(())
    }

    fn unanswered(&self, request: RequestId) -> Option<(usize, usize)> {
        self.view.legs.iter().enumerate().find_map(|(leg, view)| {
            let at = view.unanswered.iter().position(|(id, _)| *id == request)?;
            Some((leg, at))
        })
    }

    fn leg_at(&self, name: &str) -> Result<usize, Refusal> {
        let at = self.view.legs.iter().position(|leg| leg.name.as_str() == name);
        at.ok_or_else(|| Refusal::Unknown(format!("there is no leg {name:?}")))
    }

    fn checked_new_leg(&self, name: &str) -> Result<(), Refusal> {
        checked_name(name)?;
        if self.view.leg(name).is_some() {
            return Err(Refusal::WrongState(format!("there is a leg {name:?} already")));
        }
        if self.view.legs.len() >= limits::LEGS_MAX {
            let why = format!("a session has at most {} legs", limits::LEGS_MAX);
            return Err(Refusal::Limit(why));
        }
        Ok(())
    }
}
