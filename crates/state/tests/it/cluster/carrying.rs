//! A node's state, carried along into its cluster's stores.

use std::time::Duration;

use state::carry::{Carried, Whole, carry};
use state::clock::{Clock, SystemClock};
use state::engine::cluster::{ClusterStore, Options};
use state::engine::embedded::{self, EmbeddedStore};
use state::{Batch, Expect, Key, Prefix, Space, Store};

use super::servers::are_installed;
use super::{ONE_COPY, shared_servers};

const RECORDS: usize = 3_000;

#[tokio::test]
async fn a_nodes_state_arrives_whole_however_often_it_is_carried() {
    if !are_installed() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let own =
        EmbeddedStore::open(directory.path(), embedded::Options::default()).expect("it opens");
    let end = SystemClock::default().now().saturating_add(Duration::from_secs(3_600));
    let spaces = [Space::named("carried"), Space::named("too")];
    let put = |id: usize| {
        let expires_at = id.is_multiple_of(3).then_some(end);
        let key = Key::new(spaces[id % 2].clone(), format!("tag {}", id % 50), id.to_string());
        Batch::new().put(key, Expect::Absent, format!("value {id}"), expires_at)
    };
    let outcomes = own.commit_all((0..RECORDS).map(put).collect()).await;
    assert!(outcomes.iter().all(Result::is_ok));

    let servers = shared_servers();
    let options = Options {
        seeds: servers.seeds(),
        namespace: "carrying-".to_owned(),
        quota: ONE_COPY,
        patience: Duration::from_secs(10),
        ..Options::default()
    };
    let shared = ClusterStore::connect(options).expect("the store is opened");
    for removed in [0, RECORDS] {
        let carried = carry(&own, &shared).await.expect("it is carried");
        assert_eq!(carried, Carried { records: RECORDS, removed });
    }
    for space in &spaces {
        let listed = async |store: &dyn Store| {
            let listed = store.scan(space, &Prefix::All, None, RECORDS).await.expect("a list");
            let plain = listed.into_iter().map(|(key, it)| (key, it.value, it.expires_at));
            plain.collect::<Vec<_>>()
        };
        assert_eq!(listed(&shared).await, listed(&own).await);
    }
    // Page by page, of all spaces.
    let (mut count, mut after) = (0, None);
    loop {
        let page = shared.page(after.as_ref(), 700).await.expect("a page");
        count += page.len();
        after = page.last().map(|(key, _)| key.clone());
        if page.len() < 700 {
            break;
        }
    }
    assert_eq!(count, RECORDS);
}
