//! The back-to-back agent: answers a call and makes another in its place (RFC 3261 §6, "B2BUA").
//!
//! A call to `sip:USER@b2b.DOMAIN` (leg `caller`) becomes a call to `sip:USER@DOMAIN` (leg `callee`), which finds the
//! callee as any call does. The callee sees the caller as `sip:CALLER@b2b.DOMAIN`, so that a call back comes through
//! the agent as well. From then on what one side asks, the other is asked, and the answer goes back: re-INVITE, INFO,
//! UPDATE, MESSAGE, OPTIONS, with their bodies; session descriptions pass unread. BYE, CANCEL and failures of one
//! side end the other.
//!
//! Everything it knows lies in the session's attributes and timers, so another container goes on where this one
//! stopped:
//!
//! | name | what it is |
//! |---|---|
//! | `for.LEG.METHOD` | which request of the other leg waits for the answer to the METHOD that was sent on LEG |
//! | `answered` | when the call was answered, Unix milliseconds |
//! | `minutes` | whole minutes that were talked |
//! | timer `no-answer` | gives the callee up |
//! | timer `minute` | counts |
//! | timer `limit` | ends a call that lasts too long |
//!
//! Deliberately absent: transfer (REFER), reliable provisional responses, answering a callee's challenge, media.

mod relay;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use container::application::Response;
use container::session::{
    CALLER, LegName, LegState, RequestId, SessionApplication, SessionEffect, SessionEvent,
    SessionView,
};
use futures_util::future::{BoxFuture, FutureExt as _};
use sip::{HeaderName, Message, Method, Uri};

use relay::{body, headers, outcome, response};

/// Name in `[container] applications`, in records and in logs.
pub const NAME: &str = "back-to-back";
/// First label of the domain whose calls the agent takes.
const LABEL: &[u8] = b"b2b.";
/// The leg that the agent makes.
const CALLEE: &str = "callee";

const ANSWERED: &str = "answered";
const MINUTES: &str = "minutes";
const NO_ANSWER: &str = "no-answer";
const MINUTE: &str = "minute";
const LIMIT: &str = "limit";

/// What an established call may ask the other side.
const RELAYED: &[&[u8]] = &[b"INVITE", b"INFO", b"UPDATE", b"MESSAGE", b"OPTIONS"];
const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, INFO, UPDATE, MESSAGE, OPTIONS";

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The callee is given up when it has not answered after this, and the caller told 480.
    pub ring_time_max: Duration,
    /// A call is ended on both sides after this.
    pub call_time_max: Duration,
}

impl Default for Limits {
    /// Three minutes to answer, twelve hours to talk.
    fn default() -> Limits {
        Limits {
            ring_time_max: Duration::from_secs(180),
            call_time_max: Duration::from_secs(12 * 60 * 60),
        }
    }
}

/// The agent. It holds no state of its own.
#[derive(Debug, Clone, Default)]
pub struct BackToBack {
    limits: Limits,
}

impl BackToBack {
    /// An agent with these limits.
    pub fn new(limits: Limits) -> BackToBack {
        BackToBack { limits }
    }
}

impl SessionApplication for BackToBack {
    fn name(&self) -> &str {
        NAME
    }

    fn accepts(&self, request: &Message) -> bool {
        request.method() == Some(Method::Invite) && Callee::of(request).is_some()
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        std::future::ready(self.decide(session, event)).boxed()
    }
}

impl BackToBack {
    fn decide(&self, session: &SessionView, event: &SessionEvent) -> Vec<SessionEffect> {
        match event {
            SessionEvent::Request { leg, request, message } => {
                if leg.as_str() == CALLER && session.leg(CALLEE).is_none() {
                    self.begin(*request, message)
                } else {
                    in_dialog(session, leg, *request, message)
                }
            }
            SessionEvent::Cancelled { leg, .. } => {
                if is_answered(session) {
                    // Of a re-INVITE: the call itself goes on.
                    vec![SessionEffect::Cancel { leg: other(leg) }]
                } else {
                    vec![SessionEffect::End]
                }
            }
            SessionEvent::Acknowledged { leg, message } => {
                // Only now: the ACK may hold the answer to an offer in the 2xx.
                vec![SessionEffect::Acknowledge {
                    leg: other(leg),
                    headers: headers(message),
                    body: body(message),
                }]
            }
            SessionEvent::Response { leg, message } => self.answer(session, leg, message),
            SessionEvent::Failed { leg, method, status } => {
                failed(session, leg, method, Response::new(*status), *status)
            }
            SessionEvent::Timer { name } => self.timer(session, name),
            SessionEvent::Http(_)
            | SessionEvent::Signal { .. }
            | SessionEvent::Ending
            | SessionEvent::Ended => Vec::new(),
        }
    }

