//! Which keys the file may have, their ranges, and what must hold between them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use toml::de::DeValue;

use crate::FILE_NAME;
use crate::cluster::{STORES_MAX, cluster_settings};
use crate::listen::{Listen, domain_name};
use crate::problem::Problem;
use crate::reader::{Expected, Reader, Section, integer_in, read};
use crate::settings::{
    Application, ContainerSettings, DigestAlgorithm, Durability, EDGE_SOCKETS_MAX, EDGES_MAX,
    EdgeInstance, EdgeSettings, HeartbeatSettings, KeysSettings, LogLevel, LogSettings,
    NODE_SOCKETS_MAX, NodeConfig, NodeSettings, PeerSettings, PeerTransport, RegistrarSettings,
    RestartSettings, StateSettings, TcpSettings,
};
use crate::time_text::shown;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

const NAME: Expected<'_> =
    Expected { needs: "1 to 32 of a-z, 0-9 and - that begin with a letter", example: "\"edge1\"" };
const LISTEN: Expected<'_> = Expected { needs: "address:port", example: "\"0.0.0.0:5060\"" };
const PUBLIC: Expected<'_> = Expected {
    needs: "a host and perhaps a port",
    example: "\"sip.example.com\" or \"192.0.2.1:5060\"",
};
const ALGORITHM: Expected<'_> =
    Expected { needs: "one of MD5, SHA-256, SHA-512-256", example: "\"SHA-256\"" };
const APPLICATION: Expected<'_> =
    Expected { needs: "one of registrar, back-to-back", example: "\"registrar\"" };
const DOMAIN: Expected<'_> =
    Expected { needs: "a domain name or address", example: "\"example.com\"" };

/// Every problem of `text` at once, or the configuration.
pub(crate) fn parse(text: &str) -> Result<NodeConfig, Vec<Problem>> {
    read(FILE_NAME, text, node_config)
}

pub(crate) fn node_config(reader: &mut Reader<'_>, mut root: Section<'_>) -> NodeConfig {
    let node = root.section(reader, "node");
    let node = node_settings(reader, node);
    let cluster = root.optional_section(reader, "cluster");
    let cluster = cluster.and_then(|section| cluster_settings(reader, section));
    let registrar = root.section(reader, "registrar");
    let registrar = registrar_settings(reader, registrar);
    let heartbeat = root.section(reader, "heartbeat");
    let heartbeat = heartbeat_settings(reader, heartbeat);
    let restart = root.section(reader, "restart");
    let restart = restart_settings(reader, restart);
    let container = root.section(reader, "container");
    let container_at = container.at();
    let container = container_settings(reader, container);
    let mut names = Names::default();
    for number in 1..=container.count {
        names.take(
            reader,
            container_at,
            "container.count".to_owned(),
            &format!("container{number}"),
        );
    }
    // A node may become a member of a cluster at any time.
    let stores = (1..=STORES_MAX).map(|number| format!("store{number}"));
    for name in stores.chain(["repository".to_owned()]) {
        names.take(reader, container_at, "a server of the cluster".to_owned(), &name);
    }
    let edge = root.section(reader, "edge");
    let edge = edge_settings(reader, edge, &mut names);
    let peers = root.sections(reader, "peer").unwrap_or_default();
    let peer: Vec<PeerSettings> = peers
        .into_iter()
        .filter_map(|section| peer_settings(reader, section, &mut names))
        .collect();
    if container.count == 0 && peer.is_empty() {
        let message =
            "0 containers and no [[peer]]: nothing would serve; needs 1 or more, for example 2";
        reader.report(container_at, "container.count".to_owned(), message.to_owned());
    }
    let keys = root.section(reader, "keys");
    let keys = keys_settings(reader, keys, registrar.expires_max);
    let state = root.section(reader, "state");
    let state = state_settings(reader, state);
    let log = root.section(reader, "log");
    let log = log_settings(reader, log);
    root.finish(reader);
    NodeConfig {
        node,
        cluster,
        registrar,
        heartbeat,
        restart,
        container,
        edge,
        peer,
        keys,
        state,
        log,
        cluster_version: 0,
        cluster_id: String::new(),
    }
}

/// Process names must differ: they name log files, links and `outlast restart`.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn take(&mut self, reader: &mut Reader<'_>, at: usize, key: String, name: &str) {
        if let Some(other) = self.0.insert(name.to_owned(), key.clone()) {
            let message = format!(
                "\"{name}\" is the name of another process already ({other}); needs a name of its own"
            );
            reader.report(at, key, message);
        }
    }
}

pub(crate) fn process_name(text: &str) -> Option<String> {
    let fits = text.len() <= 32
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.ends_with('-');
    fits.then(|| text.to_owned())
}

