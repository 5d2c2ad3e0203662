//! Which link leads to which edge: the container's way to the outside.
//!
//! Each worker of each edge has a link of its own and names the edge's addresses in its Hello. A response goes
//! back by the link its request came by, a request by the edge that its topmost Route names, or by one whose
//! addresses fit its destination; when a link is gone, by another that serves the same address (any edge that
//! holds a local UDP address serves the flows of it).
//!
//! Deliberately absent: flow tokens (the edge's), host names (resolved before).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use sip::Host;
use topology::{ListenerTransport, ProcessState, TopologyView};
use transport::flow::canonical;
use transport::link::EdgeAddress;
use transport::{Flow, Transport};

/// Names a link of this container's life; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// At most so many addresses of departed edges are remembered; the oldest are forgotten first.
const DEPARTED_MAX: usize = 1_024;

/// The port of a SIP URI that names none (RFC 3261 §19.1.2).
pub(crate) const PORT_DEFAULT: u16 = 5060;

/// The links that are up, by what their edges said of themselves.
#[derive(Debug, Default)]
pub struct Edges {
    /// What each link's edge says of itself.
    said: BTreeMap<LinkId, Vec<EdgeAddress>>,
    /// What of that means the same on this node: not an edge's loopback address that several nodes have.
    links: BTreeMap<LinkId, Vec<EdgeAddress>>,
    departed: VecDeque<SocketAddr>,
    /// Addresses of edges that are about to serve, or may be, as the topology has it: somebody keeps their sockets.
    expected: Vec<SocketAddr>,
    /// Addresses of edges that serve, as the topology has it: each has a link to us, or is about to.
    serving: Vec<(Transport, SocketAddr)>,
    /// Addresses of edges of other nodes.
    far: Vec<SocketAddr>,
}

/// What is known of the edge that a Route names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteOwner {
    /// An edge that can be reached by this link.
    Edge(LinkId),
    /// An edge that serves and has not linked to us yet, or not again: its flows live.
    Unlinked,
    /// An edge without a link that the topology expects back, as after its crash: its UDP sockets wait for it.
    Awaited,
    /// An edge that is down, or unknown to the topology, and nobody holds its address: its flows are gone.
    Departed,
    /// No edge of ours.
    Foreign,
}

impl Edges {
    /// A link said Hello.
    pub fn up(&mut self, link: LinkId, addresses: Vec<EdgeAddress>) {
        self.departed.retain(|departed| addresses.iter().all(|address| address.own != *departed));
        self.links.insert(link, self.meant_here(&addresses));
        self.said.insert(link, addresses);
    }

    /// The topology leaves out the loopback addresses that edges of several nodes listen on. Of another node's edge they are
    /// not believed: a flow of our own host would lead there.
    fn meant_here(&self, said: &[EdgeAddress]) -> Vec<EdgeAddress> {
        let is_known = |address: &EdgeAddress| self.far.contains(&canonical(address.own));
        let is_far = said.iter().any(is_known);
        let is_meant = |address: &&EdgeAddress| {
            !(is_far && address.own.ip().is_loopback() && !is_known(address))
        };
        said.iter().filter(is_meant).cloned().collect()
    }

    /// Another link of the same edge: each of its workers has one, and reaches the connections of all.
    pub fn sibling(&self, link: LinkId) -> Option<LinkId> {
        let addresses = self.links.get(&link)?;
        let is_sibling =
            |(other, its): &(&LinkId, &Vec<EdgeAddress>)| **other != link && *its == addresses;
        self.links.iter().find(is_sibling).map(|(other, _)| *other)
    }

    /// A link is gone.
    pub fn down(&mut self, link: LinkId) {
        self.said.remove(&link);
        for address in self.links.remove(&link).unwrap_or_default() {
            let is_held = self.links.values().flatten().any(|other| other.own == address.own);
            if !is_held && !self.departed.contains(&address.own) {
                self.departed.push_back(address.own);
            }
        }
        while self.departed.len() > DEPARTED_MAX {
            self.departed.pop_front();
        }
    }

