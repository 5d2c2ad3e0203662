//! A session as the handler of one event sees it, with what the handler has done to it so far.
//!
//! Reads come from a copy of the [`SessionView`]; each write is checked by the rules of the container
//! (`container::session::rules`), changes the copy, so that later reads see it, and is queued as a [`SessionEffect`]. When
//! the handler returns, the queue is what it wants; when it fails, nothing has happened.
//!
//! Pure: it knows neither WebAssembly nor the container's loop.

mod relay;
mod sip;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use container::session::rules::{BrokenRule, checked_name, checked_signal, checked_time};
use container::session::{
    SessionEffect, SessionId, SessionView, TimerView, limits as container_limits,
};

pub use self::sip::Beginning;
use crate::limits::{EFFECT_BYTES_MAX, Limits};

/// Why a call of a guest was refused. What was refused has no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No leg, request, timer or session of that name.
    #[error("unknown: {0}")]
    Unknown(String),
    /// Not now.
    #[error("wrong state: {0}")]
    WrongState(String),
    /// A value is not what it must be.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Over a limit.
    #[error("limit: {0}")]
    Limit(String),
    /// It cannot be had now.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<BrokenRule> for Refusal {
    fn from(broken: BrokenRule) -> Refusal {
        let why = broken.to_string();
        match broken {
            BrokenRule::TooManyEffects(_)
            | BrokenRule::Attributes(_)
            | BrokenRule::TooManyTimers(_)
            | BrokenRule::TooManyRequests(_)
            | BrokenRule::TooManyTargets(_)
            | BrokenRule::TooManySignals
            | BrokenRule::SignalTooLong(_)
            | BrokenRule::MessageTooLong(_)
            | BrokenRule::TooManyHeaders(_)
            | BrokenRule::Record(_) => Refusal::Limit(why),
            BrokenRule::NoRequest(_) => Refusal::Unknown(why),
            BrokenRule::NoDialog(_)
            | BrokenRule::NoLeg(_)
            | BrokenRule::NoLink(_)
            | BrokenRule::NotProxied(_)
            | BrokenRule::Proxied(_) => Refusal::WrongState(why),
            BrokenRule::Name(_)
            | BrokenRule::Time(_)
            | BrokenRule::Status(_)
            | BrokenRule::Header(_)
            | BrokenRule::HeaderName(_)
            | BrokenRule::Target(_)
            | BrokenRule::Route(_)
            | BrokenRule::TimerC(_)
            | BrokenRule::Address(_)
            | BrokenRule::HttpResponse(_)
            | BrokenRule::Method(_) => Refusal::Invalid(why),
        }
    }
}

/// A session with what its handler wants.
#[derive(Clone, Debug)]
pub struct Overlay {
    view: SessionView,
    limits: Limits,
    effects: Vec<SessionEffect>,
    effect_bytes: usize,
    attribute_bytes: usize,
    is_over: bool,
}

impl Overlay {
    /// The session as it is before the handler runs.
    pub fn new(mut view: SessionView, limits: Limits) -> Overlay {
        if view.is_new {
            view.expires = view.expires.min(view.now.saturating_add(limits.session_time));
        }
        let attributes = view.attributes.iter();
        let attribute_bytes = attributes.map(|(name, value)| name.len() + value.len()).sum();
        Overlay {
            view,
            limits,
            effects: Vec::new(),
            effect_bytes: 0,
            attribute_bytes,
            is_over: false,
        }
    }

    /// The session, with what the handler has changed.
    pub fn view(&self) -> &SessionView {
        &self.view
    }

    /// What the handler wants, in order.
    pub fn into_effects(mut self) -> Vec<SessionEffect> {
        let session_time = self.limits.session_time;
        let is_told = |effect: &SessionEffect| matches!(effect, SessionEffect::ExpireAfter { .. });
        if self.view.is_new
            && session_time < container_limits::SESSION_TIME_MAX
            && !self.effects.iter().any(is_told)
        {
            // In front: nothing counts behind an end.
            self.effects.insert(0, SessionEffect::ExpireAfter { after: session_time });
        }
        self.effects
    }

    /// Remembers a value.
    ///
    /// # Errors
    /// [`Refusal`]: the name, or over a limit.
    pub fn set(&mut self, name: String, value: Vec<u8>) -> Result<(), Refusal> {
        checked_name(&name)?;
        let before = self.view.attributes.get(&name).map_or(0, |value| name.len() + value.len());
        let after = self.attribute_bytes - before + name.len() + value.len();
        let max = self.limits.attribute_bytes.min(container_limits::ATTRIBUTE_BYTES_MAX);
        if after > max {
            let why = format!(
                "attributes of {after} octets; names and values of a session have at most {max}"
            );
            return Err(Refusal::Limit(why));
        }
        let value = Bytes::from(value);
        let more = after.saturating_sub(self.attribute_bytes);
        self.queue(SessionEffect::Set { name: name.clone(), value: value.clone() }, more)?;
        self.attribute_bytes = after;
        self.view.attributes.insert(name, value);
        Ok(())
    }

