//! A whole container behind a real Unix socket: a fake edge at the other end of the link, a toy application.

#![allow(clippy::unwrap_used)]

mod cluster_port;
mod fake_edge;
mod http_port;
mod lifecycle;
mod requests;
mod toy_application;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use container::server::{Server, ServerHandle, ServerSettings};
use container::shard::ShardSettings;
use container::transactions::TransactionSettings;
use sip::transaction::Timers;
use state::clock::SystemClock;
use state::engine::fake::FakeStore;
use tokio::task::JoinHandle;
use topology::{HeartbeatSettings, Incarnation, KeyRing, ProcessName};

use fake_edge::FakeEdge;
use toy_application::ToyApplication;

/// A running container and what a test looks at.
struct Container {
    directory: tempfile::TempDir,
    store: FakeStore,
    application: Arc<ToyApplication>,
    handle: ServerHandle,
    task: JoinHandle<()>,
}

fn settings(link_path: PathBuf) -> ServerSettings {
    ServerSettings {
        shard: ShardSettings {
            name: ProcessName::new("c1"),
            incarnation: Incarnation(7),
            node: "n1".to_owned(),
            keys: KeyRing::new([1; 32]),
            transactions: TransactionSettings {
                timers: Timers {
                    t1: Duration::from_millis(100),
                    t2: Duration::from_millis(200),
                    t4: Duration::from_millis(200),
                },
                transactions_max: 1_000,
            },
            commit_conflicts_max: 5,
        },
        link_path,
        heartbeat: HeartbeatSettings { interval: Duration::from_millis(50), allowed_miss_count: 2 },
        clock: Arc::new(SystemClock::default()),
        tick_interval: Duration::from_millis(50),
        handler_time_max: Duration::from_secs(2),
    }
}

impl Container {
    fn start() -> Container {
        Container::living(Incarnation(7), FakeStore::default())
    }

    /// One of several that have a store in common.
    fn living(incarnation: Incarnation, store: FakeStore) -> Container {
        let directory = tempfile::tempdir().unwrap();
        let application = Arc::new(ToyApplication::default());
        let mut settings = settings(directory.path().join("c1.link"));
        settings.shard.incarnation = incarnation;
        let (server, handle) = Server::bind(
            settings,
            Arc::new(store.clone()),
            Arc::clone(&application) as Arc<dyn container::application::Application>,
        )
        .unwrap();
        let task = tokio::spawn(server.run());
        Container { directory, store, application, handle, task }
    }

    fn link_path(&self) -> PathBuf {
        self.directory.path().join("c1.link")
    }

    /// An edge whose own address is `own`; it has said Hello and got its answer.
    async fn edge(&self, own: &str) -> FakeEdge {
        FakeEdge::connect(&self.link_path(), own).await
    }
}