    /// The edges of the topology, which may have no link: their addresses are ours all the same.
    pub fn learn(&mut self, view: &TopologyView) {
        self.expected.clear();
        self.serving.clear();
        self.far.clear();
        for edge in view.edges().filter(|edge| edge.name.parts().1.is_some()) {
            self.far.extend(edge.addresses.iter().map(|address| canonical(address.own)));
        }
        self.links = self.said.iter().map(|(link, said)| (*link, self.meant_here(said))).collect();
        for edge in view.edges() {
            for address in &edge.addresses {
                let is_held = self.links.values().flatten().any(|held| held.own == address.own);
                if !is_held
                    && !self.departed.contains(&address.own)
                    && self.departed.len() < DEPARTED_MAX
                {
                    self.departed.push_back(address.own);
                }
                match edge.state {
                    ProcessState::Ready | ProcessState::Draining => {
                        let transport = match address.transport {
                            ListenerTransport::Udp => Transport::Udp,
                            ListenerTransport::Tcp => Transport::Tcp,
                        };
                        self.serving.push((transport, canonical(address.own)));
                    }
                    // One that is told to end may be restarted by hand: its sockets are kept until it is down.
                    ProcessState::Starting
                    | ProcessState::Hung
                    | ProcessState::Backoff
                    | ProcessState::Stopping => self.expected.push(address.own),
                    ProcessState::Down => {}
                }
            }
        }
    }

