//! The HTTP port of a container: what it is told at its start, and that the manager knows where it listens.

use std::net::SocketAddr;

use anyhow::Context as _;
use container::http_port::HttpSettings;
use tokio::sync::watch;
use topology::protocol::ToManager;
use topology::server::Reporter;
use topology::{ProcessName, TopologyView};

use super::Joined;

/// The name of the socket for other containers differs from the link's in this.
const SOCKET: &str = "http";

pub(super) fn settings(joined: &Joined) -> anyhow::Result<HttpSettings> {
    let welcome = &joined.welcome;
    let link = welcome.link.as_ref().context("the manager named no link socket")?;
    let own = welcome.view.process(&joined.name);
    Ok(HttpSettings {
        listen: joined.config.container.http_address(joined.name.as_str()),
        listened: own.and_then(|own| own.http),
        socket: link.with_extension(SOCKET),
        own: welcome.incarnation,
        keys: welcome.keys.clone(),
    })
}

/// Tells the manager where HTTP is served, and the next manager too.
pub(super) struct Teller {
    pub(super) name: ProcessName,
    pub(super) address: watch::Receiver<Option<SocketAddr>>,
    pub(super) reporter: Reporter,
}

impl Teller {
    /// As soon as it is known.
    pub(super) async fn tell_first(mut self) {
        if self.address.wait_for(Option::is_some).await.is_ok() {
            self.tell();
        }
    }

    /// A manager that does not know it never heard it, or has no record of it.
    pub(super) fn tell_if_unknown(&self, view: &TopologyView) {
        let known = view.process(&self.name).and_then(|own| own.http);
        if known != *self.address.borrow() {
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some(address) = *self.address.borrow() {
            self.reporter.report(&ToManager::ServesHttp { address });
        }
    }
}
