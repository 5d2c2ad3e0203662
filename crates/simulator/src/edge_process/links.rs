//! Its links to the containers: opened as the manager names them, read, probed, and given up with all they kept.

use std::time::{Duration, Instant};

use bytes::Bytes;
use edge::forward::{self, Attempt, Decision};
use edge::server::handed_on::HandedOn;
use sip::Message;
use topology::{Accepting, Incarnation, ProcessName, RoutingChange, TopologyView};
use transport::Flow;
use transport::link::{
    Accepting as LinkAccepting, EdgeAddress, LinkFrame, LinkReceiver, LinkSender,
};

use super::{EdgeProcess, Surroundings, carry_out};
use crate::schedule::Moment;
use crate::streams::{Read, Side, StreamId};
use crate::word::Finding;

/// As the edge's links have it.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_USUAL: Duration = Duration::from_secs(1);

/// Where a container listens: on which host, under which of all names.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) host: usize,
    pub(super) name: ProcessName,
    pub(super) is_here: bool,
}

impl Place {
    fn of(name: &ProcessName, view: &TopologyView) -> Place {
        let node = name.parts().1.unwrap_or(&view.node);
        let entry = view.nodes.iter().find(|entry| entry.name == node);
        Place {
            host: entry.map_or(0, |entry| usize::from(entry.number.get())),
            name: view.cluster_name(name),
            is_here: name.parts().1.is_none(),
        }
    }
}

pub(super) struct Link {
    pub(super) name: ProcessName,
    pub(super) place: Place,
    pub(super) stream: Option<StreamId>,
    pub(super) sender: LinkSender,
    pub(super) receiver: LinkReceiver,
    pub(super) answered: Option<Incarnation>,
    pub(super) backoff: Duration,
    /// Next connect while there is no stream, else the end of patience for the hello's answer.
    pub(super) due: Moment,
}

impl Link {
    fn new(name: ProcessName, place: Place, now: Moment) -> Link {
        Link {
            name,
            place,
            stream: None,
            sender: LinkSender::new(),
            receiver: LinkReceiver::new(),
            answered: None,
            backoff: BACKOFF_MIN,
            due: now,
        }
    }
}

impl Link {
    /// As the edge's links have it: whether whoever is waited for was not there when the wait began.
    fn named_again(&mut self, place: Place, now: Moment) -> bool {
        self.place = place;
        self.backoff = BACKOFF_MIN;
        if self.stream.is_none() {
            self.due = now;
        }
        let waited = (now + HELLO_TIMEOUT).saturating_sub(self.due);
        let is_late = !self.place.is_here && waited > ANSWER_USUAL;
        self.stream.is_some() && self.answered.is_none() && is_late
    }
}

impl EdgeProcess {
    /// Has a link for each container that the manager names; what it names again is connected to at once.
    pub(super) fn name_links(&mut self, view: &TopologyView, around: &mut Surroundings<'_>) {
        for name in self.named.clone() {
            let place = Place::of(&name, view);
            match self.links.iter().position(|link| link.name == name) {
                Some(link) => {
                    if self.links[link].named_again(place, around.now) {
                        self.lose_link(link, around);
                    }
                }
                None => self.links.push(Link::new(name, place, around.now)),
            }
        }
    }

    pub(super) fn offer(
        &mut self,
        container: usize,
        flow: Flow,
        hops: u8,
        bytes: &Bytes,
        around: &mut Surroundings<'_>,
    ) -> bool {
        let name = self.routing.routes()[container].name.clone();
        let link = self.links.iter_mut().find(|link| link.name == name);
        let is_offered = link
            .filter(|link| link.answered.is_some())
            .is_some_and(|link| link.sender.try_send_incoming(flow, hops, bytes.clone()).is_ok());
        if is_offered {
            self.routing.asked(container, around.instant);
        }
        let word = if is_offered { "offered" } else { "not offered" };
        around.trace.message(format_args!("{} to {name}", self.start.shown), word, bytes);
        is_offered
    }

