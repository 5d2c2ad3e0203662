//! Probes: every heartbeat interval each container is asked, by the way of messages, whether it works them off.
//!
//! What follows from the answers is the routing table's business. A container that is ejected is probed on,
//! by the next link to it.

use std::time::Instant;

use transport::link::LinkFrame;

use super::worker::Worker;

/// When the next probes leave.
#[derive(Debug)]
pub(super) struct Probing {
    next: Instant,
    count: u64,
}

impl Probing {
    pub(super) fn new(now: Instant) -> Probing {
        Probing { next: now, count: 0 }
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.next
    }
}

impl Worker {
    /// Probes all containers when it is time, and repeats what is known of those that do not answer.
    pub(super) fn tick_probes(&mut self, now: Instant) {
        if now < self.probing.next {
            return;
        }
        self.probing.next = now + self.shared.settings.heartbeat.interval;
        self.probing.count += 1;
        let probe = LinkFrame::Probe { id: self.probing.count };
        for link in &mut self.links.all {
            // The link of a former life may not have ended yet.
            let place = link.answered.and_then(|life| self.routing.linked(life));
            if let Some(place) = place {
                // A probe that found no room is a question too: nobody reads what is before it.
                link.send(&probe);
                self.routing.asked(place, now);
            }
        }
        for (name, incarnation) in self.routing.unresponsive() {
            self.shared.findings.unresponsive(self.index, name, incarnation);
        }
    }
}
