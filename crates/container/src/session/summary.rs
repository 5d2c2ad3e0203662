//! What an operator wants to know of a session, read off its record.

use topology::Incarnation;

use super::{LegDirection, LegName, LegState, Session, SessionId};
use state::UnixMillis;

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// Its name.
    pub id: SessionId,
    /// Whose it is: `NAME@VERSION`, or the name of an application that is built in.
    pub application: String,
    /// The life of the container that holds it, or held it last.
    pub owner: Incarnation,
    /// When it began.
    pub created: UnixMillis,
    /// When it ends by itself.
    pub expires: UnixMillis,
    /// In the order of their beginning.
    pub legs: Vec<(LegName, LegDirection, LegState)>,
    /// The names of the timers that run.
    pub timers: Vec<String>,
    /// Octets of all attributes, names included.
    pub attribute_bytes: usize,
}

impl Session {
    /// What an operator wants to know of it; `None`: it is over, and its record stays for repetitions only.
    pub fn summary(&self) -> Option<SessionSummary> {
        let attributes = self.attributes.iter();
        (!self.is_over()).then(|| SessionSummary {
            id: self.id,
            application: self.application.to_string(),
            owner: self.owner.incarnation,
            created: self.created,
            expires: self.expires,
            legs: self
                .legs
                .iter()
                .map(|leg| (leg.name.clone(), leg.direction, leg.state))
                .collect(),
            timers: self.timers.keys().cloned().collect(),
            attribute_bytes: attributes.map(|(name, value)| name.len() + value.len()).sum(),
        })
    }
}