    pub(super) fn tick_links(&mut self, around: &mut Surroundings<'_>) {
        for place in 0..self.links.len() {
            let link = &self.links[place];
            if link.due > around.now || link.answered.is_some() {
                continue;
            }
            if link.stream.is_some() {
                self.lose_link(place, around); // its hello was not answered
                continue;
            }
            if !self.named.contains(&link.name) {
                continue;
            }
            let hello = self.hello();
            let link = &mut self.links[place];
            link.due = around.now + link.backoff;
            link.backoff = (link.backoff * 2).min(BACKOFF_MAX);
            let Place { host, name, .. } = &link.place;
            let life = self.start.life;
            let Some(stream) = around.streams.connect(life, name, *host, around.now) else {
                continue;
            };
            link.sender = LinkSender::new();
            link.receiver = LinkReceiver::new();
            link.sender.try_send(&hello).expect("a hello fits an empty link");
            link.stream = Some(stream);
            link.due = around.now + HELLO_TIMEOUT;
        }
    }

    fn hello(&self) -> LinkFrame {
        let addresses = self.listeners.iter().map(|listener| EdgeAddress {
            transport: listener.transport,
            own: listener.own,
            public: listener.public_text().to_owned(),
        });
        LinkFrame::Hello {
            peer_name: self.start.name.0.clone(),
            incarnation: self.start.incarnation.0,
            worker: 0,
            addresses: addresses.collect(),
        }
    }

    pub(super) fn read_link(&mut self, place: usize, around: &mut Surroundings<'_>) {
        let Some(stream) = self.links[place].stream else { return };
        let has_ended = loop {
            match around.streams.read(stream, Side::Edge, around.now) {
                Read::Bytes(bytes) => self.links[place].receiver.push(&bytes),
                Read::Nothing => break false,
                Read::Ended => break true,
            }
        };
        while self.links[place].stream == Some(stream) {
            match self.links[place].receiver.next_frame() {
                Ok(Some(frame)) => self.frame(place, frame, around),
                Ok(None) => break,
                Err(error) => panic!("a container wrote what is no frame: {error}"),
            }
        }
        if has_ended && self.links[place].stream == Some(stream) {
            self.lose_link(place, around);
        }
    }

    fn frame(&mut self, place: usize, frame: LinkFrame, around: &mut Surroundings<'_>) {
        let mut changes = Vec::new();
        let name = self.links[place].name.clone();
        match frame {
            LinkFrame::HelloAnswer { incarnation, .. } => {
                let incarnation = Incarnation(incarnation);
                self.links[place].answered = Some(incarnation);
                self.links[place].backoff = BACKOFF_MIN;
                self.routing.link_up(&name, incarnation, around.instant, &mut changes);
                for message in self.waiting_room.linked(incarnation) {
                    self.hand_on(message, around);
                }
            }
            LinkFrame::Taken { up_to } => {
                self.links[place].sender.taken(up_to);
                self.answered(place, around.instant, &mut changes);
            }
            LinkFrame::ProbeAnswer { .. } => self.answered(place, around.instant, &mut changes),
            LinkFrame::HandOn { to, hops, flow, bytes } => {
                self.hand_on(HandedOn { to: Incarnation(to), hops, flow, bytes }, around);
            }
            LinkFrame::Outgoing { id, destination, bytes } => {
                self.send_for_container(place, id, destination, bytes, around);
            }
            LinkFrame::KeepAlive { flow_token } => {
                self.keep_flow_alive(&flow_token, around);
            }
            LinkFrame::Heartbeat { incarnation, accepting, load } => {
                let accepting = match accepting {
                    LinkAccepting::Accepting => Accepting::Accepting,
                    LinkAccepting::Draining => Accepting::Draining,
                };
                let (life, now) = (Incarnation(incarnation), around.instant);
                self.routing.heartbeat(&name, life, accepting, load, now, &mut changes);
            }
            LinkFrame::Hello { .. }
            | LinkFrame::Incoming(_)
            | LinkFrame::SendFailed { .. }
            | LinkFrame::Probe { .. } => {
                panic!("a container sent an edge's frame")
            }
        }
        self.follow(&changes, around);
    }

    fn answered(&mut self, place: usize, now: Instant, changes: &mut Vec<RoutingChange>) {
        let link = &self.links[place];
        if let Some(incarnation) = link.answered {
            self.routing.answered(&link.name, incarnation, now, changes);
        }
    }

