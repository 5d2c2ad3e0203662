//! The other edges of the node and its cluster: those that are there, and those that were.
//!
//! What names an edge that is there is for that edge, since it has the flow. What names one that has departed is for whoever
//! gets it: a dialog outlives the edges that it was set up through. A departed edge that the topology has forgotten, since
//! its node was removed, is known by the tokens that it wrote (`route`).

use std::net::SocketAddr;

use sip::{SipUri, Via};
use topology::{
    EdgeAddress, ListenerTransport, ProcessEntry, ProcessName, ProcessState, TopologyView,
};
use transport::Transport;
use transport::flow::canonical;

use crate::listener::{Listener, Listeners, PORT_DEFAULT};

/// The addresses of the other edges.
#[derive(Clone, Debug, Default)]
pub struct FellowEdges {
    /// Own ones, in order.
    there: Vec<SocketAddr>,
    departed: Vec<Listener>,
}

impl FellowEdges {
    /// The others in `view`, for the edge called `name` with these `listeners`.
    pub fn of(view: &TopologyView, name: &ProcessName, listeners: &Listeners) -> FellowEdges {
        let is_others = |address: &&EdgeAddress| {
            let own = canonical(address.own);
            listeners.iter().all(|listener| listener.own != own)
        };
        let others = |are_there| {
            let edges = view.edges().filter(move |edge| edge.name != *name);
            let edges = edges.filter(move |edge| is_there(edge) == are_there);
            edges.flat_map(|edge| &edge.addresses).filter(is_others)
        };
        let there = others(true).map(|address| canonical(address.own)).collect();
        FellowEdges::new(there, others(false).filter_map(listener).collect())
    }

    /// Those that are there and those that were; an address that one of each had is that of the former.
    pub fn new(mut there: Vec<SocketAddr>, mut departed: Vec<Listener>) -> FellowEdges {
        there.sort_unstable();
        there.dedup();
        departed.retain(|listener| there.binary_search(&listener.own).is_err());
        FellowEdges { there, departed }
    }

    /// Own addresses of those that are there.
    pub fn there(&self) -> &[SocketAddr] {
        &self.there
    }

    /// Whether one that is there has that address.
    pub fn has(&self, address: &SocketAddr) -> bool {
        self.there.binary_search(address).is_ok()
    }

    /// Whether the URI names one that has departed, by an own or by a public address.
    pub fn were_named_by(&self, uri: &SipUri<'_>) -> bool {
        self.departed.iter().any(|listener| listener.is_named_by(uri))
    }

    /// Whether one that has departed wrote that Via: its sent-by is an own address.
    pub fn wrote(&self, via: &Via<'_>) -> bool {
        let port = via.port.unwrap_or(PORT_DEFAULT);
        self.departed.iter().any(|listener| listener.is_own(&via.host, port))
    }
}

/// Whether an edge may have its flows still: its sockets wait for a process that died, and are closed when it was stopped, or
/// go with its node.
fn is_there(edge: &ProcessEntry) -> bool {
    edge.state != ProcessState::Down
}

/// None when its node wrote a public address that we cannot read.
fn listener(address: &EdgeAddress) -> Option<Listener> {
    let transport = match address.transport {
        ListenerTransport::Udp => Transport::Udp,
        ListenerTransport::Tcp => Transport::Tcp,
    };
    Listener::new(transport, canonical(address.own), &address.public).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sip::Uri;
    use topology::{Incarnation, ProcessType};

    use super::*;

    fn edge(name: &str, state: ProcessState, own: &[&str]) -> ProcessEntry {
        let address = |own: &&str| EdgeAddress {
            transport: ListenerTransport::Udp,
            own: own.parse().unwrap(),
            public: (*own).to_owned(),
        };
        ProcessEntry {
            name: ProcessName::new(name),
            process_type: ProcessType::Edge,
            incarnation: Incarnation(1),
            pid: None,
            state,
            is_silent: false,
            restarts: 0,
            link: None,
            link_address: None,
            addresses: own.iter().map(address).collect(),
            weight: 0,
            http: None,
        }
    }

    #[test]
    fn sockets_wait_for_an_edge_that_died_and_are_gone_with_one_that_was_stopped_or_lost() {
        let own = "192.0.2.1:5060";
        let listeners =
            Listeners::new(vec![Listener::direct(Transport::Udp, own.parse().unwrap())]);
        for (state, is_there) in [
            (ProcessState::Starting, true),
            (ProcessState::Ready, true),
            (ProcessState::Draining, true),
            (ProcessState::Hung, true),
            (ProcessState::Backoff, true),
            (ProcessState::Stopping, true),
            (ProcessState::Down, false),
        ] {
            for name in ["edge2", "edge1@other"] {
                let processes = vec![
                    edge("edge1", ProcessState::Ready, &[own]),
                    // The second address is this edge's, the third that of one which is there.
                    edge(name, state, &["192.0.2.2:5060", own, "192.0.2.3:5060"]),
                    edge("edge3", ProcessState::Ready, &["192.0.2.3:5060"]),
                ];
                let view = TopologyView { processes, ..TopologyView::default() };
                let fellows = FellowEdges::of(&view, &ProcessName::new("edge1"), &listeners);
                for (own, expected) in [
                    ("192.0.2.2:5060", (is_there, !is_there)),
                    (own, (false, false)),
                    ("192.0.2.3:5060", (true, false)),
                ] {
                    let uri = format!("sip:{own};lr");
                    let Ok(Uri::Sip(uri)) = Uri::parse(uri.as_bytes()) else { panic!("{uri}") };
                    let found = (fellows.has(&own.parse().unwrap()), fellows.were_named_by(&uri));
                    assert_eq!(found, expected, "{own} of {name}, {state}");
                }
            }
        }
    }
}
