//! Plain SIP peers: probed by OPTIONS every heartbeat interval; any answer is a heartbeat.
//!
//! RFC 3261 §11. Every worker probes for itself; the answer may come to another one, which passes
//! the news on. A peer that is silent for as long as a container may be is taken out of the routing
//! table until it answers again. A look that is late by more than an interval proves nothing about them: then the edge
//! itself was stopped or starved, and has not even asked.

use std::time::Instant;

use bytes::Bytes;
use sip::{BRANCH_COOKIE, HeaderName, Method, RequestBuilder};
use topology::HeartbeatSettings;

use crate::header_value::HeaderValue;
use crate::listener::Listener;
use crate::peer::Peer;

/// What one worker knows of its peers.
#[derive(Debug)]
pub(super) struct Probes {
    heard: Vec<Instant>,
    serving: Vec<bool>,
    next_probe: Instant,
    count: u64,
}

/// A peer began or ceased to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerChange {
    /// It answers.
    Up(usize),
    /// It has been silent for too long.
    Down(usize),
}

impl Probes {
    /// All peers count as answering until they have had their time.
    pub(super) fn new(peer_count: usize, now: Instant) -> Probes {
        Probes {
            heard: vec![now; peer_count],
            serving: vec![true; peer_count],
            next_probe: now,
            count: 0,
        }
    }

    /// The peer answered.
    pub(super) fn answered(&mut self, peer: usize, now: Instant) -> Option<PeerChange> {
        self.heard[peer] = now;
        let before = std::mem::replace(&mut self.serving[peer], true);
        (!before).then_some(PeerChange::Up(peer))
    }

    /// When [`tick`](Self::tick) has something to do; never without peers.
    pub(super) fn next_deadline(&self, heartbeat: HeartbeatSettings) -> Option<Instant> {
        let answering = self.heard.iter().zip(&self.serving).filter(|(_, serving)| **serving);
        let silent = answering.map(|(heard, _)| *heard + heartbeat.silence_max()).min();
        let probe = (!self.heard.is_empty()).then_some(self.next_probe);
        probe.into_iter().chain(silent).min()
    }

    /// Whether it is time to probe; says which peers fell silent.
    pub(super) fn tick(
        &mut self,
        heartbeat: HeartbeatSettings,
        now: Instant,
        changes: &mut Vec<PeerChange>,
    ) -> bool {
        if self.next_deadline(heartbeat).is_some_and(|due| due + heartbeat.interval < now) {
            tracing::warn!("was kept from looking; the clocks of all peers start anew");
            self.heard.fill(now);
        }
        for (peer, (heard, serving)) in self.heard.iter().zip(&mut self.serving).enumerate() {
            if *serving && now.saturating_duration_since(*heard) >= heartbeat.silence_max() {
                *serving = false;
                changes.push(PeerChange::Down(peer));
            }
        }
        if self.heard.is_empty() || now < self.next_probe {
            return false;
        }
        self.next_probe = now + heartbeat.interval;
        true
    }

    /// The next OPTIONS to `peer`. `nonce` is unique to this worker's life.
    pub(super) fn request(&mut self, peer: &Peer, listener: &Listener, nonce: u64) -> Bytes {
        self.count += 1;
        let unique = format!("{nonce:x}-{:x}", self.count);
        let mut via = HeaderValue::new().with(listener.via_start().as_bytes()).with(BRANCH_COOKIE);
        via.push(unique.as_bytes());
        let uri = format!("sip:{};transport={}", peer.address, peer.transport.uri_name());
        let own = listener.own_text();
        RequestBuilder::new(Method::Options, uri.as_bytes())
            .header(HeaderName::Via, &via)
            .header(HeaderName::From, format!("<sip:edge@{own}>;tag={unique}").as_bytes())
            .header(HeaderName::To, format!("<{uri}>").as_bytes())
            .header(HeaderName::CallId, format!("probe-{unique}").as_bytes())
            .header(HeaderName::CSeq, b"1 OPTIONS")
            .build()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HEARTBEAT: HeartbeatSettings =
        HeartbeatSettings { interval: Duration::from_millis(500), allowed_miss_count: 2 };

    #[test]
    fn a_peer_is_left_out_after_exactly_the_silence_that_a_container_may_keep() {
        let start = Instant::now();
        let (mut probes, mut changes) = (Probes::new(1, start), Vec::new());
        assert!(probes.tick(HEARTBEAT, start, &mut changes), "the first probe leaves at once");
        let heard = start + Duration::from_millis(3);
        assert_eq!(probes.answered(0, heard), None);
        let silent = heard + HEARTBEAT.silence_max();
        let mut now = start;
        while now < silent {
            assert_eq!(changes, [], "{:?}", now - heard);
            now = probes.next_deadline(HEARTBEAT).expect("there is a peer");
            probes.tick(HEARTBEAT, now, &mut changes);
        }
        assert_eq!((now, changes), (silent, vec![PeerChange::Down(0)]));
        assert_eq!(probes.answered(0, silent), Some(PeerChange::Up(0)));
    }

    #[test]
    fn an_edge_that_stood_still_blames_no_peer_and_asks_anew() {
        let start = Instant::now();
        let (mut probes, mut changes) = (Probes::new(2, start), Vec::new());
        probes.tick(HEARTBEAT, start, &mut changes);
        probes.answered(0, start);
        let resumed = start + Duration::from_secs(60);
        assert!(probes.tick(HEARTBEAT, resumed, &mut changes), "asked at once");
        assert_eq!(changes, []);
        // From here the usual silence counts, of whoever does not answer.
        probes.answered(0, resumed + HEARTBEAT.interval);
        let mut now = resumed;
        while changes.is_empty() {
            now = probes.next_deadline(HEARTBEAT).expect("there are peers");
            probes.tick(HEARTBEAT, now, &mut changes);
        }
        assert_eq!((now, changes), (resumed + HEARTBEAT.silence_max(), vec![PeerChange::Down(1)]));
    }

    #[test]
    fn a_peer_that_is_left_out_is_still_probed_every_interval() {
        let start = Instant::now();
        let (mut probes, mut changes) = (Probes::new(1, start), Vec::new());
        let (mut now, mut count) = (start, 0);
        while now < start + 20 * HEARTBEAT.interval {
            count += u32::from(probes.tick(HEARTBEAT, now, &mut changes));
            now = probes.next_deadline(HEARTBEAT).expect("there is a peer");
        }
        assert_eq!((count, changes), (20, vec![PeerChange::Down(0)]));
    }
}