    /// Forgets a value.
    pub fn remove(&mut self, name: &str) {
        // What is not there costs no effect; and what cannot be forgotten any more does no harm either.
        if let Some(value) = self.view.attributes.get(name) {
            let freed = name.len() + value.len();
            if self.queue(SessionEffect::Remove { name: name.to_owned() }, 0).is_ok() {
                self.attribute_bytes -= freed;
                self.view.attributes.remove(name);
            }
        }
    }

    /// Starts a timer, or starts it anew.
    ///
    /// # Errors
    /// [`Refusal`]: the name, the times, or over a limit.
    pub fn start_timer(
        &mut self,
        name: String,
        after: Duration,
        every: Option<Duration>,
    ) -> Result<(), Refusal> {
        checked_name(&name)?;
        checked_time(after, container_limits::TIMER_MAX)?;
        every.map(|every| checked_time(every, container_limits::TIMER_MAX)).transpose()?;
        let known = self.view.timers.iter().position(|timer| timer.name == name);
        if known.is_none() && self.view.timers.len() >= container_limits::TIMERS_MAX {
            return Err(BrokenRule::TooManyTimers(self.view.timers.len() + 1).into());
        }
        self.queue(SessionEffect::StartTimer { name: name.clone(), after, every }, 0)?;
        let timer = TimerView { name, due: self.view.now.saturating_add(after), every };
        match known {
            Some(at) => self.view.timers[at] = timer,
            None => self.view.timers.push(timer),
        }
        Ok(())
    }

    /// Stops a timer.
    pub fn stop_timer(&mut self, name: &str) {
        if let Some(at) = self.view.timers.iter().position(|timer| timer.name == name)
            && self.queue(SessionEffect::StopTimer { name: name.to_owned() }, 0).is_ok()
        {
            self.view.timers.remove(at);
        }
    }

    /// Says something to a session of the same application, or to this one.
    ///
    /// # Errors
    /// [`Refusal`]: the name, or over a limit.
    pub fn signal(
        &mut self,
        session: SessionId,
        name: String,
        payload: Vec<u8>,
    ) -> Result<(), Refusal> {
        checked_signal(&name, &payload, self.view.unheard_signals)?;
        self.checked_outgoing()?;
        let octets = name.len() + payload.len();
        self.queue(SessionEffect::Signal { session, name, payload: payload.into() }, octets)?;
        self.view.unheard_signals += 1;
        self.view.outgoing += 1;
        Ok(())
    }

    /// The session ends by itself after so long.
    ///
    /// # Errors
    /// [`Refusal`]: the time.
    pub fn expire_after(&mut self, after: Duration) -> Result<(), Refusal> {
        checked_time(after, self.limits.session_time.min(container_limits::SESSION_TIME_MAX))?;
        self.queue(SessionEffect::ExpireAfter { after }, 0)?;
        self.view.expires = self.view.now.saturating_add(after);
        Ok(())
    }

    /// Whether the session ends by itself once it has neither leg nor timer.
    pub fn end_when_ready(&mut self, wanted: bool) {
        // Where nothing can be queued any more, the end or the limit is what counts.
        let _ = self.queue(SessionEffect::EndWhenReady { wanted }, 0);
    }

    /// Ends the session behind this event.
    pub fn invalidate(&mut self) {
        if !self.is_over {
            // Not counted: the end must always be possible.
            self.effects.push(SessionEffect::End);
            self.is_over = true;
        }
    }

    /// Whether one more request may be sent.
    fn checked_outgoing(&self) -> Result<(), Refusal> {
        match self.view.outgoing {
            0..container_limits::OUTGOING_MAX => Ok(()),
            sent => Err(BrokenRule::TooManyRequests(sent + 1).into()),
        }
    }

    /// Queues an effect by which the record grows by `octets`.
    fn queue(&mut self, effect: SessionEffect, octets: usize) -> Result<(), Refusal> {
        if self.is_over {
            return Err(Refusal::WrongState("the session is over".to_owned()));
        }
        // One is kept for the end, one for the time of a session that is new.
        let kept = 1 + usize::from(self.view.is_new);
        let max = self.limits.effects.min(container_limits::EFFECTS_MAX - kept);
        if self.effects.len() >= max {
            return Err(Refusal::Limit(format!("an event has at most {max} effects")));
        }
        let used = self.view.record_bytes + self.effect_bytes;
        if octets > 0 && used + octets > EFFECT_BYTES_MAX {
            let why = format!(
                "messages and attributes of a session have at most {EFFECT_BYTES_MAX} octets, messages that are over lately included"
            );
            return Err(Refusal::Limit(why));
        }
        self.effect_bytes += octets;
        self.effects.push(effect);
        Ok(())
    }
}
