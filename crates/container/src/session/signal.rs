//! Signals between sessions, and the messages that carry them from one container to another.
//!
//! A signal is a request in the sender's outbox, of a method of our own, addressed to the token of the other session. It
//! never meets a phone: containers hand it on to each other by way of an edge, as they do with any message of a session that
//! is not theirs, and so they do with its answer. It is repeated until the answer has come, and the receiver knows by its
//! number what it has heard already. A MAC over all of it keeps strangers out.
//!
//! ```text
//! X-Outlast-Signal: SENDER ORDINAL APPLICATION NAME MAC
//! ```
//!
//! The sender in hexadecimal, its application (without version) and the signal's name in base64.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sip::{HeaderName, MAX_FORWARDS_INITIAL, Message, Method, RequestBuilder, Uri};

use super::chain::Chain;
use super::identity::{Identity, Opening, RequestName};
use super::rules::{BrokenRule, checked_signal};
use super::state::{Action, Context, OutgoingRequest, Session, Silence, Stage};
use super::{SessionEvent, SessionId, limits, name_of};

/// The method of its requests.
pub const METHOD: Method<'static> = Method::Extension(b"SIGNAL");

/// What its MAC is for.
const PURPOSE: &[u8] = b"session signal";

const HEADER: &[u8] = b"X-Outlast-Signal";

/// What a session says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Whose sessions both are: a name without version.
    pub application: String,
    /// Who says it.
    pub sender: SessionId,
    /// To whom.
    pub target: SessionId,
    /// The sender gives none twice.
    pub ordinal: u64,
    /// Its name.
    pub name: String,
    /// What comes with it.
    pub payload: Bytes,
}

impl Signal {
    /// What its MAC is made of: different for any two signals.
    fn octets(&self) -> Vec<u8> {
        let mut octets = Vec::with_capacity(128 + self.payload.len());
        for part in [self.application.as_bytes(), self.name.as_bytes(), &self.payload] {
            octets.extend_from_slice(&(part.len() as u64).to_be_bytes());
            octets.extend_from_slice(part);
        }
        octets.extend_from_slice(&self.sender.0);
        octets.extend_from_slice(&self.target.0);
        octets.extend_from_slice(&self.ordinal.to_be_bytes());
        octets
    }
}

impl Identity {
    /// The branch and the message of a signal.
    fn write_signal(&self, signal: &Signal) -> (Bytes, Bytes) {
        let call_id = self.call_id(signal.sender, signal.ordinal);
        let name = RequestName {
            application: &signal.application,
            call_id: call_id.as_bytes(),
            remote_tag: b"",
            cseq: 1,
            method: METHOD,
            chain: Chain::NONE,
            opening: Opening::NONE,
        };
        let (branch, via) = self.via(signal.sender, &name);
        let target = self.contact(signal.target);
        let from = [&self.contact(signal.sender)[..], b";tag=signal"].concat();
        let header = format!(
            "{} {} {} {} {}",
            signal.sender,
            signal.ordinal,
            URL_SAFE_NO_PAD.encode(&signal.application),
            URL_SAFE_NO_PAD.encode(&signal.name),
            self.mac_of(PURPOSE, &signal.octets()),
        );
        let request = RequestBuilder::new(METHOD, &target[1..target.len() - 1])
            .header(HeaderName::Via, &via)
            .header(HeaderName::MaxForwards, MAX_FORWARDS_INITIAL.to_string().as_bytes())
            .header(HeaderName::From, &from)
            .header(HeaderName::To, &target)
            .header(HeaderName::CallId, call_id.as_bytes())
            .header(HeaderName::CSeq, b"1 SIGNAL")
            .header_named(HEADER, header.as_bytes())
            .body(b"application/octet-stream", signal.payload.clone());
        (branch, request.build())
    }

    /// The signal that a request carries; None if it is none of ours.
    pub fn read_signal(&self, request: &Message) -> Option<Signal> {
        let uri = Uri::parse(request.request_uri()?).ok()?;
        let target = SessionId(self.read_token(uri.as_sip()?.user?)?.session);
        let is_it = |(_, name, _): &(HeaderName, &[u8], &[u8])| name.eq_ignore_ascii_case(HEADER);
        let (_, _, value) = request.all_fields().find(is_it)?;
        let mut parts = std::str::from_utf8(value).ok()?.split(' ');
        let text = |parts: &mut std::str::Split<'_, char>| {
            String::from_utf8(URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok()
        };
        let sender = u128::from_str_radix(parts.next()?, 16).ok()?;
        let signal = Signal {
            sender: SessionId(sender.to_be_bytes()),
            target,
            ordinal: parts.next()?.parse().ok()?,
            application: text(&mut parts)?,
            name: text(&mut parts)?,
            payload: Bytes::copy_from_slice(request.body()),
        };
        self.is_mac_of(PURPOSE, &signal.octets(), parts.next()?).then_some(signal)
    }
}

impl Session {
    /// Queues a signal.
    pub(super) fn signal(
        &mut self,
        target: SessionId,
        name: String,
        payload: Bytes,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        checked_signal(&name, &payload, self.unheard_signals())?;
        let ordinal = self.take_ordinal();
        let application = name_of(&self.application).to_owned();
        let signal = Signal { application, sender: self.id, target, ordinal, name, payload };
        let (branch, request) = context.identity.write_signal(&signal);
        self.send(None, (METHOD, branch, request), Silence::Silent, context, actions);
        Ok(())
    }

    /// A signal came; `response` says that it was heard.
    pub(super) fn signalled(
        &mut self,
        signal: Signal,
        response: Bytes,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        actions.push(Action::Reply { response });
        let Signal { sender, ordinal, name, payload, .. } = signal;
        if self.is_ending || self.signals_known.contains(&(sender, ordinal)) {
            return None;
        }
        if self.signals_known.len() >= limits::SIGNALS_KNOWN_MAX {
            self.signals_known.remove(0);
        }
        self.signals_known.push((sender, ordinal));
        Some(SessionEvent::Signal { name, payload, sender })
    }

    /// Sends a signal again that was not heard in time, or gives it up; false if there is none.
    pub(super) fn repeat_signal(
        &mut self,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let is_due = |request: &OutgoingRequest| {
            request.signal_repeated_at().is_some_and(|at| at <= context.guarded)
        };
        let Some(at) = self.outgoing.iter().position(is_due) else { return false };
        let kept_until = match self.outgoing[at].stage {
            Stage::Waiting { since: at } | Stage::Cancelled { at } | Stage::Over { at, .. } => {
                at.saturating_add(limits::SIGNAL_KEPT_BEYOND_END)
            }
        };
        if self.is_ending && kept_until <= context.guarded {
            self.outgoing.remove(at);
            return true;
        }
        let request = &mut self.outgoing[at];
        request.renewed = context.now;
        actions.push(Action::Start {
            branch: request.branch.clone(),
            method: request.method.clone(),
            request: request.request.clone(),
        });
        true
    }
}

impl OutgoingRequest {
    pub(super) fn is_signal(&self) -> bool {
        self.method == METHOD.as_bytes()
    }

    /// When a signal is sent again.
    pub(super) fn signal_repeated_at(&self) -> Option<state::UnixMillis> {
        let at = self.renewed.saturating_add(limits::SIGNAL_REPEATED_AFTER);
        self.is_signal().then_some(at)
    }
}
