//! The TCP connections of a run: a place for each flow, opened when it is asked for or when something is sent by it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use mio::Registry;
use mio::event::Event;
use sip::Frame;
use transport::Connections;
use transport::tcp::{ConnectRefused, ConnectionEvent, ConnectionId, TcpLimits};

use crate::flows::{FlowEvent, describe};
use crate::outbox::FlowIndex;
use crate::statistics::Failure;

/// All connections.
#[derive(Debug)]
pub(crate) struct TcpFlows {
    target: SocketAddr,
    addresses: Vec<IpAddr>,
    connections: Connections,
    places: Vec<Option<ConnectionId>>,
    flows: HashMap<ConnectionId, FlowIndex>,
    happened: Vec<ConnectionEvent>,
    /// Flows that could not even be tried.
    refused: Vec<(FlowIndex, String)>,
    unsent: u64,
}

impl TcpFlows {
    /// So many places, all closed; connections come from the local addresses in turn.
    pub(crate) fn new(count: u32, target: SocketAddr, addresses: &[IpAddr]) -> TcpFlows {
        let limits = TcpLimits { connections_max: count as usize, ..TcpLimits::default() };
        TcpFlows {
            target,
            addresses: addresses.to_vec(),
            connections: Connections::new(limits),
            places: vec![None; count as usize],
            flows: HashMap::new(),
            happened: Vec::new(),
            refused: Vec::new(),
            unsent: 0,
        }
    }

    /// Begins the flow's connection if it has none; its local address.
    pub(crate) fn connect(
        &mut self,
        flow: FlowIndex,
        registry: &Registry,
        now: Instant,
    ) -> Option<SocketAddr> {
        let place = flow.0 as usize;
        if let Some(open) = self.places[place] {
            return self.connections.flow(open).map(|flow| flow.local);
        }
        let local = self.addresses[place % self.addresses.len()];
        match self.connections.connect(registry, Some(local), self.target, now) {
            Ok(id) => {
                self.places[place] = Some(id);
                self.flows.insert(id, flow);
                self.connections.flow(id).map(|flow| flow.local)
            }
            Err(refused) => {
                let why = match &refused {
                    ConnectRefused::Full { .. } => refused.to_string(),
                    ConnectRefused::System { source, .. } => format!("{refused}: {source}"),
                };
                self.refused.push((flow, why));
                None
            }
        }
    }

    /// Closes the flow's connection, if it has one.
    pub(crate) fn close(&mut self, flow: FlowIndex) {
        // Taken out before: what is closed on request is no event.
        if let Some(id) = self.places[flow.0 as usize].take() {
            self.flows.remove(&id);
            self.connections.close(id, &mut self.happened);
        }
    }

    /// Takes in what a connection is ready for.
    pub(crate) fn handle(&mut self, event: &Event, now: Instant) {
        self.connections.handle(event, now, &mut self.happened);
    }

    /// Reads on, looks at the clock, and hands over what happened.
    pub(crate) fn receive(&mut self, now: Instant, mut on_event: impl FnMut(FlowEvent)) {
        self.connections.continue_reading(now, &mut self.happened);
        self.connections.tick(now, &mut self.happened);
        for (flow, why) in self.refused.drain(..) {
            on_event(FlowEvent::Down { flow, failure: Failure::Connect, why });
        }
        for event in self.happened.drain(..) {
            match event {
                ConnectionEvent::Connected { connection, flow } => {
                    if let Some(index) = self.flows.get(&connection) {
                        on_event(FlowEvent::Up { flow: *index, local: flow.local });
                    }
                }
                ConnectionEvent::Frame { connection, flow, frame: Frame::Message(bytes) } => {
                    if let Some(index) = self.flows.get(&connection) {
                        on_event(FlowEvent::Message { flow: *index, from: flow.remote, bytes });
                    }
                }
                // Keep-alives of the server.
                ConnectionEvent::Frame { .. } => {}
                ConnectionEvent::Undelivered { .. } => self.unsent += 1,
                ConnectionEvent::Closed { connection, reason, .. } => {
                    if let Some(flow) = self.flows.remove(&connection) {
                        self.places[flow.0 as usize] = None;
                        let (failure, why) = describe(&reason);
                        on_event(FlowEvent::Down { flow, failure, why });
                    }
                }
            }
        }
    }

    /// Queues a message, on a connection that is begun for it if there is none.
    pub(crate) fn queue(
        &mut self,
        flow: FlowIndex,
        message: Bytes,
        registry: &Registry,
        now: Instant,
    ) -> Option<SocketAddr> {
        let local = self.connect(flow, registry, now)?;
        if let Some(id) = self.places[flow.0 as usize]
            && self.connections.send(id, message, 0, now).is_err()
        {
            self.unsent += 1;
        }
        Some(local)
    }

    /// Writes what is queued.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.connections.flush(now, &mut self.happened);
    }

    /// Whether something is left to do that no event of a socket will tell of.
    pub(crate) fn has_unread(&self) -> bool {
        self.connections.has_unfinished_reads()
            || !self.happened.is_empty()
            || !self.refused.is_empty()
    }

    /// When a connection may be overdue.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.connections.next_deadline()
    }

    /// Messages that never left.
    pub(crate) fn unsent(&self) -> u64 {
        self.unsent
    }
}

/// Whether the target takes connections at all.
///
/// # Errors
/// What the system says when it does not.
pub(crate) fn probe(target: SocketAddr, patience: std::time::Duration) -> io::Result<()> {
    std::net::TcpStream::connect_timeout(&target, patience).map(drop)
}