    /// Whether the link is up and has said Hello.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// The links that are up.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
    }

    /// The way back for a response to a request that came by `link` over a flow with the local address
    /// `local`: that link, else one that holds the address, else any; None when there is no link at all.
    pub fn for_response(&self, link: LinkId, local: SocketAddr) -> Option<LinkId> {
        if self.is_up(link) {
            return Some(link);
        }
        self.first(|address| address.own == local)
            .or_else(|| self.first(|address| address.own.is_ipv4() == local.is_ipv4()))
    }

    /// The way back for a response that could not be sent by the link `last`: the next one in turn whose edge has an
    /// address of the family of `local`; the same one again if there is no other.
    pub fn next_for_response(&self, last: Option<LinkId>, local: SocketAddr) -> Option<LinkId> {
        let fits = |address: &EdgeAddress| address.own.is_ipv4() == local.is_ipv4();
        let mut fitting = self.links.iter().filter(|(_, own)| own.iter().any(fits));
        let first = fitting.clone().next();
        let next = fitting.find(|(link, _)| Some(**link) > last).or(first);
        next.map(|(link, _)| *link)
    }

    /// Who the host and port of a topmost Route are. `preferred` is taken when it serves that address, too,
    /// so that the messages of a call keep their order.
    pub fn route_owner(&self, host: &Host<'_>, port: Option<u16>, preferred: LinkId) -> RouteOwner {
        let own = numeric(host).map(|ip| SocketAddr::new(ip, port.unwrap_or(PORT_DEFAULT)));
        let is_named = |address: &EdgeAddress| {
            own == Some(address.own) || is_public_name(&address.public, host, port)
        };
        match self.serving(preferred, is_named) {
            Some(link) => RouteOwner::Edge(link),
            None if own.is_some_and(|own| self.serving.iter().any(|(_, held)| *held == own)) => {
                RouteOwner::Unlinked
            }
            None if own.is_some_and(|own| self.expected.contains(&own)) => RouteOwner::Awaited,
            None if own.is_some_and(|own| self.departed.contains(&own)) => RouteOwner::Departed,
            None => RouteOwner::Foreign,
        }
    }

    /// An edge that can send to `address` over `transport`; `preferred` if it can.
    pub fn for_address(
        &self,
        transport: Transport,
        address: SocketAddr,
        preferred: LinkId,
    ) -> Option<LinkId> {
        self.serving(preferred, |own| {
            own.transport == transport && own.own.is_ipv4() == address.is_ipv4()
        })
    }

    /// Where a phone would send what is for this node: an address that an edge listens on, UDP before streams, of this
    /// node before those of others. The one behind `last` in turn, so that what is repeated does not depend on one edge: it
    /// may hang, and nobody knows yet.
    pub fn front_door(&self, last: Option<SocketAddr>) -> Option<(LinkId, Transport, SocketAddr)> {
        let doors = |is_stream: bool| {
            let doors = self.links.iter().flat_map(|(link, addresses)| {
                addresses.iter().map(|address| (address.own, *link, address.transport))
            });
            doors.filter(move |(_, _, transport)| transport.is_stream() == is_stream)
        };
        let distance = |own: SocketAddr| (self.far.contains(&own), own);
        let order = |(own, link, _): &(SocketAddr, LinkId, Transport)| (distance(*own), *link);
        let last = last.map(distance);
        let next = |is_stream| {
            let behind = doors(is_stream).filter(|(own, ..)| Some(distance(*own)) > last);
            behind.min_by_key(order).or_else(|| doors(is_stream).min_by_key(order))
        };
        next(false).or_else(|| next(true)).map(|(own, link, transport)| (link, transport, own))
    }

    /// Whether an edge of ours sent what came by this flow. Connections have ports of their own.
    pub fn is_from_edge(&self, flow: &Flow) -> bool {
        let linked = self.links.values().flatten().map(|address| address.own);
        let serving = self.serving.iter().map(|(_, own)| *own);
        let mut edges = linked.chain(serving).chain(self.expected.iter().copied());
        let is_stream = flow.transport.is_stream();
        let remote = flow.remote;
        edges.any(|own| {
            canonical(own) == remote || (is_stream && canonical(own).ip() == remote.ip())
        })
    }

    /// Whether an edge serves or is expected back, with a link or without.
    pub fn awaits_any(&self) -> bool {
        !self.serving.is_empty() || !self.expected.is_empty()
    }

    /// Whether every address of every edge that serves has a link.
    pub fn reach_all(&self) -> bool {
        self.serving.iter().all(|serving| self.is_linked(*serving))
    }

    /// Whether an edge without a link could send to `address` over `transport`.
    pub fn awaits_one_for(&self, transport: Transport, address: SocketAddr) -> bool {
        self.serving.iter().any(|serving| {
            let fits = serving.0 == transport && serving.1.is_ipv4() == address.is_ipv4();
            fits && !self.is_linked(*serving)
        })
    }

    fn is_linked(&self, (transport, own): (Transport, SocketAddr)) -> bool {
        let mut linked = self.links.values().flatten();
        linked.any(|address| address.transport == transport && address.own == own)
    }

    fn serving(&self, preferred: LinkId, fits: impl Fn(&EdgeAddress) -> bool) -> Option<LinkId> {
        let preferred_fits =
            self.links.get(&preferred).is_some_and(|addresses| addresses.iter().any(&fits));
        if preferred_fits { Some(preferred) } else { self.first(fits) }
    }

    fn first(&self, fits: impl Fn(&EdgeAddress) -> bool) -> Option<LinkId> {
        self.links.iter().find(|(_, addresses)| addresses.iter().any(&fits)).map(|(link, _)| *link)
    }
}

/// The address that a host is, without looking anything up.
pub(crate) fn numeric(host: &Host<'_>) -> Option<std::net::IpAddr> {
    match host {
        Host::Ipv4(ip) => Some((*ip).into()),
        Host::Ipv6(ip) => Some((*ip).into()),
        Host::Name(_) => None,
    }
}

