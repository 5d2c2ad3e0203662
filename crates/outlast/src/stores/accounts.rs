//! Accounts and names: in a single node's own store, or in the repository of its cluster, of which each node has a copy.
//!
//! Where they lie says `DIR/cluster/repository.json`: as long as the node that made the cluster has not carried its own
//! along ([`carry`]), nobody looks for them in the repository. Who runs that, the nodes or the operator, makes no difference but to how
//! it is reached ([`manager::repository_access`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use manager::RepositoryAccess;
use repository::member::RepositoryDirectory;
use repository::{Client, Endpoint, RepositoryOptions, RepositoryStore};
use state::clock::SystemClock;
use state::engine::embedded::{Durability, EmbeddedStore, Options};
use state::{Batch, Expect, Key, Prefix, Record, Space, Store};
use tokio::time::{Instant, sleep, timeout};
use topology::credentials::{ClusterDirectory, server_name};
use topology::{RepositoryList, RunBy};
use tracing::warn;

/// A single node's, in its directory.
const OWN: &str = "accounts";

/// How long one member has for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a process looks whether the members are others.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a process waits for the first copy until it says so and ends; its manager starts it again.
const FIRST_COPY_WITHIN: Duration = Duration::from_secs(25);

/// How often it says in between what it waits for.
const SAID_EVERY: Duration = Duration::from_secs(5);

/// How long a command tries to have the copy up with the repository.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(3);

/// How long the repository may take to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);

/// Records that are carried along at a time.
const PAGE: usize = 500;

/// What lies in the store of accounts and names.
const SPACES: [Space; 5] = [
    Space::named("accounts"),
    Space::named("private-identities"),
    Space::named("public-identities"),
    Space::named("name"),
    Space::named("name-usage"),
];

/// Where accounts and names are.
pub(crate) enum Accounts {
    /// In the node's own directory.
    OwnNode(EmbeddedStore),
    /// In the repository of its cluster.
    Cluster(RepositoryStore, RepositoryAccess),
}

impl Accounts {
    /// Whichever it is.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Accounts::OwnNode(store) => Arc::new(store.clone()),
            Accounts::Cluster(store, _) => Arc::new(store.clone()),
        }
    }
}

/// Opens them, for a command: a copy that is not up with the repository is brought up, or it is said that it is not. To be
/// called within a runtime.
pub(crate) async fn open(directory: &Path) -> anyhow::Result<Accounts> {
    let accounts = open_as_known(directory)?;
    if let Accounts::Cluster(store, _) = &accounts
        && let Err(error) = store.catch_up(CATCH_UP_WITHIN).await
    {
        if store.revision().await?.is_none() {
            return Err(error).context("this node has no copy of the accounts yet");
        }
        crate::output::remark(&format!("this is what the node knew last: {error}"));
    }
    Ok(accounts)
}

/// Opens them, for a process of the node: what it knows is enough, if it ever knew anything. To be called within a runtime.
///
/// # Errors
/// When the repository could not be copied for the first time; it is logged before.
pub(crate) async fn open_to_serve(directory: &Path) -> anyhow::Result<Accounts> {
    let accounts = open_as_known(directory)?;
    let Accounts::Cluster(store, access) = &accounts else { return Ok(accounts) };
    let began = Instant::now();
    let _follower = store.follow();
    while store.revision().await?.is_none() {
        let waited = began.elapsed();
        if waited >= FIRST_COPY_WITHIN {
            bail!("the cluster's repository could not be copied; see outlast status --cluster");
        }
        if timeout(SAID_EVERY, store.catch_up(SAID_EVERY)).await.is_err() {
            warn!(
                waited_s = waited.as_secs(),
                "waits for the first copy of the cluster's repository"
            );
        }
        sleep(LOOK_EVERY / 10).await;
    }
    if access.run_by == RunBy::Operator {
        is_that_of_the_cluster(store, access).await?;
    }
    Ok(accounts)
}

/// Whoever finds no account looks whether it was the right etcd: its operator may have named another one.
async fn is_that_of_the_cluster(
    store: &RepositoryStore,
    access: &RepositoryAccess,
) -> anyhow::Result<()> {
    if !store.scan(&SPACES[0], &Prefix::All, None, 1).await?.is_empty() {
        return Ok(());
    }
    if let Ok(false) = access.has_something(Instant::now()).await {
        bail!(
            "{} has nothing of this cluster: [cluster] repository in outlast.toml must name the same etcd as on the other nodes",
            access.client.addresses()
        );
    }
    Ok(())
}

/// Opens them without asking anybody whether there are news. To be called within a runtime.
pub(crate) fn open_as_known(directory: &Path) -> anyhow::Result<Accounts> {
    let list = RepositoryList::load(&ClusterDirectory::of_node(directory).repository())?;
    match list.filter(|list| list.has_accounts) {
        Some(list) => {
            let (store, access) = open_repository(directory, &list)?;
            Ok(Accounts::Cluster(store, access))
        }
        None => Ok(Accounts::OwnNode(open_own(directory)?)),
    }
}

/// The node's own store: on the disk before a command, or an application, is told that it is done. Nobody is told of long
/// waits: it is the disk that is slow, and who hangs is found by his heartbeats.
pub(crate) fn open_own(directory: &Path) -> anyhow::Result<EmbeddedStore> {
    let options = Options { durability: Durability::EveryCommit, ..Options::default() };
    super::open(directory, OWN, options)
}