    /// The initial INVITE: the callee is called.
    fn begin(&self, request: RequestId, invite: &Message) -> Vec<SessionEffect> {
        if let Some(required) = invite.field(HeaderName::Require) {
            // RFC 3261 §8.2.2.3: the agent is a user agent, and knows no extension.
            let refusal = Response::new(420)
                .header(HeaderName::Unsupported, Bytes::copy_from_slice(required));
            return vec![SessionEffect::Respond { request, response: refusal }, SessionEffect::End];
        }
        let Some(callee) = Callee::of(invite) else {
            let response = Response::new(404);
            return vec![SessionEffect::Respond { request, response }, SessionEffect::End];
        };
        vec![
            waits(&LegName::new(CALLEE), b"INVITE", request),
            SessionEffect::StartTimer {
                name: NO_ANSWER.to_owned(),
                after: self.limits.ring_time_max,
                every: None,
            },
            SessionEffect::Call {
                leg: LegName::new(CALLEE),
                target: callee.uri.clone().into(),
                from: callee.caller.into(),
                to: format!("<{}>", callee.uri).into(),
                headers: headers(invite),
                body: body(invite),
            },
        ]
    }

    /// A response goes back to the request that it answers.
    fn answer(
        &self,
        session: &SessionView,
        leg: &LegName,
        message: &Message,
    ) -> Vec<SessionEffect> {
        let method = message.cseq().map(|cseq| cseq.method.as_bytes()).unwrap_or_default();
        let status = message.status().unwrap_or_default();
        let Some(request) = waiting(session, leg, method) else { return Vec::new() };
        match status {
            100..=199 => vec![SessionEffect::Respond { request, response: response(message) }],
            200..=299 => {
                let mut effects = vec![
                    forget(leg, method),
                    SessionEffect::Respond { request, response: response(message) },
                ];
                if !is_answered(session) && method == b"INVITE" {
                    effects.extend(self.answered(session));
                }
                effects
            }
            _ => failed(session, leg, method, outcome(message, is_answered(session)), status),
        }
    }

    /// The call stands: its clocks begin.
    fn answered(&self, session: &SessionView) -> [SessionEffect; 5] {
        let minute = Duration::from_secs(60);
        let timer = |name: &str, after, every| SessionEffect::StartTimer {
            name: name.to_owned(),
            after,
            every,
        };
        [
            set(ANSWERED, session.now.0.to_string()),
            set(MINUTES, "0".to_owned()),
            SessionEffect::StopTimer { name: NO_ANSWER.to_owned() },
            timer(MINUTE, minute, Some(minute)),
            timer(LIMIT, self.limits.call_time_max, None),
        ]
    }

    fn timer(&self, session: &SessionView, name: &str) -> Vec<SessionEffect> {
        match name {
            NO_ANSWER => {
                let request = waiting(session, &LegName::new(CALLEE), b"INVITE");
                let refusal = request.map(|request| SessionEffect::Respond {
                    request,
                    response: Response::new(480).reason("No Answer"),
                });
                refusal.into_iter().chain([SessionEffect::End]).collect()
            }
            MINUTE => vec![set(MINUTES, (number(session, MINUTES).unwrap_or(0) + 1).to_string())],
            LIMIT => vec![SessionEffect::End],
            // Of a later release: it is not ours to judge.
            _ => Vec::new(),
        }
    }
}

