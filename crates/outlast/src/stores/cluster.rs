//! The state of a cluster: how a member opens the cluster's stores.
//!
//! That the state is there says `DIR/cluster/stores.json`, which also says where the stores were last seen; the credentials are
//! those of the node, and how many copies a write must have says `[cluster]` in `outlast.toml`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use config::ClusterSettings;
use state::clock::{Clock, SystemClock};
use state::engine::cluster::{BelowQuota, ClusterStore, Options, WriteQuota};
use topology::credentials::ClusterDirectory;
use topology::{MemberFile, StoreList};
use tracing::warn;

/// How long a process that starts waits for the stores until it says so and ends; its manager starts it again.
const OPENED_WITHIN: Duration = Duration::from_secs(20);

/// How often it says in between what it waits for.
const SAID_EVERY: Duration = Duration::from_secs(5);

/// How long a command waits for them.
pub(crate) const COMMAND_WAITS: Duration = Duration::from_secs(3);

/// Where the stores were last; `None`: the state is in the node's own directory.
pub(crate) fn list(directory: &Path) -> anyhow::Result<Option<StoreList>> {
    let files = ClusterDirectory::of_node(directory);
    StoreList::load(&files.stores()).context("where the cluster's stores are cannot be read")
}

/// The machine's clock.
pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

/// Opens them; waits for none. Without settings those of the node's file hold.
pub(crate) fn open(
    directory: &Path,
    list: &StoreList,
    settings: Option<&ClusterSettings>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<ClusterStore> {
    let settings = settings.cloned().or_else(|| self::settings(directory));
    let members = members(directory)?;
    let options = Options { clock, ..options(directory, list, settings.as_ref(), members)? };
    let store = ClusterStore::connect(options)?;
    if let Some(settings) = &settings {
        store.want_copies(settings.copies_among(members));
    }
    Ok(store)
}

/// `[cluster]` of the node's file and of what it has taken of its cluster's configuration, if they can be read.
pub(crate) fn settings(directory: &Path) -> Option<ClusterSettings> {
    let own = || config::load(&directory.join(config::FILE_NAME));
    let config = config::of_node(directory).map(|it| it.config).or_else(|_| own());
    config.ok().and_then(|config| config.cluster)
}

/// Refuses what only stores that the managers run can be asked for.
pub(crate) fn must_be_run_by_managers(directory: &Path) -> anyhow::Result<()> {
    if is_own(directory) {
        bail!(
            "the state lies in your own Redis or Valkey cluster ([cluster] stores), which keeps its copies by itself; see its \
             redis-cli --cluster"
        );
    }
    Ok(())
}

/// Whether the operator's own stores have the state.
pub(crate) fn is_own(directory: &Path) -> bool {
    settings(directory).is_some_and(|settings| !settings.stores.own().is_empty())
}

/// How the stores are spoken with.
pub(crate) fn options(
    directory: &Path,
    list: &StoreList,
    settings: Option<&ClusterSettings>,
    members: usize,
) -> anyhow::Result<Options> {
    let own = settings.map(|settings| settings.stores.own()).unwrap_or_default();
    if list.stores.is_empty() && own.is_empty() {
        bail!(
            "nobody knows where the cluster's stores are: start the node, or a node of the cluster that runs some"
        );
    }
    let wanted = settings.map_or(0, |settings| settings.copies_among(members));
    let quota = WriteQuota {
        // More are asked for as soon as they are there.
        copies: wanted.min(list.copies),
        below: match settings.map(|settings| settings.below_quota).unwrap_or_default() {
            config::BelowQuota::Refuse => BelowQuota::Refuse,
            config::BelowQuota::Continue => BelowQuota::Continue,
        },
        own_host_counts: settings.is_some_and(|settings| settings.allow_colocation),
    };
    Ok(Options {
        seeds: match own {
            [] => list.stores.iter().map(ToString::to_string).collect(),
            own => own.iter().map(ToString::to_string).collect(),
        },
        quota,
        ..manager::store_options(directory, settings)?
    })
}

/// How many there are in the cluster, this node among them.
fn members(directory: &Path) -> anyhow::Result<usize> {
    let file = MemberFile::load(&ClusterDirectory::of_node(directory).members())?;
    Ok(file.membership.members.len())
}

/// Waits until every record has a store that serves it.
///
/// # Errors
/// When that takes too long; it is logged before.
pub(crate) async fn opened(store: &ClusterStore) -> anyhow::Result<()> {
    let began = Instant::now();
    while !store.is_ready_within(SAID_EVERY).await {
        warn!(
            waited_s = began.elapsed().as_secs(),
            "waits for the cluster's stores, which do not serve all records"
        );
        if began.elapsed() >= OPENED_WITHIN {
            bail!("the cluster's stores do not serve all records; see outlast state status");
        }
    }
    Ok(())
}
