//! What was dropped and refused, counted per reason and logged at a bounded rate.

use std::io;
use std::time::{Duration, Instant};

use topology::ProcessName;

use crate::forward::DropReason;

/// A busy worker says at most this often what it dropped.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What the sockets of one worker lost or refused since they were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SocketLosses {
    /// Datagrams that came and were too long.
    pub(super) truncated: u64,
    /// Datagrams that the kernel refused to send, or that found no room in a send queue.
    pub(super) unsent: u64,
    /// Connections that were refused over a limit.
    pub(super) refused: u64,
    /// Connections that were given up: unfinished messages, slow readers, lost framing.
    pub(super) given_up: u64,
}

/// Counts of one worker since the last log line.
#[derive(Debug)]
pub(super) struct Counters {
    dropped: [u64; DropReason::ALL.len()],
    /// Error responses that the edge made itself, by class: 4xx, 5xx.
    refused: [u64; 2],
    failed_sends: u64,
    /// Links that were refused by one side for its certificate or its protocol, and what was said of the last one.
    untrusted: u64,
    last_untrusted: String,
    logged_losses: SocketLosses,
    next_log: Instant,
}

impl Counters {
    pub(super) fn new(now: Instant) -> Counters {
        Counters {
            dropped: [0; DropReason::ALL.len()],
            refused: [0; 2],
            failed_sends: 0,
            untrusted: 0,
            last_untrusted: String::new(),
            logged_losses: SocketLosses::default(),
            next_log: now + LOG_INTERVAL,
        }
    }

    pub(super) fn dropped(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    pub(super) fn refused(&mut self, status: u16) {
        self.refused[usize::from(status >= 500)] += 1;
    }

    pub(super) fn failed_send(&mut self) {
        self.failed_sends += 1;
    }

    pub(super) fn untrusted(&mut self, container: &ProcessName, error: &io::Error) {
        self.untrusted += 1;
        self.last_untrusted = format!("{container}: {error}");
    }

    /// Whether it is time to [`log`](Self::log).
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_log
    }

    /// Logs what was counted, if there is something, and begins anew.
    pub(super) fn log(&mut self, worker: u16, losses: SocketLosses, now: Instant) {
        for (reason, count) in DropReason::ALL.iter().zip(&self.dropped) {
            if *count > 0 {
                tracing::info!(worker, count, reason = reason.as_str(), "messages dropped");
            }
        }
        let [refused_4xx, refused_5xx] = self.refused;
        if refused_4xx + refused_5xx + self.failed_sends > 0 {
            tracing::info!(
                worker,
                refused_4xx,
                refused_5xx,
                failed_sends = self.failed_sends,
                "requests refused"
            );
        }
        if self.untrusted > 0 {
            tracing::warn!(
                worker,
                count = self.untrusted,
                last = self.last_untrusted,
                "links to containers of other nodes were refused: do their certificates and ours come from one cluster?"
            );
        }
        if losses != self.logged_losses {
            tracing::info!(
                worker,
                datagrams_truncated = losses.truncated,
                datagrams_unsent = losses.unsent,
                connections_refused = losses.refused,
                connections_given_up = losses.given_up,
                "lost at the sockets since the start"
            );
        }
        *self = Counters { logged_losses: losses, ..Counters::new(now) };
    }
}