/// The cluster's repository, with the node's copy of it. To be called within a runtime.
fn open_repository(
    directory: &Path,
    list: &RepositoryList,
) -> anyhow::Result<(RepositoryStore, RepositoryAccess)> {
    let access = reach(directory, list)?;
    if access.run_by == RunBy::Nodes {
        let path = ClusterDirectory::of_node(directory).repository();
        tokio::spawn(follow_members(access.client.clone(), path));
    }
    let repository = RepositoryDirectory::of_node(directory);
    repository.make().context("DIR/repository cannot be made")?;
    let options = RepositoryOptions {
        client: access.client.clone(),
        directory: repository.copy(),
        prefix: access.namespace.records(),
        clock: Arc::new(SystemClock::default()),
    };
    let store = RepositoryStore::open(options)
        .context("the node's copy of the repository cannot be opened")?;
    Ok((store, access))
}

fn reach(directory: &Path, list: &RepositoryList) -> anyhow::Result<RepositoryAccess> {
    let settings = super::cluster::settings(directory);
    Ok(manager::repository_access(directory, list, settings.as_ref(), REQUEST_TIMEOUT)?)
}

/// Each by the name in its node's certificate.
fn endpoints(list: &RepositoryList) -> anyhow::Result<Vec<Endpoint>> {
    let endpoint = |member: &topology::RepositoryMember| {
        let server_name = Some(server_name(&member.node)?);
        Ok(Endpoint { address: member.address.to_string(), server_name })
    };
    list.members.iter().map(endpoint).collect()
}

/// What the manager writes about the members holds from then on.
async fn follow_members(client: Client, path: PathBuf) {
    let written = || std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
    let mut seen: Option<SystemTime> = None;
    loop {
        let present = written();
        if present != seen {
            seen = present;
            let list = RepositoryList::load(&path).ok().flatten();
            if let Some(Ok(endpoints)) = list.as_ref().map(endpoints)
                && !endpoints.is_empty()
            {
                client.set_endpoints(endpoints);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Carries the accounts and names of a single node into the repository of the cluster that it has made; nobody may change
/// them meanwhile. The manager is told when it is done. Done twice, it does no harm. How many records there were.
///
/// # Errors
/// When the repository does not begin; the accounts are where they were then.
pub(crate) async fn carry(directory: &Path) -> anyhow::Result<usize> {
    let list = until_begun(directory).await?;
    let (to, _) = open_repository(directory, &list)?;
    to.catch_up(BEGINS_WITHIN).await.context("the cluster's repository does not begin")?;
    let mut carried = 0;
    if directory.join(OWN).exists() {
        let from = open_own(directory)?;
        for space in SPACES {
            carried += carry_space(&from, &to, &space).await?;
        }
    }
    Ok(carried)
}

/// Waits until the first member is up: then the manager notes where it is. The operator's own etcd must be up already.
///
/// # Errors
/// It takes too long, or that etcd does not answer as it should.
pub(crate) async fn until_begun(directory: &Path) -> anyhow::Result<RepositoryList> {
    let path = ClusterDirectory::of_node(directory).repository();
    let deadline = Instant::now() + BEGINS_WITHIN;
    loop {
        match RepositoryList::load(&path)? {
            Some(list) if list.run_by == RunBy::Operator => {
                let access = reach(directory, &list)?;
                access.has_something(Instant::now() + CATCH_UP_WITHIN).await.context(
                    "your own etcd cannot take the accounts yet, and nothing was changed; when it can, type outlast cluster create again",
                )?;
                return Ok(list);
            }
            Some(list) if !list.members.is_empty() => return Ok(list),
            Some(_) if Instant::now() < deadline => sleep(LOOK_EVERY / 10).await,
            Some(_) => bail!("the cluster's repository does not begin; see log/repository.log"),
            None => bail!("this cluster has no repository"),
        }
    }
}

/// Carries them back into the own store of a node that is the last one of its cluster. How many records there were.
///
/// # Errors
/// Those of the stores.
pub(crate) async fn carry_back(directory: &Path) -> anyhow::Result<usize> {
    let Accounts::Cluster(from, _) = open(directory).await? else { return Ok(0) };
    let to = open_own(directory)?;
    let mut carried = 0;
    for space in SPACES {
        carried += carry_space(&from, &to, &space).await?;
    }
    Ok(carried)
}

/// Whether they are in the cluster's repository.
pub(crate) fn are_shared(directory: &Path) -> anyhow::Result<bool> {
    let list = RepositoryList::load(&ClusterDirectory::of_node(directory).repository())?;
    Ok(list.is_some_and(|list| list.has_accounts))
}

async fn carry_space(from: &dyn Store, to: &dyn Store, space: &Space) -> anyhow::Result<usize> {
    let present = all(from, space).await?;
    let keys: BTreeSet<Key> = present.iter().map(|(key, _)| key.clone()).collect();
    // What an earlier attempt brought here may have been removed there since.
    let carried_before = all(to, space).await?;
    let gone = carried_before.into_iter().map(|(key, _)| key).filter(|key| !keys.contains(key));
    let mut changes = gone.fold(Batch::new(), |all, key| all.delete(key, Expect::Any));
    let count = present.len();
    for (key, Record { value, expires_at, .. }) in present {
        changes = changes.put(key, Expect::Any, value, expires_at);
    }
    // All of a space are under one tag.
    for page in changes.writes.chunks(PAGE) {
        let page = Batch { writes: page.to_vec() };
        to.commit(page).await.context("an account cannot be carried into the repository")?;
    }
    Ok(count)
}

async fn all(store: &dyn Store, space: &Space) -> anyhow::Result<Vec<(Key, Record)>> {
    let mut records: Vec<(Key, Record)> = Vec::new();
    loop {
        let after = records.last().map(|(key, _)| key.clone());
        let page = store.scan(space, &Prefix::All, after.as_ref(), PAGE).await?;
        if page.is_empty() {
            return Ok(records);
        }
        records.extend(page);
    }
}
