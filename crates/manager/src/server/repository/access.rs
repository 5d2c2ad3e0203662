//! How a member of a cluster speaks with the cluster's repository: with members that nodes run, each known by its node's
//! certificate, or with the operator's own etcd, as `[cluster]` in `outlast.toml` says. By TLS either way.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::{ClusterSettings, EtcdEndpoint};
use repository::client::messages::Range;
use repository::{Client, ClientError, ClientOptions, Endpoint, Login, Namespace};
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use topology::credentials::{ALPN_PEER, ClusterDirectory, CredentialError, NodeCredentials};
use topology::{MemberFile, RepositoryList, RunBy};

use super::endpoints;
use crate::server::own_servers::{Kind, password, tls};

/// A cluster's repository, as a process of a node reaches it.
#[derive(Clone, Debug)]
pub struct RepositoryAccess {
    /// Speaks with it.
    pub client: Client,
    /// Where the cluster's keys are there.
    pub namespace: Namespace,
    /// Who runs it.
    pub run_by: RunBy,
}

/// Why it cannot be spoken with.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryAccessError {
    /// The node's files, or the operator's.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The file names none, or one too many.
    #[error("{}", .0.advice())]
    Elsewhere(Mismatch),
}

/// A node's file says otherwise than its cluster has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// As it is in the cluster.
    pub cluster: RunBy,
}

impl Mismatch {
    /// `None`: they agree.
    #[must_use]
    pub fn between(cluster: RunBy, file: RunBy) -> Option<Mismatch> {
        (cluster != file).then_some(Mismatch { cluster })
    }

    /// What to do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self.cluster {
            RunBy::Operator => {
                "the cluster's repository is an etcd of your own, which this node's outlast.toml does not name: write [cluster] \
                 repository = [\"https://…\"] into it, and what goes with that, as in the file of the other nodes"
            }
            RunBy::Nodes => {
                "the cluster's repository is run by its nodes since the cluster was made, and this node's outlast.toml names an etcd of \
                 your own: take [cluster] repository out of it"
            }
        }
    }
}

/// Whom a node's file has run the repository.
#[must_use]
pub fn run_by(settings: Option<&ClusterSettings>) -> RunBy {
    let names_some = settings.is_some_and(|settings| !settings.repository.is_empty());
    if names_some { RunBy::Operator } else { RunBy::Nodes }
}

/// How the cluster's repository is spoken with by the member whose files lie in that node's directory. One member has
/// `request_timeout` for one request.
///
/// # Errors
/// [`RepositoryAccessError`]. A password that cannot be had is told when it is needed.
pub fn access(
    directory: &Path,
    list: &RepositoryList,
    settings: Option<&ClusterSettings>,
    request_timeout: Duration,
) -> Result<RepositoryAccess, RepositoryAccessError> {
    let run_by = run_by(settings);
    if let Some(mismatch) = Mismatch::between(list.run_by, run_by) {
        return Err(RepositoryAccessError::Elsewhere(mismatch));
    }
    let files = ClusterDirectory::of_node(directory);
    let credentials = NodeCredentials::load(files.path())?;
    match settings.filter(|_| run_by == RunBy::Operator) {
        None => {
            let options = ClientOptions {
                endpoints: endpoints(&list.members),
                tls: Some(credentials.client_config(ALPN_PEER)?),
                login: None,
                request_timeout,
            };
            let client = Client::new(options);
            Ok(RepositoryAccess { client, namespace: Namespace::alone(), run_by })
        }
        Some(settings) => {
            let cluster = MemberFile::load(&files.members())?.cluster;
            let access = &settings.repository_access;
            let options = ClientOptions {
                endpoints: settings.repository.iter().filter_map(endpoint).collect(),
                tls: Some(tls(Kind::Repository, &credentials, access)?),
                login: login(settings),
                request_timeout,
            };
            let client = Client::new(options);
            Ok(RepositoryAccess { client, namespace: Namespace::of_cluster(&cluster), run_by })
        }
    }
}

fn endpoint(named: &EtcdEndpoint) -> Option<Endpoint> {
    // The file's check has let hosts only through.
    let server_name = ServerName::try_from(named.host().to_owned()).ok()?;
    Some(Endpoint { address: named.address().to_owned(), server_name: Some(server_name) })
}

fn login(settings: &ClusterSettings) -> Option<Login> {
    let access = &settings.repository_access;
    let (user, path) = (access.user.clone()?, access.password_file.clone()?);
    let password = move || password(Kind::Repository, &path).map_err(|error| error.to_string());
    Some(Login { user, password: Arc::new(password) })
}

impl RepositoryAccess {
    /// Whether anything of this cluster lies there; asked until `deadline`.
    ///
    /// # Errors
    /// [`ClientError`] when a majority does not answer.
    pub async fn has_something(&self, deadline: Instant) -> Result<bool, ClientError> {
        let (key, range_end) = self.namespace.range();
        let range = Range { key, range_end, limit: 1, ..Range::default() };
        Ok(!self.client.range(&range, deadline).await?.kvs.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::founding::found;

    #[test]
    fn a_file_that_says_otherwise_than_the_cluster_has_it_is_refused_with_what_to_write() {
        let directory = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:6200".parse().unwrap();
        found(directory.path(), "node1", address).unwrap();
        let own = ClusterSettings {
            repository: vec!["https://[::1]:2379".parse().unwrap()],
            ..ClusterSettings::at(address)
        };
        let of = |run_by, settings| {
            let list = RepositoryList { run_by, ..RepositoryList::default() };
            access(directory.path(), &list, settings, Duration::from_secs(1))
        };
        let none = ClusterSettings::at(address);
        for settings in [None, Some(&none)] {
            let told = of(RunBy::Operator, settings).unwrap_err().to_string();
            assert!(told.contains("write [cluster] repository"), "{told}");
            assert_eq!(of(RunBy::Nodes, settings).unwrap().namespace, Namespace::alone());
        }
        let told = of(RunBy::Nodes, Some(&own)).unwrap_err().to_string();
        assert!(told.contains("take [cluster] repository out"), "{told}");
        let found = of(RunBy::Operator, Some(&own)).unwrap();
        let cluster = directory.path().join("cluster/cluster.json");
        let cluster = MemberFile::load(&cluster).unwrap().cluster;
        assert_eq!(found.namespace, Namespace::of_cluster(&cluster));
        let endpoints = found.client.endpoints();
        let name = ServerName::try_from("::1").unwrap();
        assert_eq!(
            (endpoints[0].address.as_str(), &endpoints[0].server_name),
            ("[::1]:2379", &Some(name))
        );
    }
}