fn node_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> NodeSettings {
    let default = NodeSettings::default();
    let expected = Expected { example: "\"node1\"", ..NAME };
    let settings = NodeSettings {
        name: section.text(reader, "name", expected, process_name).unwrap_or(default.name),
    };
    section.finish(reader);
    settings
}

fn registrar_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> RegistrarSettings {
    let default = RegistrarSettings::default();
    let range = SECOND..=365 * DAY;
    let domain = |text: &str| domain_name(text).ok();
    let settings = RegistrarSettings {
        authenticate: section.flag(reader, "authenticate", default.authenticate),
        domains: section.texts(reader, "domains", DOMAIN, domain).unwrap_or(default.domains),
        algorithms: section
            .texts(reader, "algorithms", ALGORITHM, DigestAlgorithm::parse)
            .unwrap_or(default.algorithms),
        expires_min: section.time(reader, "expires_min", default.expires_min, range.clone()),
        expires_default: section.time(
            reader,
            "expires_default",
            default.expires_default,
            range.clone(),
        ),
        expires_max: section.time(reader, "expires_max", default.expires_max, range),
    };
    let ordered = settings.expires_min <= settings.expires_default
        && settings.expires_default <= settings.expires_max;
    if !ordered {
        let message = format!(
            "expires_min = \"{}\", expires_default = \"{}\", expires_max = \"{}\" need to be in rising order",
            shown(settings.expires_min),
            shown(settings.expires_default),
            shown(settings.expires_max),
        );
        reader.report(section.at_key("expires_default"), section.key("expires_default"), message);
    }
    section.finish(reader);
    settings
}

fn heartbeat_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> HeartbeatSettings {
    let default = HeartbeatSettings::default();
    let range = Duration::from_millis(20)..=60 * SECOND;
    let settings = HeartbeatSettings {
        interval: section.time(reader, "interval", default.interval, range),
        allowed_miss_count: section.integer(
            reader,
            "allowed_miss_count",
            default.allowed_miss_count,
            0..=100,
        ),
    };
    section.finish(reader);
    settings
}

fn restart_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> RestartSettings {
    let default = RestartSettings::default();
    let at = section.at();
    let range = Duration::from_millis(10)..=3_600 * SECOND;
    let settings = RestartSettings {
        delay_min: section.time(reader, "delay_min", default.delay_min, range.clone()),
        delay_max: section.time(reader, "delay_max", default.delay_max, range.clone()),
        stable_after: section.time(reader, "stable_after", default.stable_after, range),
    };
    if settings.delay_min > settings.delay_max {
        let message = format!(
            "\"{}\" needs to be at least delay_min = \"{}\"",
            shown(settings.delay_max),
            shown(settings.delay_min)
        );
        reader.report(at, section.key("delay_max"), message);
    }
    section.finish(reader);
    settings
}

fn container_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> ContainerSettings {
    let default = ContainerSettings::default();
    let http = Expected { needs: "address:port or \"off\"", example: "\"127.0.0.1:8080\"" };
    let http = section.text(reader, "http", http, |text| match text {
        "off" => Some(None),
        address => address.parse().ok().map(Some),
    });
    let settings = ContainerSettings {
        count: section.integer(reader, "count", default.count, 0..=64),
        drain_timeout: section.time(
            reader,
            "drain_timeout",
            default.drain_timeout,
            Duration::ZERO..=DAY,
        ),
        applications: section
            .texts(reader, "applications", APPLICATION, Application::parse)
            .unwrap_or(default.applications),
        old_versions_kept: section.time(
            reader,
            "old_versions_kept",
            default.old_versions_kept,
            Duration::from_secs(1)..=365 * DAY,
        ),
        http: http.unwrap_or(default.http),
    };
    let last = settings.count.saturating_sub(1);
    if settings.http.is_some_and(|address| address.port() > u16::MAX - last) {
        let message = format!(
            "the port of the last of {} containers would be greater than 65535; needs a lower one",
            settings.count
        );
        reader.report(section.at_key("http"), section.key("http"), message);
    }
    for (number, application) in settings.applications.iter().enumerate() {
        if settings.applications[..number].contains(application) {
            let message = "names an application twice".to_owned();
            reader.report(section.at_key("applications"), section.key("applications"), message);
        }
    }
    if !settings.applications.contains(&Application::Registrar) {
        let message = "needs the registrar in it, for example [\"registrar\"]".to_owned();
        reader.report(section.at_key("applications"), section.key("applications"), message);
    }
    section.finish(reader);
    settings
}

fn keys_settings(
    reader: &mut Reader<'_>,
    mut section: Section<'_>,
    expires_max: Duration,
) -> KeysSettings {
    let default = KeysSettings::default();
    let range = 3_600 * SECOND..=365 * DAY;
    let rotate_every = section.time(reader, "rotate_every", default.rotate_every, range);
    if rotate_every < expires_max {
        // The flow token of a registration is good until the rotation after the next.
        let message = format!(
            "\"{}\" needs to be at least registrar.expires_max = \"{}\": a phone must register again before the \
             keys that it is reached by are forgotten",
            shown(rotate_every),
            shown(expires_max)
        );
        reader.report(section.at_key("rotate_every"), section.key("rotate_every"), message);
    }
    section.finish(reader);
    KeysSettings { rotate_every }
}

