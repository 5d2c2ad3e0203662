//! `[cluster]`: where a member is reached by the others, and how it finds them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::listen::PublicAddress;
use crate::own_servers::{self, EtcdEndpoint, ServerAccess};
use crate::reader::{Expected, Reader, Section, integer_in};
use crate::time_text;

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
const STORES: Expected<'_> = Expected {
    needs: "a whole number from 0 to 4, \"vote\" for a store that holds no data, or a list of host:port of your own servers",
    example: "2",
};
const STORE_PORTS: Expected<'_> =
    Expected { needs: "the first and the last of some ports", example: "\"6220-6227\"" };
const REPOSITORY_PORTS: Expected<'_> =
    Expected { needs: "two ports, the first and the last", example: "\"6230-6231\"" };
const BELOW_QUOTA: Expected<'_> =
    Expected { needs: "\"refuse\" or \"continue\"", example: "\"refuse\"" };
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
    /// The stores that this node runs. Default: 2.
    #[serde(default)]
    pub stores: Stores,
    /// How the operator's own stores are spoken with.
    #[serde(default)]
    pub store_access: ServerAccess,
    /// Members of the operator's own etcd, which has the accounts, names and applications then. The same etcd on all nodes. None:
    /// the nodes run one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repository: Vec<EtcdEndpoint>,
    /// How the operator's own etcd is spoken with.
    #[serde(default)]
    pub repository_access: ServerAccess,
    /// The ports of the stores, at the host of `address`: two for each, one for clients and one for the other stores. Those
    /// that `stores` leaves over are for copies that another node should have and is lost. Default: 20 to 27 above that of `address`,
    /// so `6220-6227`.
    #[serde(default = "store_ports")]
    pub store_ports: PortRange,
    /// The ports of the repository, at the host of `address`: one for clients, one for its other members. Default: 30 and 31
    /// above that of `address`, so `6230-6231`.
    #[serde(default = "repository_ports")]
    pub repository_ports: PortRange,
    /// How many other members must hold a write before it counts as done, 0 to 8; never more than there are other members.
    /// The same on all nodes. Default: 1.
    #[serde(default = "write_quota")]
    pub write_quota: u8,
    /// What happens to writes while so many copies cannot be had. Default: they are refused.
    #[serde(default)]
    pub below_quota: BelowQuota,
    /// Whether a copy may lie on the host of what it is a copy of, and count, for want of another. It outlives a process then, not a
    /// host. Default: `false`.
    #[serde(default)]
    pub allow_colocation: bool,
    /// When a node was lost for so long, the copies that it had are made on other hosts. Default: at once, for until they are made
    /// `below_quota` holds. More than that spares the copying where hosts are often gone for a moment.
    #[serde(default = "copy_after", with = "time_text")]
    pub copy_after: Duration,
}

/// `cluster.below_quota`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BelowQuota {
    /// They are refused: new calls and registrations are told to try again. What was acknowledged is never lost.
    #[default]
    Refuse,
    /// They go on with the copies there are, alarmed: a second fault may lose them.
    Continue,
}

impl BelowQuota {
    fn parse(text: &str) -> Option<BelowQuota> {
        match text {
            "refuse" => Some(BelowQuota::Refuse),
            "continue" => Some(BelowQuota::Continue),
            _ => None,
        }
    }
}

/// One copy: the loss of any one host loses nothing.
fn write_quota() -> u8 {
    1
}

/// What a node runs of the cluster's state; written as a number, `"vote"`, or a list of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stores {
    /// So many stores: the first serves a share of the records, each further one has a copy of another node's. 0: none.
    Count(u8),
    /// One store that holds no data, and votes on who serves: for the smallest of three hosts.
    Vote(Vote),
    /// None: the state lies in the operator's own Redis or Valkey Cluster, of which these are some servers. The same on all nodes.
    Own(Vec<MemberAddress>),
}

/// `"vote"`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vote {
    /// `"vote"`
    Vote,
}

/// Stores of one node; more would not make it faster.
pub const STORES_MAX: u8 = 4;

impl Default for Stores {
    fn default() -> Stores {
        Stores::Count(2)
    }
}

impl Stores {
    /// How many processes these are.
    pub fn count(&self) -> u8 {
        match self {
            Stores::Count(count) => *count,
            Stores::Vote(_) => 1,
            Stores::Own(_) => 0,
        }
    }

    /// Where the operator's own ones are; none: the nodes run some.
    pub fn own(&self) -> &[MemberAddress] {
        match self {
            Stores::Own(addresses) => addresses,
            Stores::Count(_) | Stores::Vote(_) => &[],
        }
    }
}

fn copy_after() -> Duration {
    Duration::ZERO
}

fn store_ports() -> PortRange {
    PortRange { first: 6220, last: 6227 }
}

/// As far above the port of `address` as the usual ones are above [`CLUSTER_PORT`], so that several members have room on one
/// address; the usual ones where there is no room above.
fn ports_of(address: SocketAddr, usual: PortRange) -> PortRange {
    let above = |port: u16| address.port().checked_add(port - CLUSTER_PORT);
    match (above(usual.first), above(usual.last)) {
        (Some(first), Some(last)) => PortRange { first, last },
        (None | Some(_), _) => usual,
    }
}

