//! What a store is told in its `redis.conf`. Pure.
//!
//! TLS for clients, for replication and between the servers, and no port without; users with passwords that follow from
//! the cluster's secret. A replica never takes over by itself: managers order that ([`crate::stores`]).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use topology::credentials::{ClusterDirectory, STORE_USER};

/// One store.
#[derive(Debug, Clone, Copy)]
pub struct StoreConfiguration<'a> {
    /// Where its files lie.
    pub directory: &'a Path,
    /// Where clients reach it.
    pub address: SocketAddr,
    /// At the same host, where other stores reach it.
    pub bus_port: u16,
    /// The node's certificate and the authority's.
    pub credentials: &'a ClusterDirectory,
    /// That of [`STORE_USER`].
    pub password: &'a str,
    /// After so long others doubt a store, and one that sees no majority stops serving.
    pub node_timeout: Duration,
}

/// So much of the stream of changes is kept for a replica that was away for a moment.
const BACKLOG: &str = "64mb";

/// What the cluster's own user may not do by mistake: each of these loses records, or lets others in.
const FORBIDDEN: &str =
    "-flushall -flushdb -swapdb -debug -module -replicaof -slaveof -acl -monitor";

impl StoreConfiguration<'_> {
    /// The text of the file.
    pub fn text(&self) -> String {
        let Self { address, bus_port, credentials, password, .. } = *self;
        let host = address.ip();
        let port = address.port();
        let node_timeout = self.node_timeout.as_millis();
        let mut text = String::new();
        let mut line = |words: &[&str]| {
            writeln!(text, "{}", words.join(" ")).expect("a string takes everything");
        };
        line(&["# Written by the manager at each start."]);
        line(&["dir", &quoted(self.directory)]);
        // Whoever looks for the processes of a node sees by its command line whose it is.
        line(&["set-proc-title no"]);
        line(&["bind", &host.to_string()]);
        line(&["bind-source-addr", &host.to_string()]);
        line(&["port 0"]);
        line(&["tls-port", &port.to_string()]);
        line(&["tls-cert-file", &quoted(&credentials.certificate())]);
        line(&["tls-key-file", &quoted(&credentials.key())]);
        line(&["tls-ca-cert-file", &quoted(&credentials.authority())]);
        line(&["tls-auth-clients yes"]);
        line(&["tls-replication yes"]);
        line(&["tls-cluster yes"]);
        line(&["tls-protocols TLSv1.3"]);
        // Nobody is let in as this one, but as this one a store reads its own file again: without rights it would leave out
        // whatever a function has written.
        line(&["user default off ~* &* +@all"]);
        line(&["user", STORE_USER, "on", &format!(">{password}"), "~* &* +@all", FORBIDDEN]);
        line(&["masteruser", STORE_USER]);
        line(&["masterauth", password]);
        // The last second may be lost with the power of all copies' hosts, and with nothing less.
        line(&["appendonly yes"]);
        line(&["appendfsync everysec"]);
        line(&["save \"\""]);
        line(&["maxmemory-policy noeviction"]);
        line(&["cluster-enabled yes"]);
        line(&["cluster-port", &bus_port.to_string()]);
        line(&["cluster-announce-ip", &host.to_string()]);
        line(&["cluster-node-timeout", &node_timeout.to_string()]);
        line(&["cluster-require-full-coverage no"]);
        line(&["cluster-replica-no-failover yes"]);
        line(&["cluster-replica-validity-factor 0"]);
        line(&["cluster-allow-replica-migration no"]);
        line(&["replica-announce-ip", &host.to_string()]);
        // A primary that is lost soon after its start is failed over, too.
        line(&["repl-diskless-sync-delay 0"]);
        line(&["repl-backlog-size", BACKLOG]);
        line(&["repl-backlog-ttl 0"]);
        // An orderly stop waits for the replicas for so many seconds.
        line(&["shutdown-timeout 2"]);
        // A replica that writes its first file refuses to end otherwise, and forgets that it was told to.
        line(&["shutdown-on-sigterm force"]);
        text
    }
}

/// A path as one word.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{path}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_in_plaintext_and_strangers_have_no_name() {
        let text = StoreConfiguration {
            directory: Path::new("/srv/a \"node\"/store1"),
            address: SocketAddr::from(([192, 0, 2, 11], 6220)),
            bus_port: 6221,
            credentials: &ClusterDirectory::at(Path::new("/srv/cluster")),
            password: "secret",
            node_timeout: Duration::from_secs(1),
        }
        .text();
        let has = |line: &str| assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        for line in [
            r#"dir "/srv/a \"node\"/store1""#,
            "bind 192.0.2.11",
            "port 0",
            "tls-port 6220",
            "cluster-port 6221",
            "tls-auth-clients yes",
            "tls-replication yes",
            "tls-cluster yes",
            "user default off ~* &* +@all",
            "appendonly yes",
            "appendfsync everysec",
            "repl-diskless-sync-delay 0",
            "cluster-node-timeout 1000",
            "cluster-replica-no-failover yes",
        ] {
            has(line);
        }
    }
}
