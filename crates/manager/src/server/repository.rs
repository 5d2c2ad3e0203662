//! The cluster's repository as this node has it: its member as a process ([`server`]), and the task that carries out what
//! [`crate::repository`] decides ([`keeper`]); or the operator's own etcd, which is only looked at ([`own`]).

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::ClusterSettings;
use repository::member::{MemberNote, MemberSettings, RepositoryDirectory};
use repository::{Client, ClientOptions, Endpoint};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use topology::credentials::{
    ALPN_PEER, ClusterDirectory, CredentialError, NodeCredentials, server_name,
};
use topology::protocol::{Answer, RepositoryReport, Request};
use topology::view::ProcessType;
use topology::{
    FormatLevel, MemberFile, NodeEntry, NodeNumber, RepositoryList, RepositoryMember, RunBy,
    TopologyView,
};
use tracing::warn;

use super::Input;
use super::applications_directory::ApplicationsDirectory;
use super::noted::Noted;
use super::servers::Server;
use crate::repository::member_name;
pub use access::{
    Mismatch, RepositoryAccess, RepositoryAccessError, access as repository_access, run_by,
};
use keeper::Keeper;
use server::RepositoryServer;
pub(crate) use sharing::Asked;
pub use sharing::Prepare;

mod access;
mod keeper;
mod own;
mod server;
mod sharing;

/// How long one member has for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it has where files are carried.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);

/// Operators that wait for their turn; more are told to try again.
const ASKED_MAX: usize = 16;

/// What the keeper tells the manager's loop.
#[derive(Debug)]
pub(crate) enum RepositoryInput {
    /// The node runs this member from now on, or none.
    Runs(Option<MemberNote>),
    /// Where the members are.
    Seen(Vec<RepositoryMember>),
    /// [`RepositoryNode::format_level`] is another.
    FormatLevel,
}

/// What the keeper is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    nodes: Vec<NodeEntry>,
    leads: bool,
    /// The process of its member is there, running or not.
    has_process: bool,
    /// Where members are, as the view shows it.
    members: Vec<RepositoryMember>,
    /// Nobody has begun it, as far as is known.
    is_new: bool,
    /// Accounts and names are there.
    has_accounts: bool,
}

/// Of a member of a cluster that has a repository.
pub(crate) struct RepositoryNode {
    identity: Identity,
    list: Noted<RepositoryList>,
    server: Option<Arc<RepositoryServer>>,
    told: watch::Sender<Told>,
    keeping: JoinHandle<()>,
    /// Those who wait until this node has no member any more.
    leaving: mpsc::Sender<mpsc::Sender<Answer>>,
    /// What is asked of the cluster's applications.
    asking: mpsc::Sender<Asked>,
    /// What this node cannot have of them, and why.
    behind: watch::Receiver<Vec<(String, String)>>,
    /// The version of the cluster's configuration that holds; none: it is not known yet.
    configuration: watch::Receiver<Option<u64>>,
    /// What the cluster writes.
    format_level: watch::Receiver<FormatLevel>,
    /// Where the operator's own etcd is, if he runs it.
    own: Vec<String>,
    /// What is amiss with it.
    amiss: watch::Receiver<Option<String>>,
}