fn state_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> StateSettings {
    let default = StateSettings::default();
    let durability = Expected { needs: "\"normal\" or \"power\"", example: "\"normal\"" };
    let durability = section.text(reader, "durability", durability, |text| match text {
        "normal" => Some(Durability::Normal),
        "power" => Some(Durability::Power),
        _ => None,
    });
    let settings = StateSettings {
        durability: durability.unwrap_or_default(),
        snapshot_every: section.time(
            reader,
            "snapshot_every",
            default.snapshot_every,
            SECOND..=DAY,
        ),
    };
    section.finish(reader);
    settings
}

fn edge_settings(
    reader: &mut Reader<'_>,
    mut section: Section<'_>,
    names: &mut Names,
) -> EdgeSettings {
    let default = EdgeSettings::default();
    let workers =
        Expected { needs: "\"auto\" or a whole number from 1 to 64", example: "\"auto\"" };
    let workers = section.optional(reader, "workers", workers, |value| match value {
        DeValue::String(text) => (text == "auto").then_some(None),
        other => integer_in(other, &(1..=64)).map(Some),
    });
    let tcp = section.section(reader, "tcp");
    let mut settings = EdgeSettings {
        nat_traversal: section.flag(reader, "nat_traversal", default.nat_traversal),
        workers: workers.unwrap_or(default.workers),
        public: section.text(reader, "public", PUBLIC, |text| text.parse().ok()),
        tcp: tcp_settings(reader, tcp),
        instances: default.instances,
    };
    if let Some(sections) = section.sections(reader, "instances") {
        if sections.is_empty() {
            let message = "needs at least one edge, for example [[edge.instances]]";
            reader.report(
                section.at_key("instances"),
                section.key("instances"),
                message.to_owned(),
            );
        }
        if sections.len() > EDGES_MAX {
            let message = format!("{} edges; needs at most {EDGES_MAX}", sections.len());
            reader.report(section.at(), section.key("instances"), message);
        }
        let mut taken = Vec::new();
        let mut sockets = SocketCount::new(&settings);
        settings.instances = sections
            .into_iter()
            .filter_map(|instance| {
                let at = instance.at();
                let edge = edge_instance(reader, instance, names, &mut taken)?;
                sockets.add(reader, at, &edge);
                Some(edge)
            })
            .collect();
        sockets.finish(reader, section.at());
    } else {
        names.take(reader, section.at(), section.key("instances"), "edge1");
    }
    section.finish(reader);
    settings
}

fn tcp_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> TcpSettings {
    let default = TcpSettings::default();
    let settings = TcpSettings {
        connections_max: section.integer(
            reader,
            "connections_max",
            default.connections_max,
            1..=10_000_000,
        ),
        connections_per_address_max: section.integer(
            reader,
            "connections_per_address_max",
            default.connections_per_address_max,
            1..=10_000_000,
        ),
        idle_timeout: section.time(reader, "idle_timeout", default.idle_timeout, SECOND..=30 * DAY),
        message_timeout: section.time(
            reader,
            "message_timeout",
            default.message_timeout,
            SECOND..=600 * SECOND,
        ),
        write_timeout: section.time(
            reader,
            "write_timeout",
            default.write_timeout,
            SECOND..=600 * SECOND,
        ),
        connect_timeout: section.time(
            reader,
            "connect_timeout",
            default.connect_timeout,
            Duration::from_millis(100)..=60 * SECOND,
        ),
        unwritten_bytes_max: section.integer(
            reader,
            "unwritten_bytes_max",
            default.unwritten_bytes_max,
            // One message of the largest size must fit.
            65_536..=1 << 30,
        ),
    };
    section.finish(reader);
    settings
}

/// How many sockets the edges need at least. A wildcard may stand for many addresses and `"auto"` for many workers:
/// that is counted again when they are opened.
struct SocketCount {
    workers: usize,
    of_all: usize,
}

impl SocketCount {
    fn new(settings: &EdgeSettings) -> SocketCount {
        SocketCount { workers: settings.workers.map_or(1, usize::from), of_all: 0 }
    }

    fn add(&mut self, reader: &mut Reader<'_>, at: usize, edge: &EdgeInstance) {
        let transports = edge.listen.iter().map(|listen| {
            usize::from(listen.transports.udp()) + usize::from(listen.transports.tcp())
        });
        let sockets = transports.sum::<usize>() * self.workers;
        self.of_all += sockets;
        if sockets > EDGE_SOCKETS_MAX {
            let message = format!(
                "{sockets} sockets (addresses × UDP, TCP × edge.workers); needs at most {EDGE_SOCKETS_MAX}: fewer \
                 addresses or fewer workers"
            );
            reader.report(at, "edge.instances.listen".to_owned(), message);
        }
    }

