//! What an edge or a container of a cluster's member needs for the other nodes: credentials, from `DIR/cluster/`, as soon as
//! there are any. A node becomes a member while it runs.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use config::PortRange;
use container::cluster_port::{ClusterPort, ClusterPortSettings, PROTOCOLS};
use container::http_port::HttpHandle;
use container::server::ServerHandle;
use edge::server::LinkCredentials;
use topology::credentials::{ALPN_HTTP, ALPN_LINK, ClusterDirectory, NodeCredentials};
use topology::protocol::ToManager;
use topology::server::Reporter;
use topology::{ProcessName, TopologyView};
use tracing::warn;

/// The credentials of the node, loaded once it is a member.
pub(super) struct Membership {
    files: ClusterDirectory,
    is_loaded: bool,
}

impl Membership {
    pub(super) fn new(directory: &Path) -> Membership {
        Membership { files: ClusterDirectory::of_node(directory), is_loaded: false }
    }

    /// The credentials when `view` is the first that says that the node is a member. If they cannot be had it is said, and
    /// tried again with the next view.
    pub(super) fn begun(&mut self, view: &TopologyView) -> Option<NodeCredentials> {
        if self.is_loaded || view.nodes.is_empty() {
            return None;
        }
        match NodeCredentials::load(self.files.path()) {
            Ok(credentials) => {
                self.is_loaded = true;
                Some(credentials)
            }
            Err(error) => {
                warn!(%error, "no links to the other nodes of the cluster");
                None
            }
        }
    }
}

/// What an edge shows and believes on its links to other nodes.
pub(super) fn of_edge(credentials: &NodeCredentials) -> anyhow::Result<LinkCredentials> {
    Ok(LinkCredentials(credentials.client_config(ALPN_LINK)?))
}

/// A container, as the other nodes see it.
pub(super) struct Outside {
    pub(super) name: ProcessName,
    pub(super) membership: Membership,
    pub(super) silence_max: Duration,
    /// Where the operator wants it to be.
    pub(super) ports: Option<PortRange>,
    pub(super) handle: ServerHandle,
    pub(super) http: HttpHandle,
    pub(super) reporter: Reporter,
    pub(super) port: Option<ClusterPort>,
}

impl Outside {
    /// Opens the port for the other nodes once this one is a member, and tells the manager where it is when a view does not
    /// know.
    pub(super) fn follow(&mut self, view: &TopologyView) {
        if view.nodes.is_empty() {
            // It has left its cluster, or never was in one.
            self.port = None;
            self.membership.is_loaded = false;
        }
        if let Some(credentials) = self.membership.begun(view)
            && let Err(error) = self.open(&credentials, view)
        {
            warn!(error = format!("{error:#}"), "edges of other nodes cannot reach this container");
            self.membership.is_loaded = false; // tried again with the next view
        }
        if let Some(port) = &self.port {
            port.admit_only(view.nodes.iter().map(|node| node.name.clone()).collect());
        }
        let address = self.port.as_ref().map(ClusterPort::address);
        if let Some(address) = address
            && known(view, &self.name) != Some(address)
        {
            self.reporter.report(&ToManager::ServesNodes { address });
        }
    }

    fn open(&mut self, credentials: &NodeCredentials, view: &TopologyView) -> anyhow::Result<()> {
        self.http.credentials(credentials.client_config(ALPN_HTTP)?);
        let settings = ClusterPortSettings {
            host: own_host(view).context("the manager does not say how others reach this node")?,
            ports: self.ports.map(|ports| ports.first..=ports.last),
            last: known(view, &self.name),
            tls: Arc::clone(&credentials.server_config(&PROTOCOLS)?),
            silence_max: self.silence_max,
        };
        let host = settings.host;
        let port = ClusterPort::start(settings, self.handle.clone(), self.http.clone());
        self.port = Some(port.with_context(|| {
            format!("no free port at {host}: free one, or set cluster.link_ports in outlast.toml")
        })?);
        Ok(())
    }
}

fn known(view: &TopologyView, name: &ProcessName) -> Option<SocketAddr> {
    view.process(name).and_then(|own| own.link_address)
}

fn own_host(view: &TopologyView) -> Option<IpAddr> {
    view.nodes.iter().find(|node| node.name == view.node).map(|node| node.address.ip())
}
