//! The application with sessions of every container: the back-to-back agent, and timers that tell on themselves.
//!
//! Beside what the agent does, each session has a periodic timer that counts its firings, and starts one timer after
//! the other that fires once and counts that, too. The counts lie in the session's attributes, where those who watch
//! the world read them ([`crate::invariants`]).

use std::time::Duration;

use bytes::Bytes;
use container::session::{CALLER, SessionApplication, SessionEffect, SessionEvent, SessionView};
use demo::BackToBack;
use futures_util::future::BoxFuture;

/// The periodic timer, and the attribute that counts it.
pub const TICKS: &str = "ticks";
/// Timers that fire once, and the attributes that count each, begin so.
pub const SHOT: &str = "shot-";
/// The period.
pub const PERIOD: Duration = Duration::from_secs(2);
/// How long after a tick its shot fires.
const SHOT_AFTER: Duration = Duration::from_millis(700);
/// Whoever talks longer is not counted any more.
const TICKS_MAX: u64 = 15;

/// The agent and its timers.
#[derive(Debug, Default)]
pub struct Timekeeper {
    agent: BackToBack,
}

/// How often what that attribute counts has fired.
pub fn count(session: &SessionView, name: &str) -> u64 {
    let value = session.attributes.get(name);
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn fired(session: &SessionView, name: &str) -> SessionEffect {
    let value = Bytes::from((count(session, name) + 1).to_string());
    SessionEffect::Set { name: name.to_owned(), value }
}

fn tick(session: &SessionView) -> Vec<SessionEffect> {
    let number = count(session, TICKS) + 1;
    let name = format!("{SHOT}{number}");
    let shot = SessionEffect::StartTimer { name, after: SHOT_AFTER, every: None };
    let mut effects = vec![fired(session, TICKS), shot];
    if number >= TICKS_MAX {
        effects.push(SessionEffect::StopTimer { name: TICKS.to_owned() });
    }
    effects
}

impl SessionApplication for Timekeeper {
    fn name(&self) -> &str {
        "timekeeper"
    }

    fn accepts(&self, request: &sip::Message) -> bool {
        self.agent.accepts(request)
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        Box::pin(async move {
            match event {
                SessionEvent::Timer { name } if name == TICKS => tick(session),
                SessionEvent::Timer { name } if name.starts_with(SHOT) => {
                    vec![fired(session, name)]
                }
                SessionEvent::Request { leg, .. }
                    if leg.as_str() == CALLER
                        && session.legs.len() == 1
                        && session.timers.is_empty() =>
                {
                    let mut effects = self.agent.on_event(session, event).await;
                    let (after, every) = (PERIOD, Some(PERIOD));
                    let name = TICKS.to_owned();
                    effects.insert(0, SessionEffect::StartTimer { name, after, every });
                    effects
                }
                event => self.agent.on_event(session, event).await,
            }
        })
    }
}