    fn finish(self, reader: &mut Reader<'_>, at: usize) {
        let sockets = self.of_all;
        if sockets > NODE_SOCKETS_MAX {
            let message = format!(
                "{sockets} sockets of all edges (addresses × UDP, TCP × edge.workers); needs at most \
                 {NODE_SOCKETS_MAX}: fewer edges, addresses or workers"
            );
            reader.report(at, "edge.instances".to_owned(), message);
        }
    }
}

/// What an edge listens on.
struct TakenPort {
    edge: String,
    transport: &'static str,
    address: SocketAddr,
}

impl TakenPort {
    /// Whether no other socket can listen on `address`; a wildcard takes every address of its family.
    fn collides(&self, transport: &str, address: SocketAddr) -> bool {
        let (own, other) = (self.address.ip(), address.ip());
        self.transport == transport
            && self.address.port() == address.port()
            && own.is_ipv4() == other.is_ipv4()
            && (own == other || own.is_unspecified() || other.is_unspecified())
    }
}

fn edge_instance(
    reader: &mut Reader<'_>,
    mut section: Section<'_>,
    names: &mut Names,
    taken: &mut Vec<TakenPort>,
) -> Option<EdgeInstance> {
    let name = section.text(reader, "name", NAME, process_name);
    let listen = section.texts(reader, "listen", LISTEN, |text| text.parse::<Listen>().ok());
    let public = section.text(reader, "public", PUBLIC, |text| text.parse().ok());
    section.require(reader, "name", "name = \"edge2\"");
    section.require(reader, "listen", "listen = [\"0.0.0.0:5060\"]");
    let (name_at, listen_at) = (section.at_key("name"), section.at_key("listen"));
    let (name_key, key) = (section.key("name"), section.key("listen"));
    section.finish(reader);
    let (name, listen) = (name?, listen?);
    names.take(reader, name_at, name_key, &name);
    for address in &listen {
        let transports = [("UDP", address.transports.udp()), ("TCP", address.transports.tcp())];
        for (transport, _) in transports.into_iter().filter(|(_, open)| *open) {
            if address.address.port() == 0 {
                continue; // any free port differs from any other
            }
            let address = address.address;
            if let Some(other) = taken.iter().find(|other| other.collides(transport, address)) {
                let message = format!(
                    "{transport} {address} is listened on by {} already ({}); needs an address or port of its own",
                    other.edge, other.address
                );
                reader.report(listen_at, key.clone(), message);
            }
            taken.push(TakenPort { edge: name.clone(), transport, address });
        }
    }
    Some(EdgeInstance { name, listen, public })
}

fn peer_settings(
    reader: &mut Reader<'_>,
    mut section: Section<'_>,
    names: &mut Names,
) -> Option<PeerSettings> {
    let expected = Expected { example: "\"pbx\"", ..NAME };
    let name = section.text(reader, "name", expected, process_name);
    let expected = Expected { needs: "address:port", example: "\"192.0.2.1:5060\"" };
    let address = section.text(reader, "address", expected, |text| {
        let address: SocketAddr = text.parse().ok()?;
        (address.port() != 0 && !address.ip().is_unspecified()).then_some(address)
    });
    let expected = Expected { needs: "\"udp\" or \"tcp\"", example: "\"udp\"" };
    let transport = section.text(reader, "transport", expected, |text| match text {
        "udp" => Some(PeerTransport::Udp),
        "tcp" => Some(PeerTransport::Tcp),
        _ => None,
    });
    let weight = section.integer(reader, "weight", 100_u16, 1..=1000);
    section.require(reader, "name", "name = \"pbx\"");
    section.require(reader, "address", "address = \"192.0.2.1:5060\"");
    let (at, key) = (section.at_key("name"), section.key("name"));
    section.finish(reader);
    let (name, address) = (name?, address?);
    names.take(reader, at, key, &name);
    Some(PeerSettings { name, address, transport: transport.unwrap_or(PeerTransport::Udp), weight })
}

fn log_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> LogSettings {
    let expected = Expected {
        needs: "one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        example: "\"info\"",
    };
    let level = section.text(reader, "level", expected, |text| match text {
        "error" => Some(LogLevel::Error),
        "warn" => Some(LogLevel::Warn),
        "info" => Some(LogLevel::Info),
        "debug" => Some(LogLevel::Debug),
        "trace" => Some(LogLevel::Trace),
        _ => None,
    });
    section.finish(reader);
    LogSettings { level: level.unwrap_or_default() }
}

#[cfg(test)]
mod tests;
