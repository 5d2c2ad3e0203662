//! What the edge does with each kind of message: tables over the pure decision. The rows of
//! docs/sip-conformance.md that the edge holds are named by their sections.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use topology::token::SESSION_ID_BYTES;
use topology::{Accepting, HeartbeatSettings, Incarnation, OwnerToken, ProcessName, SessionToken};

use super::*;
use crate::flow_token::{FlowToken, TokenKind};
use crate::listener::Listener;
use crate::route::OwnRoutes;

mod departed;
mod dialogs;
mod hand_on;
mod links;
mod requests;
mod responses;
mod robustness;
mod sessions;

/// Of every message here.
const CALL_ID: &[u8] = b"c1@10.0.0.1";
pub(super) const PHONE: &str = "198.51.100.7:49152";
pub(super) const OTHER_PHONE: &str = "198.51.100.8:40000";

/// An edge with two containers, the words to send it messages, and to read what it decides.
pub(super) struct Rig {
    pub(super) listeners: Listeners,
    pub(super) routing: RoutingTable,
    pub(super) peers: Vec<Peer>,
    pub(super) fellows: FellowEdges,
    pub(super) keys: Keys,
    pub(super) nat_traversal: NatTraversal,
}

impl Rig {
    pub(super) fn new() -> Rig {
        let own = "192.0.2.1:5060".parse().unwrap();
        Rig::with_listeners(vec![
            Listener::direct(Transport::Udp, own),
            Listener::direct(Transport::Tcp, own),
        ])
    }

    /// Phones see `sip.example.com`.
    pub(super) fn with_public_address() -> Rig {
        let own = "192.0.2.1:5060".parse().unwrap();
        let listener = |transport| Listener::new(transport, own, "sip.example.com").unwrap();
        Rig::with_listeners(vec![listener(Transport::Udp), listener(Transport::Tcp)])
    }

    pub(super) fn with_listeners(listeners: Vec<Listener>) -> Rig {
        let mut rig = Rig {
            listeners: Listeners::new(listeners),
            routing: RoutingTable::new(HeartbeatSettings {
                interval: Duration::from_millis(500),
                allowed_miss_count: 2,
            }),
            peers: Vec::new(),
            fellows: FellowEdges::default(),
            keys: Keys::derive(&KeyRing::new([7; 32])),
            nat_traversal: NatTraversal::On,
        };
        rig.open("container1", 11);
        rig.open("container2", 12);
        rig
    }

    pub(super) fn without_containers(mut self) -> Rig {
        self.routing = RoutingTable::new(HeartbeatSettings {
            interval: Duration::from_secs(1),
            allowed_miss_count: 0,
        });
        self
    }

    pub(super) fn with_peer(mut self, transport: Transport, address: &str) -> Rig {
        let name = ProcessName::new("peer1");
        self.routing.add_peer(name.clone(), 100);
        self.peers.push(Peer { name, transport, address: address.parse().unwrap(), weight: 100 });
        self
    }

    pub(super) fn open(&mut self, name: &str, incarnation: u64) {
        let (name, incarnation) = (ProcessName::new(name), Incarnation(incarnation));
        let (now, mut changes) = (Instant::now(), Vec::new());
        self.routing.link_up(&name, incarnation, now, &mut changes);
        self.routing.heartbeat(&name, incarnation, Accepting::Accepting, 0, now, &mut changes);
    }

    pub(super) fn close(&mut self, name: &str, incarnation: u64) {
        self.routing.link_down(
            &ProcessName::new(name),
            Incarnation(incarnation),
            Instant::now(),
            &mut Vec::new(),
        );
    }

