//! The contract suite on every engine.

use std::sync::Arc;

use state::Store;
use state::clock::ManualClock;
use state::contract::{START, Subject};
use state::engine::embedded::{Durability, EmbeddedStore, Options};
use state::engine::fake::FakeStore;
use tempfile::TempDir;

fn embedded(durability: Durability) -> (Subject, TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Arc::new(ManualClock::at(START));
    let options = Options { durability, clock: clock.clone(), ..Options::default() };
    let store = EmbeddedStore::open(directory.path(), options).expect("the store opens");
    (subject(Arc::new(store), clock), directory)
}

fn relaxed() -> (Subject, TempDir) {
    embedded(Durability::Relaxed)
}

fn every_commit() -> (Subject, TempDir) {
    embedded(Durability::EveryCommit)
}

fn fake() -> (Subject, ()) {
    let clock = Arc::new(ManualClock::at(START));
    (subject(Arc::new(FakeStore::new(clock.clone())), clock), ())
}

fn subject(store: Arc<dyn Store>, clock: Arc<ManualClock>) -> Subject {
    Subject { store, clock }
}

state::contract_tests!(on_embedded_relaxed, super::relaxed);
state::contract_tests!(on_embedded_every_commit, super::every_commit);
state::contract_tests!(on_the_fake, super::fake);
state::contract_tests!(on_a_cluster, crate::cluster::subject);