/// Whether `public` (`host` or `host:port`) is the host and port of a URI.
fn is_public_name(public: &str, host: &Host<'_>, port: Option<u16>) -> bool {
    if let Ok(address) = public.parse::<SocketAddr>() {
        return numeric(host) == Some(address.ip())
            && port.unwrap_or(PORT_DEFAULT) == address.port();
    }
    let (name, public_port) = match public.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') => (name, digits.parse().ok()),
        _ => (public, None),
    };
    let is_same_host = match host {
        Host::Name(host) => host.eq_ignore_ascii_case(name.as_bytes()),
        Host::Ipv4(_) | Host::Ipv6(_) => {
            numeric(host) == name.trim_matches(['[', ']']).parse().ok()
        }
    };
    is_same_host && port.unwrap_or(PORT_DEFAULT) == public_port.unwrap_or(PORT_DEFAULT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(transport: Transport, own: &str, public: &str) -> EdgeAddress {
        EdgeAddress { transport, own: own.parse().unwrap(), public: public.to_owned() }
    }

    /// Edge 1 (two workers, links 1 and 2) and edge 2 (link 3), which share one UDP address.
    fn edges() -> Edges {
        let mut edges = Edges::default();
        let first = vec![
            address(Transport::Udp, "192.0.2.1:5060", "sip.example.com"),
            address(Transport::Udp, "192.0.2.9:5060", "192.0.2.9:5060"),
        ];
        edges.up(LinkId(1), first.clone());
        edges.up(LinkId(2), first);
        edges.up(
            LinkId(3),
            vec![
                address(Transport::Tcp, "[2001:db8::2]:5070", "[2001:db8::2]:5070"),
                address(Transport::Udp, "192.0.2.9:5060", "192.0.2.9:5060"),
            ],
        );
        edges
    }

    fn owner(edges: &Edges, host: Host<'_>, port: Option<u16>, preferred: u64) -> RouteOwner {
        edges.route_owner(&host, port, LinkId(preferred))
    }

    #[test]
    fn route_names_an_edge_by_own_or_public_address() {
        let edges = edges();
        let v4 = Host::Ipv4([192, 0, 2, 1].into());
        assert_eq!(owner(&edges, v4, Some(5060), 9), RouteOwner::Edge(LinkId(1)));
        assert_eq!(owner(&edges, v4, None, 2), RouteOwner::Edge(LinkId(2)));
        assert_eq!(owner(&edges, v4, Some(5061), 1), RouteOwner::Foreign);
        let v6 = Host::Ipv6("2001:db8::2".parse().unwrap());
        assert_eq!(owner(&edges, v6, Some(5070), 1), RouteOwner::Edge(LinkId(3)));
        let name = Host::Name(b"SIP.example.com");
        assert_eq!(owner(&edges, name, None, 9), RouteOwner::Edge(LinkId(1)));
        assert_eq!(owner(&edges, name, Some(5080), 9), RouteOwner::Foreign);
    }

    #[test]
    fn what_an_edge_sends_comes_from_its_socket_or_over_a_connection_from_its_address() {
        let edges = edges();
        let is_from_edge = |transport, remote: &str| {
            let local = "192.0.2.1:5060".parse().unwrap();
            edges.is_from_edge(&Flow::new(transport, local, remote.parse().unwrap()))
        };
        assert!(is_from_edge(Transport::Udp, "192.0.2.9:5060"));
        assert!(!is_from_edge(Transport::Udp, "192.0.2.9:5061"));
        assert!(is_from_edge(Transport::Tcp, "[2001:db8::2]:40000"));
        assert!(!is_from_edge(Transport::Tcp, "[2001:db8::3]:5070"));
    }

    #[test]
    fn flows_of_a_dead_edge_move_to_whoever_holds_the_address_else_are_gone() {
        let mut edges = edges();
        edges.down(LinkId(1));
        edges.down(LinkId(2));
        let shared = Host::Ipv4([192, 0, 2, 9].into());
        let lone = Host::Ipv4([192, 0, 2, 1].into());
        assert_eq!(owner(&edges, shared, None, 1), RouteOwner::Edge(LinkId(3)));
        assert_eq!(owner(&edges, lone, None, 1), RouteOwner::Departed);
        edges.up(LinkId(4), vec![address(Transport::Udp, "192.0.2.1:5060", "x")]);
        assert_eq!(owner(&edges, lone, None, 1), RouteOwner::Edge(LinkId(4)));
    }

    #[test]
    fn response_goes_back_by_its_link_else_by_the_address_else_by_any() {
        let mut edges = edges();
        let local = "192.0.2.9:5060".parse().unwrap();
        assert_eq!(edges.for_response(LinkId(2), local), Some(LinkId(2)));
        assert_eq!(edges.for_response(LinkId(7), local), Some(LinkId(1)));
        let unknown = "192.0.2.77:5060".parse().unwrap();
        assert_eq!(edges.for_response(LinkId(7), unknown), Some(LinkId(1)));
        for link in 1..=3 {
            edges.down(LinkId(link));
        }
        assert_eq!(edges.for_response(LinkId(7), local), None);
    }

    #[test]
    fn edges_that_serve_are_reached_when_all_their_addresses_are_linked_and_awaited_until_they_end()
    {
        let entry = |name: &str, state, transports: &[ListenerTransport]| {
            let own: SocketAddr = format!("192.0.2.{name}:5060").parse().unwrap();
            let address = |transport: &ListenerTransport| topology::EdgeAddress {
                transport: *transport,
                own,
                public: own.to_string(),
            };
            topology::ProcessEntry {
                name: topology::ProcessName::new(name),
                process_type: topology::ProcessType::Edge,
                incarnation: topology::Incarnation(1),
                pid: None,
                state,
                restarts: 0,
                link: None,
                link_address: None,
                addresses: transports.iter().map(address).collect(),
                weight: 0,
                is_silent: false,
                http: None,
            }
        };
        let (udp, tcp) = (ListenerTransport::Udp, ListenerTransport::Tcp);
        use ProcessState::{Backoff, Down, Draining, Hung, Ready, Starting, Stopping};
        let mut edges = edges();
        assert!(edges.reach_all());
        for (name, state, transports, reaches_all, awaits_any) in [
            ("1", Ready, &[udp][..], true, true),
            ("1", Ready, &[udp, tcp], false, true),
            ("8", Ready, &[udp], false, true),
            ("8", Draining, &[udp], false, true),
            ("8", Starting, &[udp], true, true),
            ("8", Hung, &[udp], true, true),
            ("8", Backoff, &[udp], true, true),
            ("8", Stopping, &[udp], true, true),
            ("8", Down, &[udp], true, false),
        ] {
            let processes = vec![entry(name, state, transports)];
            edges.learn(&TopologyView { processes, ..TopologyView::default() });
            let told = format!("{name} {state} {transports:?}");
            assert_eq!(edges.reach_all(), reaches_all, "{told}");
            assert_eq!(edges.awaits_any(), awaits_any, "{told}");
        }
    }

    #[test]
    fn a_sibling_is_a_link_of_the_same_edge() {
        let mut edges = edges();
        assert_eq!(edges.sibling(LinkId(1)), Some(LinkId(2)));
        assert_eq!(edges.sibling(LinkId(2)), Some(LinkId(1)));
        assert_eq!(edges.sibling(LinkId(3)), None, "one address in common makes no sibling");
        edges.down(LinkId(1));
        assert_eq!(edges.sibling(LinkId(2)), None);
        assert_eq!(edges.sibling(LinkId(1)), None);
    }

    #[test]
    fn front_door_goes_round_the_addresses_for_datagrams_and_to_streams_without_one() {
        let mut edges = edges();
        let mut last = None;
        let rounds = (0..3).map(|_| {
            let (link, transport, own) = edges.front_door(last).unwrap();
            last = Some(own);
            (link.0, transport, own.to_string())
        });
        let (first, second) = ("192.0.2.1:5060".to_owned(), "192.0.2.9:5060".to_owned());
        let udp = Transport::Udp;
        assert_eq!(
            rounds.collect::<Vec<_>>(),
            [(1, udp, first.clone()), (1, udp, second), (1, udp, first)]
        );
        edges.down(LinkId(1));
        edges.down(LinkId(2));
        edges.down(LinkId(3));
        assert_eq!(edges.front_door(last), None);
        let own = "[2001:db8::2]:5070";
        edges.up(LinkId(4), vec![address(Transport::Tcp, own, own)]);
        let door = Some((LinkId(4), Transport::Tcp, own.parse().unwrap()));
        assert_eq!(edges.front_door(last), door);
    }

    #[test]
    fn front_door_is_the_own_nodes_while_one_of_its_edges_is_linked() {
        let mut edges = edges();
        let (near, far) = ("192.0.2.9:5060", "192.0.2.1:5060");
        let edge = |name: &str, own: &str| topology::ProcessEntry {
            name: topology::ProcessName::new(name),
            process_type: topology::ProcessType::Edge,
            incarnation: topology::Incarnation(1),
            pid: None,
            state: ProcessState::Ready,
            restarts: 0,
            link: None,
            link_address: None,
            addresses: vec![topology::EdgeAddress {
                transport: ListenerTransport::Udp,
                own: own.parse().unwrap(),
                public: own.to_owned(),
            }],
            weight: 0,
            http: None,
            is_silent: false,
        };
        let processes = vec![edge("edge1", near), edge("edge1@other", far)];
        edges.learn(&TopologyView { processes, ..TopologyView::default() });
        let mut last = None;
        let doors = (0..3).map(|_| {
            let (_, _, own) = edges.front_door(last).unwrap();
            last = Some(own);
            own.to_string()
        });
        assert_eq!(
            doors.collect::<Vec<_>>(),
            [near, far, near],
            "the other node's is the next one"
        );
    }

    #[test]
    fn a_loopback_address_that_two_nodes_have_is_the_own_edges() {
        let (own, far) = ("192.0.2.1:5060", "192.0.2.2:5060");
        let loopback = |own| {
            vec![
                address(Transport::Udp, own, own),
                address(Transport::Udp, "127.0.0.1:5060", "127.0.0.1"),
            ]
        };
        let mut edges = Edges::default();
        edges.up(LinkId(1), loopback(far));
        edges.up(LinkId(2), loopback(own));
        // As the topology has it: the address that both have is left out of the other node's edge.
        let edge = |name: &str, addresses: &[&str]| topology::ProcessEntry {
            name: topology::ProcessName::new(name),
            process_type: topology::ProcessType::Edge,
            incarnation: topology::Incarnation(1),
            pid: None,
            state: ProcessState::Ready,
            restarts: 0,
            link: None,
            link_address: None,
            addresses: addresses
                .iter()
                .map(|own| topology::EdgeAddress {
                    transport: ListenerTransport::Udp,
                    own: own.parse().unwrap(),
                    public: (*own).to_owned(),
                })
                .collect(),
            weight: 0,
            is_silent: false,
            http: None,
        };
        let processes = vec![edge("edge1", &[own, "127.0.0.1:5060"]), edge("edge1@two", &[far])];
        edges.learn(&TopologyView { processes, ..TopologyView::default() });
        let host = Host::Ipv4([127, 0, 0, 1].into());
        for preferred in [1, 2] {
            assert_eq!(owner(&edges, host, None, preferred), RouteOwner::Edge(LinkId(2)));
        }
        edges.up(LinkId(3), loopback(far));
        assert_eq!(owner(&edges, host, None, 3), RouteOwner::Edge(LinkId(2)));
        assert!(edges.reach_all());
    }

    #[test]
    fn address_is_served_by_an_edge_of_its_family_and_transport() {
        let edges = edges();
        let v4 = "198.51.100.7:5060".parse().unwrap();
        let v6 = "[2001:db8::7]:5060".parse().unwrap();
        assert_eq!(edges.for_address(Transport::Udp, v4, LinkId(2)), Some(LinkId(2)));
        assert_eq!(edges.for_address(Transport::Tcp, v6, LinkId(2)), Some(LinkId(3)));
        assert_eq!(edges.for_address(Transport::Tcp, v4, LinkId(2)), None);
    }
}
