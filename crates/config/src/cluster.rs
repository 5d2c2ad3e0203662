//! `[cluster]`: where a member is reached by the others, and how it finds them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::listen::PublicAddress;
use crate::reader::{Expected, Reader, Section};

/// Port of a member where none is named.
pub const CLUSTER_PORT: u16 = 6200;

/// Addresses that a list names. Three that live are enough to find all others.
const ADDRESSES_MAX: usize = 64;

const ADDRESS: Expected<'_> = Expected {
    needs: "this host's own address and a port, no wildcard",
    example: "\"192.0.2.11:6200\"",
};
const DISCOVER: Expected<'_> = Expected {
    needs: "\"*\" and a multicast address from 224.0.1.0 to 239.255.255.255 with port, or a list of host:port",
    example: "\"*225.0.0.20:6200\" or [\"node1:6200\", \"node2:6200\"]",
};
const PORTS: Expected<'_> =
    Expected { needs: "the first and the last of some ports", example: "\"6210-6219\"" };
const MEMBER: Expected<'_> =
    Expected { needs: "host:port", example: "\"node1:6200\" or \"192.0.2.11:6200\"" };

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Where other members reach this one, by UDP and TCP.
    pub address: SocketAddr,
    /// How members find each other. None, and no `nodes`: by the addresses that the cluster's list of members has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discover: Option<Discover>,
    /// Addresses of members, instead of `discover`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<MemberAddress>,
    /// The ports, at the host of `address`, at which containers are reached by the edges and containers of other nodes: each
    /// takes one that is free. None: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_ports: Option<PortRange>,
}

impl ClusterSettings {
    /// A member at this address, of which nothing else is said.
    pub fn at(address: SocketAddr) -> ClusterSettings {
        ClusterSettings { address, discover: None, nodes: Vec::new(), link_ports: None }
    }
}

/// Some ports, from the first to the last; written `6210-6219`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// Not 0.
    pub first: u16,
    /// Not less than the first.
    pub last: u16,
}

impl FromStr for PortRange {
    type Err = ClusterAddressError;

    fn from_str(text: &str) -> Result<PortRange, ClusterAddressError> {
        let parsed = text.split_once('-').and_then(|(first, last)| {
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            Some(PortRange { first, last })
        });
        let is_one = |range: &PortRange| (1..=range.last).contains(&range.first);
        parsed.filter(is_one).ok_or(ClusterAddressError::Ports)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl TryFrom<String> for PortRange {
    type Error = ClusterAddressError;
    fn try_from(text: String) -> Result<PortRange, ClusterAddressError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> String {
        range.to_string()
    }
}

/// `cluster.discover`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Discover {
    /// Everybody asks, and answers, at a multicast address.
    Multicast(MulticastAddress),
    /// Members that know all others.
    Servers(Vec<MemberAddress>),
}

/// An address that all members listen at, with a `*` before it; 224.0.1.0 to 239.255.255.255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MulticastAddress(SocketAddrV4);

impl MulticastAddress {
    /// Without the `*`.
    pub fn address(self) -> SocketAddrV4 {
        self.0
    }
}

/// A text that is no address of a member, or none to discover members by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClusterAddressError {
    /// Not a [`MulticastAddress`].
    #[error(
        "needs \"*\" and a multicast address from 224.0.1.0 to 239.255.255.255 with port, for example \"*225.0.0.20:6200\""
    )]
    Multicast,
    /// Not a [`MemberAddress`].
    #[error("needs host:port, for example \"node1:6200\" or \"192.0.2.11:6200\"")]
    Member,
    /// Not the address of a host.
    #[error("needs this host's own address, perhaps with a port, for example \"192.0.2.11:6200\"")]
    Own,
    /// Not a [`PortRange`].
    #[error("needs the first and the last of some ports, for example \"6210-6219\"")]
    Ports,
}

impl FromStr for MulticastAddress {
    type Err = ClusterAddressError;