    /// Probes all containers when it is time, and repeats what is known of those that do not answer.
    pub(super) fn tick_probes(&mut self, around: &mut Surroundings<'_>) {
        if around.now < self.next_probe {
            return;
        }
        self.next_probe = around.now + self.start.heartbeat.interval;
        self.probes += 1;
        let probe = LinkFrame::Probe { id: self.probes };
        for link in &mut self.links {
            let place = link.answered.and_then(|life| self.routing.linked(life));
            if let Some(place) = place {
                // A probe that found no room is a question too: nobody reads what is before it.
                let _ = link.sender.try_send(&probe);
                self.routing.asked(place, around.instant);
            }
        }
        for (name, incarnation) in self.routing.unresponsive() {
            let name = name.clone();
            around.found.push(Finding { name, incarnation, responds: false });
        }
    }

    /// A route that closes takes its link with it: what the container did not take goes to the next one.
    pub(super) fn follow(&mut self, changes: &[RoutingChange], around: &mut Surroundings<'_>) {
        for change in changes {
            match change {
                RoutingChange::Closed { name, incarnation, .. }
                | RoutingChange::Outlived { name, incarnation } => {
                    let is_named =
                        |link: &Link| link.name == *name && link.answered == Some(*incarnation);
                    if let Some(place) = self.links.iter().position(is_named) {
                        self.lose_link(place, around);
                    }
                }
                RoutingChange::Unresponsive { name, incarnation } => {
                    let (name, incarnation) = (name.clone(), *incarnation);
                    around.found.push(Finding { name, incarnation, responds: false });
                }
                RoutingChange::Responsive { name, incarnation } => {
                    let (name, incarnation) = (name.clone(), *incarnation);
                    around.found.push(Finding { name, incarnation, responds: true });
                }
                RoutingChange::Opened { .. } => {}
            }
        }
    }

    fn lose_link(&mut self, place: usize, around: &mut Surroundings<'_>) {
        let link = &mut self.links[place];
        let (name, answered) = (link.name.clone(), link.answered.take());
        if let Some(stream) = link.stream.take() {
            around.streams.close(stream, Side::Edge, around.now);
        }
        link.due = around.now + link.backoff;
        link.receiver = LinkReceiver::new();
        let untaken: Vec<_> = link.sender.drain_untaken().collect();
        if let Some(incarnation) = answered {
            let mut changes = Vec::new();
            self.routing.link_down(&name, incarnation, around.instant, &mut changes);
            self.follow(&changes, around);
        }
        for kept in untaken {
            if let Ok(message) = Message::parse(kept.bytes) {
                self.offer_again(&message, kept.flow, kept.hops, around);
            }
        }
    }

    fn offer_again(
        &mut self,
        message: &Message,
        flow: Flow,
        hops: u8,
        around: &mut Surroundings<'_>,
    ) {
        let mut attempt = Attempt::First;
        loop {
            let seed = self.next_seed();
            let mut scratch = std::mem::take(&mut self.scratch);
            let decision = forward::offer_again(message, attempt, seed, &self.view(), &mut scratch);
            self.scratch = scratch;
            match decision {
                Decision::Offer { container, bytes } => {
                    if self.offer(container, flow, hops, &bytes, around) {
                        return;
                    }
                    attempt = attempt.next();
                }
                other => return carry_out(other, around),
            }
        }
    }

    /// Writes every link; what the end of one brings about is written as well.
    pub(super) fn flush(&mut self, around: &mut Surroundings<'_>) {
        loop {
            let mut lost = None;
            for (place, link) in self.links.iter_mut().enumerate() {
                let Some(stream) = link.stream else { continue };
                let unwritten = link.sender.unwritten();
                if unwritten.is_empty() {
                    continue;
                }
                match around.streams.write(stream, Side::Edge, unwritten, around.now) {
                    Some(count) => link.sender.written(count),
                    None => lost = lost.or(Some(place)),
                }
            }
            match lost {
                Some(place) => self.lose_link(place, around),
                None => return,
            }
        }
    }
}
