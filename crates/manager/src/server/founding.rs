//! The files that make a node a member: written before its manager, or while it runs, by the commands.
//!
//! `DIR/cluster/` is written beside and renamed, so that it is there whole or not at all.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use repository::member::RepositoryDirectory;
use topology::credentials::{
    Authority, ClusterDirectory, ClusterSecret, CredentialError, JoinToken, NodeCredentials,
};
use topology::keys::file::{self, KeyFileError};
use topology::{MemberFile, Membership, NodeNumber, RepositoryList, RunBy, StoreList};

use super::peers::admission::Joined;
use super::peers::unix_time;

/// Octets of a cluster's random id.
const CLUSTER_ID_BYTES: usize = 8;

/// Why a node was not made a member.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// It is one.
    #[error(
        "{directory} is a member of a cluster already; see outlast status --cluster, or leave it: outlast cluster leave"
    )]
    IsMember {
        /// The node's directory.
        directory: String,
    },
    /// The files cannot be made or written.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The keys cannot be written.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
}

/// Whether the node of that directory is a member of a cluster.
pub fn is_member(directory: &Path) -> bool {
    ClusterDirectory::of_node(directory).members().exists()
}

/// Makes the node of that directory the first member of a new cluster.
///
/// # Errors
/// [`FoundingError`]; nothing has changed then.
pub fn found(directory: &Path, name: &str, address: SocketAddr) -> Result<(), FoundingError> {
    found_with(directory, name, address, None)
}

/// The same of a cluster with a repository: one that its nodes run this node begins.
///
/// # Errors
/// [`FoundingError`]; nothing has changed then.
pub fn found_with_repository(
    directory: &Path,
    name: &str,
    address: SocketAddr,
    run_by: RunBy,
) -> Result<(), FoundingError> {
    // The accounts are in the node's own directory until they were carried along.
    let list = RepositoryList { run_by, ..RepositoryList::default() };
    found_with(directory, name, address, Some(&list))
}

fn found_with(
    directory: &Path,
    name: &str,
    address: SocketAddr,
    repository: Option<&RepositoryList>,
) -> Result<(), FoundingError> {
    let mut id = [0; CLUSTER_ID_BYTES];
    let random = file::random_secret()?;
    id.copy_from_slice(&random[..CLUSTER_ID_BYTES]);
    let member = MemberFile {
        cluster: id.iter().map(|octet| format!("{octet:02x}")).collect(),
        name: name.to_owned(),
        number: NodeNumber::FIRST,
        membership: Membership::created(name, address),
    };
    let authority = Authority::make(unix_time())?;
    // The state is its own until it was carried along.
    let lists = (repository, None);
    write(directory, &member, &ClusterSecret::make()?, &authority, address, lists)
}

impl Joined {
    /// Makes the node of that directory, which is down, the member that was admitted.
    ///
    /// # Errors
    /// [`FoundingError`]; the node is no member then.
    pub fn write(&self, directory: &Path) -> Result<(), FoundingError> {
        let admission = &self.admission;
        let file = MemberFile {
            cluster: admission.cluster.clone(),
            name: admission.member.name.clone(),
            number: admission.member.number,
            membership: admission.membership.clone(),
        };
        file::write(&directory.join("keys.json"), &admission.keys)?;
        let address = admission.member.address;
        let lists = (admission.repository.as_ref(), admission.stores.as_ref());
        write(directory, &file, &self.secret, &self.authority, address, lists)
    }
}

fn write(
    directory: &Path,
    member: &MemberFile,
    secret: &ClusterSecret,
    authority: &Authority,
    address: SocketAddr,
    (repository, stores): (Option<&RepositoryList>, Option<&StoreList>),
) -> Result<(), FoundingError> {
    if is_member(directory) {
        return Err(FoundingError::IsMember { directory: directory.display().to_string() });
    }
    remove_stores(directory)
        .map_err(|source| CredentialError::Io { path: directory.to_owned(), source })?;
    let final_place = ClusterDirectory::of_node(directory);
    // Of a cluster that the node was a member of once.
    let left = RepositoryDirectory::of_node(directory);
    left.remove().map_err(|source| CredentialError::Io { path: left.path().to_owned(), source })?;
    let beside = directory.join("cluster.new");
    let failed = |source| CredentialError::Io { path: beside.clone(), source };
    // One that a crash left.
    remove(&beside).map_err(failed)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&beside).map_err(failed)?;
    let files = ClusterDirectory::at(&beside);
    secret.write(&files.secret())?;
    authority.write(&files)?;
    authority.issue(&files, &member.name, address.ip(), unix_time())?;
    member.write(&files.members())?;
    if let Some(repository) = repository {
        repository.write(&files.repository())?;
    }
    if let Some(stores) = stores {
        stores.write(&files.stores())?;
    }
    remove(final_place.path()).map_err(failed)?;
    fs::rename(&beside, final_place.path()).map_err(failed)?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(())
}

/// What stores of an earlier membership have left knows another cluster, and would bring it along.
fn remove_stores(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let ordinal = name.to_str().and_then(|name| name.strip_prefix("store"));
        if ordinal.is_some_and(|ordinal| ordinal.parse::<u8>().is_ok()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes the node of that directory, which its cluster has let go, a single node.
///
/// # Errors
/// The system's.
pub fn forget(directory: &Path) -> io::Result<()> {
    remove(ClusterDirectory::of_node(directory).path())
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A token with which nodes may join the cluster of that directory's node for a time.
///
/// # Errors
/// [`CredentialError`] when the node's files are not in order.
pub fn join_token(directory: &Path, valid_for: Duration) -> Result<JoinToken, CredentialError> {
    let files = ClusterDirectory::of_node(directory);
    let member = MemberFile::load(&files.members())?;
    let secret = ClusterSecret::load(&files.secret())?;
    let credentials = NodeCredentials::load(files.path())?;
    // The node's own address first: it is most likely to be up.
    let members = &member.membership.members;
    let (own, others): (Vec<_>, Vec<_>) =
        members.iter().partition(|other| other.number == member.number);
    let addresses = own.iter().chain(&others).map(|member| member.address);
    let expires = unix_time() + valid_for;
    Ok(JoinToken::make(&secret, &member.cluster, credentials.fingerprint(), addresses, expires))
}

/// Gives the node of that directory a new key and certificate.
///
/// # Errors
/// [`CredentialError`]; what it had is in use then.
pub fn renew_certificate(directory: &Path) -> Result<(), CredentialError> {
    let files = ClusterDirectory::of_node(directory);
    let member = MemberFile::load(&files.members())?;
    let own = member.membership.member(member.number).ok_or_else(|| CredentialError::Damaged {
        path: files.members(),
        reason: format!("{} was removed from the cluster", member.name),
    })?;
    Authority::load(&files)?.issue(&files, &member.name, own.address.ip(), unix_time())
}