    fn from_str(text: &str) -> Result<MulticastAddress, ClusterAddressError> {
        /// 224.0.0.0/24 is the link's own: routers and hosts speak there.
        const FIRST: Ipv4Addr = Ipv4Addr::new(224, 0, 1, 0);
        const LAST: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 255);
        let address: SocketAddrV4 = text
            .strip_prefix('*')
            .and_then(|address| address.parse().ok())
            .ok_or(ClusterAddressError::Multicast)?;
        let fits = (FIRST..=LAST).contains(address.ip()) && address.port() > 0;
        if fits { Ok(MulticastAddress(address)) } else { Err(ClusterAddressError::Multicast) }
    }
}

impl fmt::Display for MulticastAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "*{}", self.0)
    }
}

impl TryFrom<String> for MulticastAddress {
    type Error = ClusterAddressError;
    fn try_from(text: String) -> Result<MulticastAddress, ClusterAddressError> {
        text.parse()
    }
}

impl From<MulticastAddress> for String {
    fn from(address: MulticastAddress) -> String {
        address.to_string()
    }
}

/// `host:port` of a member; a name is looked up when it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberAddress(String);

impl MemberAddress {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MemberAddress {
    type Err = ClusterAddressError;

    fn from_str(text: &str) -> Result<MemberAddress, ClusterAddressError> {
        let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if has_port && text.parse::<PublicAddress>().is_ok() {
            Ok(MemberAddress(text.to_owned()))
        } else {
            Err(ClusterAddressError::Member)
        }
    }
}

impl fmt::Display for MemberAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for MemberAddress {
    type Error = ClusterAddressError;
    fn try_from(text: String) -> Result<MemberAddress, ClusterAddressError> {
        text.parse()
    }
}

impl From<MemberAddress> for String {
    fn from(address: MemberAddress) -> String {
        address.0
    }
}

/// Reads `--address`: an address of this host, with [`CLUSTER_PORT`] where it names none.
///
/// # Errors
/// [`ClusterAddressError::Own`] for names, wildcards and port 0.
pub fn cluster_address(text: &str) -> Result<SocketAddr, ClusterAddressError> {
    let address = match text.parse() {
        Ok(address) => address,
        Err(_) => {
            let ip = text.parse().map_err(|_| ClusterAddressError::Own)?;
            SocketAddr::new(ip, CLUSTER_PORT)
        }
    };
    if is_own(address) { Ok(address) } else { Err(ClusterAddressError::Own) }
}

/// What others can be told.
fn is_own(address: SocketAddr) -> bool {
    !address.ip().is_unspecified() && !address.ip().is_multicast() && address.port() > 0
}

pub(crate) fn cluster_settings(
    reader: &mut Reader<'_>,
    mut section: Section<'_>,
) -> Option<ClusterSettings> {
    let address = section.text(reader, "address", ADDRESS, |text| {
        text.parse().ok().filter(|address| is_own(*address))
    });
    section.require(reader, "address", ADDRESS.example);
    let discover = section.optional(reader, "discover", DISCOVER, |value| match value {
        toml::de::DeValue::String(text) => text.parse().ok().map(Discover::Multicast),
        toml::de::DeValue::Array(array) => {
            let address = |element: &toml::Spanned<toml::de::DeValue<'_>>| match element.get_ref() {
                toml::de::DeValue::String(text) => text.parse().ok(),
                _ => None,
            };
            let servers: Option<Vec<MemberAddress>> = array.iter().map(address).collect();
            servers
                .filter(|servers| (1..=ADDRESSES_MAX).contains(&servers.len()))
                .map(Discover::Servers)
        }
        _ => None,
    });
    let nodes = section.texts(reader, "nodes", MEMBER, |text| text.parse().ok());
    let excess = nodes.as_ref().map_or(0, Vec::len);
    if excess > ADDRESSES_MAX {
        let message = format!("{excess} addresses; needs at most {ADDRESSES_MAX}");
        reader.report(section.at_key("nodes"), section.key("nodes"), message);
    }
    if discover.is_some() && nodes.is_some() {
        let message =
            "says, as cluster.discover does, how members are found; needs one of them, not both";
        reader.report(section.at_key("nodes"), section.key("nodes"), message.to_owned());
    }
    let link_ports = section.text(reader, "link_ports", PORTS, |text| text.parse().ok());
    section.finish(reader);
    Some(ClusterSettings {
        address: address?,
        discover,
        nodes: nodes.unwrap_or_default(),
        link_ports,
    })
}