fn repository_ports() -> PortRange {
    PortRange { first: 6230, last: 6231 }
}

impl ClusterSettings {
    /// A member at this address, of which nothing else is said.
    pub fn at(address: SocketAddr) -> ClusterSettings {
        ClusterSettings {
            address,
            discover: None,
            nodes: Vec::new(),
            link_ports: None,
            stores: Stores::default(),
            store_access: ServerAccess::default(),
            repository: Vec::new(),
            repository_access: ServerAccess::default(),
            store_ports: ports_of(address, store_ports()),
            repository_ports: ports_of(address, repository_ports()),
            write_quota: write_quota(),
            below_quota: BelowQuota::default(),
            allow_colocation: false,
            copy_after: copy_after(),
        }
    }

    /// How many copies a write must have in a cluster of so many members; an operator's own stores are on other hosts.
    pub fn copies_among(&self, members: usize) -> usize {
        let others = match self.stores {
            Stores::Own(_) => usize::MAX,
            Stores::Count(_) | Stores::Vote(_) => members.saturating_sub(1),
        };
        usize::from(self.write_quota).min(others)
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

impl PortRange {
    /// How many they are.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
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
        toml::de::DeValue::Array(array) => addresses(array).map(Discover::Servers),
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
    let default = ClusterSettings::at(SocketAddr::from(([127, 0, 0, 1], CLUSTER_PORT)));
    let stores = section.optional(reader, "stores", STORES, |value| match value {
        toml::de::DeValue::String(text) if text == "vote" => Some(Stores::Vote(Vote::Vote)),
        toml::de::DeValue::Array(array) => addresses(array).map(Stores::Own),
        value => integer_in(value, &(0..=u64::from(STORES_MAX))).map(Stores::Count),
    });
    let has_own = stores.as_ref().is_some_and(|stores| !stores.own().is_empty());
    let store_access = own_servers::access(reader, &mut section, &own_servers::STORES, has_own);
    let store_ports =
        section.text(reader, "store_ports", STORE_PORTS, |text| text.parse::<PortRange>().ok());
    let repository_ports = section.text(reader, "repository_ports", REPOSITORY_PORTS, |text| {
        text.parse().ok().filter(|ports: &PortRange| ports.count() == 2)
    });
    let (repository, repository_access) = own_servers::repository(reader, &mut section);
    let at = address.unwrap_or(default.address);
    let usual = ClusterSettings::at(at);
    let below_quota = section.text(reader, "below_quota", BELOW_QUOTA, BelowQuota::parse);
    let settings = ClusterSettings {
        address: at,
        discover,
        nodes: nodes.unwrap_or_default(),
        link_ports,
        stores: stores.unwrap_or_default(),
        store_access,
        repository,
        repository_access,
        store_ports: store_ports.unwrap_or(usual.store_ports),
        repository_ports: repository_ports.unwrap_or(usual.repository_ports),
        write_quota: section.integer(reader, "write_quota", default.write_quota, 0..=8),
        below_quota: below_quota.unwrap_or_default(),
        allow_colocation: section.flag(reader, "allow_colocation", default.allow_colocation),
        copy_after: section.time(
            reader,
            "copy_after",
            default.copy_after,
            Duration::ZERO..=Duration::from_secs(86_400),
        ),
    };
    check_ports(reader, &section, &settings);
    section.finish(reader);
    address.map(|_| settings)
}

/// Some `host:port`, at least one.
fn addresses(array: &toml::de::DeArray<'_>) -> Option<Vec<MemberAddress>> {
    let address = |element: &toml::Spanned<toml::de::DeValue<'_>>| match element.get_ref() {
        toml::de::DeValue::String(text) => text.parse().ok(),
        _ => None,
    };
    let addresses: Option<Vec<MemberAddress>> = array.iter().map(address).collect();
    addresses.filter(|addresses| (1..=ADDRESSES_MAX).contains(&addresses.len()))
}

/// What each port is for must be clear.
fn check_ports(reader: &mut Reader<'_>, section: &Section<'_>, settings: &ClusterSettings) {
    let needed = 2 * usize::from(settings.stores.count());
    if settings.store_ports.count() < needed {
        let message = format!(
            "\"{}\" are too few ports: {} stores need {needed}, two each",
            settings.store_ports,
            settings.stores.count()
        );
        reader.report(section.at_key("store_ports"), section.key("store_ports"), message);
    }
    let own = PortRange { first: settings.address.port(), last: settings.address.port() };
    let ranges = [
        ("address", Some(own)),
        ("link_ports", settings.link_ports),
        ("store_ports", Some(settings.store_ports)),
        ("repository_ports", Some(settings.repository_ports)),
    ];
    for (at, (name, range)) in ranges.iter().enumerate() {
        let meets = |other: &PortRange| {
            range.is_some_and(|range| range.first <= other.last && other.first <= range.last)
        };
        let earlier = ranges[..at].iter();
        for (other, _) in earlier.filter(|(_, other)| other.as_ref().is_some_and(meets)) {
            let message = format!("has ports of cluster.{other} in it; needs ports of its own");
            reader.report(section.at_key(name), section.key(name), message);
        }
    }
}
