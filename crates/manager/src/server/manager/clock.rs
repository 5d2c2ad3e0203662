//! A node that comes up starts nothing while its clock is not the cluster's: it would end what lives for the others.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Manager, Step};
use crate::cluster::clock::Verdict;
use crate::process_table::Event;
use crate::server::cluster_node::ClusterNode;

/// While the clock is off, it is looked at again after this.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// The node comes up, and nothing is started yet.
pub(super) struct Wait {
    /// Nobody who is lost by then is waited for.
    until: Instant,
    looked: Instant,
    /// By so many microseconds the clock is ahead of the cluster's, if that is known.
    ahead_us: Option<i64>,
}

impl Wait {
    /// When the next look is due.
    pub(super) fn deadline(&self) -> Instant {
        self.looked + LOOK_AGAIN_AFTER
    }

    /// For the operator.
    pub(super) fn reason(&self) -> String {
        match self.ahead_us {
            None => "nothing is started yet: the node asks the others what time it is".to_owned(),
            Some(ahead) => format!(
                "nothing is started: this node's clock is {} ms {} that of the cluster; have it set by NTP, and the node \
                 comes up by itself",
                ahead.unsigned_abs() / 1_000,
                if ahead > 0 { "ahead of" } else { "behind" },
            ),
        }
    }
}

impl Manager {
    /// Starts what does not run, as soon as the clock allows it. Where processes live, they go by this clock already.
    pub(super) fn start(&mut self) -> Step {
        let now = Instant::now();
        let patience = self.cluster.as_ref().map(ClusterNode::silence_max);
        match patience {
            Some(patience) if self.children.is_empty() => {
                // Twice: those that are lost have to be known to be.
                self.waits = Some(Wait { until: now + patience * 2, looked: now, ahead_us: None });
                self.look_at_clock(now)
            }
            Some(_) | None => self.handle(Event::NodeStarts),
        }
    }

    /// Whether the clock is right meanwhile.
    pub(super) fn look_at_clock(&mut self, now: Instant) -> Step {
        let Some(wait) = &mut self.waits else { return Step::Going };
        wait.looked = now;
        let verdict = self.cluster.as_ref().map_or(Verdict::Right, ClusterNode::judge_clock);
        match verdict {
            Verdict::Off { ahead_us } => {
                let was_known = wait.ahead_us.replace(ahead_us).is_some();
                if !was_known {
                    warn!("{}", wait.reason());
                }
                return Step::Going;
            }
            Verdict::Unknown if now < wait.until || wait.ahead_us.is_some() => return Step::Going,
            Verdict::Unknown | Verdict::Right => {}
        }
        if wait.ahead_us.is_some() {
            info!("the node's clock is the cluster's now");
        }
        self.waits = None;
        self.handle(Event::NodeStarts)
    }
}
