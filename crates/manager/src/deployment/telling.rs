//! The containers are told something, and whoever asked for it is answered when all have heard it: then what he was told is
//! so, whichever of them he asks next.
//!
//! An application is *held* while its sessions are counted, so that none begins behind the count: it stands in no table that it is,
//! so whatever becomes of whoever counts, or of the manager, its sessions begin again.

use std::time::{Duration, Instant};

use topology::protocol::Answer;
use tracing::warn;

use super::{Deployment, Effect, Operation, Request, Then};
use crate::process_table::Ticket;

/// How long containers may take to hear of a table. Who is later hears of it all the same.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// For so long nothing of an application begins unless somebody says more.
const HELD_FOR: Duration = Duration::from_secs(10);

/// What is said when all have heard it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is done.
    Done,
    /// No session of this application begins, and all that began are stored.
    Held {
        /// Which.
        name: String,
    },
}

impl Deployment {
    /// Tells the containers their tables.
    pub(super) fn tell(
        &mut self,
        ticket: Ticket,
        told: Told,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.operation = Some(Operation::Telling { ticket, told, due: now + HEARD_WITHIN });
        self.push(effects);
        self.look_who_was_told(now, effects);
    }

    /// The application that is held, if one is.
    pub(super) fn held(&self) -> Option<&String> {
        match &self.operation {
            Some(
                Operation::Telling { told: Told::Held { name }, .. }
                | Operation::Held { name, .. }
                | Operation::Storing { then: Then::Tell { held: Some(name) }, .. },
            ) => Some(name),
            Some(_) | None => None,
        }
    }

    /// What is held is let go of by who removes it or lets it go; gives what it was.
    pub(super) fn let_go_for(&mut self, request: &Request) -> Option<String> {
        let asked = match request {
            Request::Remove { name, .. } | Request::Release { name } => name,
            Request::Deploy { .. }
            | Request::Switch { .. }
            | Request::Retire { .. }
            | Request::Hold { .. } => return None,
        };
        match self.operation.take() {
            Some(Operation::Held { name, .. }) if name == *asked => Some(name),
            operation => {
                self.operation = operation;
                None
            }
        }
    }

    /// Says it, if all have heard it or the time is over.
    pub(super) fn look_who_was_told(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        match &self.operation {
            Some(Operation::Telling { ticket, told, due }) => {
                let (ticket, is_late) = (*ticket, *due <= now);
                let name = match told {
                    Told::Done => None,
                    Told::Held { name } => Some(name.clone()),
                };
                let all_heard = self.all_heard(name.as_deref());
                if !all_heard && !is_late {
                    return;
                }
                self.operation = None;
                let answer = match name {
                    Some(name) if all_heard => {
                        self.operation = Some(Operation::Held { name, due: now + HELD_FOR });
                        Answer::Done
                    }
                    Some(name) => {
                        self.push(effects);
                        Answer::Refused { reason: not_held(&name) }
                    }
                    None => {
                        if !all_heard {
                            warn!("not all containers say that they have what is deployed now");
                        }
                        Answer::Done
                    }
                };
                effects.push(Effect::Answer { ticket, answer });
            }
            Some(Operation::Held { due, .. }) if *due <= now => {
                self.operation = None;
                self.push(effects);
            }
            Some(_) | None => return,
        }
        self.let_in(now, effects);
    }

    /// Whether every container that is ready has the last table, and nothing of this application begins in it.
    fn all_heard(&self, name: Option<&str>) -> bool {
        let mut ready = self.containers.values().filter(|container| container.is_ready);
        ready.all(|container| {
            let report = &container.report;
            let mut beginning = report.applications.iter().filter(|one| one.is_beginning);
            report.generation == self.generation
                && !beginning.any(|one| Some(one.name.as_str()) == name)
        })
    }

    /// Whoever waited is next.
    pub(super) fn let_in(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.operation.is_none()
            && let Some((ticket, request)) = self.waiting.pop_front()
        {
            self.requested(ticket, request, now, effects);
        }
    }
}

fn not_held(name: &str) -> String {
    let limit = HEARD_WITHIN.as_secs();
    format!(
        "not every container has said within {limit} s that no session of {name} begins in it; see outlast status, and try again"
    )
}