    /// Everybody keeps quiet for so long from now.
    pub(super) fn pass(&mut self, time: Duration) {
        self.routing.tick(Instant::now() + time, &mut Vec::new());
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            listeners: &self.listeners,
            routing: &self.routing,
            peers: &self.peers,
            fellows: &self.fellows,
            keys: &self.keys,
            nat_traversal: self.nat_traversal,
        }
    }

    pub(super) fn flow(&self, transport: Transport, remote: &str) -> Flow {
        let remote: SocketAddr = remote.parse().unwrap();
        Flow::new(transport, self.listeners.toward(transport, remote).own, remote)
    }

    pub(super) fn token(&self, kind: TokenKind, flow: Flow) -> String {
        let text = FlowToken { kind, flow }.encode(&self.keys.flow, CALL_ID);
        String::from_utf8(text.to_vec()).unwrap()
    }

    pub(super) fn owner_token(&self, incarnation: u64) -> String {
        let token = OwnerToken { incarnation: Incarnation(incarnation), shard: 0 };
        String::from_utf8(token.encode(&self.keys.owner).to_vec()).unwrap()
    }

    pub(super) fn session_token(&self, incarnation: u64, session: u8) -> String {
        let owner = OwnerToken { incarnation: Incarnation(incarnation), shard: 0 };
        let token = SessionToken { owner, session: [session; SESSION_ID_BYTES] };
        String::from_utf8(token.encode(&self.keys.owner).to_vec()).unwrap()
    }

    /// Where the session's messages go once its owner is dead.
    pub(super) fn heir(&self, session: u8) -> String {
        let chosen = self.routing.choose(ChoiceKey::Session(&[session; SESSION_ID_BYTES]));
        self.routing.routes()[chosen.first.unwrap()].name.to_string()
    }

    pub(super) fn receive(&self, text: &str, remote: &str) -> Decision {
        self.receive_by(Transport::Udp, text, remote)
    }

    pub(super) fn receive_by(&self, transport: Transport, text: &str, remote: &str) -> Decision {
        self.receive_from(self.flow(transport, remote), Source::Outside, Attempt::First, text)
    }

    pub(super) fn receive_from(
        &self,
        flow: Flow,
        source: Source,
        attempt: Attempt,
        text: &str,
    ) -> Decision {
        let message = parse(text);
        let arrival = Arrival { message: &message, flow, source, attempt, seed: 3 };
        from_outside(&arrival, &self.view(), &mut BytesMut::new())
    }

    pub(super) fn send(&self, text: &str, destination: Destination) -> Result<Decision, SendError> {
        from_link(&parse(text), destination, &self.view(), &mut BytesMut::new())
    }

    /// The name of the container that a decision offers its message to, and the message.
    pub(super) fn offered(&self, decision: Decision) -> (String, Message) {
        match decision {
            Decision::Offer { container, bytes } => {
                (self.routing.routes()[container].name.to_string(), Message::parse(bytes).unwrap())
            }
            other => panic!("expected an offer, found {other:?}"),
        }
    }
}

/// A message written with `\n` for CRLF, the empty line at its end left out.
pub(super) fn parse(text: &str) -> Message {
    let head = text.trim_start().lines().map(str::trim).collect::<Vec<_>>().join("\r\n");
    Message::parse(Bytes::from(format!("{head}\r\n\r\n"))).unwrap()
}

pub(super) fn sent(decision: Decision) -> (Hop, Message) {
    match decision {
        Decision::Send { hop, bytes } | Decision::SendToPeer { hop, bytes, .. } => {
            (hop, Message::parse(bytes).unwrap())
        }
        other => panic!("expected a message to be sent, found {other:?}"),
    }
}

pub(super) fn refused(decision: Decision) -> (u16, Message) {
    match decision {
        Decision::Reply { bytes, status, .. } => (status, Message::parse(bytes).unwrap()),
        other => panic!("expected an error response, found {other:?}"),
    }
}

pub(super) fn values(message: &Message, name: HeaderName) -> Vec<String> {
    message.values(name).map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
}

pub(super) fn datagram(remote: &str) -> Hop {
    Hop::Datagram { local: "192.0.2.1:5060".parse().unwrap(), remote: remote.parse().unwrap() }
}

/// A request of a phone; `extra` are whole header lines.
pub(super) fn request(method: &str, uri: &str, extra: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0
        Via: SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bK776
        From: <sip:alice@example.com>;tag=a
        To: <sip:bob@example.com>
        Call-ID: c1@10.0.0.1
        CSeq: 1 {method}
        Max-Forwards: 70
        Content-Length: 0
        {extra}"
    )
    .trim_end()
    .to_owned()
}