/// A request in a call goes to the other side, if that can be asked.
fn in_dialog(
    session: &SessionView,
    leg: &LegName,
    request: RequestId,
    message: &Message,
) -> Vec<SessionEffect> {
    let respond = |response| vec![SessionEffect::Respond { request, response }];
    let method = message.method().map(|method| method.as_bytes()).unwrap_or_default();
    if method == b"BYE" {
        let mut effects = respond(Response::new(200));
        effects.push(SessionEffect::End);
        return effects;
    }
    if !RELAYED.contains(&method) {
        return respond(Response::new(405).header(HeaderName::Allow, ALLOW));
    }
    let to = other(leg);
    let stands = session.leg(to.as_str()).is_some_and(|leg| leg.state == LegState::Confirmed);
    if !stands {
        return respond(Response::new(481));
    }
    if waiting(session, &to, method).is_some() {
        // RFC 3261 §14.2: one after the other, also where the RFC would allow several.
        let busy = if method == b"INVITE" { 491 } else { 500 };
        return respond(Response::new(busy).header(HeaderName::RetryAfter, "1"));
    }
    vec![
        waits(&to, method, request),
        SessionEffect::Send {
            leg: to,
            method: Bytes::copy_from_slice(method),
            headers: headers(message),
            body: body(message),
        },
    ]
}

/// What was sent on `leg` has failed: whoever asked for it is told, and what cannot go on is ended.
fn failed(
    session: &SessionView,
    leg: &LegName,
    method: &[u8],
    response: Response,
    status: u16,
) -> Vec<SessionEffect> {
    let request = waiting(session, leg, method);
    let told = request.map(|request| SessionEffect::Respond { request, response });
    // RFC 3261 §12.2.1.2: the other side knows the dialog no more, or is gone.
    let is_over = !is_answered(session) || matches!(status, 408 | 481) || method == b"ACK";
    let mut effects: Vec<SessionEffect> = told.into_iter().collect();
    effects.push(forget(leg, method));
    if is_over {
        effects.push(SessionEffect::End);
    }
    effects
}

/// Who is called, and as whom.
struct Callee {
    uri: String,
    caller: String,
}

impl Callee {
    /// `None` when the Request-URI is not of the agent's domain, or From says nobody.
    fn of(invite: &Message) -> Option<Callee> {
        let Ok(Uri::Sip(uri)) = Uri::parse(invite.request_uri()?) else { return None };
        // RFC 5630 §3.1: a call that is to be secure is not made another, insecure one.
        if uri.secure {
            return None;
        }
        let host = uri.host.to_string();
        let (label, domain) = host.split_at_checked(LABEL.len())?;
        let user = text(uri.user?)?;
        if !label.as_bytes().eq_ignore_ascii_case(LABEL) || domain.is_empty() {
            return None;
        }
        let from = invite.from().ok()?;
        let Ok(Uri::Sip(from)) = Uri::parse(from.uri()) else { return None };
        let caller = from.user.and_then(text).unwrap_or("anonymous");
        Some(Callee {
            uri: format!("sip:{user}@{domain}"),
            caller: format!("<sip:{caller}@{host}>"),
        })
    }
}

fn text(octets: &[u8]) -> Option<&str> {
    std::str::from_utf8(octets).ok()
}

fn other(leg: &LegName) -> LegName {
    if leg.as_str() == CALLER { LegName::new(CALLEE) } else { LegName::caller() }
}

fn is_answered(session: &SessionView) -> bool {
    session.attributes.contains_key(ANSWERED)
}

fn relayed(leg: &LegName, method: &[u8]) -> String {
    format!("for.{leg}.{}", String::from_utf8_lossy(method))
}

/// `request` waits for the answer to the `method` that is sent on `leg`.
fn waits(leg: &LegName, method: &[u8], request: RequestId) -> SessionEffect {
    set(&relayed(leg, method), request.0.to_string())
}

/// The request that waits for the answer to the `method` that was sent on `leg`.
fn waiting(session: &SessionView, leg: &LegName, method: &[u8]) -> Option<RequestId> {
    number(session, &relayed(leg, method)).map(RequestId)
}

fn forget(leg: &LegName, method: &[u8]) -> SessionEffect {
    SessionEffect::Remove { name: relayed(leg, method) }
}

fn set(name: &str, value: String) -> SessionEffect {
    SessionEffect::Set { name: name.to_owned(), value: value.into() }
}

fn number(session: &SessionView, name: &str) -> Option<u64> {
    text(session.attributes.get(name)?)?.parse().ok()
}