/// What a node's member is made of, whichever it is.
#[derive(Debug, Clone)]
struct Identity {
    cluster: String,
    number: NodeNumber,
    node: String,
    files: ClusterDirectory,
    directory: RepositoryDirectory,
    peer: SocketAddr,
    client: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

impl RepositoryNode {
    /// As `DIR/cluster/` says; `None`: the cluster has no repository.
    ///
    /// # Errors
    /// [`RepositoryAccessError`] when the node's files are not in order.
    pub(crate) fn open(
        directory: &Path,
        settings: &ClusterSettings,
        prepare: &Prepare,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Option<RepositoryNode>, RepositoryAccessError> {
        let files = ClusterDirectory::of_node(directory);
        let path = files.repository();
        let Some(list) = RepositoryList::load(&path)? else { return Ok(None) };
        let file = MemberFile::load(&files.members())?;
        let credentials = NodeCredentials::load(files.path())?;
        let ports = settings.repository_ports;
        let at = |port| SocketAddr::new(settings.address.ip(), port);
        let identity = Identity {
            cluster: file.cluster,
            number: file.number,
            node: file.name,
            directory: RepositoryDirectory::of_node(directory),
            client: at(ports.first),
            peer: at(ports.last),
            tls: credentials.client_config(ALPN_PEER)?,
            files,
        };
        let note = identity
            .directory
            .read_note()
            .map_err(|source| CredentialError::Io { path: directory.join("repository"), source })?;
        let server = note.as_ref().map(|note| Arc::new(RepositoryServer::new(&identity, note)));
        let is_new = list.members.is_empty();
        let (told, telling) = watch::channel(Told { is_new, ..Told::default() });
        let (leaving, leave) = mpsc::channel(1);
        let (asking, asked) = mpsc::channel(ASKED_MAX);
        let (told_behind, behind) = watch::channel(Vec::new());
        let (told_configuration, configuration) = watch::channel(None);
        let (told_level, format_level) = watch::channel(FormatLevel::FIRST);
        let (told_amiss, amiss) = watch::channel(None);
        let reached = |timeout| repository_access(directory, &list, Some(settings), timeout);
        let for_files = reached(FILE_TIMEOUT)?;
        let sharing = sharing::Parts {
            client: for_files.client,
            namespace: for_files.namespace,
            copy: identity.directory.copy(),
            node: identity.node.clone(),
            number: identity.number,
            applications: ApplicationsDirectory::of_node(directory),
            prepare: Arc::clone(prepare),
            inputs: inputs.clone(),
            told: telling.clone(),
            behind: told_behind,
            configuration: told_configuration,
            format_level: told_level,
        };
        let to_share = (sharing, asked);
        let (keeping, own) = match list.run_by {
            RunBy::Nodes => {
                let keeper = Keeper::new(identity.clone(), note, list.members.clone(), inputs);
                (tokio::spawn(keeper.keep(telling, leave, to_share)), Vec::new())
            }
            RunBy::Operator => {
                let (access, at) = (reached(REQUEST_TIMEOUT)?, identity.directory.clone());
                let keeping = own::keep(access, at, telling, leave, to_share, told_amiss);
                let own = settings.repository.iter().map(ToString::to_string).collect();
                (tokio::spawn(keeping), own)
            }
        };
        Ok(Some(RepositoryNode {
            identity,
            list: Noted::new(path, list, RepositoryList::write),
            server,
            told,
            keeping,
            leaving,
            asking,
            behind,
            configuration,
            format_level,
            own,
            amiss,
        }))
    }

    /// The process that this node runs, if it runs one.
    pub(crate) fn server(&self) -> Option<Arc<dyn Server>> {
        self.server.clone().map(|server| server as Arc<dyn Server>)
    }

    /// For a node that is admitted; `None`: accounts and names are not there yet.
    pub(crate) fn list(&self) -> Option<&RepositoryList> {
        Some(self.list.list()).filter(|list| list.has_accounts)
    }

    /// The node runs that member from now on.
    pub(crate) fn runs(&mut self, note: Option<&MemberNote>) {
        self.server = note.map(|note| Arc::new(RepositoryServer::new(&self.identity, note)));
    }

    /// The members are there, by their own word.
    pub(crate) fn seen(&mut self, members: Vec<RepositoryMember>) {
        let list = self.list.list();
        if members.is_empty() || members == list.members {
            return;
        }
        let list = RepositoryList { members, ..list.clone() };
        self.list.keep(list, |kept| {
            if let Err(error) = kept {
                warn!(%error, "where the repository is cannot be noted; processes begin with what was");
            }
        });
    }

    /// Accounts and names are there from now on; answered when that is on the disk.
    pub(crate) fn has_accounts(&mut self, reply: mpsc::Sender<Answer>) {
        let list = RepositoryList { has_accounts: true, ..self.list.list().clone() };
        self.list.keep(list, move |kept| {
            let answer = match kept {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Refused { reason: error.to_string() },
            };
            // Whoever asked may have gone.
            let _ = reply.try_send(answer);
        });
    }

    /// The view has changed, or who leads.
    pub(crate) fn look(&self, view: &TopologyView, leads: bool) {
        let servers = view.processes.iter().filter(|it| it.process_type == ProcessType::Repository);
        let member = |process: &topology::ProcessEntry| {
            let (_, node) = process.name.parts();
            let node = node.unwrap_or(&view.node).to_owned();
            Some(RepositoryMember { node, address: process.link_address? })
        };
        let has_process = servers.clone().any(|server| server.name.parts().1.is_none());
        let members: Vec<RepositoryMember> = servers.filter_map(member).collect();
        self.told.send_if_modified(|told| {
            let new = Told {
                nodes: view.nodes.clone(),
                leads,
                has_process,
                members,
                is_new: self.list.list().members.is_empty(),
                has_accounts: self.list.list().has_accounts,
            };
            let is_other = *told != new;
            *told = new;
            is_other
        });
    }

    /// Whether what one node has of applications all are to have.
    pub(crate) fn shares_applications(&self) -> bool {
        self.list.list().has_accounts
    }

    /// How the operator's own etcd is; `None`: the nodes run one.
    pub(crate) fn report(&self) -> Option<RepositoryReport> {
        let report =
            || RepositoryReport { endpoints: self.own.clone(), amiss: self.amiss.borrow().clone() };
        (self.list.list().run_by == RunBy::Operator).then(report)
    }

    /// Who runs it.
    pub(crate) fn run_by(&self) -> RunBy {
        self.list.list().run_by
    }

    /// What this node cannot have of what the cluster has, and why.
    pub(crate) fn behind(&self) -> Vec<(String, String)> {
        self.behind.borrow().clone()
    }

    /// The version of the cluster's configuration that holds, as far as this node knows. 0: the empty one. None: it does not know yet.
    pub(crate) fn configuration(&self) -> Option<u64> {
        *self.configuration.borrow()
    }

    /// What the cluster writes, as far as this node knows.
    pub(crate) fn format_level(&self) -> FormatLevel {
        *self.format_level.borrow()
    }

    /// Carries out, on all nodes, what an operator asks for; or on this one what another node asks for.
    pub(crate) fn ask(&self, request: Request, reply: mpsc::Sender<Answer>) {
        if let Err(error) = self.asking.try_send(Asked { request, reply }) {
            let reason = match &error {
                TrySendError::Full(_) => "others are being served; try again",
                TrySendError::Closed(_) => {
                    "what shares applications does not run on this node, see its log for why; stop the node and start it again"
                }
            };
            let reason = reason.to_owned();
            // Whoever asked may have gone.
            let _ = error.into_inner().reply.try_send(Answer::Refused { reason });
        }
    }

    /// Has another node run this one's member, if it has one; answered when that is so.
    pub(crate) fn leave(&self, reply: mpsc::Sender<Answer>) {
        if let Err(error) = self.leaving.try_send(reply) {
            let reason = "the node is about to leave already".to_owned();
            // Whoever asked may have gone.
            let _ = error.into_inner().try_send(Answer::Refused { reason });
        }
    }
}

impl Drop for RepositoryNode {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl Identity {
    fn settings(&self, note: &MemberNote) -> MemberSettings {
        MemberSettings {
            token: self.cluster.clone(),
            name: member_name(self.number),
            data: self.directory.data(),
            note: note.clone(),
            authority: self.files.authority(),
            certificate: self.files.certificate(),
            key: self.files.key(),
        }
    }

    fn client_of(&self, members: &[RepositoryMember], request_timeout: Duration) -> Client {
        Client::new(ClientOptions {
            endpoints: endpoints(members),
            tls: Some(Arc::clone(&self.tls)),
            login: None,
            request_timeout,
        })
    }

    fn own(&self, address: SocketAddr) -> RepositoryMember {
        RepositoryMember { node: self.node.clone(), address }
    }
}

/// Each by the name in its node's certificate.
fn endpoints(members: &[RepositoryMember]) -> Vec<Endpoint> {
    let unique: BTreeSet<&RepositoryMember> = members.iter().collect();
    let endpoint = |member: &RepositoryMember| {
        let server_name = server_name(&member.node).ok()?;
        Some(Endpoint { address: member.address.to_string(), server_name: Some(server_name) })
    };
    unique.into_iter().filter_map(endpoint).collect()
}

/// Whether this host can run a member.
///
/// # Errors
/// Why not, and what to install.
pub fn etcd() -> io::Result<PathBuf> {
    super::servers::installed(&["etcd"], "Debian's etcd-server")
}
